"""Pictures of many requests through the model together: one batch at a time, in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astseg.inference.segmenter import Segmenter
from astseg.serve.limits import Limits, Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.prediction import Prediction

__all__ = ["Batcher"]


@dataclass(frozen=True, eq=False)
class _Job:
    """A picture that waits."""

    image: NDArray[np.uint8]
    layers: bool
    answer: asyncio.Future[Prediction]

    @property
    def pixels(self) -> int:
        return int(self.image.shape[0] * self.image.shape[1])


class Batcher:
    """Takes pictures from any number of coroutines of one event loop."""

    def __init__(self, segmenter: Segmenter, limits: Limits, *, told: Callable[[int], object] = lambda count: None):
        """Nothing waits yet.

        Args:
            segmenter: The model.
            limits: Of batch, queue and time.
            told: Called with the number of pictures of every batch that is done.
        """
        self._segmenter, self._limits, self._told = segmenter, limits, told
        self._waiting: deque[_Job] = deque()
        self._work: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Number of pictures that wait."""
        return len(self._waiting)

    async def predict(self, images: Sequence[NDArray[np.uint8]], *, layers: bool) -> list[Prediction]:
        """Segment pictures, in batches with those of others.

        Args:
            images: H x W x 3 each.
            layers: Whether the layers of the objects are wanted.

        Raises:
            Refused: Too much waits already (503), or it took too long (504).
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(image, layers, loop.create_future()) for image in images]
        ahead = sum(job.pixels for job in self._waiting)
        if ahead and ahead + sum(job.pixels for job in jobs) > self._limits.queue_pixels:
            words = "too many pictures are waiting: try again in a few seconds"
            raise Refused(503, words, {"retry-after": "5"})
        self._waiting.extend(jobs)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._until_empty())
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await asyncio.gather(*(job.answer for job in jobs))
        except TimeoutError:
            words = f"not done after {self._limits.seconds:g} seconds: send fewer or smaller pictures, or try later"
            raise Refused(504, words) from None
        finally:  # nobody waits for the rest of them
            for job in jobs:
                job.answer.cancel()

    async def _until_empty(self) -> None:
        """Work as long as pictures wait."""
        while self._waiting:
            jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limits.batch))]
            jobs = [job for job in jobs if not job.answer.done()]
            if jobs:
                await self._answer(jobs)

    async def _answer(self, jobs: list[_Job]) -> None:
        """Predict one batch; whatever goes wrong is told to those who wait for it."""
        try:
            predictions = await asyncio.to_thread(self._predictions, jobs)
        except Exception as error:
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)
            return
        self._told(len(jobs))
        for job, prediction in zip(jobs, predictions, strict=True):
            if not job.answer.done():
                job.answer.set_result(prediction)

    def _predictions(self, jobs: list[_Job]) -> list[Prediction]:
        images = (job.image for job in jobs)
        layers = any(job.layers for job in jobs)
        return list(self._segmenter.predictions(images, batch_size=self._limits.batch, layers=layers))
