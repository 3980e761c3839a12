"""Where a training stands: the newest state and the one before it, each whole, checked when read.

::

    RUN/training_state/            the newest: state.json (the manifest), model.safetensors, optimizer.safetensors
    RUN/training_state.before/     the one before it

The manifest holds the SHA-256 of every file beside it. A state is written to ``training_state.part``, brought to the
disk, and renamed; the one before is renamed to ``training_state.old`` before it is removed, while a whole newer one
lies there. So at any moment, power cuts among them, one whole state is there at least, none is there in part, and a
truncated or changed file is recognised. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.runs.atomic import BrokenFileError, read, sync, write_json, writing_errors
from astseg.runs.migrate import migrated_phase, migrated_weights
from astseg.runs.tensors import load_tensors, save_tensors

__all__ = ["PHASES", "StateStore", "TrainingState", "load_weights"]

PHASES = ("background", "pseudo_labels", "objects", "joint", "done")
"""In the order in which a run goes through them."""

MANIFEST, WEIGHTS, MOMENTS = "state.json", "model.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands.

    Attributes:
        phase: ``background``, ``pseudo_labels``, ``objects``, ``joint`` or ``done``: where the run stands.
        step: Finished steps of the loop; ``pseudo_labels``, ``objects`` and ``joint`` are one loop.
        seconds: Seconds spent in that loop.
        background_seconds: Seconds spent on the background loop.
        seed: The seed of the run.
    """

    phase: str
    step: int
    seconds: float
    background_seconds: float
    seed: int


class StateStore:
    """The states of one run folder."""

    def __init__(self, run: Path, report: Callable[[str], object]) -> None:
        """Take a run folder.

        Args:
            run: The folder; it may not exist yet.
            report: Called with a line when the newest state is broken and the one before is used.
        """
        self.newest, self.before = run / "training_state", run / "training_state.before"
        self._part, self._old = run / "training_state.part", run / "training_state.old"
        self._report: Callable[[str], object] | None = report

    def save(self, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Write a state, whole or not at all; the newest becomes the one before.

        Raises:
            UserError: It cannot be written; the states that were there are untouched.
        """
        try:
            with writing_errors(self.newest):
                self.tidy()
                digests = {WEIGHTS: save_tensors(self._part / WEIGHTS, model.state_dict())}
                if optimizer is not None:
                    digests[MOMENTS] = save_tensors(self._part / MOMENTS, _optimizer_tensors(optimizer))
                write_json(self._part / MANIFEST, _signed({**asdict(state), "files": digests}))
                if self._is_whole(self.newest):
                    if self.before.exists():
                        os.replace(self.before, self._old)
                    os.replace(self.newest, self.before)
                else:  # a broken one must not take the place of a whole one
                    shutil.rmtree(self.newest, ignore_errors=True)
                os.replace(self._part, self.newest)
                sync(self.newest.parent)
        finally:
            self.tidy()

    def tidy(self) -> None:
        """Remove what a save leaves behind, or one that was killed; none must be going on."""
        for folder in (self._part, self._old):
            shutil.rmtree(folder, ignore_errors=True)

    def load(self) -> TrainingState | None:
        """The newest whole state, or None where there is none at all.

        Raises:
            UserError: There are states, and every one is broken.
        """
        found = self._find()
        return None if found is None else found[1]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Put the weights of :meth:`load`'s state, and the optimiser's moments, back in place.

        Raises:
            UserError: Missing, broken or other weights or moments.
        """
        found = self._find()
        if found is None:
            raise UserError(f"'{self.newest / WEIGHTS}' is not there: the run holds no weights")
        folder = found[0]
        load_weights(model, folder / WEIGHTS)
        if optimizer is not None:
            try:
                _restore_optimizer(optimizer, load_tensors(folder / MOMENTS))
            except (BrokenFileError, OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"'{folder / MOMENTS}' is broken ({reason}): remove {folder} to start afresh") from None

    def _find(self) -> tuple[Path, TrainingState] | None:
        """The newest whole state and its folder."""
        problems = []
        folders = [folder for folder in (self.newest, self.before) if folder.is_dir()]
        for folder in folders:
            try:
                state = _verified(folder)
            except BrokenFileError as error:
                problems.append(str(error))
                continue
            if problems and self._report is not None:
                where = f"phase '{state.phase}', step {state.step}"
                self._report(f"{problems[0]}: going on from the state before it, {where}")
                self._report = None  # once is enough
            return folder, state
        if problems:
            raise UserError(f"{problems[0]}: remove {' and '.join(map(str, folders))} to start afresh")
        return None

    def _is_whole(self, folder: Path) -> bool:
        try:
            _verified(folder)
        except BrokenFileError:
            return False
        return True


def _signed(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of everything else in it."""
    return {**values, "sha256": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def _verified(folder: Path) -> TrainingState:
    """The state of a folder, all files of which are as they were written.

    Raises:
        BrokenFileError: Something is not; the text names the file.
    """
    file = folder / MANIFEST
    try:
        values = json.loads(read(file))
        signature = values.pop("sha256")
        if _signed(values)["sha256"] != signature:
            raise BrokenFileError("changed after it was written")
        digests = dict(values.pop("files"))
        state = TrainingState(**{**values, "phase": migrated_phase(values["phase"])})
        if state.phase not in PHASES or not isinstance(state.step, int) or WEIGHTS not in digests:
            raise BrokenFileError("it is no manifest of a state")
        for name, digest in digests.items():
            file = folder / name
            if hashlib.sha256(read(file)).hexdigest() != digest:
                raise BrokenFileError("truncated or changed after it was written")
    except FileNotFoundError:
        raise BrokenFileError(f"'{file}' is not there") from None
    except (BrokenFileError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenFileError(f"'{file}' is broken ({' '.join(str(error).split())[:200]})") from None
    return state


def load_weights(model: nn.Module, file: Path) -> None:
    """Load weights strictly.

    Args:
        model: Where they go.
        file: A safetensors file.

    Raises:
        UserError: Missing, broken or other weights, or weights that are not finite.
    """
    try:
        tensors = load_tensors(file)
        wrong = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
        if wrong:
            raise BrokenFileError(f"'{wrong[0]}' holds numbers that are not finite")
        model.load_state_dict(migrated_weights(tensors))
    except FileNotFoundError:
        raise UserError(f"'{file}' is not there: the run holds no weights") from None
    except BrokenFileError as error:
        raise UserError(f"'{file}' is broken ({error}): restore it or train again") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{file}' does not fit the model that config.json describes: {reason}") from None


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by parameter number; learning rates are functions of the step and need no saving."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Moments must lie in memory as their parameters do: a fused step goes through both in the order of memory."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if tensor.ndim:
            tensor = torch.empty_like(parameters[int(number)], requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
