"""What differs from the background in the pictures that were looked at: how many regions, how large.

A fixed background is the median picture, in the light of each picture; any other one is learnt in a short run of the
background model. Regions are those that guide the training (:mod:`astseg.discovery`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from astseg.autofit.survey import Survey, image_gains
from astseg.data.arrays import images_to_tensor
from astseg.discovery.background_subtraction import find_components
from astseg.model.background import BackgroundModel
from astseg.runs.folder import RunFolder
from astseg.training.logging import Reporter
from astseg.training.loop import train_background
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.config import Config

__all__ = ["Regions", "find"]

SHORT_STEPS = 120
"""Steps of the short run."""

MOST = 60
"""Regions counted in a picture."""

TELLING = 0.1
"""Where fewer pictures than this part show any region, their number says nothing yet."""


@dataclass(frozen=True)
class Regions:
    """What differs from the background.

    Attributes:
        counts: N, regions in each picture looked at.
        sides: M x 2, height and width of every region, as parts of the picture's sides.
        areas: M, as parts of the picture.
        learnt: Whether the background was learnt in a short run, not just the median picture.
    """

    counts: NDArray[np.int64]
    sides: NDArray[np.float32]
    areas: NDArray[np.float32]
    learnt: bool

    @property
    def tell(self) -> bool:
        """Whether enough pictures show any for their number to say something."""
        return bool((self.counts > 0).mean() >= TELLING)

    @property
    def foreground(self) -> float:
        """Share of the pixels that lie in regions."""
        return float(self.areas.sum() / len(self.counts))


def find(seen: Survey, config: Config, *, seed: int, say: Callable[[str], None]) -> Regions:
    """Find the regions in the pictures of a survey.

    Args:
        seen: The survey.
        config: Settings of the background model, for the short run.
        seed: Seed of that run.
        say: Told when the run begins.
    """
    learnt = seen.scenery.kind == "varied"
    if learnt:
        say("no common background: a short run learns one")
        background, predicted_error = _learnt(seen, config, seed)
    else:
        background, predicted_error = _median(seen)
    images = images_to_tensor(seen.images)
    components = find_components(images, background, predicted_error, limit=MOST, config=config.discovery)
    present = components.present
    numbers = torch.arange(1, MOST + 1)[:, None]
    areas = torch.cat([(numbers == one.flatten()).float().mean(dim=1)[None] for one in components.labels])
    return Regions(
        counts=present.sum(dim=1).numpy(),
        sides=components.box[present][:, [3, 2]].numpy(),
        areas=areas[present].numpy(),
        learnt=learnt,
    )


def _median(seen: Survey) -> tuple[Tensor, Tensor]:
    """The median picture in the light of each picture, and how far the typical picture is off it."""
    values: NDArray[np.float32] = seen.images.astype(np.float32) / np.float32(255)
    median = seen.scenery.median
    lit = np.clip(median * image_gains(values, median)[:, None, None], 0, 1)
    off = np.median(np.abs(values - lit).mean(axis=3), axis=0)  # H x W
    error = torch.from_numpy(np.broadcast_to(off, (len(values), 1, *off.shape)).copy())
    return torch.from_numpy(lit).permute(0, 3, 1, 2).contiguous(), error


def _learnt(seen: Survey, config: Config, seed: int) -> tuple[Tensor, Tensor]:
    """Backgrounds and predicted errors of a short run."""
    torch.manual_seed(seed)
    model = BackgroundModel(seen.frame.size, config.model.background_width, form="varying")
    short = replace(config.background, steps=min(SHORT_STEPS, config.background.steps))
    scenes = SceneArrays(seen.images, None, [str(number) for number in range(len(seen.images))], seen.name)
    with tempfile.TemporaryDirectory() as folder:
        train_background(model, scenes, short, run=RunFolder(Path(folder)), seed=seed, reporter=Reporter())
    model.eval()
    with torch.no_grad():
        parts = [model(images_to_tensor(seen.images[start : start + 64])) for start in range(0, len(seen.images), 64)]
    return torch.cat([one for one, _ in parts]), torch.cat([error for _, error in parts])
