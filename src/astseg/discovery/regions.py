"""The regions of a picture that its background does not explain: first finds, before anything is learnt.

A region begins where smoothed differences exceed a high threshold and reaches as far as they exceed a low one, both in
expected errors of the pixel (hysteresis). Holes are filled. What a background that is shifted a little explains as
well, leaves in the wind or a camera that shakes, is no region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from astseg.config import SceneConfig
    from astseg.discovery.scene_background import SceneBackground

__all__ = ["Region", "find_regions", "region_map", "strong_regions"]

UNEXPLAINED = 0.3
"""Fraction of a region's pixels that no shift of the background explains, at least."""

SQUARE = np.ones((3, 3), np.bool_)


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        window: Its box.
        mask: Its pixels within the box.
        strength: Mean difference in expected errors.
        whole: Whether it ends inside the picture.
    """

    window: tuple[slice, slice]
    mask: NDArray[np.bool_]
    strength: float
    whole: bool

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))


def find_regions(
    picture: NDArray[np.uint8],
    background: NDArray[np.float32],
    scene: SceneBackground,
    config: SceneConfig,
    *,
    smallest: float = 8,
) -> list[Region]:
    """The regions of a picture.

    Args:
        picture: H x W x 3.
        background: Its background, H x W x 3 in [0, 1].
        scene: Where it is from.
        config: The thresholds.
        smallest: Area in pixels below which regions are noise.
    """
    size = scene.size_of_difference(picture, background, objects=config.objects)
    labels, _ = ndimage.label(size > config.low_errors, structure=SQUARE)
    height, width = labels.shape
    found = []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[window] == number
        if size[window][inside].max() < config.high_errors:
            continue
        mask = ndimage.binary_fill_holes(inside)
        mask = ndimage.binary_opening(np.pad(mask, 1), SQUARE[:2, :2])[1:-1, 1:-1]
        area = np.count_nonzero(mask)
        if area < smallest:
            continue
        unexplained = _unexplained(picture, background, scene, config, window)
        if np.count_nonzero(unexplained & mask) < UNEXPLAINED * area:
            continue
        rows, columns = window
        whole = rows.start > 0 and columns.start > 0 and rows.stop < height and columns.stop < width
        found.append(Region(window, mask, float(size[window][mask].mean()), whole))
    return found


def region_map(regions: list[Region], size: tuple[int, int]) -> NDArray[np.int32]:
    """H x W: the number of the region at each pixel, from 1 on; 0 outside."""
    labels = np.zeros(size, np.int32)
    for number, region in enumerate(regions, start=1):
        labels[region.window][region.mask] = number
    return labels


def strong_regions(regions: Sequence[Region], config: SceneConfig) -> list[Region]:
    """Those that surely are objects, or parts of some: of those that differ enough, not much weaker than most do."""
    strengths = np.array([region.strength for region in regions])
    enough = strengths[strengths > config.strength]
    if not len(enough):
        return []
    least = max(config.strength, 0.4 * float(np.median(enough)))
    return [region for region in regions if region.strength > least]


def _unexplained(
    picture: NDArray[np.uint8],
    background: NDArray[np.float32],
    scene: SceneBackground,
    config: SceneConfig,
    window: tuple[slice, slice],
) -> NDArray[np.bool_]:
    """Pixels of a window that lie outside the range of the background around them by more than the low threshold."""
    side = 2 * config.shift + 1
    starts = [max(0, part.start - config.shift) for part in window]
    around = tuple(slice(start, part.stop + config.shift) for start, part in zip(starts, window, strict=True))
    inner = tuple(slice(part.start - start, part.stop - start) for start, part in zip(starts, window, strict=True))
    low, high = (
        extreme(background[around], (side, side, 1))[inner]
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    values = picture[window].astype(np.float32) / np.float32(255)
    outside = np.maximum(low - values, values - high)
    unexplained: NDArray[np.bool_] = (outside > config.low_errors * scene.noise_in(window)).any(axis=2)
    return unexplained
