"""Masks as run lengths, as COCO writes them: lengths of runs of 0 and 1 in turn, down the columns, as text.

Source: the COCO data format and its mask API (cocodataset.org).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["label_runs", "mask_from_runs", "runs_from_text", "runs_to_text"]


def label_runs(labels: NDArray[Any], ids: Sequence[int]) -> list[list[int]]:
    """The masks of some labels as run lengths, in one pass over the map.

    Args:
        labels: H x W integers.
        ids: The labels that are wanted, each of which has a pixel.

    Returns:
        For each, lengths of runs of 0 and 1 in turn, down the columns; they begin with zeros and sum to H W.

    >>> label_runs(np.array([[0, 7], [7, 7]]), [7])
    [[1, 3]]
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1))
    ends = np.append(starts[1:], len(flat))
    values = flat[starts]
    runs = []
    for each in ids:
        mine = values == each
        borders = np.stack([starts[mine], ends[mine]], axis=1).ravel()
        counts = np.diff(borders, prepend=0).tolist()
        runs.append(counts if borders[-1] == len(flat) else [*counts, len(flat) - int(borders[-1])])
    return runs


def mask_from_runs(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Run lengths as a mask H x W.

    Raises:
        ValueError: They are negative, or do not sum to H W.
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"its runs cover {int(lengths.sum())} pixels of {height * width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def runs_to_text(counts: Sequence[int]) -> str:
    """Run lengths as COCO's text: 5 bits a letter, low ones first, each number less the one before the last.

    >>> runs_to_text([1, 3])
    '13'
    """
    letters = []
    for at, count in enumerate(counts):
        value = count - counts[at - 2] if at > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            finished = value == (-1 if bits & 16 else 0)
            letters.append(chr(48 + (bits if finished else bits | 32)))
            if finished:
                break
    return "".join(letters)


def runs_from_text(text: str) -> list[int]:
    """The way back of :func:`runs_to_text`.

    Raises:
        ValueError: A letter that does not belong there.
        IndexError: The text ends within a number.
    """
    counts: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            letter = ord(text[at]) - 48
            if not 0 <= letter < 64:
                raise ValueError(f"{text[at]!r} is no letter of run lengths")
            value |= (letter & 31) << shift
            shift += 5
            at += 1
            more = bool(letter & 32)
        if letter & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
