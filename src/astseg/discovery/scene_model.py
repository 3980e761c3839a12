"""What is known of a scene: its background, the finder that has learned from it, and how large its objects are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from astseg.discovery.finder import STRIDE, Finder, finder_input
from astseg.discovery.regions import find_regions, region_map
from astseg.discovery.votes import Found, objects_from
from astseg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from astseg.config import SceneConfig
    from astseg.discovery.scene_background import SceneBackground

__all__ = ["Sizes", "SceneModel"]

TILE, HALO, STEP = 256, 32, 64
"""Largest side of the windows in which pictures are looked at, how far each sees beyond the part that it decides, and
of what its sides are multiples."""

NEAR = 8
"""Pixels around what differs that are looked at, too."""


@dataclass(frozen=True)
class Sizes:
    """How large objects are at the working scale, in pixels.

    Attributes:
        width: Of the median object: the square root of its area.
        narrow: Of the narrowest tenth.
        mask: Area of the smallest tenth without their blurred rims, as the finder draws them; 0: not known yet.
    """

    width: float
    narrow: float
    mask: float = 0.0

    @property
    def smallest(self) -> float:
        """Area below which a region that differs is no object."""
        return max(8.0, 0.35 * self.narrow**2)

    @property
    def smallest_mask(self) -> float:
        """The same of what a finder finds, whose outlines are tight."""
        return max(8.0, 0.5 * self.mask) if self.mask else self.smallest


@dataclass(frozen=True)
class SceneModel:
    """A scene.

    Attributes:
        background: What it looks like without objects.
        finder: What tells objects from it; None before it has learned.
        sizes: Of its objects.
        picture_size: (H, W) of its pictures at their own resolution; of smooth backgrounds, others may come.
        config: The settings.
        full_template: H x W x 3, uint8, a fixed background at the pictures' own resolution; None: there is none.
    """

    background: SceneBackground
    finder: Finder | None
    sizes: Sizes
    picture_size: tuple[int, int]
    config: SceneConfig
    full_template: NDArray[np.uint8] | None = None

    def working_size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(h, w) at which a picture of (H, W) is looked at.

        Raises:
            UserError: A picture of other proportions than the fixed background.
        """
        if self.background.kind == "smooth":
            height, width = (max(STRIDE, round(side * self.config.working_scale)) for side in picture)
            return height, width
        (height, width), (h, w) = picture, self.picture_size
        if abs(height * w - width * h) > 0.01 * height * w:
            raise UserError(
                f"the picture is {height} x {width}, and the background was learned from pictures of {h} x {w}: give"
                " pictures of the same camera"
            )
        return self.background.size

    def at_full_size(self, light: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
        """The background of a picture at its own size, H x W x 3.

        A fixed one is as sharp as the pictures: their template in the picture's light.

        Args:
            light: Of the picture at the working scale (:meth:`SceneBackground.light_of`).
            size: (H, W).
        """
        template = self.full_template
        if template is not None and template.shape[:2] != size:
            template = None
        levels = self.background.drawn_from(template, light, size)
        return np.clip(np.round(levels * 255), 0, 255).astype(np.uint8)

    def find(self, picture: NDArray[np.uint8], background: NDArray[np.float32]) -> Found:
        """The objects of a picture at the working scale: regions that differ, until a finder has learned.

        Args:
            picture: h x w x 3.
            background: h x w x 3 in [0, 1], its background.
        """
        if self.finder is None:
            regions = find_regions(picture, background, self.background, self.config, smallest=self.sizes.smallest)
            scores = np.array(
                [min(1.0, region.strength / (2 * self.config.strength)) for region in regions], np.float32
            )
            return Found(region_map(regions, picture.shape[:2]), scores)
        maps = self.maps(picture, background)
        return objects_from(
            maps, reach=self.sizes.width, smallest=self.sizes.smallest_mask, threshold=self.config.threshold
        )

    @torch.no_grad()
    def maps(self, picture: NDArray[np.uint8], background: NDArray[np.float32]) -> NDArray[np.float32]:
        """The finder's maps, 4 x h x w, the first a probability; 0 where nothing differs from the background."""
        assert self.finder is not None, "the finder has not learned"
        size = (picture.shape[0], picture.shape[1])
        maps = np.zeros((4, *size), np.float32)
        off = self.background.size_of_difference(picture, background, objects=self.config.objects)
        differs = off > self.config.low_errors
        device = next(self.finder.parameters()).device
        for inner, outer in _windows(differs, least=self.sizes.smallest / 4):
            seen = finder_input(picture[outer], background[outer], self.background, outer)
            pad = [(0, -length % STRIDE) for length in seen.shape[:2]]
            padded = np.pad(seen, (*pad, (0, 0)), mode="edge").transpose(2, 0, 1)[None]
            inputs = torch.from_numpy(padded).to(device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                output = self.finder(inputs)[0]
            output = output.float()
            output[0].sigmoid_()
            top, left = (own.start - around.start for own, around in zip(inner, outer, strict=True))
            tall, wide = (own.stop - own.start for own in inner)
            maps[(slice(None), *inner)] = output[:, top : top + tall, left : left + wide].cpu().numpy()
        return maps


def _windows(differs: NDArray[np.bool_], least: float) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Windows around what differs: the part that each decides, and what it sees.

    Args:
        differs: H x W.
        least: Pixels that differ in a window, at least.
    """
    size = differs.shape
    near = ndimage.maximum_filter(differs, size=2 * NEAR + 1)  # what an object hides of itself may not differ
    labels, count = ndimage.label(near)
    pixels = np.bincount(labels[differs], minlength=count + 1)
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if pixels[number] < least:
            continue
        for top in range(window[0].start, window[0].stop, TILE):
            for left in range(window[1].start, window[1].stop, TILE):
                inner = (
                    slice(top, min(top + TILE, window[0].stop)),
                    slice(left, min(left + TILE, window[1].stop)),
                )
                outer = tuple(_seen(part, length) for part, length in zip(inner, size, strict=True))
                yield inner, (outer[0], outer[1])


def _seen(part: slice, length: int) -> slice:
    """A side of a window with its halo; of few lengths, since a network is slow at first at each new size."""
    start, stop = max(0, part.start - HALO), min(length, part.stop + HALO)
    wanted = min(length, -(stop - start) // STEP * -STEP)
    start = max(0, min(start, length - wanted))
    return slice(start, start + wanted)
