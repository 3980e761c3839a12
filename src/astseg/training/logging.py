"""The log of a training: a line on the screen, every number in ``log.jsonl``, TensorBoard on request."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from astseg.errors import UserError

__all__ = ["Reporter", "require_tensorboard", "spelled_time"]

LOG_EVERY = 10
"""Steps between two lines of the log; a line holds the means of the steps since the one before."""

PRINT_SECONDS = 10.0
"""Seconds between two lines on a screen that is not a terminal."""


class _Number(Protocol):
    def __float__(self) -> float: ...


def spelled_time(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> spelled_time(75), spelled_time(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reporter:
    """Collects the losses of each step, and logs and prints their means now and then; a context manager."""

    def __init__(
        self, log_path: Path | None = None, *, console: Console | None = None, tensorboard: Path | None = None
    ) -> None:
        """Nothing is logged yet.

        Args:
            log_path: ``log.jsonl``, appended to; None: no log.
            console: Where lines go; None: nowhere.
            tensorboard: Folder for TensorBoard; None: without.

        Raises:
            UserError: TensorBoard is asked for and not installed.
        """
        self.log_path = log_path
        self.console = console
        self.live: Live | None = None
        self.sums: dict[str, Any] = {}
        self.count = 0
        self.last: tuple[int, int, int, float, dict[str, float]] = (0, 0, 0, 0.0, {})
        self.phase = ""
        self.begin = (0.0, 0)
        self.printed = -math.inf
        self.writer = require_tensorboard()(tensorboard) if tensorboard is not None else None

    def __enter__(self) -> Reporter:
        """Start the live line, on a terminal."""
        if self.console is not None and self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as it was."""
        if self.live is not None:
            self.live.stop()
        if self.writer is not None:
            self.writer.close()

    def print(self, line: str) -> None:
        """Print a line that stays on the screen."""
        if self.console is not None:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, entry: dict[str, Any]) -> None:
        """A line of the log that is not a step's: the metrics of a panel, with its ``phase`` and ``step``."""
        self._log(entry)

    def step(
        self,
        phase: str,
        step: int,
        position: int,
        steps: int,
        losses: Mapping[str, _Number],
        *,
        seconds: float,
        **settings: float,
    ) -> None:
        """Add the losses of a step.

        Args:
            phase: Name of the loop.
            step: Number of the step, from 0.
            position: Where its schedules stand, in steps.
            steps: Steps of the whole loop.
            losses: Named losses.
            seconds: Seconds spent on the loop.
            settings: What else is logged: learning rate and weights.

        Raises:
            UserError: A loss is not finite.
        """
        if phase != self.phase:
            self.flush()
            self.phase, self.begin, self.printed = phase, (seconds, step + 1), -math.inf  # its first step has ended
        if losses.keys() != self.sums.keys():  # a loss that begins or ends has its own mean
            self.flush()
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.last = (step + 1, position + 1, steps, seconds, settings)
        if (step + 1) % LOG_EVERY == 0 or position + 1 >= steps:
            self.flush()

    def discard(self) -> None:
        """Drop the steps that have not been logged yet: the training rolls back behind them."""
        self.sums, self.count = {}, 0

    def flush(self) -> None:
        """Log the steps that have not been logged yet: before a state is saved, and at the end of a loop.

        Raises:
            UserError: A loss is not finite.
        """
        if not self.count:
            return
        step, position, steps, seconds, settings = self.last
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        first = step + 1 - self.count
        self.sums, self.count = {}, 0
        wrong = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if wrong:
            raise UserError(
                f"the training has diverged in phase '{self.phase}', steps {first} to {step}:"
                f" {', '.join(wrong)}; start again with a lower learning rate"
            )
        self._log({"phase": self.phase, "step": step, "seconds": round(seconds, 3), **means, **settings})
        self._show(step, position, steps, means, seconds)

    def _log(self, entry: dict[str, Any]) -> None:
        if self.log_path is not None:
            try:
                with self.log_path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise UserError(
                    f"'{self.log_path}' cannot be written ({error.strerror}): free space, and the same command goes on"
                ) from error
        if self.writer is not None:
            for name, value in entry.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{entry['phase']}/{name}", value, entry["step"])

    def _show(self, step: int, position: int, steps: int, means: Mapping[str, float], seconds: float) -> None:
        if self.console is None:
            return
        parts = [f"{self.phase:<10} step {step} ({100 * position // steps} %)"]
        timed, elapsed = step - self.begin[1], seconds - self.begin[0]
        if timed > 0 and elapsed > 0:  # not of the first step of a phase, which is slower than the others
            pace = position / seconds  # schedule steps a second: the clock may be ahead of the steps
            parts += [f"{timed / elapsed:.1f} steps/s", f"{spelled_time((steps - position) / pace)} left"]
        line = "  ".join([*parts, *(f"{name} {value:.4g}" for name, value in means.items())])
        if self.live is not None:
            self.live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self.printed >= PRINT_SECONDS or position >= steps:
            self.printed = time.monotonic()
            self.print(line)
            sys.stdout.flush()


def require_tensorboard() -> Any:
    """The class of TensorBoard's writers.

    Raises:
        UserError: The package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install 'astseg[tensorboard]'") from None
    return SummaryWriter
