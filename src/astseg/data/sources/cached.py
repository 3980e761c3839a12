"""A prepared cache: shards of uint8 arrays on disk, of which single rows are read.

::

    CACHE/manifest.json       written last: what the scenes are, how they were prepared, SHA-256 of every file
    CACHE/images-00000.npy    n x H x W x 3, uint8; any program can map it: numpy.load(file, mmap_mode="r")
    CACHE/labels-00000.npy    n x H x W, uint8, 0 = background; where the source has masks
    CACHE/names-00000.json    n names

Rows are read with ``preadv`` into the batch itself, which is as fast as a memory map and, unlike it, leaves no pages
behind that count as this process's memory: training on any number of scenes takes the same.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astseg.data.benchmark import Benchmark, NoSplitError
from astseg.errors import UserError

__all__ = ["MANIFEST", "PLAN", "CachedSource", "StoredArray", "file_hash", "find_cache", "ranges", "unrolled"]

MANIFEST = "manifest.json"
PLAN = "plan.json"
FORMAT = 1

Rows = range | NDArray[np.int64]


class StoredArray:
    """Rows of the shards of a cache as one array that is read when it is indexed.

    Attributes:
        shape: N x ..., of the rows that are chosen.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path], counts: Sequence[int], shape: tuple[int, ...]) -> None:
        """Open the shards.

        Args:
            files: ``.npy`` files, each n x ``shape``, C order.
            counts: n of each.
            shape: Of a row.

        Raises:
            UserError: A file is missing or of another size than it should be.
        """
        self._starts = np.cumsum([0, *counts])
        self._rows: Rows = range(int(self._starts[-1]))
        self._bytes = int(np.prod(shape))
        self._files = [_Shard(file, count * self._bytes) for file, count in zip(files, counts, strict=True)]
        self.shape = (len(self._rows), *shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        """One row, or the rows of a slice or of a list of numbers, as an array in memory."""
        if isinstance(key, int | np.integer):
            row: NDArray[np.uint8] = self._read([self._rows[int(key)]])[0]
            return row
        chosen = self._rows[key] if isinstance(key, slice) else [self._rows[int(number)] for number in key]
        return self._read(chosen)

    def chosen(self, rows: Sequence[int]) -> StoredArray:
        """The same files, and some rows of them alone."""
        other = copy.copy(self)
        other._rows = _compact(rows)
        other.shape = (len(rows), *self.shape[1:])
        return other

    def _read(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        flat = out.reshape(len(rows), self._bytes)
        shards = np.searchsorted(self._starts, np.asarray(rows), side="right") - 1
        for place, row, shard in zip(flat, rows, shards, strict=True):
            self._files[shard].read(place, int(row - self._starts[shard]) * self._bytes)
        return out


class _Shard:
    """One open ``.npy`` file."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            self._begin = os.fstat(self._file).st_size - size
        except OSError as error:
            raise UserError(f"'{path}' cannot be read ({error.strerror}): prepare the cache again") from None
        if not 0 < self._begin <= 256:
            raise UserError(f"'{path}' is not as large as its manifest says: prepare the cache again")

    def read(self, place: NDArray[np.uint8], offset: int) -> None:
        if os.preadv(self._file, [place.data], self._begin + offset) != place.size:
            raise UserError(f"'{self._path}' became shorter while it was read: prepare the cache again")

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class CachedSource:
    """Scenes of a cache.

    Attributes:
        name: The format in words, and that of its source.
        has_labels: Whether there are masks.
        benchmark: What the paper does with the source's data set.
        size: (H, W) of all scenes.
        prepared: How they were brought to it: ``size``, ``resize`` and ``crop``.
        images: N x H x W x 3.
        labels: N x H x W or None.
        highest_label: Of all scenes, 0 without masks.
    """

    crop = 1.0

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Open the files that a manifest lists.

        Raises:
            UserError: The manifest is broken or of another version, or a file is missing.
        """
        self._path = path
        if manifest.get("format") != FORMAT:
            found = manifest.get("format")
            raise UserError(f"'{path}' is a cache of format {found}, expected {FORMAT}: prepare it again")
        try:
            self.prepared: dict[str, Any] = manifest["preprocessing"]
            height, width = self.prepared["size"]
            counts = [shard["count"] for shard in manifest["shards"]]
            self.size = (int(height), int(width))
            self.has_labels = bool(manifest["labels"])
            self.images = StoredArray(_files(path, manifest, "images"), counts, (*self.size, 3))
            self.labels = StoredArray(_files(path, manifest, "labels"), counts, self.size) if self.has_labels else None
            self.name = f"cache of {manifest['source']['format']}"
            about = manifest["benchmark"]
            self.benchmark = None if about is None else _benchmark(about)
            self.highest_label = max(int(shard["highest_label"]) for shard in manifest["shards"])
            self._original = manifest["source"]["indices"]
            self._splits: dict[str, list[list[int]]] = manifest["splits"]
            self._hashes = {name: digest for shard in manifest["shards"] for name, digest in shard["sha256"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{path / MANIFEST}' is broken ({error!r}): prepare the cache again") from None
        self.names = StoredNames(_files(path, manifest, "names", ".json"), counts)

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.images)

    def scene_name(self, index: int) -> str:
        """The name that the source has for a scene."""
        return str(self.names[index])

    def names_of(self, indices: Sequence[int]) -> StoredNames:
        """The names of some scenes, read when they are asked for."""
        return StoredNames(self.names._files, self.names._counts, indices)

    def problem(self, index: int) -> str | None:
        """Nothing is missing of a cache that has a manifest."""
        return None

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image H x W x 3 and labels H x W of a scene, both uint8."""
        return self.images[index], None if self.labels is None else self.labels[index]

    def split(self, name: str) -> list[int]:
        """Indices of a split of the source, as far as it was prepared. Raises UserError where it declared none."""
        if name not in self._splits:
            raise NoSplitError(f"'{self._path}' has no '{name}' split: use 'all' or a slice such as ':-500'")
        return list(unrolled(self._splits[name]))

    def original(self, indices: Sequence[int]) -> list[int]:
        """The numbers that scenes have in the source."""
        numbers = np.fromiter(unrolled(self._original), np.int64, len(self))
        return [int(number) for number in numbers[np.asarray(indices, np.int64)]]

    def verify(self) -> list[str]:
        """A line for each file whose SHA-256 is not that of the manifest."""
        return [
            f"'{name}' does not have the SHA-256 of the manifest: prepare the cache again"
            for name, digest in self._hashes.items()
            if file_hash(self._path / name) != digest
        ]


class StoredNames(Sequence[str]):
    """Names of the scenes of a cache; one shard's are in memory at a time."""

    def __init__(self, files: Sequence[Path], counts: Sequence[int], rows: Sequence[int] | None = None) -> None:
        """Take the files, and which rows of them; None: all."""
        self._files = files
        self._counts = counts
        self._starts = np.cumsum([0, *counts])
        self._rows: Rows = range(int(self._starts[-1])) if rows is None else _compact(rows)
        self._held: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        """N."""
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        """One name, or those of a slice."""
        if isinstance(key, slice):
            return StoredNames(self._files, self._counts, self._rows[key])  # type: ignore[arg-type]
        row = int(self._rows[key])
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._held[0] != shard:
            self._held = (shard, json.loads(self._files[shard].read_text(encoding="utf-8")))
        return self._held[1][row - int(self._starts[shard])]


def find_cache(path: Path) -> CachedSource | None:
    """Recognise a cache.

    Raises:
        UserError: It is not finished, or broken.
    """
    if not (path / MANIFEST).is_file():
        if (path / PLAN).is_file():
            raise UserError(f"'{path}' is a cache that is not finished: run the same astseg prepare again")
        return None
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path / MANIFEST}' is broken ({error}): prepare the cache again") from None
    return CachedSource(path, manifest) if isinstance(manifest, dict) and "shards" in manifest else None


def _compact(rows: Sequence[int]) -> Rows:
    """Row numbers as a range where they are one, else as an array: a list of a million takes forty times as much."""
    if isinstance(rows, range):
        return rows
    runs = ranges(rows)
    return range(*runs[0]) if len(runs) == 1 else np.asarray(rows, np.int64)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers as [start, stop, step] of runs.

    >>> ranges([0, 1, 2, 7, 5, 3])
    [[0, 3, 1], [7, 1, -2]]
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1]:
            runs[-1][1] += runs[-1][2]
        elif runs and runs[-1][1] - runs[-1][0] == runs[-1][2] and number != runs[-1][0]:  # a run of one finds its step
            step = number - runs[-1][0]
            runs[-1] = [runs[-1][0], number + step, step]
        else:
            runs.append([number, number + 1, 1])
    return runs


def unrolled(runs: Sequence[Sequence[int]]) -> Iterator[int]:
    """The numbers that :func:`ranges` wrote down."""
    for start, stop, step in runs:
        yield from range(start, stop, step)


def _files(path: Path, manifest: dict[str, Any], kind: str, end: str = ".npy") -> list[Path]:
    return [path / f"{kind}-{number:05d}{end}" for number in range(len(manifest["shards"]))]


def _benchmark(about: dict[str, Any]) -> Benchmark:
    size, background = about["image_size"], about["background_labels"]
    return Benchmark(**{**about, "image_size": tuple(size), "background_labels": tuple(background)})
