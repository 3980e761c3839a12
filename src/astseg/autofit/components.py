"""Foreground components of the pictures that were looked at: how many, how large.

A fixed background is the median picture, in the light of each picture; any other one is learnt in a short run of the
background model. Components are those that become pseudo-labels (:mod:`astseg.discovery`).
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

from astseg.autofit.survey import Survey
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

__all__ = ["Foreground", "find"]

SHORT_STEPS = 120
"""Steps of the short run."""

MOST = 60
"""Components counted in a picture."""

INFORMATIVE = 0.1
"""Where fewer pictures than this fraction show any component, their number says nothing yet."""


@dataclass(frozen=True)
class Foreground:
    """The foreground components of some pictures.

    Attributes:
        counts: N, components in each picture looked at.
        sides: M x 2, height and width of every component, as fractions of the picture's sides.
        areas: M, as fractions of the picture.
        learnt: Whether the background was learnt in a short run, not just the median picture.
    """

    counts: NDArray[np.int64]
    sides: NDArray[np.float32]
    areas: NDArray[np.float32]
    learnt: bool

    @property
    def is_informative(self) -> bool:
        """Whether enough pictures show any for their number to say something."""
        return bool((self.counts > 0).mean() >= INFORMATIVE)

    @property
    def share(self) -> float:
        """Fraction of the pixels that lie in components."""
        return float(self.areas.sum() / len(self.counts))


def find(seen: Survey, config: Config, *, seed: int, say: Callable[[str], None]) -> Foreground:
    """Find the components in the pictures of a survey.

    Args:
        seen: The survey.
        config: Settings of the background model, for the short run, and of components.
        seed: Seed of that run.
        say: Receives a line when the run begins.
    """
    learnt = seen.background.kind == "varied"
    if learnt:
        say("no common background: a short run learns one")
        background, predicted_error = _learnt(seen, config, seed)
    else:
        drawn, error = seen.background.reconstruct(seen.images)
        background = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
        predicted_error = torch.from_numpy(error).expand(len(drawn), 1, *error.shape)
    images = images_to_tensor(seen.images)
    found = find_components(images, background, predicted_error, limit=MOST, config=config.discovery)
    pixels = torch.stack([torch.bincount(labels.flatten(), minlength=MOST + 1)[1:] for labels in found.labels])
    return Foreground(
        counts=found.present.sum(dim=1).numpy(),
        sides=found.box[found.present][:, [3, 2]].numpy(),
        areas=(pixels[found.present] / found.labels[0].numel()).numpy(),
        learnt=learnt,
    )


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
