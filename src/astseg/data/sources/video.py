"""Frames of a video, or of all videos of a folder, through PyAV (the extra ``video``)."""

from __future__ import annotations

import os
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

__all__ = ["VIDEO_SUFFIXES", "VideoSource", "list_videos"]

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm"})

_WINDOW = 8


class VideoSource(SceneSource):
    """Every ``stride``-th frame of one video or several; fast where the numbers rise.

    Frames are counted by their packets, without decoding.
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
        self._frames: list[tuple[str, int]] = []
        self._readers: dict[str, Forward[Any]] = {}
        for file in files:
            count = -(-_count(root / file, file) // stride)
            count = count if frames is None else min(count, frames)
            self._frames += [(file, number * stride) for number in range(count)]
            self._readers[file] = Forward(partial(_decode, root / file, file, stride), window=_WINDOW)

    def __len__(self) -> int:
        """Number of frames taken."""
        return len(self._frames)

    def scene_name(self, index: int) -> str:
        """Video and frame number, such as ``street.mp4/000120``."""
        file, number = self._frames[index]
        return f"{file}/{number:06d}"

    def rate(self, file: str) -> Fraction:
        """Frames a second of one of the videos as they are taken here; 25 where the file does not say."""
        with _opened(self._path / file, file) as container:
            rate = container.streams.video[0].average_rate
        # Damaged files give any rate; these are what players and encoders take.
        taken = Fraction(rate or 25) / self._stride
        return min(max(taken, Fraction(1, 10)), Fraction(240)).limit_denominator(1001)

    def read(self, index: int) -> tuple[NDArray[np.uint8], None]:
        """The image, upright, and no labels."""
        file, number = self._frames[index]
        try:
            frame = self._readers[file][number // self._stride]
        except IndexError:
            raise UserError(f"'{file}' ends before its frame {number}: write it again or take fewer frames") from None
        turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(getattr(frame, "rotation", 0) / 90) % 4)
        return np.ascontiguousarray(turned), None


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


def _opened(path: Path, name: str) -> Any:
    """An open container with an image stream."""
    try:
        import av
    except ImportError:
        raise UserError(f"'{name}' is a video, which needs PyAV: pip install 'astseg[video]'") from None
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"'{name}' is no readable video ({error}): replace or remove it") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"'{name}' holds no pictures: replace or remove it")
    return container


def _count(path: Path, name: str) -> int:
    """Number of frames."""
    with _opened(path, name) as container:
        try:
            count = sum(1 for packet in container.demux(video=0) if packet.size)
        except Exception as error:  # decoders raise nearly anything at a broken file
            raise UserError(f"'{name}' is damaged ({error}): write it again") from None
    if not count:
        raise UserError(f"'{name}' holds no frames: replace or remove it")
    return count


def _decode(path: Path, name: str, stride: int) -> Iterator[Any]:
    """Every ``stride``-th frame."""
    with _opened(path, name) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            yield from islice(container.decode(video=0), 0, None, stride)
        except Exception as error:  # decoders raise nearly anything at a broken file
            raise UserError(f"'{name}' is damaged ({error}): write it again or take fewer frames") from None
