"""Components split where they are of two hues: blocks that stand on each other, or one in front of another.

Ours, not the paper's: two-means clustering of the hues of a component's pixels. From pixel to pixel a hue can pass
into another so softly, over the mixed pixels between two objects, that no step between neighbours separates them. The
hues of all its pixels do: they fall into two groups, and each group keeps together in the image. That also separates
two objects from one with a pattern, or with a rim of mixed pixels.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astseg.config import DiscoveryConfig

__all__ = ["split_by_hue"]

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

ROUNDS = 8
"""Most rounds of the clustering, which mostly ends after three."""


def split_by_hue(
    labels: NDArray[np.int32], hues: FloatArray, *, smallest: int, config: DiscoveryConfig
) -> NDArray[np.int32]:
    """Split those components of an image whose pixels are of two hues, and the parts again.

    Args:
        labels: H x W, the number of the component at each pixel, 0 outside.
        hues: 3 x H x W, hue of each pixel (:func:`astseg.discovery.shadows_and_hue.hue`).
        smallest: Pieces of fewer pixels are no objects.
        config: The thresholds.

    Returns:
        H x W, the number of the component at each pixel, counted from 1; 0 outside.
    """
    numbered = np.zeros_like(labels)
    count = 0
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:  # a number that no pixel has
            continue
        for part in _parts(labels[window] == number, hues[:, window[0], window[1]], smallest, config):
            count += 1
            numbered[window][part] = count
    return numbered


def _parts(component: Mask, hues: FloatArray, smallest: int, config: DiscoveryConfig) -> list[Mask]:
    """The component itself, or its parts, h x w each."""
    if np.count_nonzero(component) < 2 * smallest:
        return [component]
    first = _first_of_two(component, hues, smallest, distance=config.hue_distance, separation=config.hue_separation)
    if first is None:
        return [component]
    seeds: list[Mask] = []
    for group in (first, component & ~first):
        pieces = _pieces(group, smallest, side=config.hue_thickness, coverage=config.hue_coverage)
        if not pieces:
            return [component]
        seeds += pieces
    nearest = np.stack([ndimage.distance_transform_edt(~seed) for seed in seeds]).argmin(axis=0)
    return [part for i in range(len(seeds)) for part in _parts(component & (nearest == i), hues, smallest, config)]


def _first_of_two(
    component: Mask, hues: FloatArray, smallest: int, *, distance: float, separation: float
) -> Mask | None:
    """Which pixels of a component are of the first of its two hues; None if it is of one."""
    pixels = hues[:, component].astype(np.float64)  # 3 x P
    number = pixels.shape[1]
    centred = pixels - pixels.mean(axis=1)[:, None]
    variances, axes = np.linalg.eigh(centred @ centred.T / number)
    fraction = smallest / number
    if variances[-1] < fraction * (1 - fraction) * distance**2 / 3:  # what two groups that far apart have at least
        return None
    # Two-means, split at first across the axis on which the hues vary most. Of centred hues, the sums of the two groups
    # are opposite: the sum of the first gives the means of both, and the line from one to the other.
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
    off = np.abs(centred - np.where(first, one[:, None], other[:, None])).sum(axis=0)
    spread = (off[first].mean() + off[~first].mean()) / 2
    if np.abs(one - other).sum() < max(distance, separation * spread):
        return None
    mask = np.zeros_like(component)
    mask[component] = first
    return mask


def _pieces(group: Mask, smallest: int, *, side: int, coverage: float) -> list[Mask]:
    """The connected components of a mask that are large and thick enough; none if they cover too little of it."""
    height, width = group.shape
    if min(height, width) < side:
        return []
    rows = reduce(np.logical_and, [group[i : height - side + 1 + i] for i in range(side)])
    squares = reduce(np.logical_and, [rows[:, i : width - side + 1 + i] for i in range(side)])
    if not squares.any():
        return []
    pieces, _ = ndimage.label(group)
    areas = np.bincount(pieces.ravel())
    thick = np.bincount(pieces[: squares.shape[0], : squares.shape[1]][squares], minlength=len(areas)) > 0
    numbers = np.flatnonzero(thick & (areas >= smallest))
    if areas[numbers].sum() < coverage * areas[1:].sum():
        return []
    return [pieces == number for number in numbers]
