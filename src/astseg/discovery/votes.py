"""From a finder's maps to objects: pixels whose votes for a centre meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Found", "objects_from"]

BLUR = 0.1
"""Standard deviation of the blur of votes, in units of the reach."""

APART = 0.45
"""Centres of two objects are at least this fraction of their size apart."""

LEAST_VOTES = 0.25
"""Fraction of the pixels of the smallest object that meet at a centre, at least."""


@dataclass(frozen=True)
class Found:
    """Objects of a picture.

    Attributes:
        labels: H x W, int32, numbers from 1; 0 is background.
        scores: N, in [0, 1].
    """

    labels: NDArray[np.int32]
    scores: NDArray[np.float32]


def objects_from(maps: NDArray[np.float32], *, reach: float, smallest: float, threshold: float = 0.5) -> Found:
    """Objects by their votes.

    Args:
        maps: 4 x H x W, a finder's output, its first channel a probability.
        reach: Its unit, in pixels.
        smallest: Area of the smallest object, in pixels.
        threshold: Probability from which on a pixel belongs to an object.
    """
    probability = maps[0]
    foreground = probability > threshold
    labels = np.zeros(foreground.shape, np.int32)
    rows, columns = np.nonzero(foreground)
    if not len(rows):
        return Found(labels, np.zeros(0, np.float32))
    height, width = foreground.shape
    x = np.clip(columns + maps[1, rows, columns] * reach, 0, width - 1)
    y = np.clip(rows + maps[2, rows, columns] * reach, 0, height - 1)
    size = np.exp(np.clip(maps[3, rows, columns], -4, 4)) * reach
    votes = np.zeros(foreground.shape, np.float32)
    sizes = np.zeros(foreground.shape, np.float32)
    place = y.round().astype(int), x.round().astype(int)
    np.add.at(votes, place, 1)
    np.add.at(sizes, place, size)
    sigma = max(1.0, BLUR * reach)
    votes, sizes = (ndimage.gaussian_filter(one, sigma) for one in (votes, sizes))
    least = LEAST_VOTES * smallest / (2 * np.pi * sigma**2) / 2
    peaks = np.argwhere((votes == ndimage.maximum_filter(votes, size=2 * round(sigma) + 1)) & (votes > least))
    if not len(peaks):
        return Found(labels, np.zeros(0, np.float32))
    strength = votes[tuple(peaks.T)]
    typical = sizes[tuple(peaks.T)] / strength
    centres: list[int] = []
    for peak in np.argsort(-strength, kind="stable"):
        if all(
            np.hypot(*(peaks[peak] - peaks[other])) > APART * min(typical[peak], typical[other]) for other in centres
        ):
            centres.append(int(peak))
    tree = cKDTree(peaks[centres])
    labels[rows, columns] = 1 + tree.query(np.stack([y, x], axis=1))[1]
    return _kept(labels, probability, smallest)


def _kept(labels: NDArray[np.int32], probability: NDArray[np.float32], smallest: float) -> Found:
    """Objects that are large enough, their largest piece and what lies within a hole of it."""
    kept, scores = np.zeros_like(labels), []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        mine = labels[window] == number
        pieces, count = ndimage.label(mine, structure=np.ones((3, 3)))
        if count > 1:
            areas = np.bincount(pieces.ravel())[1:]
            mine = np.isin(pieces, 1 + np.flatnonzero(areas >= max(0.15 * areas.max(), 4)))
        if np.count_nonzero(mine) < smallest:
            continue
        scores.append(float(probability[window][mine].mean()))
        kept[window][mine] = len(scores)
    return Found(kept, np.array(scores, np.float32))
