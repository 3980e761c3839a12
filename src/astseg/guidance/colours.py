"""Regions of one colour: what differs from the background, without its shadows, parted where colours change.

Not in the paper. A shadow shows the background darker, all channels by the same factor; that is how it is told from an
object (the idea is that of Horprasert, Harwood and Davis, *A statistical approach for real-time robust background
subtraction and shadow detection*, 1999). Objects that touch or overlap mostly differ in colour, and shading changes the
brightness of a surface much more than its hue; so regions are connected where the hue hardly changes between pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from astseg.guidance.parting import part_by_hue

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

FRINGE = 1.5
"""Regions grow by pixels this near, if those differ from the background somewhat: the mixed pixels of the outline."""


def looks_like_shadow(images: FloatArray, backgrounds: FloatArray) -> NDArray[np.bool_]:
    """N x H x W, where an image may show its background in a shadow.

    Args:
        images: N x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
    """
    ratio = (images + 0.02) / (backgrounds + 0.02)
    brightness = ratio.mean(axis=1)
    tint = np.abs(ratio / brightness[:, None] - 1).sum(axis=1)
    dark, bright = SHADOW_BRIGHTNESS
    shadow: NDArray[np.bool_] = (tint < SHADOW_TINT) & (dark < brightness) & (brightness < bright)
    return shadow


def hue(images: FloatArray) -> FloatArray:
    """N x 3 x H x W, how the channels differ from their mean, by brightness: 0 where a pixel is grey."""
    mean = images.mean(axis=1, keepdims=True)
    difference: FloatArray = (images - mean) / (mean + DARK)
    return difference


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
    5. Regions of two hues are parted (:mod:`astseg.guidance.parting`).

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
    foreground = np.stack([_components(sure[i] | likely[i], sure[i], least)[1] for i in range(len(sure))])
    shadow = looks_like_shadow(images, backgrounds)
    core = foreground & ~shadow
    hues = hue(images)
    pieces = _pieces(core, hues)
    regions = np.zeros(foreground.shape, np.int32)
    for i in range(len(foreground)):
        seeds = _large(pieces[i], least)
        grey = _without(foreground[i], seeds, least)
        lit = core[i] | (grey > 0)
        seeds = np.where(grey > 0, grey + seeds.max(), seeds)
        if seeds.any():
            regions[i] = part_by_hue(_grown(seeds, lit, fringe[i] & ~shadow[i]), hues[i], least=least)
    return regions


def _pieces(mask: NDArray[np.bool_], hues: FloatArray) -> NDArray[np.int32]:
    """N x H x W, a number for each piece of a mask whose neighbouring pixels have like hues; 0 outside."""
    number = np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    ends = []
    for axis in (1, 2):
        one = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        other = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        step = np.abs(np.diff(hues, axis=axis + 1)).sum(axis=1)
        joined = mask[one] & mask[other] & (step < EDGE)
        ends.append(np.stack([number[one][joined], number[other][joined]]))
    first, second = np.concatenate(ends, axis=1)
    graph = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), (mask.size, mask.size))
    _, pieces = connected_components(graph, directed=False)
    numbered: NDArray[np.int32] = np.where(mask, pieces.reshape(mask.shape) + 1, 0).astype(np.int32)
    return numbered


def _large(pieces: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """H x W, pieces of at least so many pixels, counted from 1; 0 elsewhere."""
    numbers, which, counts = np.unique(pieces, return_inverse=True, return_counts=True)
    large = (numbers > 0) & (counts >= least)
    counted: NDArray[np.int32] = np.where(large, np.cumsum(large), 0)[which.reshape(pieces.shape)].astype(np.int32)
    return counted


def _without(foreground: NDArray[np.bool_], seeds: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """H x W, connected foreground of at least so many pixels that holds no seed, counted from 1; 0 elsewhere."""
    components, held = _components(foreground, seeds)
    return _large(np.where(held, 0, components), least)


def _components(
    mask: NDArray[np.bool_], seeds: NDArray[np.int32] | NDArray[np.bool_], least: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """H x W, the connected parts of a mask, counted from 1; and which pixels lie in one with so many of seeds."""
    components, count = ndimage.label(mask)
    held = np.bincount(components[seeds > 0], minlength=count + 1) >= least
    held[0] = False
    return components, held[components]


def _grown(seeds: NDArray[np.int32], lit: NDArray[np.bool_], fringe: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Seeds, grown to the lit pixels connected with them and to those of the fringe that are near."""
    _, inside = _components(lit, seeds)
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    filled = np.where(inside, seeds[rows, columns], 0)
    distance, (rows, columns) = ndimage.distance_transform_edt(filled == 0, return_indices=True)
    grown: NDArray[np.int32] = np.where((filled > 0) | (fringe & (distance <= FRINGE)), filled[rows, columns], 0)
    return grown
