"""The loop of ``segment``: pictures in, files out, while threads read the next ones and write those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from astseg.inference.writers.folder import write_images
from astseg.inference.writers.read_ahead import Picture, batches
from astseg.inference.writers.tables import Tables
from astseg.inference.writers.videos import VideoResults

if TYPE_CHECKING:
    from astseg.inference.segmenter import Segmenter

__all__ = ["Job", "threads"]

_BEHIND = 8
"""At least so many images may wait to be written, however large they are."""

_CROPPED = 0.1
"""Share of an image outside what the model sees from which on it is counted as cropped."""


@dataclass
class Job:
    """What stays the same for all images, and the number of those that were cropped.

    Attributes:
        segmenter: The model.
        out: The folder of the results.
        kinds: What is written besides masks and tables.
        resize: As for :meth:`Segmenter.predict`.
        batch_size: Images a forward pass.
        rate_of: About how many frames a second a video has, or None for images.
        several: Whether there is more than one video.
        cropped: Number of images of which more than a tenth lies outside of what the model looks at.
    """

    segmenter: Segmenter
    out: Path
    kinds: Collection[str]
    resize: str | None
    batch_size: int
    rate_of: Callable[[str], Fraction] | None = None
    several: bool = False
    cropped: int = 0

    def run(
        self,
        pictures: Iterable[Picture | None],
        pool: ThreadPoolExecutor,
        *,
        done: Callable[[int], None] | None = None,
        idle: Callable[[Tables], None] | None = None,
    ) -> dict[str, int]:
        """Segment and write.

        Args:
            pictures: The images; None where none waits at present.
            pool: What writes.
            done: Called with how many images of the source are behind.
            idle: Called where none waits, with tables that hold all that was written.

        Returns:
            The numbers of images and objects.

        Raises:
            UserError: A file cannot be written.
        """
        appearance_size = self.segmenter.appearance_size
        writing: deque[Future[None]] = deque()
        with (
            Tables(self.out, appearance_size=appearance_size, of_videos=self.rate_of is not None) as tables,
            VideoResults(self.out, self.rate_of, self.kinds, several=self.several) as videos,
        ):
            for batch in batches(pictures, self.batch_size):
                if batch:
                    self._segment(batch, tables, videos, pool, writing)
                if batch and done is not None:
                    done(batch[-1].index + 1)
                if not batch and idle is not None:
                    while writing:
                        writing.popleft().result()
                    idle(tables)
            for each in writing:
                each.result()
        return {"images": tables.images, "objects": tables.objects}

    def _segment(
        self,
        batch: list[Picture],
        tables: Tables,
        videos: VideoResults,
        pool: ThreadPoolExecutor,
        writing: deque[Future[None]],
    ) -> None:
        """Segment a batch; its files are written by the pool, or here where too many wait for that."""
        predictions = self.segmenter.predictions(
            [picture.image for picture in batch],
            batch_size=self.batch_size,
            resize=self.resize,
            layers="layers" in self.kinds,
        )
        for picture, prediction in zip(batch, predictions, strict=True):
            self.cropped += prediction.placement.kept < 1 - _CROPPED
            labels, objects = videos.follow(picture, prediction)
            tables.add(picture, labels, objects)
            task = (self.out, picture.result, picture.image, prediction, labels, objects, videos.kinds_of_frames)
            while writing and writing[0].done():
                writing.popleft().result()
            # A whole batch may wait, or the writers would have nothing to do while the model runs.
            if len(writing) < max(_BEHIND, len(batch)):
                writing.append(pool.submit(write_images, *task))
            else:
                write_images(*task)


@contextmanager
def threads(*, share_cores: bool) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Threads that read and threads that write; with one pool a batch would be read only after the last was written.

    They get half of the cores, and the model computes on the others: more threads than cores would take turns with the
    one that all others wait for. Where only masks are written (``share_cores`` is False) there is too little to do for
    them, and the model keeps all cores.
    """
    before = torch.get_num_threads()
    cores = max(1, before // 2)
    torch.set_num_threads(max(1, before - cores) if share_cores else before)
    try:
        with (
            ThreadPoolExecutor(cores if share_cores else 2 * cores) as readers,
            ThreadPoolExecutor(cores) as writers,
        ):
            try:
                yield readers, writers
            except BaseException:
                for pool in (readers, writers):
                    pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)
