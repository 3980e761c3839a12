"""Frames of a camera or of a network stream, through PyAV (the extra ``video``)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from astseg.data.sources.live import Arrival, LiveSource
from astseg.data.sources.video import opened, upright, usual_rate
from astseg.errors import UserError

__all__ = ["StreamSource", "is_stream"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_PATIENCE = 10.0
"""Seconds that a server may take to answer, or to send the next frame."""

_WAITING = 2**24
"""Pixels of the frames that wait at most, and at least four frames."""

_WHOLE = ("http", "https", "file", "ftp")
"""Protocols whose server waits for the reader: no frame is left out."""


def is_stream(given: str | os.PathLike[str]) -> bool:
    """Whether an input is an address such as ``rtsp://...``, or a device such as ``/dev/video0``.

    >>> is_stream("rtsp://camera/1"), is_stream("photos")
    (True, False)
    """
    text = os.fspath(given)
    if _ADDRESS.match(text):
        return True
    try:
        return stat.S_ISCHR(os.stat(text).st_mode)
    except (OSError, ValueError):
        return False


class StreamSource(LiveSource):
    """The frames of a stream while it lasts. What comes faster than it is asked for is left out, the oldest first.

    Servers of files wait instead, and nothing is left out.
    """

    def __init__(self, address: str, *, stride: int = 1, frames: int | None = None) -> None:
        """Connect.

        Args:
            address: URL, or path of a device.
            stride: Take every ``stride``-th frame.
            frames: End after this many frames.

        Raises:
            UserError: PyAV is missing, nobody answers, or what is there is no video.
        """
        super().__init__()
        self.name, self.video = _names(address)
        self._stride, self._frames = stride, frames
        self._waits = urlsplit(address).scheme.lower() in _WHOLE
        options: dict[str, Any] = {"timeout": (_PATIENCE, _PATIENCE)}
        if address.lower().startswith("rtsp"):
            options["options"] = {"rtsp_transport": "tcp"}  # datagrams get lost, and with them whole pictures
        if not _ADDRESS.match(address):
            options["format"] = "v4l2"
        try:
            self._container = opened(address, self.name, **options)
        except UserError as error:
            raise UserError(str(error).replace(address, self.name)) from None
        self.rate = usual_rate(self._container, stride)
        self._queue: Queue[Arrival | None] = Queue()
        self._fault: str | None = None
        self._end = Event()

    def arrivals(self, stopped: Callable[[], bool]) -> Iterator[Arrival | None]:
        """As of every live source; ends with the stream.

        Raises:
            UserError: The stream breaks before its first frame.
        """
        thread = Thread(target=self._receive, name="stream", daemon=True)
        thread.start()
        count = 0
        try:
            while not stopped():
                try:
                    arrival = self._queue.get(timeout=0.1)
                except Empty:
                    yield None
                    continue
                if arrival is None:
                    break
                count += 1
                yield arrival
                if self._queue.empty():
                    yield None
        finally:
            self._end.set()
            thread.join(timeout=2 * _PATIENCE)
        if self._fault is not None and not count:
            raise UserError(self._fault)
        if self._fault is not None:
            self.skipped.append(f"{self._fault} (its frames from {count} on)")

    def _receive(self) -> None:
        """Decode until the end, in a thread of its own; None in the queue is the end."""
        try:
            for taken, (number, frame) in enumerate(self._decoded()):
                if self._end.is_set() or (self._frames is not None and taken == self._frames):
                    break
                seconds = frame.time if frame.time is not None else float(number / (self.rate * self._stride))
                self._put(Arrival(f"{self.video}/{number:06d}", upright(frame), number, seconds))
        except Exception as error:  # decoders raise nearly anything at a broken stream
            self._fault = f"'{self.name}' broke off ({error}): connect again"
        finally:
            self._container.close()
            self._queue.put(None)

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        for number, frame in enumerate(self._container.decode(video=0)):
            if number % self._stride == 0:
                yield number, frame

    def _put(self, arrival: Arrival) -> None:
        """Have a frame wait, where need be in place of the oldest one."""
        most = max(4, _WAITING // (arrival.image.shape[0] * arrival.image.shape[1]))
        while self._queue.qsize() >= most and not self._end.is_set():
            if self._waits:
                self._end.wait(0.02)
                continue
            try:
                self._queue.get_nowait()
                self.dropped += 1
            except Empty:
                break
        self._queue.put(arrival)


def _names(address: str) -> tuple[str, str]:
    """What an address is called in messages, without the secrets that it may hold, and in names of files.

    >>> _names("rtsp://me:secret@camera:554/live/1?key=5")
    ('rtsp://camera:554/live/1', '1')
    >>> _names("/dev/video0")
    ('/dev/video0', 'video0')
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    public = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else address
    last = parts.path.rstrip("/").rpartition("/")[2] or host
    return public, re.sub(r"[^\w.-]+", "_", last).strip(".") or "stream"
