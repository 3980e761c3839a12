"""Hugging Face data sets on disk: ``save_to_disk`` folders and parquet files. Needs the extra ``huggingface``.

A column of encoded images, ``image``, and if there is one a column of masks, ``mask``, whose stored numbers are the
labels. Both are ``Image`` features: ``{bytes, path}``, or plain binary. Splits come from ``dataset_dict.json`` or from
file names such as ``train-00000-of-00002.parquet``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from astseg.data.formats.labels import renumbered
from astseg.data.formats.pictures import check_mask_size, read_label_numbers, read_rgb
from astseg.data.source import SceneSource
from astseg.data.sources.hdf5 import SPLIT_NAMES
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TableSource", "find_tables"]

_IMAGES = ("image", "images", "img", "picture", "pixel_values")
_MASKS = ("mask", "masks", "label", "labels", "segmentation", "annotation")


@dataclass(frozen=True)
class _Chunk:
    """Some rows of one file: ``read`` gives them as a table; ``start`` is the index of the first."""

    file: Path
    split: str | None
    start: int
    rows: int
    read: Callable[[], Any]


class TableSource(SceneSource):
    """Scenes of the rows of tables, one chunk of rows in memory at a time."""

    def __init__(self, path: Path, files: list[tuple[Path, str | None]]) -> None:
        """Look at the columns and count the rows.

        Args:
            path: What the user named.
            files: Arrow and parquet files, each with the name of its split where that is known.

        Raises:
            UserError: pyarrow is missing, a file is broken, or there is no column of images.
        """
        try:
            import pyarrow
        except ImportError:
            raise UserError(f"'{path}' is a table, which needs pyarrow: pip install 'astseg[huggingface]'") from None
        self._path = path
        self._chunks: list[_Chunk] = []
        self._lock = Lock()
        self._held: tuple[int, Any] | None = None
        names: list[str] = []
        for file, split in files:
            try:
                names = self._add(file, split)
            except (pyarrow.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"'{file}' is no readable table ({reason}): fetch it again") from None
        self._image = next((name for name in _IMAGES if name in names), None)
        if self._image is None:
            raise UserError(f"'{path}' has the columns {', '.join(names)}, expected one of pictures called 'image'")
        self._mask = next((name for name in _MASKS if name in names), None)
        self.has_labels = self._mask is not None
        if not len(self):
            raise UserError(f"'{path}' has no rows: fetch it again")
        self.name = "Hugging Face data set"

    def __len__(self) -> int:
        """Number of rows."""
        return sum(chunk.rows for chunk in self._chunks)

    def scene_name(self, index: int) -> str:
        """Split and number, such as ``train/000012``."""
        chunk = self._chunks[self._chunk(index)]
        first = next(other.start for other in self._chunks if other.split == chunk.split)
        return "/".join(filter(None, [chunk.split, f"{index - first:06d}"]))

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        name = self.scene_name(index)
        with self._lock:
            number = self._chunk(index)
            if self._held is None or self._held[0] != number:
                self._held = (number, self._chunks[number].read())
            row = self._held[1].slice(index - self._chunks[number].start, 1).to_pylist()[0]
        assert self._image is not None
        image = read_rgb(io.BytesIO(_encoded(row[self._image], name)), name, upright=True)
        if self._mask is None:
            return image, None
        labels = renumbered(read_label_numbers(io.BytesIO(_encoded(row[self._mask], name)), name), name)
        check_mask_size(labels, image, f"mask of '{name}'")
        return image, labels

    def split(self, name: str) -> list[int]:
        """Indices of a split. Raises UserError where there is none of that name."""
        chosen = [
            index
            for chunk in self._chunks
            if chunk.split is not None and SPLIT_NAMES.get(chunk.split) == name
            for index in range(chunk.start, chunk.start + chunk.rows)
        ]
        return chosen or super().split(name)

    def _chunk(self, index: int) -> int:
        return next(n for n in range(len(self._chunks) - 1, -1, -1) if self._chunks[n].start <= index)

    def _add(self, file: Path, split: str | None) -> list[str]:
        """Note the rows of a file; its columns that may hold images."""
        from pyarrow import ipc, memory_map, parquet, types

        start = len(self)
        if file.suffix == ".parquet":
            table = parquet.ParquetFile(file)
            schema = table.schema_arrow
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                self._chunks.append(_Chunk(file, split, start, rows, _row_group(table, group)))
                start += rows
        else:
            whole = ipc.open_stream(memory_map(str(file))).read_all()  # maps the file, reads nothing yet
            schema = whole.schema
            self._chunks.append(_Chunk(file, split, start, whole.num_rows, lambda: whole))
        is_bytes = (types.is_binary, types.is_large_binary, types.is_struct)
        return [field.name for field in schema if any(check(field.type) for check in is_bytes)]


def find_tables(path: Path) -> TableSource | None:
    """Recognise a parquet file, a folder of them, or a folder that ``save_to_disk`` wrote.

    Raises:
        UserError: The folder's own description is broken.
    """
    if path.is_file():
        return TableSource(path, [(path, None)])
    try:
        if (path / "dataset_dict.json").is_file():
            splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
            return TableSource(path, [(file, split) for split in splits for file in _arrow_files(path / split)])
        if (path / "state.json").is_file():
            return TableSource(path, [(file, None) for file in _arrow_files(path)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is no whole Hugging Face data set ({error}): save it again") from None
    files = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    return TableSource(path, [(file, _split_of(file)) for file in files]) if files else None


def _arrow_files(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text())
    return [folder / data["filename"] for data in state["_data_files"]]


def _split_of(file: Path) -> str | None:
    """``train-00000-of-00002.parquet`` -> ``train``."""
    name = file.stem.split("-")[0].lower()
    return name if name in SPLIT_NAMES else None


def _row_group(table: Any, group: int) -> Callable[[], Any]:
    return lambda: table.read_row_group(group)


def _encoded(value: Any, name: str) -> bytes:
    """The bytes of an encoded image."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UserError(f"'{name}' holds no encoded picture: embed the pictures when saving the data set")
    return data
