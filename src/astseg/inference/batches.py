"""Batches of images, of bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LARGEST_BATCH", "batches"]

LARGEST_BATCH = 2**24
"""Pixels of the images of a batch, whatever its size: photographs are large."""

T = TypeVar("T")


def batches(
    images: Iterable[tuple[T, NDArray[np.uint8]]], batch_size: int
) -> Iterator[list[tuple[T, NDArray[np.uint8]]]]:
    """Images, each with something of its own, ``batch_size`` at most and few where they are large."""
    batch: list[tuple[T, NDArray[np.uint8]]] = []
    pixels = 0
    for own, image in images:
        batch.append((own, image))
        pixels += image.shape[0] * image.shape[1]
        if len(batch) == batch_size or pixels >= LARGEST_BATCH:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
