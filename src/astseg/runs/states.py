"""Where a training stands: the newest state and the one before it, each whole, checked when read.

::

    RUN/training_state/            the newest: state.json (the manifest), model.safetensors, optimizer.safetensors
    RUN/training_state.before/     the one before it

The manifest holds the SHA-256 of every file beside it and of itself. A state is written beside its place, brought to
the disk, and renamed; the one before is removed only once a whole newer one lies there, and is renamed before that, so
that nothing half removed bears a state's name. So at any moment, power cuts among them, what lies under the two names
was written whole, and there is one at least. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from astseg.runs.migrate import migrated_phase, migrated_weights
from astseg.runs.atomic import BrokenFileError, cannot_write, read, sync, write_json
from astseg.runs.tensors import load_tensors, save_tensors
from astseg.errors import UserError

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

    def __init__(self, run: Path, tell: Callable[[str], None]) -> None:
        """Take a run folder.

        Args:
            run: The folder; it may not exist yet.
            tell: Called with a line when the newest state is broken and the one before is used.
        """
        self.newest, self.before = run / "training_state", run / "training_state.before"
        self.tell = tell
        self._checked: dict[Path, bytes] = {}  # manifests whose files were found whole
        self._told = False

    def save(self, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Write a state, whole or not at all; the newest becomes the one before.

        Raises:
            UserError: It cannot be written; the states that were there are untouched.
        """
        part, old = self._passing()
        try:
            self.tidy()
            try:
                digests = {WEIGHTS: save_tensors(part / WEIGHTS, model.state_dict())}
                if optimizer is not None:
                    digests[MOMENTS] = save_tensors(part / MOMENTS, _optimizer_tensors(optimizer))
                write_json(part / MANIFEST, _signed({**asdict(state), "files": digests}))
                if self.newest.exists() and self._is_whole(self.newest):
                    if self.before.exists():
                        os.replace(self.before, old)
                    os.replace(self.newest, self.before)
                else:  # a broken one must not take the place of a whole one
                    shutil.rmtree(self.newest, ignore_errors=True)
                os.replace(part, self.newest)
                sync(self.newest.parent)
            finally:
                self.tidy()
        except OSError as error:
            raise cannot_write(self.newest, error) from error
        self._checked[self.newest] = (self.newest / MANIFEST).read_bytes()

    def tidy(self) -> None:
        """Remove what a save that was killed has left behind; none must be going on."""
        for folder in self._passing():
            shutil.rmtree(folder, ignore_errors=True)

    def _passing(self) -> tuple[Path, Path]:
        """Folders that are there only during a save: of the state that is written, and of the one that has to go."""
        name = self.newest.name
        return self.newest.with_name(f"{name}.part"), self.newest.with_name(f"{name}.old")

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
        folder, _, digests = found
        load_weights(model, folder / WEIGHTS, expected=digests.get(WEIGHTS))
        if optimizer is not None:
            try:
                tensors = load_tensors(folder / MOMENTS, expected=digests.get(MOMENTS))
                _restore_optimizer(optimizer, tensors)
            except (BrokenFileError, OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"'{folder / MOMENTS}' is broken ({reason}): remove {folder} to start afresh") from None

    def _find(self) -> tuple[Path, TrainingState, dict[str, str]] | None:
        """The folder of the newest whole state, the state, and the digests of its files."""
        problems = []
        for folder in (self.newest, self.before):
            if not folder.is_dir():
                continue
            try:
                state, digests = self._read(folder)
            except BrokenFileError as error:
                problems.append(str(error))
                continue
            if problems and not self._told:
                self._told = True
                self.tell(f"{problems[0]}: going on from the state before it, phase '{state.phase}', step {state.step}")
            return folder, state, digests
        if problems:
            broken = " and ".join(str(folder) for folder in (self.newest, self.before) if folder.is_dir())
            raise UserError(f"{problems[0]}: remove {broken} to start afresh")
        return None

    def _is_whole(self, folder: Path) -> bool:
        try:
            self._read(folder)
        except BrokenFileError:
            return False
        return True

    def _read(self, folder: Path) -> tuple[TrainingState, dict[str, str]]:
        """A state and the digests of its files, all of which are as they were written.

        Raises:
            BrokenFileError: Something is not; the text names the file.
        """
        file = folder / MANIFEST
        try:
            manifest = read(file)
            state, digests = _parsed(manifest)
            if self._checked.get(folder) == manifest:
                return state, digests
            for name, digest in digests.items():
                file = folder / name
                if hashlib.sha256(read(file)).hexdigest() != digest:
                    raise BrokenFileError("cut off or changed after it was written")
        except FileNotFoundError:
            raise BrokenFileError(f"'{file}' is not there") from None
        except (BrokenFileError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BrokenFileError(f"'{file}' is broken ({' '.join(str(error).split())[:200]})") from None
        self._checked[folder] = manifest
        return state, digests


def _signed(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the digest of everything else in it."""
    return {**values, "sha256": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def _parsed(manifest: bytes) -> tuple[TrainingState, dict[str, str]]:
    """The state of a manifest and the digests of the files beside it.

    Raises:
        ValueError, TypeError, AttributeError: It is no manifest.
        BrokenFileError: It was changed after it was written.
    """
    values = json.loads(manifest)
    if values.pop("sha256", None) is None:
        raise BrokenFileError("it has no checksum: an earlier version wrote it, or it was edited")
    if _signed(values) != json.loads(manifest):
        raise BrokenFileError("changed after it was written")
    state = TrainingState(
        **{field.name: values.pop(field.name) for field in fields(TrainingState) if field.name in values}
    )
    return replace(state, phase=migrated_phase(state.phase)), dict(values["files"])


def load_weights(model: nn.Module, file: Path, *, expected: str | None = None) -> None:
    """Load weights strictly.

    Args:
        model: Where they go.
        file: A safetensors file.
        expected: SHA-256 of the file, where it is known.

    Raises:
        UserError: Missing, broken or other weights, or weights that are not finite.
    """
    try:
        tensors = load_tensors(file, expected=expected)
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
    """Moments and step counts by parameter number; the rates are functions of the step and need no saving."""
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
