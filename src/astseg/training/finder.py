"""How a finder learns from pictures alone: what differs from the background is cut out and pasted.

After part of the steps it looks at the pictures itself, and from then on its own finds are pasted: they are whole where
an object has the background's colour, and apart where two touch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from astseg.discovery.collage import Collage
from astseg.discovery.cutouts import FEWEST_CUTOUTS, Material, finds_of
from astseg.discovery.finder import Finder

if TYPE_CHECKING:
    from astseg.discovery.scene_model import SceneModel

__all__ = ["learn_finder", "seconds_a_step"]

WARMUP = 100
"""Steps in which the learning rate rises; a tenth of all where these are few."""

WAY = 0.5
"""Weight of the way to the centre and of the size beside that of the logit."""

Say = Callable[[int, float], object]
"""Receives the step and the loss."""


def learn_finder(scene: SceneModel, material: Material, *, seed: int, say: Say | None = None) -> SceneModel:
    """Teach the finder of a scene.

    Args:
        scene: Background, sizes and settings.
        material: What stands out in its pictures (:func:`astseg.discovery.cutouts.first_regions`).
        seed: Of weights and training pictures.
        say: Called now and then.

    Returns:
        The scene with its finder, in evaluation mode.
    """
    config = scene.config
    areas = [one.area for one in material.cutouts]
    scene = replace(scene, sizes=replace(scene.sizes, mask=float(np.percentile(areas, 10))))
    torch.manual_seed(seed)
    finder = Finder(width=config.width, reach=scene.sizes.width)
    scene = replace(scene, finder=finder)
    optimizer = torch.optim.AdamW(finder.parameters(), config.learning_rate, weight_decay=1e-3)
    collage = _collage(scene, material, seed)
    again = round(config.again * config.steps)
    losses: list[float] = []
    for step in range(config.steps):
        if step == again and step:
            finder.eval()
            finds = finds_of(scene, material.frames)
            if len(finds.cutouts) >= FEWEST_CUTOUTS:
                collage = _collage(scene, finds, seed + 1)
        finder.train()
        losses.append(_step(finder, optimizer, collage, config.batch, _rate(step, config.steps, config.learning_rate)))
        if say is not None and (step % 50 == 49 or step == config.steps - 1):
            say(step + 1, float(np.mean(losses[-50:])))
    finder.eval()
    return scene


def seconds_a_step(scene: SceneModel, material: Material, *, steps: int = 4) -> float:
    """How long a step takes on this machine: the median of some."""
    finder = Finder(width=scene.config.width, reach=scene.sizes.width)
    optimizer = torch.optim.AdamW(finder.parameters(), 1e-4)
    collage, times = _collage(scene, material, 0), []
    for _ in range(steps):
        begin = time.monotonic()
        _step(finder.train(), optimizer, collage, scene.config.batch, 1e-4)
        times.append(time.monotonic() - begin)
    return float(np.median(times[1:]))


def _collage(scene: SceneModel, material: Material, seed: int) -> Collage:
    return Collage(
        scene.background,
        material,
        side=scene.config.side,
        reach=scene.sizes.width,
        rng=np.random.default_rng([seed, 0xC0]),
    )


def _rate(step: int, steps: int, peak: float) -> float:
    """Warm-up, then half a cosine."""
    return (
        peak
        * min(1.0, (step + 1) / min(WARMUP, max(1, steps // 10)))
        * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
    )


def _step(finder: Finder, optimizer: torch.optim.Optimizer, collage: Collage, batch: int, rate: float) -> float:
    """One step; its loss."""
    samples = [collage.sample() for _ in range(batch)]
    inputs, targets = (torch.from_numpy(np.stack([one[k] for one in samples])).permute(0, 3, 1, 2) for k in (0, 1))
    counts = torch.from_numpy(np.stack([one[2] for one in samples]))
    with torch.autocast("cpu", torch.bfloat16):
        output = finder(inputs)
    loss = finder_loss(output.float(), targets, counts)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def finder_loss(output: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Cross entropy of *object*, and a smooth distance of the way to the centre and the size within objects.

    Args:
        output: B x 4 x H x W, what the finder gives.
        targets: The same, its first channel 0 or 1.
        counts: B x H x W, 0 where nothing is known.
    """
    inside = targets[:, 0] * counts
    objects = functional.binary_cross_entropy_with_logits(output[:, 0], targets[:, 0], reduction="none") * counts
    way = functional.smooth_l1_loss(output[:, 1:], targets[:, 1:], reduction="none").sum(dim=1) * inside
    return objects.mean() + WAY * way.sum() / inside.sum().clamp_min(1)
