"""The training images on their device: batches of them, and what a frozen background says of each.

A batch depends on (seed, step) alone, so that a run repeats bit for bit on one machine and can be continued. Source of
the frozen backgrounds: curriculum training, phase 2 (paper, section 3); the regions are ours (:mod:`astseg.discovery`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from astseg.config import DiscoveryConfig
from astseg.data.arrays import images_to_tensor
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import DEFAULT, Components
from astseg.errors import UserError
from astseg.model.background import BackgroundModel
from astseg.types import SceneArrays

__all__ = ["Batches", "FrozenBackground", "freeze_background", "mirror", "split"]

CACHE_BYTES = 4e9
"""Frozen backgrounds are kept in memory up to this size, and drawn anew at each step beyond it."""


class Batches:
    """The training images on their device, and batches of them that depend on (seed, step) alone."""

    def __init__(
        self,
        scenes: SceneArrays,
        *,
        size: int,
        seed: int,
        flip: bool,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Move the images to the device; those of a large cache stay on disk.

        Args:
            scenes: The images; labels are not looked at.
            size: B.
            seed: Seed of the run.
            flip: Mirror every second image, at random.
            device: Where to train.
            share: Which part of each batch is drawn, of how many: the rank of this process, and their number.

        Raises:
            UserError: The batch cannot be shared evenly.
        """
        if size % share[1]:
            raise UserError(f"a batch of {size} cannot be shared evenly by {share[1]} processes: choose a multiple")
        stored = not isinstance(scenes.images, np.ndarray)
        self.stored = scenes.images if stored else None  # N x H x W x 3, uint8, as is the next
        self.images = None if stored else torch.from_numpy(np.array(scenes.images)).to(device)
        self.shape = tuple(scenes.images.shape)
        self.device = device
        self.size = size
        self.seed = seed
        self.flip = flip
        self.share = share

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step, or this process's share of it; also seeds torch for the dropout of that step.

        Returns:
            Images B x 3 x H x W in [0, 1]; indices B, which scenes; mirrored B, bool.
        """
        torch.manual_seed(self.seed * 1_000_003 + step)
        indices = torch.randint(self.shape[0], (self.size,)).to(self.device)
        mirrored = (torch.rand(self.size) < (0.5 if self.flip else 0.0)).to(self.device)
        part, parts = self.share
        if parts > 1:  # each process has other images, and other noise
            indices, mirrored = indices.chunk(parts)[part], mirrored.chunk(parts)[part]
            torch.manual_seed((self.seed * 1_000_003 + step) * parts + part)
        return self.take(indices, mirrored), indices, mirrored

    def take(self, indices: Tensor, mirrored: Tensor) -> Tensor:
        """Some images, B x 3 x H x W in [0, 1], those of them that ``mirrored`` marks seen in a mirror."""
        if self.images is not None:
            return mirror(images_to_tensor(self.images.index_select(0, indices)), mirrored)
        assert self.stored is not None
        return mirror(images_to_tensor(self.stored[indices.cpu().numpy()], device=self.device), mirrored)

    def in_order(self, size: int = 128) -> Iterator[Tensor]:
        """All images once, size x 3 x H x W at a time."""
        source = self.images if self.images is not None else self.stored
        assert source is not None
        return (
            images_to_tensor(source[start : start + size], device=self.device)
            for start in range(0, self.shape[0], size)
        )


def split(batch: tuple[Tensor, ...], parts: int) -> Iterator[tuple[Tensor, ...]]:
    """A batch of :meth:`Batches.draw` in so many equal parts, one after the other, in its order."""
    return zip(*(whole.chunk(parts) for whole in batch), strict=True)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images B x ... x W, some of them (mirrored: B, bool) seen in a mirror."""
    if not mirrored.any():
        return images
    return torch.where(mirrored.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


@dataclass(frozen=True)
class LiveComponents:
    """Regions found anew for each batch: of images that stay on disk, or where the background still learns.

    Attributes:
        model: The background model.
        batches: Where the images are.
        regions: R.
        config: What components are.
    """

    model: BackgroundModel
    batches: Batches
    regions: int
    config: DiscoveryConfig = DEFAULT

    @torch.no_grad()
    def take(self, indices: Tensor, mirrored: Tensor) -> Components:
        """The regions of some images; mirrored: B bool, which of them are seen in a mirror."""
        images = self.batches.take(indices, mirrored)
        background, predicted_error = self.model(images)
        found = find_components(images, background, predicted_error, limit=self.regions, config=self.config)
        return found.to(images.device)


@dataclass(frozen=True)
class FrozenBackground:
    """What a background model that no longer changes says of the training images.

    Attributes:
        images: N x 3 x H x W, float16 in [0, 1] or uint8, or None where they would not fit in memory.
        components: Regions that differ from the background, or None where nothing is guided by them.
    """

    images: Tensor | None
    components: Components | LiveComponents | None

    def draw(self, indices: Tensor, mirrored: Tensor) -> Tensor | None:
        """The backgrounds of a batch, B x 3 x H x W, or None."""
        if self.images is None:
            return None
        chosen = self.images[indices]
        return mirror(chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float(), mirrored)


@torch.no_grad()
def freeze_background(
    model: BackgroundModel,
    batches: Batches,
    *,
    regions: int,
    storage: str = "float16",
    config: DiscoveryConfig = DEFAULT,
) -> FrozenBackground:
    """Draw the background of every training image, and find the regions that differ from it.

    Of images that stay on disk nothing is kept.

    Args:
        model: The trained background model.
        batches: The training images.
        regions: R, how many regions of an image to find; 0: none.
        storage: ``float16``, or ``uint8`` to round to 8 bits, as the reference's stored pictures are.
        config: What components are.
    """
    model.eval()
    if batches.stored is not None:
        return FrozenBackground(None, LiveComponents(model, batches, regions, config) if regions else None)
    eight_bits = storage == "uint8"
    keep = eight_bits or math.prod(batches.shape) * 2 <= CACHE_BYTES  # in 8 bits they are as large as the images are
    drawn, found = [], []
    for images in batches.in_order():
        background, predicted_error = model(images)
        if keep:
            drawn.append((background * 255).round().byte() if eight_bits else background.half())
        if regions:
            found.append(find_components(images, background, predicted_error, limit=regions, config=config))
    components = Components.joined(found).to(batches.device) if regions else None
    return FrozenBackground(torch.cat(drawn) if keep else None, components)
