"""Frames of a video, or of all videos of a folder, through PyAV (the extra ``video``)."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.data.source import SceneSource
from astseg.data.sources.forward import Forward
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["VIDEO_SUFFIXES", "VideoSource", "list_videos", "opened", "upright", "usual_rate"]

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm"})

_WINDOW = 8


class VideoSource(SceneSource):
    """Every ``stride``-th frame of one video or several; fast where the numbers rise.

    Frames are counted by their packets, without decoding; of each frame eight bytes are kept.
    """

    def __init__(self, root: Path, files: list[str], *, stride: int = 1, frames: int | None = None) -> None:
        """Count the frames.

        Args:
            root: The folder.
            files: Videos in it.
            stride: Take every ``stride``-th frame.
            frames: Take at most this many of each video.

        Raises:
            UserError: PyAV is missing, or a file is no video.
        """
        self._path = root
        self.name = "video" if len(files) == 1 else f"{len(files)} videos"
        self._stride = stride
        self._files = files
        self._begins = [0]
        self._seconds = array("d")
        self._readers: dict[str, Forward[Any]] = {}
        for file in files:
            self._seconds.extend(_times(root / file, file)[::stride][:frames])
            self._begins.append(len(self._seconds))
            self._readers[file] = Forward(partial(_decode, root / file, file, stride), window=_WINDOW)

    def __len__(self) -> int:
        """Number of frames taken."""
        return len(self._seconds)

    def scene_name(self, index: int) -> str:
        """Video and frame number, such as ``street.mp4/000120``."""
        file, number = self.frame(index)
        return f"{file}/{number:06d}"

    def frame(self, index: int) -> tuple[str, int]:
        """The video of a frame taken here, and the frame's number in it, from 0."""
        which = bisect_right(self._begins, index) - 1
        return self._files[which], (index - self._begins[which]) * self._stride

    def seconds(self, index: int) -> float:
        """When a frame taken here is shown, in seconds, by the video's own times."""
        return self._seconds[index]

    def rate(self, file: str) -> Fraction:
        """Frames a second of one of the videos as they are taken here; 25 where the file does not say."""
        with opened(str(self._path / file), file) as container:
            return usual_rate(container, self._stride)

    def read(self, index: int) -> tuple[NDArray[np.uint8], None]:
        """The image, upright, and no labels."""
        file, number = self.frame(index)
        try:
            frame = self._readers[file][number // self._stride]
        except IndexError:
            raise UserError(f"'{file}' ends before its frame {number}: write it again or take fewer frames") from None
        return upright(frame), None


def list_videos(path: Path) -> list[str]:
    """Videos below a folder, relative to it; those of hidden folders left out."""
    found = []
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(path)
        found += [
            (inside / file).as_posix()
            for file in files
            if not file.startswith(".") and Path(file).suffix.lower() in VIDEO_SUFFIXES
        ]
    return sorted(found)


def opened(address: str, name: str, **options: Any) -> Any:
    """An open container with an image stream.

    Args:
        address: A path, or an address that FFmpeg knows.
        name: What messages call it.
        options: Of :func:`av.open`.

    Raises:
        UserError: PyAV is missing, or there is no video.
    """
    try:
        import av
    except ImportError:
        raise UserError(f"'{name}' is a video, which needs PyAV: pip install 'astseg[video]'") from None
    try:
        container = av.open(address, **options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"'{name}' is no readable video ({error}): replace or remove it") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"'{name}' holds no pictures: replace or remove it")
    return container


def usual_rate(container: Any, stride: int) -> Fraction:
    """Frames a second of every ``stride``-th frame of a container; 25 / ``stride`` where it does not say."""
    # Damaged files give any rate; these are what players and encoders take.
    taken = Fraction(container.streams.video[0].average_rate or 25) / stride
    return min(max(taken, Fraction(1, 10)), Fraction(240)).limit_denominator(1001)


def upright(frame: Any) -> NDArray[np.uint8]:
    """The pixels of a decoded frame, H x W x 3, turned as its video says."""
    turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(getattr(frame, "rotation", 0) / 90) % 4)
    return np.ascontiguousarray(turned)


def _times(path: Path, name: str) -> array[float]:
    """When each frame is shown, in seconds; where the file does not say, by its rate."""
    times: list[int] | array[int] = array("q")
    told = True
    with opened(str(path), name) as container:
        stream = container.streams.video[0]
        unit, rate = float(stream.time_base or 0), float(usual_rate(container, 1))
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    time = packet.dts if packet.pts is None else packet.pts
                    told = told and time is not None
                    times.append(time or 0)
        except Exception as error:  # decoders raise nearly anything at a broken file
            raise UserError(f"'{name}' is damaged ({error}): write it again") from None
    if not times:
        raise UserError(f"'{name}' holds no frames: replace or remove it")
    times = sorted(times)  # packets come in the order of decoding
    if told and unit and len(set(times)) == len(times):
        return array("d", (time * unit for time in times))
    return array("d", (number / rate for number in range(len(times))))


def _decode(path: Path, name: str, stride: int) -> Iterator[Any]:
    """Every ``stride``-th frame."""
    with opened(str(path), name) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            yield from islice(container.decode(video=0), 0, None, stride)
        except Exception as error:  # decoders raise nearly anything at a broken file
            raise UserError(f"'{name}' is damaged ({error}): write it again or take fewer frames") from None
