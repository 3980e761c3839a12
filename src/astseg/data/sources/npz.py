"""A data set in one ``.npz`` file.

``images``: N x H x W x 3 uint8. Optional: ``masks``: N x H x W integers; ``background_labels``: the labels of ``masks``
that are background (default: 0); ``split``: N numbers, 0 = train, 1 = evaluation; ``names``: N texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from astseg.data.formats.labels import compact_labels
from astseg.data.source import SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["NpzSource"]

_KEYS = ("images", "masks", "background_labels", "split", "names")


class NpzSource(SceneSource):
    """Scenes of a ``.npz`` file, decompressed once."""

    name = ".npz arrays"

    def __init__(self, path: Path) -> None:
        """Read and check the arrays.

        Raises:
            UserError: The file is broken, or an array in it has another type or shape than this module states.
        """
        self._path = path
        arrays = _read_arrays(path)
        if "images" not in arrays:
            raise UserError(f"'{path}' holds no array 'images': expected N x H x W x 3 uint8 under that name")
        self._images = arrays["images"]
        if self._images.dtype != np.uint8 or self._images.ndim != 4 or self._images.shape[3] != 3:
            raise _wrong(path, "images", self._images, "N x H x W x 3 uint8")
        if not self._images.size:
            raise UserError(f"'{path}' holds no images: its 'images' are {_words(self._images)}")
        count = len(self._images)
        self._labels: NDArray[np.uint8] | None = None
        if "masks" in arrays:
            masks = arrays["masks"]
            if masks.dtype.kind not in "uib" or masks.shape != self._images.shape[:3]:
                expected = " x ".join(str(side) for side in self._images.shape[:3])
                raise _wrong(path, "masks", masks, f"{expected} integers")
            background = arrays.get("background_labels", np.zeros(1, np.int64))
            if background.dtype.kind not in "uib":
                raise _wrong(path, "background_labels", background, "integers")
            self._labels = compact_labels(masks, background, str(path))
        self._split = arrays.get("split")
        if self._split is not None and (self._split.shape != (count,) or not np.isin(self._split, (0, 1)).all()):
            raise _wrong(path, "split", self._split, f"{count} numbers, each 0 (train) or 1 (evaluation)")
        names = arrays.get("names")
        if names is not None and (names.shape != (count,) or names.dtype.kind not in "US"):
            raise _wrong(path, "names", names, f"{count} texts")
        self._names = None if names is None else names.astype(np.str_)
        self.has_labels = self._labels is not None

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._images)

    def scene_name(self, index: int) -> str:
        """The file's own name of a scene, or its number such as ``000012``."""
        return f"{index:06d}" if self._names is None else str(self._names[index])

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        return self._images[index], None if self._labels is None else self._labels[index]

    def split(self, name: str) -> list[int]:
        """Indices of a split; the evaluation scenes serve as both ``val`` and ``test``."""
        if self._split is None:
            return super().split(name)
        return [int(index) for index in np.flatnonzero(self._split == (0 if name == "train" else 1))]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Decompress the known arrays of a file; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in _KEYS if key in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds at a broken file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"'{path}' is not a readable .npz file ({reason}): write it again with numpy.savez") from error


def _wrong(path: Path, key: str, array: NDArray[Any], expected: str) -> UserError:
    """The error of an array that is not as it should be."""
    return UserError(f"'{key}' in '{path}' are {_words(array)}, expected {expected}: write the file again")


def _words(array: NDArray[Any]) -> str:
    """Shape and type of an array, such as ``5 x 64 x 64 uint8``."""
    return f"{' x '.join(str(side) for side in array.shape)} {array.dtype}"
