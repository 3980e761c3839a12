"""What ``astseg segment`` wrote, read back image by image: masks from the run lengths of its COCO json."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from astseg.data.formats.rle import mask_from_runs, runs_from_text
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SegmentedObject", "SegmentedImage", "Segmented"]


@dataclass(frozen=True)
class SegmentedObject:
    """One object.

    Attributes:
        mask: H x W.
        box: (x, y, width, height).
        order: 0 for the front-most.
        visibility: Fraction of it that nothing hides.
    """

    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    order: int
    visibility: float


@dataclass(frozen=True)
class SegmentedImage:
    """One image.

    Attributes:
        index: Its number in the json, from 0.
        name: Name of the file, below the folder it came from.
        result: What its results are called, without an ending.
        height: H.
        width: W.
        objects: Its objects.
    """

    index: int
    name: str
    result: str
    height: int
    width: int
    objects: tuple[SegmentedObject, ...]

    @property
    def is_text(self) -> bool:
        """Whether the name can be written into a file of text."""
        return all(letter.isprintable() or letter in "\n\t" for letter in self.name)


class Segmented:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        """Read the json.

        Args:
            folder: What ``astseg segment`` made.

        Raises:
            UserError: It is no such folder, its run was stopped, or a file of it is broken.
        """
        self.folder = folder
        if not (folder / "segment.json").is_file():
            raise UserError(f"'{folder}' was not made by 'astseg segment' (no segment.json): name its --out")
        if not (folder / "coco.json").is_file():
            raise UserError(f"'{folder}' has no coco.json, since its 'astseg segment' was stopped: run it again")
        about, content = _json(folder / "segment.json"), _json(folder / "coco.json")
        annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        try:
            self.root, self.given = Path(about["root"]), [str(one) for one in about["input"]]
            for annotation in content["annotations"]:
                annotations[annotation["image_id"]].append(annotation)
            self._entries = [(image, annotations[image["id"]]) for image in content["images"]]
        except (KeyError, TypeError) as error:
            raise self._broken(error) from None

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    def __getitem__(self, index: int) -> SegmentedImage:
        """An image with its masks. Raises UserError where the json is broken."""
        image, annotations = self._entries[index]
        try:
            height, width, name = int(image["height"]), int(image["width"]), str(image["file_name"])
            mask = PurePosixPath(image["mask"]).with_suffix("")
            result = str(mask.relative_to("masks"))
            objects = tuple(_object(annotation, height, width) for annotation in annotations)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._broken(error) from None
        if mask.is_absolute() or ".." in mask.parts:
            raise self._broken(ValueError(f"mask '{mask}' leads out of the folder"))
        return SegmentedImage(index, name, result, height, width, objects)

    def file_of(self, image: SegmentedImage) -> Path | None:
        """The file of an image, or None where it is a frame of a video, or not there any more."""
        file = self.root / image.name
        return file if file.is_file() else None

    def _broken(self, error: Exception) -> UserError:
        file = self.folder / "coco.json"
        return UserError(f"'{file}' or segment.json is broken ({type(error).__name__}: {error}): segment again")


def _object(annotation: dict[str, Any], height: int, width: int) -> SegmentedObject:
    x, y, across, down = (int(value) for value in annotation["bbox"])
    mask = mask_from_runs(runs_from_text(annotation["segmentation"]["counts"]), height, width)
    return SegmentedObject(
        mask, (x, y, across, down), int(annotation.get("order", 0)), float(annotation.get("visibility", 1))
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' cannot be read ({str(error).splitlines()[0]}): segment again") from None
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds {type(content).__name__}, expected names and values: segment again")
    return content


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, with ``/`` between its parts."""
    return os.path.relpath(path.absolute(), folder.absolute()).replace(os.sep, "/")
