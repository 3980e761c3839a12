"""A folder in which pictures appear: each is taken once it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from astseg.data.formats.pictures import PICTURE_SUFFIXES, read_rgb
from astseg.data.sources.live import Arrival, LiveSource
from astseg.errors import UserError

__all__ = ["WatchedFolder"]

_PAUSE = 0.5
"""Seconds between two looks at the folder."""

_GIVEN_UP = 20.0
"""Seconds after which a file that cannot be read, and does not change any more, is no picture."""


class WatchedFolder(LiveSource):
    """Pictures below a folder, hidden ones left out, in the order in which they are found whole.

    A file is whole when it can be read and did not change between two looks.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder.

        Raises:
            UserError: It is no folder, or cannot be listed.
        """
        super().__init__()
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder: --watch takes one folder, in which pictures appear")
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise UserError(f"'{folder}' cannot be listed ({error.strerror}): check its permissions") from error
        self.name = str(folder)
        self._folder = folder
        self._done: set[str] = set()
        self._waiting: dict[str, tuple[tuple[int, int], float]] = {}

    def arrivals(self, stopped: Callable[[], bool]) -> Iterator[Arrival | None]:
        """As of every live source; ends where that is asked for alone."""
        while not stopped():
            for name, age in self._settled():
                if stopped():
                    return
                if (arrival := self._read(name, age)) is not None:
                    yield arrival
            yield None
            until = time.monotonic() + _PAUSE
            while time.monotonic() < until and not stopped():
                time.sleep(0.05)

    def _settled(self) -> list[tuple[str, float]]:
        """Files that did not change since the last look, and for how many seconds they have not."""
        now = time.monotonic()
        present = {name: mark for name, mark in self._listed() if name not in self._done}
        settled = []
        for name, mark in present.items():
            before, since = self._waiting.get(name, (None, now))
            if before == mark:
                settled.append((name, now - since))
            else:
                self._waiting[name] = mark, now
        for name in self._waiting.keys() - present.keys():
            del self._waiting[name]
        return sorted(settled)

    def _listed(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names of all pictures, and what changes while they are written."""
        for inside, folders, files in os.walk(self._folder):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for file in files:
                if file.startswith(".") or os.path.splitext(file)[1].lower() not in PICTURE_SUFFIXES:
                    continue
                path = Path(inside) / file
                try:
                    status = path.stat()
                except OSError:  # renamed or removed meanwhile
                    continue
                yield path.relative_to(self._folder).as_posix(), (status.st_size, status.st_mtime_ns)

    def _read(self, name: str, age: float) -> Arrival | None:
        """A picture, or None where it is not whole yet."""
        try:
            arrival = Arrival(name, read_rgb(self._folder / name, name, upright=True))
        except UserError as error:
            if age < _GIVEN_UP:
                return None
            self.skipped.append(str(error))
            arrival = None
        self._done.add(name)
        del self._waiting[name]
        return arrival
