"""A person's own pictures with masks: beside them, in a folder of their own, or in a COCO json.

::

    OWN/images/a.jpg   OWN/masks/a.png          the same name, whatever the ending; subfolders as in images
    OWN/a.jpg          OWN/a_mask.png
    OWN/a.jpg          OWN/objects.json         COCO; pictures may lie in OWN/images, the json in OWN/annotations

Labels are numbered 1, 2, ... in each picture, in their own order, so that 16-bit instance numbers fit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.benchmark import NoSplitError
from astseg.data.formats.labels import renumbered
from astseg.data.formats.pictures import PICTURE_SUFFIXES, read_label_numbers, read_rgb
from astseg.data.sources.coco import CocoMasks, read_coco
from astseg.data.sources.folder import FolderSource
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CocoSource", "MaskedFolderSource", "find_masked"]

_MASK_FOLDERS = ("masks", "labels", "annotations")
_MASK_END = "_mask"
_MOST_FILES = 16
"""Json files that are looked into: more of them are something else, one beside each picture."""


class MaskedFolderSource:
    """Pictures with a mask file each."""

    has_labels = True
    benchmark = None
    crop = 1.0

    def __init__(self, root: Path, images: dict[str, str], masks: dict[str, str]) -> None:
        """Take the files below ``root`` by the name that joins picture and mask."""
        self.name = "folder of pictures with masks"
        self._root = root
        self._images = images
        self._masks = masks
        self._keys = [*images, *sorted(masks.keys() - images.keys())]

    def __len__(self) -> int:
        """Number of pictures, and of masks without one."""
        return len(self._keys)

    def scene_name(self, index: int) -> str:
        """Path of a picture below the folder."""
        key = self._keys[index]
        return self._images.get(key, key)

    def problem(self, index: int) -> str | None:
        """Which file of a scene is missing, or None."""
        key = self._keys[index]
        if key not in self._images:
            return f"the picture of mask '{self._masks[key]}' is missing"
        return None if key in self._masks else f"the mask of '{self._images[key]}' is missing"

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image H x W x 3, upright, and labels H x W (0 = background) of a scene, both uint8.

        Raises:
            UserError: A file is missing or broken, or the mask has another size than the upright picture.
        """
        if problem := self.problem(index):
            raise UserError(problem)
        image_name, mask_name = self._images[self._keys[index]], self._masks[self._keys[index]]
        image = read_rgb(self._root / image_name, image_name, upright=True)
        labels = renumbered(read_label_numbers(self._root / mask_name, mask_name), mask_name)
        return image, _of_one_size(labels, image, mask_name)

    def pictures(self) -> FolderSource:
        """The pictures alone, those without a mask too."""
        return FolderSource(self._root, list(self._images.values()))

    def split(self, name: str) -> list[int]:
        """Refuse: such a folder declares no splits."""
        raise _no_split(self._root, self.name, name)


class CocoSource:
    """Pictures whose objects a COCO json outlines."""

    has_labels = True
    benchmark = None
    crop = 1.0

    def __init__(self, path: Path, masks: CocoMasks) -> None:
        """Take the json and what it holds."""
        self.name = f"pictures with COCO masks, {path.name}"
        self._path = path
        self._masks = masks

    def __len__(self) -> int:
        """Number of pictures that the json lists."""
        return len(self._masks.files)

    def scene_name(self, index: int) -> str:
        """Name of a picture, as the json has it."""
        return self._masks.files[index]

    def problem(self, index: int) -> str | None:
        """Whether the picture is missing."""
        return None if self._file(index) else f"'{self._masks.files[index]}' is missing"

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image H x W x 3 and labels H x W (0 = background) of a scene, both uint8.

        Raises:
            UserError: The picture is missing, broken or of another size than the json says, or a mask is broken.
        """
        name = self._masks.files[index]
        file = self._file(index)
        if file is None:
            raise UserError(f"'{name}' is missing")
        image = read_rgb(file, name, upright=True)
        return image, _of_one_size(self._masks.labels(name), image, name)

    def split(self, name: str) -> list[int]:
        """Refuse: such a json declares no splits."""
        raise _no_split(self._path, self.name, name)

    def _file(self, index: int) -> Path | None:
        name = self._masks.files[index]
        beside = self._path.parent
        folders = [beside, beside / "images"]
        if beside.name == "annotations":
            folders.append(beside.parent / "images")
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


def find_masked(path: Path) -> MaskedFolderSource | CocoSource | None:
    """Recognise pictures with masks in a folder, or a COCO json.

    Raises:
        UserError: The folder holds several COCO files, or two pictures that would share a mask.
    """
    if path.is_file():
        masks = read_coco(path)
        if masks is None:
            raise UserError(f"'{path}' is a json without 'images' and 'annotations', expected a COCO file")
        return CocoSource(path, masks)
    files = sorted([*path.glob("*.json"), *path.glob("annotations/*.json")])
    found = [(file, masks) for file in files[:_MOST_FILES] if (masks := read_coco(file)) is not None]
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found)
        raise UserError(f"'{path}' holds {len(found)} COCO files ({names}): name one of them")
    if found:
        return CocoSource(*found[0])
    for inside in _MASK_FOLDERS:
        if (path / "images").is_dir() and _has_pictures(path / inside):
            stems = [_by_stem(FolderSource(path / name), name) for name in ("images", inside)]
            return MaskedFolderSource(path, *stems)
    return _beside(path)


def _has_pictures(folder: Path) -> bool:
    """Whether there is a picture in a folder or below it."""
    return any(file.suffix.lower() in PICTURE_SUFFIXES for file in folder.rglob("*"))


def _beside(path: Path) -> MaskedFolderSource | None:
    """Pictures with ``NAME_mask.png`` beside them, in a folder that has such files at its top."""
    end = _MASK_END + ".png"
    if not any(entry.name.lower().endswith(end) and not entry.name.startswith(".") for entry in os.scandir(path)):
        return None
    files = FolderSource(path)
    stems = _by_stem(files, "")
    masks = {key.removesuffix(_MASK_END): name for key, name in stems.items() if key.endswith(_MASK_END)}
    images = {key: name for key, name in stems.items() if not key.endswith(_MASK_END)}
    return MaskedFolderSource(path, images, masks)


def _by_stem(source: FolderSource, inside: str) -> dict[str, str]:
    """Path below the root by path without suffix."""
    stems: dict[str, str] = {}
    for index in range(len(source)):
        name = source.scene_name(index)
        stem, suffix = os.path.splitext(name)
        assert suffix.lower() in PICTURE_SUFFIXES
        whole = f"{inside}/{name}" if inside else name
        if stem in stems:
            raise UserError(f"'{stems[stem]}' and '{whole}' differ in their ending alone: rename one of them")
        stems[stem] = whole
    return stems


def _of_one_size(labels: NDArray[np.uint8], image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if labels.shape != image.shape[:2]:
        got, expected = "{}x{}".format(*labels.shape), "{}x{}".format(*image.shape)
        raise UserError(f"mask of '{name}' is {got} but its picture is {expected}: write both at one size")
    return labels


def _no_split(path: Path, kind: str, name: str) -> UserError:
    return NoSplitError(f"'{path}' is a {kind}, which has no '{name}' split: use 'all' or a slice such as ':-50'")
