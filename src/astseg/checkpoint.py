"""A run folder that a person can read: configuration, weights, training state, log.

::

    RUN/config.json          every setting, the preset, the data, the seed
    RUN/model.safetensors    the weights, for use
    RUN/training_state/      weights and optimiser in the middle of a run, to go on from; no pickle
    RUN/log.jsonl            every number of the training, a line a step
    RUN/metrics.json         the last evaluation
    RUN/panels/              pictures, written during training too
    RUN/README.md            the card: what this is and how to use it

Files are written beside their place and renamed, so that what lies there is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from astseg.config import Config, from_dict, to_dict
from astseg.model.scene import AstSeg, build
from astseg.outputs import write_whole
from astseg.types import UserError

__all__ = ["RunFolder", "TrainingState", "load_model", "write_json"]


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands.

    Attributes:
        phase: ``background``, ``guided``, ``objects``, ``joint`` or ``done``: where the run stands.
        step: Finished steps of the loop; ``guided``, ``objects`` and ``joint`` are one loop.
        seconds: Seconds spent in that loop.
        background_seconds: Seconds spent on the background loop.
        seed: The seed of the run.
    """

    phase: str
    step: int
    seconds: float
    background_seconds: float
    seed: int


class RunFolder:
    """The files of one run; made when first written to."""

    def __init__(self, path: Path) -> None:
        """Take a folder, which may not exist yet.

        Raises:
            UserError: It is a file.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file, expected a run folder or a new name")
        self.path = path
        self.log_path = path / "log.jsonl"
        self.panels = path / "panels"

    def save_config(self, config: Config, **about: Any) -> None:
        """Write ``config.json``; about: preset, data, seed and whatever else a reader wants to know."""
        write_json(self.path / "config.json", {**about, **to_dict(config)})

    def load_config(self) -> tuple[Config, dict[str, Any]]:
        """The configuration, and what was said about it.

        Raises:
            UserError: No run folder, or a broken ``config.json``.
        """
        file = self.path / "config.json"
        if not self.path.is_dir():
            raise UserError(f"'{self.path}' is not there, expected a run folder made by 'astseg train'")
        if not file.is_file():
            raise UserError(f"'{self.path}' has no config.json, expected a run folder made by 'astseg train'")
        try:
            values = json.loads(file.read_text())
            # Runs from before there were variants know nothing of them.
            parts = {name: values.pop(name) for name in to_dict(Config()) if name in values or name != "augment"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{file}' is broken ({error}): restore it or train again") from None
        return from_dict(parts), values

    @property
    def is_begun(self) -> bool:
        """Whether a run lies here."""
        return (self.path / "config.json").exists()

    def check_new_or_begun(self) -> None:
        """Make sure that nobody else's files lie here; a folder of scenes may.

        Raises:
            UserError: The folder holds something else.
        """
        if not self.is_begun and self.path.is_dir() and any(item.name != "scenes" for item in self.path.iterdir()):
            raise UserError(f"'{self.path}' is not empty and holds no run: choose another folder")

    def begin(self, config: Config, about: Mapping[str, Any]) -> Config:
        """Write the configuration of a new run, or make sure that a run that goes on is the same one.

        Between the background and the objects, the background stays as it was trained and the objects may be planned
        anew: ``astseg train-background`` and ``astseg train`` each know the steps of their own part.

        Args:
            config: Every setting.
            about: Preset, data, seed and so on; ``fingerprint`` of the images and ``seed`` must not change.

        Returns:
            The configuration of the run.

        Raises:
            UserError: The folder holds another run, or something else, or cannot be written.
        """
        self.check_new_or_begun()
        if not self.is_begun:
            self.save_config(config, **about)
            return config
        old, before = self.load_config()
        state = self.load_state()
        if state is not None and (state.phase, state.step) == ("objects", 0):
            config, old = replace(config, background=old.background), replace(old, objects=config.objects)
        changed = [
            f"{name} ({before.get(name)}, now {about[name]})"
            for name in ("fingerprint", "seed")
            if before.get(name) != about[name]
        ]
        now = to_dict(config)
        changed += [
            f"{part}.{name} ({value}, now {now[part][name]})"
            for part, values in to_dict(old).items()
            for name, value in values.items()
            if now[part][name] != value
        ]
        if changed:
            raise UserError(f"'{self.path}' holds a run that differs in {', '.join(changed)}: choose another folder")
        self.save_config(config, **{**before, **about})
        self.trim_log(*((state.phase, state.step) if state is not None else ("background", 0)))
        return config

    def save_weights(self, model: nn.Module) -> None:
        """Write ``model.safetensors``."""
        tensors = _plain(model.state_dict())
        write_whole(self.path / "model.safetensors", lambda part: save_file(tensors, part))

    def save_state(self, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Write ``training_state/``, whole or not at all."""
        folder, temporary, old = (self.path / f"training_state{end}" for end in ("", ".part", ".old"))
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_plain(model.state_dict()), temporary / "model.safetensors")
        if optimizer is not None:
            save_file(_optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", asdict(state))
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)

    def _state_folder(self) -> Path:
        """The newest whole state; between its two renames :meth:`save_state` has it under the old name."""
        folder = self.path / "training_state"
        return folder if folder.is_dir() else self.path / "training_state.old"

    def load_state(self) -> TrainingState | None:
        """Where the run stands, or None where it has not begun.

        Raises:
            UserError: A broken state.
        """
        file = self._state_folder() / "state.json"
        if not file.is_file():
            return None
        try:
            return TrainingState(**json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"'{file}' is broken ({error}): remove {file.parent} to start afresh") from None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the saved weights, and the optimiser's moments, back in place.

        Raises:
            UserError: Missing, broken or other weights or moments.
        """
        folder = self._state_folder()
        load_weights(model, folder / "model.safetensors")
        moments = folder / "optimizer.safetensors"
        if optimizer is not None:
            try:
                _restore_optimizer(optimizer, load_file(moments))
            except (OSError, SafetensorError, ValueError, IndexError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"'{moments}' is broken ({reason}): remove {folder} to start afresh") from None

    def trim_log(self, phase: str, step: int) -> None:
        """Drop the lines of the log that are younger than the saved state, so that no step stands there twice."""
        if not self.log_path.is_file():
            return
        order = ("background", "guided", "objects", "joint", "done")
        kept = []
        for line in self.log_path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the run was killed while it wrote this line
                continue
            if (order.index(entry["phase"]), entry["step"]) <= (order.index(phase), step):
                kept.append(line + "\n")
        text = "".join(kept)
        write_whole(self.log_path, lambda part: part.write_text(text))


def load_model(path: Path) -> tuple[AstSeg, Config]:
    """The trained model of a run folder, in evaluation mode.

    Raises:
        UserError: No run folder, no weights, or weights of another model.
    """
    run = RunFolder(path)
    config, _ = run.load_config()
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"'{path}' has no model.safetensors: its training has not saved any weights yet")
    model = build(replace(config.model, backbone_weights=None))  # the file holds them all
    load_weights(model, weights)
    return model.eval(), config


def load_weights(model: nn.Module, file: Path) -> None:
    """Load weights strictly.

    Raises:
        UserError: Missing, broken or other weights.
    """
    try:
        model.load_state_dict(load_file(file))
    except FileNotFoundError:
        raise UserError(f"'{file}' is not there: the run holds no weights") from None
    except SafetensorError as error:
        raise UserError(f"'{file}' is broken ({error}): restore it or train again") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{file}' does not fit the model that config.json describes: {reason}") from None


def write_json(file: Path, values: Any) -> None:
    """Write JSON, whole or not at all; the folder is made.

    Raises:
        UserError: The file cannot be written there.
    """
    text = json.dumps(values, indent=2) + "\n"
    write_whole(file, lambda part: part.write_text(text))


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous and on their own."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by parameter number; the rates are functions of the step and need no saving."""
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().cpu().contiguous().clone()
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
