"""A prepared cache: arrays of uint8 on disk, mapped into memory.

::

    CACHE/manifest.json   written last: what the scenes are, how they were prepared, SHA-256 of the files
    CACHE/images.npy      N x H x W x 3, uint8; any program can map it: numpy.load(file, mmap_mode="r")
    CACHE/labels.npy      N x H x W, uint8, 0 = background; where the source has masks
    CACHE/scenes.npy      N rows: name, index in the source, whether it is of the split train, val, test
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astseg.data.benchmark import Benchmark
from astseg.data.source import SceneSource
from astseg.errors import UserError

__all__ = [
    "FORMAT",
    "IMAGES",
    "LABELS",
    "MANIFEST",
    "PLAN",
    "SCENES",
    "CachedSource",
    "StoredRows",
    "file_hash",
    "find_cache",
]

MANIFEST, PLAN = "manifest.json", "plan.json"
IMAGES, LABELS, SCENES = "images.npy", "labels.npy", "scenes.npy"
FORMAT = 2


class StoredRows(Sequence[Any]):
    """Some rows of an array on disk, read when they are indexed.

    Attributes:
        shape: N x ..., of these rows.
    """

    def __init__(self, array: NDArray[Any], rows: Sequence[int]) -> None:
        """Take a memory map and the numbers of its rows."""
        self._array = array
        self._rows = np.asarray(rows, np.int64)
        self.shape: tuple[int, ...] = (len(self._rows), *array.shape[1:])

    def __len__(self) -> int:
        """N."""
        return len(self._rows)

    def __getitem__(self, key: Any, /) -> Any:
        """One row, or the rows of a slice or of an array of numbers, as a copy in memory."""
        return np.array(self._array[self._rows[key]])


class CachedSource(SceneSource):
    """Scenes of a cache.

    Attributes:
        size: (H, W) of all scenes.
        prepared: How they were brought to it: ``size``, ``resize`` and ``crop``.
        images: N x H x W x 3, a memory map.
        labels: N x H x W, a memory map, or None.
        names: N names, a memory map.
        highest_label: Of all scenes, 0 without masks.
    """

    crop = 1.0  # cropped when it was prepared

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Map the files that a manifest describes.

        Raises:
            UserError: The manifest is broken or of another version, or a file is missing.
        """
        self._path = path
        if manifest.get("format") != FORMAT:
            which = "an earlier" if manifest.get("format") == 1 else "another"
            raise UserError(f"'{path}' is a cache made by {which} version of astseg: prepare it again")
        try:
            self.prepared: dict[str, Any] = manifest["preprocessing"]
            height, width = self.prepared["size"]
            self.size = (int(height), int(width))
            self.has_labels = bool(manifest["labels"])
            self.name = f"cache of {manifest['source']['format']}"
            about = manifest["benchmark"]
            self.benchmark = None if about is None else _benchmark(about)
            self.highest_label = int(manifest["highest_label"])
            self._hashes: dict[str, str] = dict(manifest["sha256"])
            self._splits = list(manifest["splits"])
            count = int(manifest["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{path / MANIFEST}' is broken ({error!r}): prepare the cache again") from None
        self.images = _mapped(path / IMAGES, (count, *self.size, 3))
        self.labels = _mapped(path / LABELS, (count, *self.size)) if self.has_labels else None
        self._scenes = _mapped(path / SCENES, (count,))
        self.names: NDArray[np.str_] = self._scenes["name"]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.images)

    def scene_name(self, index: int) -> str:
        """The name that the source has for a scene."""
        return str(self.names[index])

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        return np.array(self.images[index]), None if self.labels is None else np.array(self.labels[index])

    def split(self, name: str) -> list[int]:
        """Indices of a split of the source, as far as it was prepared. Raises UserError where it declared none."""
        if name not in self._splits:
            return super().split(name)
        chosen: list[int] = np.flatnonzero(self._scenes[name]).tolist()
        return chosen

    def original(self, indices: Sequence[int]) -> list[int]:
        """The indices that scenes have in the source."""
        found: list[int] = self._scenes["index"][np.asarray(indices, np.int64)].tolist()
        return found

    def verify(self) -> list[str]:
        """A line for each file whose SHA-256 is not that of the manifest."""
        return [
            f"'{name}' does not have the SHA-256 of the manifest: prepare the cache again"
            for name, digest in self._hashes.items()
            if file_hash(self._path / name) != digest
        ]


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
    is_cache = isinstance(manifest, dict) and {"format", "preprocessing"} <= manifest.keys()
    return CachedSource(path, manifest) if is_cache else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array on disk. Raises UserError where it is missing or has another shape."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' cannot be read ({reason}): prepare the cache again") from None
    if array.shape != shape:
        raise UserError(f"'{path}' is not as large as its manifest says: prepare the cache again")
    return array


def _benchmark(about: dict[str, Any]) -> Benchmark:
    size, background = about["image_size"], about["background_labels"]
    return Benchmark(**{**about, "image_size": tuple(size), "background_labels": tuple(background)})
