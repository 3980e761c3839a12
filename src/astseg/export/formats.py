"""One image as CVAT, labelme, YOLO, COCO and QuPath want its objects; facts from the documentation of each.

- **CVAT for images 1.1**: an XML with ``polygon`` (``points="x,y;x,y"``) and ``mask`` (run lengths of 0 and 1 in turn
  along the rows of the box). A polygon has no holes and one piece: an object that has more becomes a mask, exactly.
- **labelme**: a JSON an image, ``shapes`` of ``points``. Pieces of an object are polygons of one ``group_id``; holes
  are cut in from the outline.
- **YOLO** (segmentation): a text file an image, a line an object: class, then x and y of one polygon as fractions of
  width and height. Pieces and holes are joined by bridges without width.
- **COCO** with polygons: ``segmentation`` is a list of polygons, one a piece, without holes: these are cut in from the
  outline.
- **GeoJSON** (RFC 7946): a collection of features, each a ``Polygon`` or ``MultiPolygon`` whose rings are closed and
  whose holes are rings of their own. QuPath reads pixels of the image as coordinates, and the ``classification``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np

from astseg.export.polygons import bridged, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.export.polygons import Part
    from astseg.export.segmented import SegmentedImage

__all__ = ["coco_annotations", "cvat_image", "geojson_file", "labelme_file", "yolo_lines"]

_OCCLUDED = 0.9
"""An object of less visibility is marked as occluded."""


def cvat_image(image: SegmentedImage, label: str) -> str:
    """The ``image`` element of an image."""
    head = _element("image", id=image.index, name=image.name, width=image.width, height=image.height)
    lines = [f"  {head}>"]
    front = len(image.objects)
    for found in image.objects:
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


def labelme_file(image: SegmentedImage, label: str, image_path: str) -> dict[str, Any]:
    """The content of the file of an image; image_path: the image file as seen from there."""
    shapes = [
        {
            "label": label,
            "points": np.round(bridged([part]), 2).tolist(),
            "group_id": number if len(parts) > 1 else None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for number, parts in enumerate((parts_of(found.mask) for found in image.objects), start=1)
        for part in parts
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }


def yolo_lines(image: SegmentedImage) -> str:
    """The content of the label file of an image, in class 0; empty where it has no objects."""
    size = np.array([image.width, image.height])
    rings = (bridged(parts_of(found.mask)) / size for found in image.objects)
    return "".join(" ".join(["0", *(f"{value:.6f}" for value in ring.ravel())]) + "\n" for ring in rings)


def coco_annotations(image: SegmentedImage) -> list[dict[str, Any]]:
    """The annotations of an image with polygons, in category 1, without their ids."""
    return [
        {
            "image_id": image.index + 1,
            "category_id": 1,
            "segmentation": [np.round(bridged([part]), 2).ravel().tolist() for part in parts_of(found.mask)],
            "area": int(np.count_nonzero(found.mask)),
            "bbox": list(found.box),
            "iscrowd": 0,
        }
        for found in image.objects
    ]


def geojson_file(image: SegmentedImage, label: str) -> dict[str, Any]:
    """The content of the file of an image; coordinates are its pixels, y down."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": _geometry(parts_of(found.mask)),
                "properties": {"objectType": "annotation", "classification": {"name": label}},
            }
            for found in image.objects
        ],
    }


def _geometry(parts: list[Part]) -> dict[str, Any]:
    """A polygon with its holes, or several."""
    pieces = [[_closed(ring) for ring in (part.outline, *part.holes)] for part in parts]
    if len(pieces) == 1:
        return {"type": "Polygon", "coordinates": pieces[0]}
    return {"type": "MultiPolygon", "coordinates": pieces}


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    """Points of a ring, the first once more at the end."""
    points: list[list[float]] = np.round(ring, 2).tolist()
    return [*points, points[0]]


def _row_runs(mask: NDArray[np.bool_]) -> str:
    """Lengths of runs of 0 and 1 in turn, along the rows; they begin with zeros."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0))
    return ", ".join(str(length) for length in np.diff(starts, prepend=0, append=len(flat)))


def _element(tag: str, /, **attributes: object) -> str:
    """The beginning of an XML element, without its end."""
    return " ".join([f"<{tag}", *(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())])
