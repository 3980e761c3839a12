"""Images of a source, read by threads ahead of the model: about as many pixels as a batch may hold."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from astseg.data import SceneSource
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError
from astseg.inference.batches import LARGEST_BATCH

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ahead", "read_images"]

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
        pixels = LARGEST_BATCH if isinstance(latest, UserError) else latest.shape[0] * latest.shape[1]
        return max(_AHEAD, min(at_once, LARGEST_BATCH // pixels))

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
