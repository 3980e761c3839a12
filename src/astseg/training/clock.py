"""How far a training loop has come: by its steps, or by the time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

__all__ = ["Clock"]


class Clock:
    """How far a loop has come, by steps and by time."""

    def __init__(self, steps: int, *, minutes: float | None, seconds: float = 0.0) -> None:
        """Start the clock.

        Args:
            steps: Steps of the whole loop.
            minutes: Time limit of the whole loop; None: none.
            seconds: Seconds already spent on it, before it was interrupted.
        """
        self.steps = steps
        self.limit = math.inf if minutes is None else minutes * 60
        self.begin = time.monotonic() - seconds

    def seconds(self) -> float:
        """Seconds spent on the loop."""
        return time.monotonic() - self.begin

    def position(self, step: int) -> int:
        """The step at which the schedules stand: that of the counter, or that of the time, whichever is ahead."""
        if self.limit == math.inf:
            return step
        return max(step, int(self.steps * self.seconds() / self.limit) if self.limit > 0 else self.steps)

    def left(self, start: int) -> Iterator[tuple[int, int]]:
        """Pairs of counted step and schedule step, until steps or minutes run out."""
        step = start
        while (position := self.position(step)) < self.steps:
            yield step, position
            step += 1
