"""Images with masks of one's own: beside them, in a folder of their own, or in a COCO json.

::

    OWN/images/a.jpg   OWN/masks/a.png          the same name, whatever the ending; subfolders as in images
    OWN/a.jpg          OWN/a_mask.png
    OWN/a.jpg          OWN/objects.json         COCO; images may lie in OWN/images, the json in OWN/annotations

Labels are numbered 1, 2, ... in each image, in their own order, so that 16-bit instance numbers fit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.formats.labels import renumbered
from astseg.data.formats.pictures import PICTURE_SUFFIXES, check_mask_size, read_label_numbers, read_rgb
from astseg.data.source import SceneSource
from astseg.data.sources.coco import CocoSource, find_coco
from astseg.data.sources.folder import FolderSource
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CocoSource", "MaskedFolderSource", "find_masked"]

_MASK_FOLDERS = ("masks", "labels", "annotations")
_MASK_END = "_mask"
_MOST_FILES = 16
"""Json files that are looked into: more of them are something else, one beside each image."""


class MaskedFolderSource(SceneSource):
    """Images with a mask file each."""

    name = "folder of pictures with masks"
    has_labels = True

    def __init__(self, path: Path, images: dict[str, str], masks: dict[str, str]) -> None:
        """Take the files below a folder by the name that joins image and mask."""
        self._path = path
        self._images = images
        self._masks = masks
        self._keys = [*images, *sorted(masks.keys() - images.keys())]

    def __len__(self) -> int:
        """Number of images, and of masks without one."""
        return len(self._keys)

    def scene_name(self, index: int) -> str:
        """Path of an image below the folder."""
        key = self._keys[index]
        return self._images.get(key, key)

    def problem(self, index: int) -> str | None:
        """Which file of a scene is missing, or None."""
        key = self._keys[index]
        if key not in self._images:
            return f"the picture of mask '{self._masks[key]}' is missing"
        return None if key in self._masks else f"the mask of '{self._images[key]}' is missing"

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and labels of a scene."""
        if problem := self.problem(index):
            raise UserError(problem)
        image_name, mask_name = self._images[self._keys[index]], self._masks[self._keys[index]]
        image = read_rgb(self._path / image_name, image_name, upright=True)
        labels = renumbered(read_label_numbers(self._path / mask_name, mask_name), mask_name)
        check_mask_size(labels, image, f"mask '{mask_name}'")
        return image, labels

    def pictures(self) -> FolderSource:
        """The images alone, those without a mask too."""
        return FolderSource(self._path, list(self._images.values()))


def find_masked(path: Path) -> SceneSource | None:
    """Recognise images with masks in a folder, or a COCO json.

    Raises:
        UserError: The folder holds several COCO files, or two images that would share a mask.
    """
    if path.is_file():
        source = find_coco(path)
        if source is None:
            raise UserError(f"'{path}' is a json without 'images' and 'annotations', expected a COCO file")
        return source
    files = sorted([*path.glob("*.json"), *path.glob("annotations/*.json")])
    found = [(file, source) for file in files[:_MOST_FILES] if (source := find_coco(file)) is not None]
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found)
        raise UserError(f"'{path}' holds {len(found)} COCO files ({names}): name one of them")
    if found:
        return found[0][1]
    for inside in _MASK_FOLDERS:
        if (path / "images").is_dir() and _has_images(path / inside):
            stems = [_by_stem(FolderSource(path / name), name) for name in ("images", inside)]
            return MaskedFolderSource(path, *stems)
    return _beside(path)


def _has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(file.suffix.lower() in PICTURE_SUFFIXES for file in folder.rglob("*"))


def _beside(path: Path) -> MaskedFolderSource | None:
    """Images with ``NAME_mask.png`` beside them, in a folder that has such files at its top."""
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
