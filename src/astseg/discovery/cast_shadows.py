"""What shadows and reflections do to this background, learnt from the pictures.

A shadow darkens its ground alike in all channels. So does a grey car; but cars are of many colours, and a shadow lies
at the same side of each. So the pixels of all regions that look like shadow are counted by their place in the region's
box: where they are much more frequent than elsewhere is the shadow's place, and there alone they are taken off. Where
everything looks like shadow, such as fish on white, nothing is.

Ours; that shadows keep the chromaticity of their ground is from Horprasert et al. (1999).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ShadowPlace", "shadow_like", "shadow_place"]

SIDE = 16
"""Cells along each side of a region's box."""

DARKEST, BRIGHTEST, TINT = 0.05, 0.95, 0.2
"""Ratio of a shadow to its ground, and by how much of it channels differ from their mean at most."""

CLEARLY, BETWEEN = 0.25, 0.65
"""A cell is the shadow's where regions look like shadow clearly more often than in the median cell: shares that differ
by so much at least, and this far on the way from the median to the most frequent ones."""

LARGEST = 0.4
"""Fraction of the regions' pixels that are shadow, at most."""

MOSTLY = 0.6
"""Fraction of a piece that lies in the shadow's place, for all of it to be shadow."""

LEAST_REGIONS = 30
"""Fewer tell nothing."""


class ShadowPlace:
    """Where shadows lie.

    Attributes:
        cells: 16 x 16, bool, over the box of a region, from its top left.
    """

    def __init__(self, cells: NDArray[np.bool_]) -> None:
        """Take the cells."""
        self.cells = cells

    def without(self, mask: NDArray[np.bool_], shadow: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A region, h x w in its box, without its shadow; ``shadow``: h x w, what looks like one."""
        if not self.cells.any():
            return mask
        rows, columns = (np.minimum(np.arange(length) * SIDE // length, SIDE - 1) for length in mask.shape)
        here = shadow & mask & self.cells[np.ix_(rows, columns)]
        pieces, count = ndimage.label(shadow & mask)
        areas, parts = (np.bincount(pieces[where], minlength=count + 1) for where in (pieces > 0, here))
        whole = parts > MOSTLY * np.maximum(areas, 1)  # mostly in the shadow's place: all of it is shadow
        left = mask & ~here & ~whole[pieces]
        left = ndimage.binary_opening(ndimage.binary_fill_holes(left), np.ones((3, 3), np.bool_))
        labels, count = ndimage.label(left)
        if not count:
            return mask
        areas = np.bincount(labels.ravel())[1:]
        left = labels == 1 + areas.argmax()
        return left if np.count_nonzero(left) > 0.4 * np.count_nonzero(mask) else mask


def shadow_like(colours: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels that are darker than their ground, alike in all channels; h x w x 3 in [0, 1] both."""
    ratio = (colours + 0.02) / (background + 0.02)
    mean = ratio.mean(axis=2)
    tint = np.abs(ratio - mean[..., None]).max(axis=2)
    like = (mean > DARKEST) & (mean < BRIGHTEST) & (tint < TINT * mean)
    opened: NDArray[np.bool_] = ndimage.binary_opening(like, np.ones((3, 3), np.bool_))  # soft edges are no shadows
    return opened


def shadow_place(masks: Sequence[NDArray[np.bool_]], shadows: Sequence[NDArray[np.bool_]]) -> ShadowPlace:
    """Where the shadows of regions lie.

    Args:
        masks: Their pixels, each in its own box.
        shadows: Those that look like shadow.
    """
    inside, dark = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for mask, shadow in zip(masks, shadows, strict=True):
        rows, columns = (
            np.minimum(((np.arange(SIDE) + 0.5) * length / SIDE).astype(int), length - 1) for length in mask.shape
        )
        cells = np.ix_(rows, columns)
        inside += mask[cells]
        dark += mask[cells] & shadow[cells]
    if len(masks) < LEAST_REGIONS:
        return ShadowPlace(np.zeros((SIDE, SIDE), np.bool_))
    share = dark / np.maximum(inside, 1)
    order = np.argsort(share, axis=None)
    below = np.cumsum(inside.ravel()[order]) / inside.sum()
    usual, most = (share.ravel()[order][np.searchsorted(below, part)] for part in (0.5, 0.95))
    often = (share > usual + BETWEEN * (most - usual)) & (inside > 0.1 * len(masks))
    if most - usual < CLEARLY or inside[often].sum() > LARGEST * inside.sum():
        often = np.zeros_like(often)
    return ShadowPlace(often)
