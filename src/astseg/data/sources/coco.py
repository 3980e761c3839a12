"""Images whose objects a COCO json outlines: polygons and run lengths of each image to one label map.

Source: the COCO data format (cocodataset.org). Where objects overlap, the smaller one is in front; crowds are left out,
since they are no objects. Categories are not looked at.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.data.formats.pictures import check_mask_size, read_rgb
from astseg.data.formats.rle import mask_from_runs, runs_from_text
from astseg.data.source import SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CocoSource", "find_coco", "polygon_mask"]


class CocoSource(SceneSource):
    """The images that a COCO json lists, beside it, in ``images`` there, or in ``images`` beside ``annotations``."""

    has_labels = True

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        """Take the content of a json.

        Raises:
            UserError: It lacks what COCO asks for.
        """
        self.name = f"pictures with COCO masks, {path.name}"
        self._path = path
        self._objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._sizes: dict[str, tuple[int, int]] = {}
        try:
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            for image in content["images"]:
                self._sizes[str(image["file_name"])] = (int(image["height"]), int(image["width"]))
            for annotation in content["annotations"]:
                if not annotation.get("iscrowd"):
                    self._objects[names[annotation["image_id"]]].append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"'{path}' is no whole COCO file ({type(error).__name__}: {error}): expected images with id, file_name,"
                " height and width, and annotations with image_id and segmentation"
            ) from None
        self._files = list(self._sizes)

    def __len__(self) -> int:
        """Number of images that the json lists."""
        return len(self._files)

    def scene_name(self, index: int) -> str:
        """Name of an image, as the json has it."""
        return self._files[index]

    def problem(self, index: int) -> str | None:
        """Whether the image is missing."""
        return None if self._file(index) else f"'{self._files[index]}' is missing"

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and labels, objects in the order of the json.

        Raises:
            UserError: The image is missing, broken or of another size than the json says, or a mask is broken.
        """
        name, file = self._files[index], self._file(index)
        if file is None:
            raise UserError(f"'{name}' is missing")
        image = read_rgb(file, name, upright=True)
        labels = self._labels(name)
        check_mask_size(labels, image, f"mask of '{name}'")
        return image, labels

    def _file(self, index: int) -> Path | None:
        name, beside = self._files[index], self._path.parent
        folders = [beside, beside / "images"]
        if beside.name == "annotations":
            folders.append(beside.parent / "images")
        return next((folder / name for folder in folders if (folder / name).is_file()), None)

    def _labels(self, name: str) -> NDArray[np.uint8]:
        """The label map of an image."""
        height, width = self._sizes[name]
        objects = self._objects.get(name, [])
        if len(objects) > 255:
            raise UserError(f"'{name}' has {len(objects)} objects in '{self._path.name}', expected at most 255")
        masks = []
        for annotation in objects:
            try:
                masks.append(_mask(annotation["segmentation"], height, width))
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                known = annotation.get("id", "?")
                raise UserError(
                    f"annotation {known} of '{name}' in '{self._path.name}' is broken ({error}): mend or remove it"
                ) from None
        labels = np.zeros((height, width), np.uint8)
        areas = [int(mask.sum()) for mask in masks]
        for index in sorted(range(len(masks)), key=lambda index: -areas[index]):
            labels[masks[index]] = index + 1
        return labels


def find_coco(path: Path) -> CocoSource | None:
    """Recognise a COCO json.

    Raises:
        UserError: The json is broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}): check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no readable json ({str(error).splitlines()[0]}): write it again") from None
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    return CocoSource(path, content)


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """One segmentation as H x W."""
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, the image's {[height, width]}")
        counts = segmentation["counts"]
        return mask_from_runs(runs_from_text(counts) if isinstance(counts, str) else counts, height, width)
    mask = np.zeros((height, width), np.bool_)
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers, expected x and y of three points or more")
        mask |= polygon_mask(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
    return mask


def polygon_mask(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose middle lies inside a polygon: those with an odd number of its edges to their left.

    Args:
        points: N x 2, (x, y) in pixels; (0, 0) is the corner of the first pixel.
        height: H.
        width: W.

    Raises:
        ValueError: A point is not finite.
    """
    if not np.isfinite(points).all():
        raise ValueError("a polygon has coordinates that are no numbers")
    inside = np.zeros((height, width), np.bool_)
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossed = np.flatnonzero((rows > min(y0, y1)) & (rows <= max(y0, y1)))
        if len(crossed):
            crossing = x0 + (rows[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= columns > crossing[:, None]
    return inside
