"""Ctrl-C and SIGTERM wait for the end of the step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["StopRequest"]


class StopRequest:
    """Takes note of SIGINT and SIGTERM instead of dying in the middle of a step; a second one kills as usual."""

    def __init__(self) -> None:
        """Nothing is requested yet."""
        self.requested = False
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers; in a thread that may not, do nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers = {}

    def obey(self) -> None:
        """Stop here, if that was asked for.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.requested:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.__exit__()
