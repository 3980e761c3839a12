"""Components of one colour: foreground without its shadows, split where hues change between neighbouring pixels.

Ours, not the paper's. A shadow shows the background darker, all channels by the same factor, which distinguishes it
from an object (Horprasert, Harwood and Davis, *A statistical approach for real-time robust background subtraction and
shadow detection*, 1999). Objects that touch or overlap mostly differ in colour, and shading changes the brightness of a
surface much more than its hue; so pixels are connected where the hue hardly changes between them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astseg.config import DiscoveryConfig
from astseg.discovery.components import DEFAULT, FEWEST_PIXELS
from astseg.discovery.hue_split import split_by_hue

__all__ = ["colour_components", "hue", "looks_like_shadow"]

FloatArray = NDArray[np.float32]
Labels = NDArray[np.int32]
Masks = NDArray[np.bool_]

NEIGHBOURS = ((0, -1), (-1, 0), (1, 0), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))
"""Rows and columns from a pixel of an outline to those of its object, the nearest first; of two as near the first."""

BESIDE = np.zeros((3, 3, 3), np.bool_)
"""Pixels are connected with the four beside them, and with none of another image."""
BESIDE[1] = ndimage.generate_binary_structure(2, 1)


def looks_like_shadow(images: FloatArray, backgrounds: FloatArray, *, config: DiscoveryConfig = DEFAULT) -> Masks:
    """N x H x W, where an image may show its background in a shadow.

    Args:
        images: N x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        config: The thresholds.
    """
    ratio = (images + 0.02) / (backgrounds + 0.02)  # black would divide by 0
    brightness = _summed(ratio) / 3
    tint = _summed(np.abs(ratio / brightness[:, None] - 1))
    dark, bright = config.shadow_brightness
    shadow: Masks = (tint < config.shadow_tint) & (dark < brightness) & (brightness < bright)
    return shadow


def hue(images: FloatArray, *, floor: float = DEFAULT.hue_floor) -> FloatArray:
    """N x 3 x H x W, how the channels differ from their mean, by brightness plus floor: 0 where a pixel is grey."""
    mean: FloatArray = _summed(images)[:, None] / np.float32(3)
    difference: FloatArray = (images - mean) / (mean + floor)
    return difference


def _summed(images: FloatArray) -> FloatArray:
    """N x 3 x H x W -> N x H x W, the sum of the three channels; .sum(axis=1) takes four times as long."""
    total: FloatArray = images[:, 0] + images[:, 1] + images[:, 2]
    return total


def colour_components(
    high: Masks,
    low: Masks,
    outline: Masks,
    images: FloatArray,
    backgrounds: FloatArray,
    *,
    config: DiscoveryConfig = DEFAULT,
) -> Labels:
    """Components of one colour in the foreground of N images.

    1. Hysteresis: the foreground is what exceeds the low threshold and is connected with enough that exceeds the high.
    2. Shadows are left out, but for foreground that would vanish altogether: that is a grey object.
    3. Neighbours of like hue belong together; pieces that are too small go to the nearest larger one.
    4. Components grow into the outline by a pixel, so that its mixed pixels belong to their object.
    5. Components of two hues are split (:mod:`astseg.discovery.hue_split`).

    Args:
        high: N x H x W, pixels above the high threshold.
        low: N x H x W, pixels above the low one.
        outline: N x H x W, pixels that differ from the background somewhat.
        images: N x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        config: The thresholds.

    Returns:
        N x H x W, the number of the component at each pixel, counted from 1 in each image; 0 outside.
    """
    _, h, w = high.shape
    smallest = max(FEWEST_PIXELS, round(config.smallest_piece * h * w))
    connected, foreground = _connected(low | high, high, smallest)
    shadow = looks_like_shadow(images, backgrounds, config=config)
    core = foreground & ~shadow
    hues = hue(images, floor=config.hue_floor)
    seeds = _large(_pieces(core, hues, step=config.hue_step), smallest)
    seeded = np.bincount(connected[seeds > 0], minlength=connected.max() + 1) > 0
    grey = _large(np.where(foreground & ~seeded[connected], connected, 0), smallest)
    kept = core | (grey > 0)
    seeds = np.where(grey > 0, grey + seeds.max(), seeds)
    grown = _grown(seeds, kept, outline & ~shadow)
    return np.stack(
        [split_by_hue(labels, of, smallest=smallest, config=config) for labels, of in zip(grown, hues, strict=True)]
    )


def _pieces(mask: Masks, hues: FloatArray, *, step: float) -> Labels:
    """N x H x W, a number for each piece of a mask whose neighbouring pixels have hues within a step; 0 outside."""
    n, h, w = mask.shape
    # Every other cell of a finer grid is a pixel; those between two pixels connect them.
    grid = np.zeros((n, 2 * h, 2 * w), np.bool_)
    grid[:, ::2, ::2] = mask
    for cells, axis in ((grid[:, 1:-1:2, ::2], 1), (grid[:, ::2, 1:-1:2], 2)):
        np.less(_summed(np.abs(np.diff(hues, axis=axis + 1))), step, out=cells)
    grid[:, 1:-1:2, ::2] &= mask[:, 1:] & mask[:, :-1]
    grid[:, ::2, 1:-1:2] &= mask[:, :, 1:] & mask[:, :, :-1]
    numbered: Labels = ndimage.label(grid, BESIDE)[0][:, ::2, ::2]
    return numbered


def _large(pieces: Labels, smallest: int) -> Labels:
    """N x H x W, pieces of at least so many pixels, counted from 1; 0 elsewhere."""
    large = np.bincount(pieces.ravel()) >= smallest
    large[0] = False
    counted: Labels = np.where(large, np.cumsum(large), 0).astype(np.int32)[pieces]
    return counted


def _connected(mask: Masks, seeds: Labels | Masks, fewest: int = 1) -> tuple[Labels, Masks]:
    """N x H x W, connected components of masks, counted from 1; and which pixels lie in one with so many seeds."""
    labels, count = ndimage.label(mask, BESIDE)
    seeded = np.bincount(labels[seeds > 0], minlength=count + 1) >= fewest
    seeded[0] = False
    return labels, seeded[labels]


def _grown(seeds: Labels, mask: Masks, outline: Masks) -> Labels:
    """N x H x W, seeds grown to the pixels of the mask connected with them, then by a pixel into the outline."""
    _, inside = _connected(mask, seeds)
    specks = inside & (seeds == 0)
    padded = np.zeros((len(seeds), seeds.shape[1] + 2, seeds.shape[2] + 2), np.int32)
    filled = padded[:, 1:-1, 1:-1]
    filled[:] = seeds
    for i in np.flatnonzero(specks.any(axis=(1, 2))):
        rows, columns = ndimage.distance_transform_edt(seeds[i] == 0, return_distances=False, return_indices=True)
        filled[i][specks[i]] = seeds[i][rows[specks[i]], columns[specks[i]]]
    near = np.zeros(padded.shape, np.bool_)
    near[:, 1:-1, 1:-1] = outline & (filled == 0)
    places, flat = np.flatnonzero(near), padded.ravel()
    label = np.zeros(len(places), np.int32)
    for down, right in NEIGHBOURS:
        label = np.where(label > 0, label, flat[places + down * padded.shape[2] + right])
    flat[places] = label
    return filled
