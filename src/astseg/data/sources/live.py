"""What comes in while one waits for it: frames of a camera or a network stream, pictures that appear in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Arrival", "LiveSource"]


@dataclass(frozen=True)
class Arrival:
    """A picture that has come in.

    Attributes:
        name: Its name, unique in the source.
        image: H x W x 3, uint8.
        number: Of a video: the number of the frame, from 0.
        seconds: Of a video: when the frame is shown, by the stream's own times.
    """

    name: str
    image: NDArray[np.uint8]
    number: int | None = None
    seconds: float | None = None


class LiveSource(ABC):
    """Pictures whose number nobody knows yet.

    Attributes:
        name: What it is called in messages.
        video: What results of its frames are called, or None where the pictures are no video.
        rate: Of a video: the frames a second that are taken, about.
        skipped: What could not be read so far, a line each.
        dropped: Frames that came in faster than they were asked for and were left out so far.
    """

    name: str
    video: str | None = None
    rate: Fraction = Fraction(25)

    def __init__(self) -> None:
        """Nothing has come in."""
        self.skipped: list[str] = []
        self.dropped = 0

    @abstractmethod
    def arrivals(self, stopped: Callable[[], bool]) -> Iterator[Arrival | None]:
        """Pictures as they come in; None where nothing waits at present, several times a second.

        Args:
            stopped: Whether to end; asked several times a second.
        """
