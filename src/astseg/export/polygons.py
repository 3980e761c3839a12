"""Masks as polygons for tools that edit outlines: parts, holes, and as few points as keep the mask.

Coordinates are (x, y) in pixels; (0, 0) is the corner of the first pixel and (0.5, 0.5) its middle. A point is inside
where an odd number of edges lies to its left, so that a bridge walked there and back changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from contourpy import FillType, contour_generator

from astseg.data.sources.coco import polygon_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Part", "bridged", "parts_of"]

_TOLERANCE = 0.5
"""Pixels between an outline and its simplified form at first; halved until the mask is kept well enough."""

_KEPT = 0.98
"""Least IoU of a part and its simplified form."""

_TRIES = 5


@dataclass(frozen=True)
class Part:
    """A piece of a mask in one.

    Attributes:
        outline: N x 2.
        holes: N x 2 each.
    """

    outline: NDArray[np.float64]
    holes: tuple[NDArray[np.float64], ...]

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """The pixels whose middle lies inside, H x W."""
        inside = polygon_mask(self.outline, height, width)
        for hole in self.holes:
            inside &= ~polygon_mask(hole, height, width)
        return inside


def parts_of(mask: NDArray[np.bool_], *, simplify: bool = True) -> list[Part]:
    """The pieces of a mask, the largest first.

    Args:
        mask: H x W.
        simplify: Leave out points while the IoU of each piece stays at 0.98 or more. Otherwise the polygons give the
            mask exactly.
    """
    padded = np.pad(mask.astype(np.float64), 1)  # so that outlines close where the mask touches the border
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    filled: Any = generator.filled(0.5, np.inf)  # of several forms, by the type of filling
    parts = []
    for points, borders in zip(*filled, strict=True):
        # The first point comes again at the end; in the padded map middles have whole numbers.
        some = [points[begin : end - 1] - 0.5 for begin, end in zip(borders[:-1], borders[1:], strict=True)]
        part = Part(some[0], tuple(some[1:]))
        parts.append(_simplified(part) if simplify else part)
    return sorted(parts, key=lambda part: -_area(part.outline))


def bridged(parts: list[Part]) -> NDArray[np.float64]:
    """All pieces and holes as one polygon, for formats that have no more: joined by bridges without width.

    Returns:
        N x 2.
    """
    joined, *rest = [part.outline for part in parts] + [hole for part in parts for hole in part.holes]
    for ring in rest:
        distances = np.linalg.norm(joined[:, None] - ring[None], axis=2)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(ring, -int(there), axis=0)
        joined = np.concatenate([joined[: here + 1], around, around[:1], joined[here:]])
    return joined


def _simplified(part: Part) -> Part:
    """A part with fewer points, as long as its mask is kept."""
    low = np.floor(part.outline.min(axis=0)) - 1
    width, height = (np.ceil(part.outline.max(axis=0)) + 1 - low).astype(int)
    exact = Part(part.outline - low, tuple(hole - low for hole in part.holes)).mask(height, width)
    tolerance = _TOLERANCE
    for _ in range(_TRIES):
        outline = _fewer_points(part.outline, tolerance)
        holes = tuple(_fewer_points(hole, tolerance) for hole in part.holes)
        simple = Part(outline - low, tuple(hole - low for hole in holes)).mask(height, width)
        if np.count_nonzero(simple & exact) >= _KEPT * np.count_nonzero(simple | exact):
            return Part(outline, holes)
        tolerance /= 2
    return part


def _fewer_points(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """A closed ring without the points that lie within a distance of the others (Douglas and Peucker 1973).

    At least three points stay.
    """
    furthest = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = {0, furthest}
    pending = [(0, furthest), (furthest, len(ring))]
    while pending:
        begin, end = pending.pop()
        if end - begin < 2:
            continue
        away = _distances(closed[begin + 1 : end], closed[begin], closed[end])
        at = begin + 1 + int(away.argmax())
        if away.max() > tolerance:
            kept.add(at)
            pending += [(begin, at), (at, end)]
    if len(kept) < 3:
        kept.add(int(_distances(ring, ring[0], ring[furthest]).argmax()))
    return ring[sorted(kept)]


def _distances(
    points: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances of N x 2 points from the line through two others, or from the one point that both are."""
    (x, y), offset = end - begin, points - begin
    length = float(np.hypot(x, y))
    away = np.hypot(*offset.T) if length == 0 else np.abs(offset[:, 0] * y - offset[:, 1] * x) / length
    return np.asarray(away)


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
