"""One picture as CVAT, labelme and YOLO want its objects; facts from the documentation of each.

- **CVAT for images 1.1**: an XML with ``polygon`` (``points="x,y;x,y"``) and ``mask`` (run lengths of 0 and 1 in turn
  along the rows of the box). A polygon has no holes and one piece: an object that has more becomes a mask, exactly.
- **labelme**: a JSON a picture, ``shapes`` of ``points``. Pieces of an object are polygons of one ``group_id``; holes
  are cut in from the outline.
- **YOLO** (segmentation): a text file a picture, a line an object: class, then x and y of one polygon as parts of width
  and height. Pieces and holes are joined by bridges without width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np

from astseg.export.polygons import bridged, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.export.segmented import Found, Picture

__all__ = ["cvat_image", "labelme_file", "yolo_lines"]

_OCCLUDED = 0.9
"""An object of less visibility is marked as occluded."""


def cvat_image(picture: Picture, label: str) -> str:
    """The ``image`` element of a picture."""
    head = _element("image", id=picture.index, name=picture.name, width=picture.width, height=picture.height)
    lines = [f"  {head}>"]
    front = len(picture.objects)
    for found in picture.objects:
        common = {
            "label": label,
            "source": "auto",
            "occluded": int(found.visibility < _OCCLUDED),
            "z_order": front - found.order,
        }
        parts = parts_of(found.mask)
        if len(parts) == 1 and not parts[0].holes:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in parts[0].outline)
            lines.append(f"    {_element('polygon', **common, points=points)}/>")
        else:
            x, y, width, height = found.box
            inside = found.mask[y : y + height, x : x + width]
            place = {"left": x, "top": y, "width": width, "height": height}
            lines.append(f"    {_element('mask', **common, rle=_row_runs(inside), **place)}/>")
    return "\n".join([*lines, "  </image>"])


def labelme_file(picture: Picture, label: str, image_path: str) -> dict[str, Any]:
    """The content of the file of a picture; image_path: the picture as seen from the file."""
    shapes = []
    for number, found in enumerate(picture.objects, start=1):
        parts = parts_of(found.mask)
        for part in parts:
            shape = {
                "label": label,
                "points": np.round(bridged([part]), 2).tolist(),
                "group_id": number if len(parts) > 1 else None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            shapes.append(shape)
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": picture.height,
        "imageWidth": picture.width,
    }


def yolo_lines(picture: Picture) -> str:
    """The content of the label file of a picture, in class 0; empty where it has no objects."""
    size = np.array([picture.width, picture.height])
    lines = [" ".join(["0", *(f"{value:.6f}" for value in (ring / size).ravel())]) for ring in _rings(picture.objects)]
    return "".join(line + "\n" for line in lines)


def _rings(objects: tuple[Found, ...]) -> list[NDArray[np.float64]]:
    return [bridged(parts_of(found.mask)) for found in objects]


def _row_runs(mask: NDArray[np.bool_]) -> str:
    """Lengths of runs of 0 and 1 in turn, along the rows; they begin with zeros."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0))
    return ", ".join(str(length) for length in np.diff(starts, prepend=0, append=len(flat)))


def _element(tag: str, /, **attributes: object) -> str:
    """The beginning of an XML element, without its end."""
    return " ".join([f"<{tag}", *(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())])
