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
    foreground = maps[0] > threshold
    labels = np.zeros(foreground.shape, np.int32)
    # What lies further apart than votes reach is looked at by itself, so that the time goes with what there is.
    near, _ = ndimage.label(ndimage.maximum_filter(foreground, size=2 * round(reach) + 1))
    for number, window in enumerate(ndimage.find_objects(near), start=1):
        inside = foreground[window] & (near[window] == number)
        grouped = _grouped(maps[(slice(None), *window)], inside, reach=reach, smallest=smallest)
        labels[window][grouped > 0] = grouped[grouped > 0] + labels.max()
    return _kept(labels, maps[0], smallest)


def _grouped(
    maps: NDArray[np.float32], foreground: NDArray[np.bool_], *, reach: float, smallest: float
) -> NDArray[np.int32]:
    """Pixels of the foreground, h x w, by the centre that their votes are nearest to; 0 where there is none."""
    labels = np.zeros(foreground.shape, np.int32)
    rows, columns = np.nonzero(foreground)
    height, width = foreground.shape
    x = np.clip(columns + maps[1, rows, columns] * reach, 0, width - 1)
    y = np.clip(rows + maps[2, rows, columns] * reach, 0, height - 1)
    centres = _centres(x, y, np.exp(np.clip(maps[3, rows, columns], -4, 4)) * reach, foreground.shape, reach, smallest)
    if len(centres):
        labels[rows, columns] = 1 + cKDTree(centres).query(np.stack([y, x], axis=1))[1]
    return labels


def _centres(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    size: NDArray[np.float32],
    shape: tuple[int, ...],
    reach: float,
    smallest: float,
) -> NDArray[np.intp]:
    """Where votes meet, N x 2, rows and columns: peaks of their density, no two nearer than their objects allow."""
    votes, sizes = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    place = y.round().astype(int), x.round().astype(int)
    np.add.at(votes, place, 1)
    np.add.at(sizes, place, size)
    sigma = max(1.0, BLUR * reach)
    votes, sizes = (ndimage.gaussian_filter(one, sigma) for one in (votes, sizes))
    least = LEAST_VOTES * smallest / (2 * np.pi * sigma**2) / 2
    peaks = np.argwhere((votes == ndimage.maximum_filter(votes, size=2 * round(sigma) + 1)) & (votes > least))
    strength = votes[tuple(peaks.T)]
    typical = sizes[tuple(peaks.T)] / np.maximum(strength, 1e-6)
    kept: list[int] = []
    for peak in np.argsort(-strength, kind="stable"):
        apart = [np.hypot(*(peaks[peak] - peaks[other])) / min(typical[peak], typical[other]) for other in kept]
        if all(one > APART for one in apart):
            kept.append(int(peak))
    return peaks[kept]


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
