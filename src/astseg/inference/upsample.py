"""Maps at the model's size to the image's own size, smoothly, and only where they are not zero.

An object covers a part of the image and its weight is exactly zero elsewhere, so that a window of it is enlarged by
two small matrix products. The numbers are those of bilinear interpolation, averaged where it shrinks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["Window", "enlarged", "window_of"]

Window = tuple[slice, slice]
"""Rows and columns."""

_NOTHING: Window = (slice(0, 0), slice(0, 0))


def window_of(weight: Tensor, size: tuple[int, int]) -> tuple[Window, Window]:
    """Where a map h x w is not zero, and what that reaches at another size (H, W).

    Returns:
        The window of the map and the window of the upsampled map; whatever lies outside is zero there. Both are empty
        for a map of zeros.
    """
    some = (weight != 0).numpy()
    inner, outer = [], []
    for axis, (small, large) in enumerate(zip(weight.shape, size, strict=True)):
        used = np.flatnonzero(some.any(axis=1 - axis))
        if not len(used):
            return _NOTHING, _NOTHING
        first, last = int(used[0]), int(used[-1])
        reach = _reach(small, large)
        inner.append(slice(first, last + 1))
        outer.append(slice(reach[first][0], reach[last][1] + 1))
    return (inner[0], inner[1]), (outer[0], outer[1])


def enlarged(weight: Tensor, size: tuple[int, int], inner: Window, outer: Window) -> Tensor:
    """A map h x w, float32 on the CPU, at size (H, W): the part in the window ``outer``, from that in ``inner``."""
    rows, columns = (
        _matrix(small, large)[there, here]
        for small, large, there, here in zip(weight.shape, size, outer, inner, strict=True)
    )
    return rows @ weight[inner] @ columns.T


@lru_cache(maxsize=64)
def _matrix(small: int, large: int) -> Tensor:
    """Bilinear interpolation along one axis, large x small; averages where it shrinks."""
    with torch.inference_mode(False):
        each = torch.eye(small)[None, None]
        shape = (large, small)
        return torch.nn.functional.interpolate(each, shape, mode="bilinear", align_corners=False, antialias=True)[0, 0]


@lru_cache(maxsize=64)
def _reach(small: int, large: int) -> list[tuple[int, int]]:
    """For each cell, the first and the last of those of the other size that it is a part of; there is one at least."""
    columns = [np.flatnonzero(column) for column in (_matrix(small, large) != 0).numpy().T]
    return [(int(column[0]), int(column[-1])) for column in columns]
