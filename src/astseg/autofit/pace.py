"""Time and memory of a step of each phase, by taking a few of them with the settings that will be used."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from torch import nn

from astseg.data.loading import IN_MEMORY
from astseg.runs.folder import RunFolder
from astseg.training.logging import Reporter
from astseg.training.loop import train
from astseg.types import SceneArrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.config import Config

__all__ = ["Pace", "measure"]

STEPS = 5
"""Steps of each phase; the first warms up and is not counted."""

PICTURES = 48
"""Pictures they are taken on."""

BYTES_A_VALUE = 4
"""Bytes kept for each pixel and channel: the picture (1), its background (2), labels of components (below 1)."""


@dataclass(frozen=True)
class Pace:
    """What a step takes.

    Attributes:
        seconds: Of a step, by phase, of those there are: ``background``, ``pseudo_labels``, ``objects``, ``joint``.
        resident: Most bytes that this process has held so far, steps of all phases included.
    """

    seconds: dict[str, float]
    resident: int

    def background(self, config: Config) -> float:
        """Seconds of the background phase; 0 where there is none."""
        return config.background.steps * self.seconds.get("background", 0.0)

    def objects(self, config: Config) -> float:
        """Seconds of the phases of the objects."""
        return sum(steps * self.seconds.get(phase, 0.0) for phase, steps in phase_steps(config).items())

    def memory(self, config: Config, count: int) -> int:
        """Bytes that a training on so many pictures will hold; those that do not fit in memory stay on disk."""
        height, width = config.model.image_size
        if config.augment.copies == 1 and count * height * width * 4 > IN_MEMORY:
            return self.resident
        return self.resident + BYTES_A_VALUE * 3 * height * width * count * config.augment.copies


def phase_steps(config: Config) -> dict[str, int]:
    """Steps of each phase of the objects."""
    objects = config.objects
    frozen = min(objects.frozen_steps, objects.steps) if objects.scenario == "curriculum" else 0
    alone = min(objects.pseudo_label_steps, frozen)
    return {"pseudo_labels": alone, "objects": frozen - alone, "joint": objects.steps - frozen}


def measure(config: Config, images: NDArray[np.uint8], *, seed: int) -> Pace:
    """Train a few steps of each phase, in a temporary folder: the steps of the training itself, whatever they are.

    Args:
        config: Settings; only the steps are others here.
        images: N x H x W x 3, uint8, at the size of the model.
        seed: Seed.
    """
    phases = [phase for phase, steps in phase_steps(config).items() if steps]
    counts = {phase: STEPS * (phase in phases) for phase in ("pseudo_labels", "objects", "joint")}
    objects = replace(
        config.objects,
        steps=sum(counts.values()),
        frozen_steps=counts["pseudo_labels"] + counts["objects"],
        pseudo_label_steps=counts["pseudo_labels"],
    )
    short = replace(config, background=replace(config.background, steps=STEPS), objects=objects)
    ends: dict[str, list[float]] = defaultdict(list)

    def watch(model: nn.Module, phase: str, step: int, seconds: float) -> None:
        ends[phase].append(seconds)

    few = images[:PICTURES]
    scenes = SceneArrays(few, None, [str(number) for number in range(len(few))], "a few pictures")
    with tempfile.TemporaryDirectory() as folder:
        train(short, scenes, run=RunFolder(Path(folder) / "pace"), seed=seed, reporter=Reporter(), watch=watch)
    seconds = {
        phase: median(later - earlier for earlier, later in zip(at, at[1:], strict=False)) for phase, at in ends.items()
    }
    unit = 1 if sys.platform == "darwin" else 1024
    return Pace(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
