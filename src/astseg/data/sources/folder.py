"""A plain folder of images, or one image: no masks, no splits."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from astseg.data.formats.pictures import PICTURE_SUFFIXES, read_rgb
from astseg.data.source import SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FolderSource"]

_LABELLED = re.compile(r"[A-Za-z0-9]+_[A-Za-z0-9]+_[0-9]{6}_flat\.png")


class FolderSource(SceneSource):
    """Every image under a folder, in natural order (``frame_2`` before ``frame_10``), without hidden files."""

    def __init__(self, path: Path, files: list[str] | None = None) -> None:
        """Find the images.

        Args:
            path: A folder, searched with all its subfolders, or one image file.
            files: Paths of images below the folder, where it is known which ones are meant.

        Raises:
            UserError: There is no image, or the folder holds labelled data sets further down.
        """
        self.name = "one picture" if path.is_file() else "folder of pictures"
        self._path = path.parent if path.is_file() else path
        self._files = files if files is not None else [path.name] if path.is_file() else _list_images(path)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def scene_name(self, index: int) -> str:
        """Path of an image below the folder, with its suffix and ``/`` between the parts."""
        return self._files[index]

    def read(self, index: int) -> tuple[NDArray[np.uint8], None]:
        """The image, upright, and no labels."""
        name = self._files[index]
        return read_rgb(self._path / name, name, upright=True), None


def _list_images(root: Path) -> list[str]:
    """Paths of all images below ``root``, relative to it, in natural order."""

    def refuse(error: OSError) -> None:
        raise UserError(f"'{error.filename}' cannot be listed ({error.strerror}): check its permissions") from error

    names: list[str] = []
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        # Masks must never be taken for images: somebody named the folder above several data sets.
        if any(_LABELLED.fullmatch(file) for file in files):
            raise UserError(f"'{root}' holds a labelled data set in '{folder}' among other files: name that folder")
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        names += [
            prefix + file
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in PICTURE_SUFFIXES
        ]
    if not names:
        raise UserError(f"'{root}' holds no pictures: expected PNG, JPEG, WebP, TIFF or BMP files in it or below it")
    return sorted(names, key=_natural)


def _natural(name: str) -> bytes:
    """Sort key that orders runs of digits by value; the name itself breaks ties such as ``1`` and ``01``.

    One text of bytes: the keys of all names are in memory at once, and lists of parts take five times as much. Texts
    end with a 0, numbers begin with their length.
    """
    key = bytearray()
    for position, part in enumerate(re.split(r"([0-9]+)", name)):
        if position % 2:
            value = int(part)
            size = max(1, (value.bit_length() + 7) // 8)
            key += bytes([size]) + value.to_bytes(size, "big")
        else:
            key += part.encode(errors="surrogateescape") + b"\0"
    return bytes(key + b"\0" + name.encode(errors="surrogateescape"))
