"""Regions parted where they are of two colours: blocks that stand on each other, or one in front of another.

Not in the paper. From pixel to pixel a hue can pass into another so softly, over the mixed pixels between two objects,
that no step tells one from the other. The hues of all its pixels do: they fall into two groups, and each group keeps
together in the image. That also tells two objects from one with a pattern, or with a rim of mixed pixels.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["part_by_hue"]

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

APART = 0.5
"""The hues of two objects differ by this much at least, summed over RGB."""

TIGHT = 3.0
"""And by so many times the deviation of the pixels of each from its own hue."""

TOGETHER = 0.5
"""Part of the pixels of each hue that lie in pieces large and thick enough to be objects."""

THICK = 3
"""Such pieces hold a square of this side somewhere, in pixels: more than a rim does."""

ROUNDS = 8
"""Of the search for two groups of hues; it mostly ends after three."""


def part_by_hue(regions: NDArray[np.int32], hues: FloatArray, *, least: int) -> NDArray[np.int32]:
    """Part those regions of an image whose pixels are of two hues, and the parts again.

    Args:
        regions: H x W, the number of the region at each pixel, 0 outside.
        hues: 3 x H x W, hue of each pixel (:func:`astseg.discovery.shadows_and_hue.hue`).
        least: Pieces of fewer pixels are no objects.

    Returns:
        H x W, the number of the region at each pixel, counted from 1; 0 outside.
    """
    numbered = np.zeros_like(regions)
    count = 0
    for number, window in enumerate(ndimage.find_objects(regions), start=1):
        if window is None:  # a number that no pixel has
            continue
        for part in _parts(regions[window] == number, hues[:, window[0], window[1]], least):
            count += 1
            numbered[window][part] = count
    return numbered


def _parts(region: Mask, hues: FloatArray, least: int) -> list[Mask]:
    """The region itself, or its parts, h x w each."""
    first = _of_first_hue(region, hues, least) if np.count_nonzero(region) >= 2 * least else None
    if first is None:
        return [region]
    seeds: list[Mask] = []
    for group in (first, region & ~first):
        pieces = _pieces(group, least)
        if not pieces:
            return [region]
        seeds += pieces
    owner = np.stack([ndimage.distance_transform_edt(~seed) for seed in seeds]).argmin(axis=0)
    return [part for i in range(len(seeds)) for part in _parts(region & (owner == i), hues, least)]


def _of_first_hue(region: Mask, hues: FloatArray, least: int) -> Mask | None:
    """Which pixels of a region are of the first of its two hues; None if it is of one."""
    pixels = hues[:, region].astype(np.float64)  # 3 x P
    number = pixels.shape[1]
    middle = pixels.mean(axis=1)
    centred = pixels - middle[:, None]
    variances, axes = np.linalg.eigh(centred @ centred.T / number)
    smaller = least / number
    if variances[-1] < smaller * (1 - smaller) * APART**2 / 3:  # what two groups that far apart have at least
        return None
    # k-means with two groups, parted at first across the axis on which the hues vary most. Of centred hues, the sums of
    # the two groups are opposite: the sum of the first gives the means of both, and the way from one to the other.
    first = axes[:, -1] @ centred > 0
    for _ in range(ROUNDS):
        count = np.count_nonzero(first)
        total = centred @ first.astype(np.float64)
        nearer = total @ centred > total @ total * (1 / count - 1 / (number - count)) / 2
        if not 0 < np.count_nonzero(nearer) < number:
            return None
        if (nearer == first).all():
            break
        first = nearer
    one, other = total / count, -total / (number - count)
    distance = np.abs(one - other).sum()
    if distance < APART:
        return None
    off = np.abs(centred - np.where(first, one[:, None], other[:, None])).sum(axis=0)
    spread = (off[first].mean() + off[~first].mean()) / 2
    if distance < TIGHT * spread:
        return None
    mask = np.zeros_like(region)
    mask[region] = first
    return mask


def _pieces(group: Mask, least: int) -> list[Mask]:
    """The connected parts of a mask that are large and thick enough; none if they are too little of it."""
    height, width = group.shape
    if min(height, width) < THICK:
        return []
    rows = reduce(np.logical_and, [group[i : height - THICK + 1 + i] for i in range(THICK)])
    squares = reduce(np.logical_and, [rows[:, i : width - THICK + 1 + i] for i in range(THICK)])
    if not squares.any():
        return []
    pieces, _ = ndimage.label(group)
    areas = np.bincount(pieces.ravel())
    thick = np.bincount(pieces[: squares.shape[0], : squares.shape[1]][squares], minlength=len(areas)) > 0
    numbers = np.flatnonzero(thick & (areas >= least))
    if areas[numbers].sum() < TOGETHER * areas[1:].sum():
        return []
    return [pieces == number for number in numbers]
