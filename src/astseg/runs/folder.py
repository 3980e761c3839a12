"""A run folder that a person can read: configuration, weights, training state, log.

::

    RUN/config.json             every setting, the preset, the data, the seed, the version of this format
    RUN/model.safetensors       the weights, for use
    RUN/training_state/         weights and optimiser in the middle of a run, to go on from; no pickle
    RUN/training_state.before/  the state before that one
    RUN/scene.safetensors       what is known of a scene that is looked at in full: background and finder
    RUN/log.jsonl               every number of the training, a line a step
    RUN/metrics.json            the last evaluation
    RUN/panels/                 images of what the model does, written during training too
    RUN/divergence/             batches whose losses were not finite, if there were any
    RUN/README.md               the card: what this is and how to use it

Files are written to a temporary name, brought to the disk and renamed, so that what lies there is whole
(:mod:`astseg.runs.atomic`, :mod:`astseg.runs.states`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from astseg.config import Config, from_dict, to_dict
from astseg.config.device import default_device, resolved
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.runs.atomic import sync, write_durably, write_json, writing_errors
from astseg.runs.info import RunInfo
from astseg.runs.lock import LOCK_NAME, FolderLock
from astseg.runs.migrate import FORMAT, migrated, migrated_phase
from astseg.runs.states import PHASES, StateStore, TrainingState, load_weights
from astseg.runs.tensors import save_tensors

__all__ = ["RunFolder", "TrainingState", "load_model"]

SAME_NUMBERS = ("cuda_graphs",)
"""Settings that a run may go on with otherwise, since they change how fast a step is and not what it does."""


class RunFolder:
    """The files of one run; made when first written to."""

    def __init__(self, path: Path, *, tell: Callable[[str], object] = warnings.warn) -> None:
        """Take a folder, which may not exist yet.

        Args:
            path: The folder.
            tell: Called with a line when a state is broken and the one before it is used.

        Raises:
            UserError: It is a file.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file, expected a run folder or a new name")
        self.path = path
        self.states = StateStore(path, tell)
        self.log_path = path / "log.jsonl"
        self.panels = path / "panels"

    def save_config(self, config: Config, info: RunInfo) -> None:
        """Write ``config.json``: every setting, and what the run learnt from."""
        write_json(self.path / "config.json", {"format": FORMAT, "run": info.to_dict(), **to_dict(config)})

    def lock(self) -> FolderLock:
        """Holds the folder while it is entered, so that no second run writes into it."""
        return FolderLock(self.path)

    def load_config(self) -> tuple[Config, RunInfo]:
        """The configuration, and what the run learnt from; those of format 1 too (:mod:`astseg.runs.migrate`).

        Raises:
            UserError: No run folder, or a broken ``config.json``.
        """
        file = self.path / "config.json"
        if not self.path.is_dir():
            raise UserError(f"'{self.path}' is not there, expected a run folder made by 'astseg train'")
        if not file.is_file():
            raise UserError(f"'{self.path}' has no config.json, expected a run folder made by 'astseg train'")
        try:
            values = migrated(json.loads(file.read_text()))
            if values.pop("format") > FORMAT:
                raise UserError(f"'{file}' is of a later format than {FORMAT}: install a newer astseg")
            info = RunInfo.from_dict(values.pop("run"))
            missing = [name for name in ("model", "background", "objects") if name not in values]
            if missing:
                raise ValueError(f"it lacks '{missing[0]}'")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"'{file}' is broken ({error}): restore it or train again") from None
        return from_dict(values), info

    @property
    def is_begun(self) -> bool:
        """Whether a run lies here."""
        return (self.path / "config.json").exists()

    def check_new_or_begun(self) -> None:
        """Make sure that nobody else's files lie here; a folder of scenes may.

        Raises:
            UserError: The folder holds something else.
        """
        # A run that was killed as it began leaves a lock, or its plan and its configuration half written.
        ours = ("scenes", LOCK_NAME, "config.json.part", "fit.json", "fit.json.part", "scene.safetensors")
        if not self.is_begun and self.path.is_dir() and any(item.name not in ours for item in self.path.iterdir()):
            raise UserError(f"'{self.path}' is not empty and holds no run: choose another folder")

    def begin(self, config: Config, info: RunInfo) -> Config:
        """Write the configuration of a new run, or make sure that a run that goes on is the same one.

        Between the background and the objects, the background stays as it was trained and the objects may be planned
        anew: ``astseg train-background`` and ``astseg train`` each know the steps of their own part.

        Args:
            config: Every setting; those of :data:`SAME_NUMBERS` may differ from the run's. A precision that is ``auto``
                is settled here, once for the whole run.
            info: What it learns from; fingerprint and seed must not change.

        Returns:
            The configuration of the run.

        Raises:
            UserError: The folder holds another run, or something else, or cannot be written.
        """
        self.check_new_or_begun()
        if not self.is_begun:
            config = resolved(config, default_device())
            self.save_config(config, info)
            return config
        old, before = self.load_config()
        config = resolved(config, default_device(), before=old)
        state = self.load_state()
        if state is not None and (state.phase, state.step) == ("objects", 0):
            config, old = replace(config, background=old.background), replace(old, objects=config.objects)
        changed = [
            f"{name} ({getattr(before, name)}, now {getattr(info, name)})"
            for name in ("fingerprint", "seed")
            if getattr(before, name) != getattr(info, name)
        ]
        now = to_dict(config)
        changed += [
            f"{part}.{name} ({value}, now {now[part][name]})"
            for part, values in to_dict(old).items()
            for name, value in values.items()
            if now[part][name] != value and name not in SAME_NUMBERS
        ]
        if changed:
            raise UserError(f"'{self.path}' holds a run that differs in {', '.join(changed)}: choose another folder")
        self.save_config(config, info)
        self._tidy()
        self.trim_log(*((state.phase, state.step) if state is not None else ("background", 0)))
        return config

    def _tidy(self) -> None:
        """Remove what writes that were killed have left behind; none must be going on."""
        self.states.tidy()
        for part in (*self.path.glob("*.part"), *self.panels.glob("*.part")):
            if part.is_file():
                part.unlink(missing_ok=True)

    def save_weights(self, model: nn.Module) -> None:
        """Write ``model.safetensors``."""
        save_tensors(self.path / "model.safetensors", model.state_dict(), checksum=True)

    def save_state(self, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Write ``training_state/``, whole or not at all; first the log of the steps before it is on the disk.

        Raises:
            UserError: It cannot be written; the states that were there are untouched.
        """
        with writing_errors(self.log_path):
            if self.log_path.exists():
                sync(self.log_path)
        self.states.save(state, model, optimizer)

    def load_state(self) -> TrainingState | None:
        """Where the run stands, or None where it has not begun.

        Raises:
            UserError: Broken states.
        """
        return self.states.load()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the saved weights, and the optimiser's moments, back in place.

        Raises:
            UserError: Missing, broken or other weights or moments.
        """
        self.states.restore(model, optimizer)

    def trim_log(self, phase: str, step: int) -> None:
        """Drop the lines of the log that are younger than the saved state, so that no step stands there twice."""
        if not self.log_path.is_file():
            return
        kept = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                if (_loop(migrated_phase(entry["phase"])), entry["step"]) <= (_loop(phase), step):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):  # the run was killed while it wrote this line
                continue
        write_durably(self.log_path, "".join(kept).encode())


def _loop(phase: str) -> int:
    """Which loop a phase belongs to: 0, the background's, or 1, that of all other phases, which count steps in one."""
    return min(PHASES.index(phase), 1)


def load_model(path: Path) -> tuple[AstSeg, Config, RunInfo]:
    """The trained network of a run folder, in evaluation mode, its configuration, and what it learnt from.

    Raises:
        UserError: No run folder, no weights, or weights of another model.
    """
    config, info = RunFolder(path).load_config()
    if config.scene.background != "none":
        raise UserError(
            f"'{path}' finds the objects of one scene by its background ({config.scene.background}) and has no network"
            " of layers: this command cannot use it; astseg segment and Segmenter do"
        )
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"'{path}' has no model.safetensors: its training has not saved any weights yet")
    model = build(replace(config.model, backbone_weights=None))  # the file holds them all
    load_weights(model, weights)
    return model.eval(), config, info
