"""The training images on their device: batches of them, and what a frozen background says of each.

A batch depends on (seed, step) alone, so that a run repeats bit for bit on one machine and can be continued. Source of
the frozen backgrounds: curriculum training, phase 2 (paper, section 3); the regions are ours (:mod:`astseg.guidance`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from astseg.data.tensors import images_to_tensor
from astseg.guidance import Blobs, colour_regions, find_blobs
from astseg.model.background import BackgroundModel, foreground_mask
from astseg.types import SceneArrays

__all__ = ["Batches", "FrozenBackground", "freeze_background", "mirror"]

CACHE_BYTES = 4e9
"""Frozen backgrounds are kept in memory up to this size, and drawn anew at each step beyond it."""


class Batches:
    """The training images on their device, and batches of them that depend on (seed, step) alone."""

    def __init__(self, scenes: SceneArrays, *, size: int, seed: int, flip: bool, device: torch.device) -> None:
        """Move the images to the device.

        Args:
            scenes: The images; labels are not looked at.
            size: B.
            seed: Seed of the run.
            flip: Mirror every second image, at random.
            device: Where to train.
        """
        self.images = torch.from_numpy(scenes.images.copy()).to(device)  # N x H x W x 3, uint8
        self.size = size
        self.seed = seed
        self.flip = flip

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step; also seeds torch for the dropout of that step.

        Returns:
            Images B x 3 x H x W in [0, 1]; indices B, which scenes; mirrored B, bool.
        """
        torch.manual_seed(self.seed * 1_000_003 + step)
        indices = torch.randint(len(self.images), (self.size,)).to(self.images.device)
        mirrored = (torch.rand(self.size) < (0.5 if self.flip else 0.0)).to(self.images.device)
        return mirror(images_to_tensor(self.images[indices]), mirrored), indices, mirrored

    def in_order(self, size: int = 128) -> Iterator[Tensor]:
        """All images once, size x 3 x H x W at a time."""
        return (images_to_tensor(part) for part in torch.split(self.images, size))


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images B x ... x W, some of them (mirrored: B, bool) seen in a mirror."""
    if not mirrored.any():
        return images
    return torch.where(mirrored.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


@dataclass(frozen=True)
class FrozenBackground:
    """What a background model that no longer changes says of the training images.

    Attributes:
        images: N x 3 x H x W, float16 in [0, 1] or uint8, or None where they would not fit in memory.
        blobs: Regions that differ from the background, or None where nothing is guided by them.
    """

    images: Tensor | None
    blobs: Blobs | None

    def draw(self, indices: Tensor, mirrored: Tensor) -> Tensor | None:
        """The backgrounds of a batch, B x 3 x H x W, or None."""
        if self.images is None:
            return None
        chosen = self.images[indices]
        return mirror(chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float(), mirrored)


@torch.no_grad()
def freeze_background(
    model: BackgroundModel, batches: Batches, *, regions: int, storage: str = "float16"
) -> FrozenBackground:
    """Draw the background of every training image, and find the regions that differ from it.

    Args:
        model: The trained background model.
        batches: The training images.
        regions: R, how many regions of an image to find; 0: none.
        storage: ``float16``, or ``uint8`` to round to 8 bits, as the reference's stored pictures are.
    """
    model.eval()
    eight_bits = storage == "uint8"
    keep = eight_bits or batches.images.numel() * 2 <= CACHE_BYTES  # in 8 bits they are as large as the images are
    drawn, found = [], []
    for images in batches.in_order():
        background, predicted_error = model(images)
        if keep:
            drawn.append((background * 255).round().byte() if eight_bits else background.half())
        if regions:
            foreground, fringe = (
                foreground_mask(images, background, predicted_error, strictness=strictness).cpu().numpy()
                for strictness in (1.0, 0.5)
            )
            colours = colour_regions(foreground, fringe, images.cpu().numpy(), background.cpu().numpy())
            found.append(find_blobs(colours, limit=regions))
    blobs = Blobs.joined(found).to(batches.images.device) if regions else None
    return FrozenBackground(torch.cat(drawn) if keep else None, blobs)
