"""What shadows and reflections do to this background, learnt from the pictures.

A shadow darkens its ground alike in all channels. So does a grey car; but cars are of many colours, and a shadow lies
at the same side of each. So the pixels of all regions that look like shadow are counted by their place in the region's
box: where they are much more frequent than elsewhere is the shadow's place, and there alone they are taken off. Where
everything looks like shadow, such as fish on white, nothing is.

Ours; that shadows keep the chromaticity of their ground is from Horprasert et al. (1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ShadowPlace", "shadow_place", "shadow_ratio"]

SIDE = 16
"""Cells along each side of a region's box."""

DARKEST, BRIGHTEST, TINT = 0.05, 0.95, 0.2
"""Ratio of a shadow to its ground, and by how much of it channels differ from their mean at most."""

CLEARLY, BETWEEN = 0.25, 0.65
"""A cell is the shadow's where regions look like shadow clearly more often than in the median cell: shares that differ
by so much at least, and this far on the way from the median to the most frequent ones."""

LARGEST = 0.4
"""Fraction of the regions' pixels that are shadow, at most."""

ALIKE, NARROWEST = 1.0, 0.15
"""Deviations by which a shadow may be darker or brighter than is typical there, and the least deviation."""

LEAST_REGIONS = 30
"""Fewer tell nothing."""


@dataclass(frozen=True)
class ShadowPlace:
    """Where shadows lie, and how dark they are.

    Attributes:
        cells: 16 x 16, bool, over the box of a region, from its top left.
        darkness: Logarithm of the typical ratio of a shadow to its ground.
        spread: Its deviation.
    """

    cells: NDArray[np.bool_]
    darkness: float = 0.0
    spread: float = 0.0

    def without(self, mask: NDArray[np.bool_], ratio: NDArray[np.float32]) -> NDArray[np.bool_]:
        """A region, h x w in its box, without its shadow; ``ratio``: h x w, as of :func:`shadow_ratio`."""
        if not self.cells.any():
            return mask
        rows, columns = (np.minimum(np.arange(length) * SIDE // length, SIDE - 1) for length in mask.shape)
        alike = np.abs(np.log(np.maximum(ratio, DARKEST / 2)) - self.darkness) < ALIKE * self.spread
        shadow = mask & (ratio > 0) & alike & self.cells[np.ix_(rows, columns)]
        left = ndimage.binary_opening(ndimage.binary_fill_holes(mask & ~shadow), np.ones((3, 3), np.bool_))
        labels, count = ndimage.label(left)
        if not count:
            return mask
        left = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
        return left if np.count_nonzero(left) > 0.4 * np.count_nonzero(mask) else mask


def shadow_ratio(colours: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """How bright pixels are against their ground, where they may lie in a shadow: darker, alike in all channels.

    Args:
        colours: h x w x 3 in [0, 1].
        background: The same.

    Returns:
        h x w, in (0, 1); 0 where there is no shadow.
    """
    ratio = (colours + 0.02) / (background + 0.02)
    mean: NDArray[np.float32] = ratio.mean(axis=2)
    tint = np.abs(ratio - mean[..., None]).max(axis=2)
    like = (mean > DARKEST) & (mean < BRIGHTEST) & (tint < TINT * mean)
    thick: NDArray[np.bool_] = ndimage.binary_opening(like, np.ones((3, 3), np.bool_))  # soft edges are no shadows
    return mean * thick


def shadow_place(masks: Sequence[NDArray[np.bool_]], ratios: Sequence[NDArray[np.float32]]) -> ShadowPlace:
    """Where the shadows of regions lie.

    Args:
        masks: Their pixels, each in its own box.
        ratios: As of :func:`shadow_ratio`.
    """
    nowhere = ShadowPlace(np.zeros((SIDE, SIDE), np.bool_))
    if len(masks) < LEAST_REGIONS:
        return nowhere
    seen, inside = [], np.zeros((SIDE, SIDE))
    for mask, ratio in zip(masks, ratios, strict=True):
        middle = (np.arange(SIDE) + 0.5) / SIDE
        cells = np.ix_(*((middle * length).astype(int) for length in mask.shape))
        inside += mask[cells]
        seen.append(ratio[cells] * mask[cells])
    dark = np.stack(seen)
    share = (dark > 0).sum(axis=0) / np.maximum(inside, 1)
    order = np.argsort(share, axis=None)
    below = np.cumsum(inside.ravel()[order]) / inside.sum()
    usual, most = (share.ravel()[order][np.searchsorted(below, part)] for part in (0.5, 0.95))
    often = (share > usual + BETWEEN * (most - usual)) & (inside > 0.1 * len(masks))
    if most - usual < CLEARLY or inside[often].sum() > LARGEST * inside.sum():
        return nowhere
    there = np.log(dark[:, often][dark[:, often] > 0])
    darkness = float(np.median(there))
    return ShadowPlace(often, darkness, max(NARROWEST, 1.4826 * float(np.median(np.abs(there - darkness)))))
