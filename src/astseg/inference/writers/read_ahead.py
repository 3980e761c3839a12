"""Images of a source, read by threads ahead of the model, in batches of bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from astseg.data import SceneSource
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError
from astseg.inference.batches import LARGEST_BATCH

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Picture", "ahead", "batches", "read_images"]

_AHEAD = 2
"""At least so many images are read ahead, however large they are."""

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Picture:
    """An image to be segmented.

    Attributes:
        index: Its number in the source.
        name: Its name there.
        result: Name of its results, without an ending.
        image: H x W x 3.
        video: The video that it is a frame of, or None.
        frame: The number of the frame in that video, from 0.
        seconds: When the frame is shown.
    """

    index: int
    name: str
    result: str
    image: NDArray[np.uint8]
    video: str | None = None
    frame: int | None = None
    seconds: float | None = None


def read_images(
    source: SceneSource, results: Sequence[str], readers: ThreadPoolExecutor, skipped: list[str], batch_size: int
) -> Iterator[Picture]:
    """Images in order, a batch read ahead and few where they are large; faults go to ``skipped``.

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
                yield _picture(source, index, results[index], result)
        elif video is None or video not in damaged:
            skipped.append(str(result) + (f" (its frames from {source.scene_name(index)} on)" if video else ""))
            if video is not None:
                damaged.add(video)


def _picture(source: SceneSource, index: int, result: str, image: NDArray[np.uint8]) -> Picture:
    name = source.scene_name(index)
    if not isinstance(source, VideoSource):
        return Picture(index, name, result, image)
    video, frame = source.frame(index)
    return Picture(index, name, result, image, video, frame, source.seconds(index))


def _video_of(source: SceneSource, index: int) -> str | None:
    """The video that a frame is of, or None for images."""
    return source.frame(index)[0] if isinstance(source, VideoSource) else None


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


def batches(pictures: Iterable[Picture | None], batch_size: int) -> Iterator[list[Picture]]:
    """Lists of pictures, ``batch_size`` long at most, short where they are large or None says to wait no longer.

    For a None after which nothing has come in, the list is empty.
    """
    batch: list[Picture] = []
    pixels = 0
    for picture in pictures:
        if picture is not None:
            batch.append(picture)
            pixels += picture.image.shape[0] * picture.image.shape[1]
        if picture is None or len(batch) == batch_size or pixels >= LARGEST_BATCH:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
