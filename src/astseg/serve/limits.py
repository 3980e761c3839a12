"""How much one client may ask for, and the answer where it asks for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException

__all__ = ["Limits", "Refused"]


class Refused(HTTPException):
    """A request that is answered with an error of HTTP: its status, 400 to 599, and a line on what to do."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        """Take both, and headers of the answer."""
        super().__init__(status, words, dict(headers or {}))


@dataclass(frozen=True)
class Limits:
    """What is taken, chosen for a machine with 2 cores and 4 GB of memory.

    Attributes:
        body_bytes: Bytes of a request, at least 1; more is answered with 413.
        upload_seconds: Seconds until all of a request has come, above 0; then 408.
        pictures: Pictures of a request, at least 1; more: 413.
        pixels: Pixels of a picture, at least 1; more: 413, before any of them is decoded.
        queue_pixels: Pixels of all pictures that wait, at least 1; where they are more, new ones are answered with 503.
            A request that finds nothing waiting is always taken.
        seconds: Seconds that a request may wait and be worked on, above 0; then 504. As long is waited for requests
            under way when the server is told to end.
        batch: Pictures a forward pass, at least 1.
        connections: Connections at a time, at least 1; more: 503.
    """

    body_bytes: int = 64 * 2**20
    upload_seconds: float = 60.0
    pictures: int = 64
    pixels: int = 40_000_000
    queue_pixels: int = 200_000_000
    seconds: float = 60.0
    batch: int = 32
    connections: int = 256
