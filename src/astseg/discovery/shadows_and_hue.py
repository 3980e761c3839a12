"""Regions of one colour: what differs from the background, without its shadows, parted where colours change.

Not in the paper. A shadow shows the background darker, all channels by the same factor; that is how it is told from an
object (the idea is that of Horprasert, Harwood and Davis, *A statistical approach for real-time robust background
subtraction and shadow detection*, 1999). Objects that touch or overlap mostly differ in colour, and shading changes the
brightness of a surface much more than its hue; so regions are connected where the hue hardly changes between pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astseg.discovery.hue_split import part_by_hue

__all__ = ["colour_regions", "hue", "looks_like_shadow"]

FloatArray = NDArray[np.float32]

SHADOW_TINT = 0.2
"""In a shadow the three ratios of image and background differ from their mean by less than this, summed up."""

SHADOW_BRIGHTNESS = (0.45, 1.02)
"""In a shadow the background keeps this much of its brightness."""

DARK = 0.05
"""Added to the brightness that hues are divided by: the hue of what is nearly black says little."""

EDGE = 0.25
"""Neighbouring pixels whose hues differ by this much, summed over RGB, belong to different regions."""

AROUND = ((0, -1), (-1, 0), (1, 0), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))
"""Regions grow by pixels this near, if those differ from the background somewhat: the mixed pixels of the outline.

Rows and columns from such a pixel to the region's, the nearest first; of two as near the first one counts.
"""

BESIDE = np.zeros((3, 3, 3), np.bool_)
"""Pixels are connected with the four beside them, and with none of another image."""
BESIDE[1] = ndimage.generate_binary_structure(2, 1)


def looks_like_shadow(images: FloatArray, backgrounds: FloatArray) -> NDArray[np.bool_]:
    """N x H x W, where an image may show its background in a shadow.

    Args:
        images: N x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
    """
    ratio = (images + 0.02) / (backgrounds + 0.02)
    brightness = _summed(ratio) / 3
    tint = _summed(np.abs(ratio / brightness[:, None] - 1))
    dark, bright = SHADOW_BRIGHTNESS
    shadow: NDArray[np.bool_] = (tint < SHADOW_TINT) & (dark < brightness) & (brightness < bright)
    return shadow


def hue(images: FloatArray) -> FloatArray:
    """N x 3 x H x W, how the channels differ from their mean, by brightness: 0 where a pixel is grey."""
    mean: FloatArray = _summed(images)[:, None] / np.float32(3)
    difference: FloatArray = (images - mean) / (mean + DARK)
    return difference


def _summed(images: FloatArray) -> FloatArray:
    """N x 3 x H x W -> N x H x W, the sum of the three channels; .sum(axis=1) takes four times as long."""
    total: FloatArray = images[:, 0] + images[:, 1] + images[:, 2]
    return total


def colour_regions(
    sure: NDArray[np.bool_],
    likely: NDArray[np.bool_],
    fringe: NDArray[np.bool_],
    images: FloatArray,
    backgrounds: FloatArray,
    *,
    smallest: float = 0.003,
) -> NDArray[np.int32]:
    """Regions of one colour in the foreground of N images.

    1. The foreground is what likely differs from the background and is connected with enough that surely does.
    2. Shadows are left out, but for foreground that would vanish altogether: that is a grey object.
    3. Neighbours of like hue belong together; pieces that are too small go to the nearest larger one.
    4. Regions grow into the fringe by a pixel, so that the mixed pixels of an outline belong to its object.
    5. Regions of two hues are parted (:mod:`astseg.discovery.hue_split`).

    Args:
        sure: N x H x W, what surely differs from the background.
        likely: N x H x W, what likely does.
        fringe: N x H x W, what differs from it somewhat.
        images: N x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        smallest: Pieces below this fraction of the image, or below 4 pixels, are no regions.

    Returns:
        N x H x W, the number of the region at each pixel, counted from 1 in each image; 0 outside.
    """
    _, h, w = sure.shape
    least = max(4, round(smallest * h * w))
    components, foreground = _components(sure | likely, sure, least)
    shadow = looks_like_shadow(images, backgrounds)
    core = foreground & ~shadow
    hues = hue(images)
    seeds = _large(_pieces(core, hues), least)
    seeded = np.bincount(components[seeds > 0], minlength=components.max() + 1) > 0
    grey = _large(np.where(foreground & ~seeded[components], components, 0), least)
    lit = core | (grey > 0)
    seeds = np.where(grey > 0, grey + seeds.max(), seeds)
    grown = _grown(seeds, lit, fringe & ~shadow)
    return np.stack([part_by_hue(regions, of, least=least) for regions, of in zip(grown, hues, strict=True)])


def _pieces(mask: NDArray[np.bool_], hues: FloatArray) -> NDArray[np.int32]:
    """N x H x W, a number for each piece of a mask whose neighbouring pixels have like hues; 0 outside."""
    n, h, w = mask.shape
    # Every other cell of a finer grid is a pixel; those between two pixels connect them.
    grid = np.zeros((n, 2 * h, 2 * w), np.bool_)
    grid[:, ::2, ::2] = mask
    for cells, axis in ((grid[:, 1:-1:2, ::2], 1), (grid[:, ::2, 1:-1:2], 2)):
        np.less(_summed(np.abs(np.diff(hues, axis=axis + 1))), EDGE, out=cells)
    grid[:, 1:-1:2, ::2] &= mask[:, 1:] & mask[:, :-1]
    grid[:, ::2, 1:-1:2] &= mask[:, :, 1:] & mask[:, :, :-1]
    numbered: NDArray[np.int32] = ndimage.label(grid, BESIDE)[0][:, ::2, ::2]
    return numbered


def _large(pieces: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """N x H x W, pieces of at least so many pixels, counted from 1; 0 elsewhere."""
    large = np.bincount(pieces.ravel()) >= least
    large[0] = False
    counted: NDArray[np.int32] = np.where(large, np.cumsum(large), 0).astype(np.int32)[pieces]
    return counted


def _components(
    mask: NDArray[np.bool_], seeds: NDArray[np.int32] | NDArray[np.bool_], least: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """N x H x W, the connected parts of masks, counted from 1; and which pixels lie in one with so many of seeds."""
    components, count = ndimage.label(mask, BESIDE)
    held = np.bincount(components[seeds > 0], minlength=count + 1) >= least
    held[0] = False
    return components, held[components]


def _grown(seeds: NDArray[np.int32], lit: NDArray[np.bool_], fringe: NDArray[np.bool_]) -> NDArray[np.int32]:
    """N x H x W, seeds grown to the lit pixels connected with them and to those of the fringe that are near."""
    _, inside = _components(lit, seeds)
    specks = inside & (seeds == 0)
    framed = np.zeros((len(seeds), seeds.shape[1] + 2, seeds.shape[2] + 2), np.int32)
    filled = framed[:, 1:-1, 1:-1]
    filled[:] = seeds
    for i in np.flatnonzero(specks.any(axis=(1, 2))):
        rows, columns = ndimage.distance_transform_edt(seeds[i] == 0, return_distances=False, return_indices=True)
        filled[i][specks[i]] = seeds[i][rows[specks[i]], columns[specks[i]]]
    near = np.zeros(framed.shape, np.bool_)
    near[:, 1:-1, 1:-1] = fringe & (filled == 0)
    places, flat = np.flatnonzero(near), framed.ravel()
    owner = np.zeros(len(places), np.int32)
    for down, right in AROUND:
        owner = np.where(owner > 0, owner, flat[places + down * framed.shape[2] + right])
    flat[places] = owner
    return filled
