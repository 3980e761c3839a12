"""Images of a source, read by threads ahead of the model, in batches of bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from astseg.data import SceneSource
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ahead", "batches", "read_images"]

_LARGEST_BATCH = 2**24
"""Pixels of the images of a batch, whatever its size: photographs are large. About as many more are read ahead of it,
and as many wait to be written behind it."""

_AHEAD = 2
"""At least so many images are read ahead, however large they are."""

T = TypeVar("T")
Item = TypeVar("Item")


def read_images(
    source: SceneSource, readers: ThreadPoolExecutor, skipped: list[str], batch_size: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Images with their numbers, a batch read ahead and few where they are large; faults go to ``skipped``.

    Of a video nothing is read after its first fault, and few frames are read ahead: each frame behind the fault decodes
    the video again from its beginning.
    """
    at_once = 2 * _AHEAD if isinstance(source, VideoSource) else batch_size

    def read(index: int) -> NDArray[np.uint8] | UserError:
        if _video_of(source, index) in damaged:
            return UserError("")
        try:
            return source.read(index)[0]
        except UserError as error:
            return error

    def room(latest: NDArray[np.uint8] | UserError) -> int:
        pixels = _LARGEST_BATCH if isinstance(latest, UserError) else latest.shape[0] * latest.shape[1]
        return max(_AHEAD, min(at_once, _LARGEST_BATCH // pixels))

    damaged: set[str] = set()
    for index, result in enumerate(ahead(readers, read, range(len(source)), room)):
        video = _video_of(source, index)
        if not isinstance(result, UserError):
            if video not in damaged:
                yield index, result
        elif video is None or video not in damaged:
            skipped.append(str(result) + (f" (its frames from {source.scene_name(index)} on)" if video else ""))
            if video is not None:
                damaged.add(video)


def _video_of(source: SceneSource, index: int) -> str | None:
    """The video that a frame is of, or None for images."""
    return os.path.dirname(source.scene_name(index)) if isinstance(source, VideoSource) else None


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], T], items: Iterable[Item], room: Callable[[T], int]
) -> Iterator[T]:
    """The results in order; ``room`` of the latest says how many more are worked on meanwhile."""
    pending: deque[Future[T]] = deque()
    most = _AHEAD
    for item in items:
        pending.append(pool.submit(function, item))
        while len(pending) > most:
            result = pending.popleft().result()
            most = room(result)
            yield result
    while pending:
        yield pending.popleft().result()


def batches(
    images: Iterable[tuple[int, NDArray[np.uint8]]], batch_size: int
) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    """Images with their numbers, ``batch_size`` at most and few where they are large."""
    batch: list[tuple[int, NDArray[np.uint8]]] = []
    pixels = 0
    for index, image in images:
        batch.append((index, image))
        pixels += image.shape[0] * image.shape[1]
        if len(batch) == batch_size or pixels >= _LARGEST_BATCH:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
