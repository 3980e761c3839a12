"""The objects of the made-up scenes: outlines as signed distances, colours, who hides whom.

Lengths here are in units of the image's short side, (x, y) from the top left corner, y down, so that a scene does not
depend on the number of pixels. Inside a shape's own frame lengths are in units of its radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np

from astseg.data.synthetic.exact import Colour, FloatArray, RandomStream, clamp, hue_colour

__all__ = [
    "SHAPES",
    "PlacedObject",
    "Raster",
    "draw_object",
    "hidden_shares",
    "lowest_point",
]

DistanceFunction: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

MINIMUM_RADIUS, MAXIMUM_RADIUS = 0.08, 0.15
_COLOUR_ATTEMPTS = 24
_COLOUR_GAP = 0.6


@dataclass(frozen=True)
class PlacedObject:
    """One object of a scene, free of pixels.

    Attributes:
        shape: A name of :data:`SHAPES`.
        colour: RGB in [0, 1].
        gloss: Strength of the highlight in [0, 1].
        x: Centre, in short sides from the left edge.
        y: Centre, in short sides from the top edge.
        radius: Radius of the circle around the shape, in short sides.
        cosine: Cosine of the rotation.
        sine: Sine of the rotation (clockwise, as y points down).
    """

    shape: str
    colour: Colour
    gloss: float
    x: float
    y: float
    radius: float
    cosine: float
    sine: float

    def distance(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Signed distance to the outline in units of the radius, negative inside; x and y in short sides, broadcast."""
        across, down = (x - self.x) / self.radius, (y - self.y) / self.radius
        return SHAPES[self.shape][0](across * self.cosine + down * self.sine, down * self.cosine - across * self.sine)


@dataclass(frozen=True)
class Raster:
    """The pixel grid: H x W pixels, each 1 / min(H, W) short sides wide."""

    height: int
    width: int

    @property
    def short_side(self) -> int:
        """Pixels of the shorter side."""
        return min(self.height, self.width)

    @property
    def extent(self) -> tuple[float, float]:
        """(x, y) of the bottom right corner in short sides; the same for all sizes of one aspect ratio."""
        return self.width / self.short_side, self.height / self.short_side

    @property
    def step(self) -> float:
        """Width of a pixel in short sides."""
        return 1.0 / self.short_side

    def columns(self, first: int = 0, last: int | None = None) -> FloatArray:
        """Centres of the columns first .. last - 1, shape N, in short sides; may lie outside the image."""
        return (np.arange(first, self.width if last is None else last) + 0.5) / self.short_side

    def rows(self, first: int = 0, last: int | None = None) -> FloatArray:
        """Centres of the rows first .. last - 1, shape N x 1, in short sides; may lie outside the image."""
        return ((np.arange(first, self.height if last is None else last) + 0.5) / self.short_side)[:, None]

    def box(self, x: float, y: float, reach: float) -> tuple[int, int, int, int]:
        """Rows top .. bottom - 1 and columns left .. right - 1 of the image within reach of a point."""
        side = self.short_side
        top, bottom = math.floor((y - reach) * side), math.ceil((y + reach) * side)
        left, right = math.floor((x - reach) * side), math.ceil((x + reach) * side)
        return max(top, 0), min(bottom, self.height), max(left, 0), min(right, self.width)


def _ball(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.sqrt(x * x + y * y) - 1.0


def _ellipse(x: FloatArray, y: FloatArray) -> FloatArray:
    # First-order distance k (k - 1) / |grad k^2 / 2|, exact on the outline; toward the centre a multiple of k - 1, so
    # that the surface has no crease along the long axis.
    narrow = 0.62
    down = y / narrow
    level = np.sqrt(x * x + down * down)
    steeper = down / narrow
    slope = level / (np.sqrt(x * x + steeper * steeper) + 1e-9)
    distance: FloatArray = (level - 1.0) * (narrow + (slope - narrow) * np.minimum(level * level, 1.0))
    return distance


def _rounded_box(x: FloatArray, y: FloatArray, half_width: float, half_height: float, corner: float) -> FloatArray:
    across, down = np.abs(x) - (half_width - corner), np.abs(y) - (half_height - corner)
    outside_x, outside_y = np.maximum(across, 0.0), np.maximum(down, 0.0)
    outside = np.sqrt(outside_x * outside_x + outside_y * outside_y)
    distance: FloatArray = outside + np.minimum(np.maximum(across, down), 0.0) - corner
    return distance


def _box(x: FloatArray, y: FloatArray) -> FloatArray:
    return _rounded_box(x, y, 0.76, 0.76, 0.2)


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.minimum(_rounded_box(x, y, 0.95, 0.34, 0.12), _rounded_box(x, y, 0.34, 0.95, 0.12))


def _capsule(x: FloatArray, y: FloatArray) -> FloatArray:
    along = np.maximum(np.abs(x) - 0.56, 0.0)
    return np.sqrt(along * along + y * y) - 0.44


def _ring(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.abs(np.sqrt(x * x + y * y) - 0.69) - 0.31


def _to_segment(x: FloatArray, y: FloatArray, tip: float, notch: tuple[float, float]) -> FloatArray:
    """Signed distance to the side from the tip (0, tip) to the notch, for points folded into that side's sector."""
    side_x, side_y = notch[0], notch[1] - tip
    from_tip = y - tip
    share = clamp((x * side_x + from_tip * side_y) / (side_x * side_x + side_y * side_y))
    gap_x, gap_y = x - side_x * share, from_tip - side_y * share
    distance = np.sqrt(gap_x * gap_x + gap_y * gap_y)
    return np.where(side_x * from_tip - side_y * x < 0.0, -distance, distance)


def _triangle(x: FloatArray, y: FloatArray) -> FloatArray:
    x = np.abs(x)
    beyond = np.maximum(0.5 * x - 0.8660254037844386 * y, 0.0)  # mirror at 60 degrees from the tip
    x, y = np.abs(x - beyond), y + 1.7320508075688772 * beyond
    return _to_segment(x, y, 0.86, (0.86 * 0.4330127018922193, 0.86 * 0.25)) - 0.14


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    cosine, sine = 0.8090169943749475, 0.5877852522924731  # 36 degrees, half a tenth of the star each way
    x = np.abs(x)
    beyond = 2.0 * np.maximum(cosine * x - sine * y, 0.0)
    x, y = x - cosine * beyond, y + sine * beyond
    beyond = 2.0 * np.maximum(-cosine * x - sine * y, 0.0)
    x, y = np.abs(x + cosine * beyond), y + sine * beyond
    return _to_segment(x, y, 0.92, (0.47 * sine, 0.47 * cosine)) - 0.08


# Name -> distance function and how far in from the outline the surface still rises, in radii.
SHAPES: dict[str, tuple[DistanceFunction, float]] = {
    "ball": (_ball, 1.0),
    "box": (_box, 0.3),
    "triangle": (_triangle, 0.3),
    "star": (_star, 0.42),
    "ellipse": (_ellipse, 0.62),
    "ring": (_ring, 0.31),
    "capsule": (_capsule, 0.44),
    "cross": (_cross, 0.3),
}


@cache
def _inner_points(shape: str) -> tuple[FloatArray, FloatArray]:
    """Points of a regular grid that lie inside a shape, in its own frame: x and y, shape N each."""
    line = (np.arange(15) - 7.0) / 7.0
    x, y = np.broadcast_to(line, (15, 15)), np.broadcast_to(line[:, None], (15, 15))
    inside = SHAPES[shape][0](x, y) < 0.0
    return x[inside], y[inside]


def _image_points(placed: PlacedObject) -> tuple[FloatArray, FloatArray]:
    x, y = _inner_points(placed.shape)
    radius, cosine, sine = placed.radius, placed.cosine, placed.sine
    return (x * cosine - y * sine) * radius + placed.x, (x * sine + y * cosine) * radius + placed.y


def lowest_point(shape: str, cosine: float, sine: float) -> float:
    """How far below its centre a rotated shape reaches, in radii."""
    x, y = _inner_points(shape)
    return float(np.max(x * sine + y * cosine))


def hidden_shares(objects: list[PlacedObject]) -> list[float]:
    """Share of each object in [0, 1] that later objects of the list hide."""
    shares = []
    for order, lower in enumerate(objects):
        hidden = None
        for upper in objects[order + 1 :]:
            apart_x, apart_y, reach = upper.x - lower.x, upper.y - lower.y, upper.radius + lower.radius
            if apart_x * apart_x + apart_y * apart_y < reach * reach:
                covered = upper.distance(*_image_points(lower)) < 0.0
                hidden = covered if hidden is None else hidden | covered
        shares.append(0.0 if hidden is None else int(np.count_nonzero(hidden)) / len(hidden))
    return shares


def draw_object(stream: RandomStream, *, avoid: list[Colour]) -> PlacedObject:
    """A random object at (0, 0), its colour away from the colours to avoid where a few attempts find one."""
    names = tuple(SHAPES)
    shape = names[stream.integer(len(names))]
    radius = stream.between(MINIMUM_RADIUS, MAXIMUM_RADIUS)
    cosine, sine = stream.direction()
    best, best_gap = (0.5, 0.5, 0.5), -1.0
    for _ in range(_COLOUR_ATTEMPTS):
        dull = stream.unit() < 0.25
        saturation = stream.between(0.1, 0.45) if dull else stream.between(0.6, 0.95)
        colour = hue_colour(stream.unit(), saturation, stream.between(0.4, 0.95))
        gap = min((_colour_gap(colour, other) for other in avoid), default=9.0)
        if gap > best_gap:
            best, best_gap = colour, gap
        if gap > _COLOUR_GAP:
            break
    gloss = stream.between(0.1, 0.6)
    return PlacedObject(shape, best, gloss, 0.0, 0.0, radius, cosine, sine)


def _colour_gap(first: Colour, second: Colour) -> float:
    """Sum over RGB of the absolute differences, 0 to 3."""
    return abs(first[0] - second[0]) + abs(first[1] - second[1]) + abs(first[2] - second[2])
