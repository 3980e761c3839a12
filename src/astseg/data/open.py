"""From a path to a source of scenes: recognise its format, choose scenes of it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.formats.pictures import PICTURE_SUFFIXES
from astseg.data.source import SPLITS, SceneSource
from astseg.data.sources.cached import find_cache
from astseg.data.sources.clevrtex import find_clevrtex
from astseg.data.sources.folder import FolderSource
from astseg.data.sources.hdf5 import HDF5_SUFFIXES, Hdf5Source
from astseg.data.sources.huggingface import find_tables
from astseg.data.sources.npz import NpzSource
from astseg.data.sources.own_masks import find_masked
from astseg.data.sources.shapestacks import find_shapestacks
from astseg.data.sources.tfrecord import find_records
from astseg.data.sources.video import VIDEO_SUFFIXES, VideoSource, list_videos
from astseg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Reading", "SceneSource", "evenly_spaced", "index_hash", "open_source", "select", "source_hash"]

_SLICE = re.compile(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?(?::(-?[0-9]{1,18})?)?")


@dataclass(frozen=True)
class Reading:
    """What of a source is taken; the defaults take everything.

    Attributes:
        camera: ShapeStacks: this camera alone.
        stride: Videos: every ``stride``-th frame.
        frames: Videos: at most this many frames of each.
    """

    camera: int | None = None
    stride: int = 1
    frames: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        for name, value in (("camera", self.camera), ("stride", self.stride), ("frames", self.frames)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")


_EVERYTHING = Reading()


def open_source(path: str | os.PathLike[str], reading: Reading = _EVERYTHING) -> SceneSource:
    """Recognise a data set.

    Args:
        path: A cache, a TFRecord, ``.npz``, HDF5, parquet, COCO or video file; a folder in the layout of CLEVRTEX or
            ShapeStacks or one that Hugging Face's ``datasets`` saved; images with masks; videos; any other folder of
            images, or one image.
        reading: What of it is taken.

    Raises:
        UserError: The path does not exist, holds no scenes, or is of no known format.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        try:
            return _open_folder(path, reading)
        except PermissionError as error:
            raise UserError(f"'{path}' cannot be listed ({error.strerror}): check its permissions") from error
    if not path.is_file():
        raise UserError(f"'{path}' does not exist: expected a folder of pictures, a picture or a file of scenes")
    return _open_file(path, reading)


def _open_folder(path: Path, reading: Reading) -> SceneSource:
    """The data set in a folder; what is most particular is looked for first."""
    if (cache := find_cache(path)) is not None:
        return cache
    for find in (find_clevrtex, find_records, lambda folder: find_shapestacks(folder, reading.camera), find_tables):
        if (source := find(path)) is not None:
            return source
    if (masked := find_masked(path)) is not None:
        return masked
    if videos := list_videos(path):
        if any(file.suffix.lower() in PICTURE_SUFFIXES for file in path.iterdir()):
            raise UserError(f"'{path}' holds both videos and pictures: put them into folders of their own")
        return VideoSource(path, videos, stride=reading.stride, frames=reading.frames)
    return FolderSource(path)


def _open_file(path: Path, reading: Reading) -> SceneSource:
    """The data set in a file, by its suffix."""
    suffix = path.suffix.lower()
    if (records := find_records(path)) is not None:
        return records
    if suffix == ".npz":
        return NpzSource(path)
    if suffix in HDF5_SUFFIXES:
        return Hdf5Source(path)
    if suffix == ".parquet" and (tables := find_tables(path)) is not None:
        return tables
    if suffix == ".json" and (masked := find_masked(path)) is not None:
        return masked
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path.parent, [path.name], stride=reading.stride, frames=reading.frames)
    if suffix in PICTURE_SUFFIXES:
        return FolderSource(path)
    known = "a picture, .npz, .tfrecords, .hdf5, .parquet, a COCO .json or a video"
    raise UserError(f"'{path}' is of no known format: expected a folder of pictures, {known}")


def select(source: SceneSource, selection: str) -> list[int]:
    """Choose scenes.

    Args:
        source: The data set.
        selection: ``all``, a split (``train``, ``val``, ``test``) or a Python slice such as ``:-50`` or ``0:100:2``.

    Returns:
        Their indices, at least one.

    Raises:
        UserError: The selection is not understood, or chooses nothing.
    """
    text = selection.strip()
    if text == "all":
        chosen = list(range(len(source)))
    elif text in SPLITS:
        chosen = source.split(text)
    elif match := _SLICE.fullmatch(text):
        start, stop, step = (int(number) if number else None for number in match.groups())
        if step == 0:
            raise UserError(f"selection '{selection}' has step 0: use a step of 1 or more")
        chosen = list(range(len(source)))[start:stop:step]
    else:
        raise UserError(f"selection '{selection}' is not understood: use all, train, val, test or a slice as ':-50'")
    if not chosen:
        raise UserError(f"selection '{selection}' chooses none of the {len(source)} scenes: choose at least one")
    return chosen


def evenly_spaced(count: int, total: int) -> list[int]:
    """At most ``count`` of the numbers 0 to total - 1, from 0 on, at equal distances.

    >>> evenly_spaced(3, 7)
    [0, 2, 4]
    >>> evenly_spaced(3, 2)
    [0, 1]
    """
    count = min(count, total)
    return [number * total // count for number in range(count)]


def index_hash(indices: Sequence[int]) -> str:
    """12 hexadecimal digits that name a choice of scenes and their order: SHA-256 of the comma-separated indices."""
    return hashlib.sha256(",".join(str(int(index)) for index in indices).encode()).hexdigest()[:12]


def source_hash(source: SceneSource, indices: Sequence[int]) -> str:
    """:func:`index_hash` of scenes as their first source counts them: a cache gives that of what it was made from."""
    original = getattr(source, "original", None)
    return index_hash(indices if original is None else original(indices))
