"""HDF5 mirrors of the benchmarks, and anybody's own: arrays named ``image`` and ``mask``. Needs the extra ``hdf5``.

Images are N x H x W x 3 or N x 3 x H x W; masks N x H x W or N x H x W x 1 with a label a pixel, or one-hot over
entities, N x E x H x W or N x E x H x W x 1. Groups called train, val and test (or valid, validation, eval) are splits.
What is background: the array ``background_labels`` of the file; else what the data set of the file's name declares;
else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.data.benchmark import Benchmark
from astseg.data.formats.labels import renumbered
from astseg.data.source import SceneSource
from astseg.data.sources.clevrtex import CLEVRTEX
from astseg.data.sources.shapestacks import SHAPESTACKS
from astseg.data.sources.tfrecord import CLEVR_WITH_MASKS, OBJECTS_ROOM
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HDF5_SUFFIXES", "SPLIT_NAMES", "Hdf5Source"]

HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "eval": "val", "test": "test"}
"""What others call the three splits."""

_IMAGES = ("image", "images", "imgs")
_MASKS = ("mask", "masks", "segmentation", "labels")
_BY_NAME = {
    "objects_room": OBJECTS_ROOM,
    "shapestacks": SHAPESTACKS,
    "clevrtex": CLEVRTEX,
    "clevr": CLEVR_WITH_MASKS,
}


@dataclass(frozen=True)
class _Part:
    """Arrays of one group; ``start`` is the index of its first scene."""

    name: str
    start: int
    images: Any
    masks: Any


class Hdf5Source(SceneSource):
    """Scenes of one HDF5 file, read one by one."""

    def __init__(self, path: Path) -> None:
        """Find the arrays.

        Raises:
            UserError: h5py is missing, the file is broken, or holds no images.
        """
        try:
            import h5py
        except ImportError:
            raise UserError(f"'{path}' is an HDF5 file, which needs h5py: pip install 'astseg[hdf5]'") from None
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"'{path}' is no readable HDF5 file ({error}): fetch it again") from None
        self._path = path
        self._parts: list[_Part] = []
        self._count = 0
        arrays: dict[str, Any] = {}
        file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        for name in sorted(arrays):
            group, _, last = name.rpartition("/")
            if last.lower() in _IMAGES:
                self._add(group, arrays[name], _beside(arrays, group))
        if not self._parts:
            found = ", ".join(sorted(arrays)[:5]) or "nothing"
            raise UserError(
                f"'{path}' holds no array 'image' (it holds {found}): expected N x H x W x 3 under that name"
            )
        self.has_labels = all(part.masks is not None for part in self._parts)
        stem = path.stem.lower()
        self.benchmark: Benchmark | None = next((about for key, about in _BY_NAME.items() if key in stem), None)
        declared = arrays.get("background_labels")
        self._background = (
            np.ravel(declared[()])
            if declared is not None
            else np.array(self.benchmark.background_labels if self.benchmark else (0,))
        )
        self.name = "HDF5" + (f", {self.benchmark.name}" if self.benchmark else "")

    def __len__(self) -> int:
        """Number of scenes."""
        return self._count

    def scene_name(self, index: int) -> str:
        """Group and number, such as ``train/000012``."""
        part = self._part(index)
        return "/".join(filter(None, [part.name, f"{index - part.start:06d}"]))

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        part, name = self._part(index), self.scene_name(index)
        try:
            image = part.images[index - part.start]
            mask = None if part.masks is None else part.masks[index - part.start]
        except OSError as error:
            raise UserError(f"'{name}' in '{self._path}' cannot be read ({error}): fetch the file again") from None
        image = image if image.shape[-1] == 3 else np.moveaxis(image, 0, -1)
        image = _bytes(np.ascontiguousarray(image), name)
        return image, None if mask is None else self._labels(mask, image.shape[:2], name)

    def split(self, name: str) -> list[int]:
        """Indices of a split: the groups of that name. Raises UserError where there are none."""
        chosen = [
            index
            for part in self._parts
            if SPLIT_NAMES.get(part.name.split("/")[-1].lower()) == name
            for index in range(part.start, part.start + len(part.images))
        ]
        return chosen or super().split(name)

    def _add(self, group: str, images: Any, masks: Any) -> None:
        if images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
            got = " x ".join(str(side) for side in images.shape)
            raise UserError(f"'{images.name}' in '{self._path}' is {got}, expected N x H x W x 3 or N x 3 x H x W")
        if masks is not None and len(masks) != len(images):
            raise UserError(f"'{self._path}' holds {len(images)} images and {len(masks)} masks: write it again")
        self._parts.append(_Part(group, self._count, images, masks))
        self._count += len(images)

    def _part(self, index: int) -> _Part:
        return next(part for part in reversed(self._parts) if part.start <= index)

    def _labels(self, mask: NDArray[Any], size: tuple[int, ...], name: str) -> NDArray[np.uint8]:
        """One mask as labels."""
        if mask.ndim > 2 and mask.shape[-1] == 1:
            mask = mask[..., 0]
        if mask.ndim == 3 and mask.shape[1:] == size:  # one-hot: the first entity that claims a pixel has it
            mask = np.where((mask != 0).any(axis=0), (mask != 0).argmax(axis=0), self._background[0])
        if mask.shape != size:
            got, expected = (" x ".join(str(side) for side in shape) for shape in (mask.shape, size))
            raise UserError(f"mask of '{name}' in '{self._path}' is {got}, expected {expected}, or one-hot over it")
        if mask.dtype.kind == "f":
            mask = mask.astype(np.int64)
        return renumbered(np.where(np.isin(mask, self._background), 0, mask.astype(np.int64) + 1), name)


def _beside(arrays: dict[str, Any], group: str) -> Any:
    """The masks of a group, or None."""
    prefix = f"{group}/" if group else ""
    names = {name.lower(): name for name in arrays}
    return next((arrays[names[f"{prefix}{key}".lower()]] for key in _MASKS if f"{prefix}{key}".lower() in names), None)


def _bytes(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """An image as bytes; floats are taken to lie in [0, 1]."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f" and image.size and np.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1:
        return np.asarray((image * 255).round(), np.uint8)
    raise UserError(
        f"'{name}' holds {image.dtype} from {image.min()} to {image.max()}, expected uint8 or floats in [0, 1]"
    )
