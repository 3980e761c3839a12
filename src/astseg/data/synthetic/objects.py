"""The objects of the synthetic scenes: outlines as signed distances, colours, shading, shadows and occlusion.

Positions and lengths are in units of the image's short side, (x, y) from the top left corner, y down, so that a scene
does not depend on the number of pixels. In a shape's own frame the unit is its radius.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SHAPES",
    "Colour",
    "FloatArray",
    "Raster",
    "SyntheticObject",
    "cast_shadow",
    "hidden_shares",
    "lowest_point",
    "paint",
    "random_object",
    "smoothstep",
]

FloatArray: TypeAlias = NDArray[np.float64]
Colour: TypeAlias = tuple[float, float, float]

_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.08, 0.15
_COLOUR_ATTEMPTS = 24
_COLOUR_GAP = 0.6  # sum of absolute differences over RGB in [0, 1]
# Unit vectors: light from above left in front of the image, and halfway between it and the camera.
_LIGHT = (-0.48, -0.6, 0.64)
_HALFWAY = (-0.265, -0.3313, 0.9055)


@dataclass(frozen=True)
class SyntheticObject:
    """One object.

    Attributes:
        shape: A name of :data:`SHAPES`.
        colour: RGB in [0, 1], before shading.
        gloss: Strength of the highlight in [0, 1].
        x: Centre, in short sides from the left edge.
        y: Centre, in short sides from the top edge.
        radius: Of the circle around the shape, in short sides.
        angle: Clockwise rotation in radians, 0 to 2 pi.
    """

    shape: str
    colour: Colour
    gloss: float
    x: float
    y: float
    radius: float
    angle: float

    def distance(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Signed distance to the outline in radii, negative inside; x and y in short sides, broadcast."""
        right, down = (x - self.x) / self.radius, (y - self.y) / self.radius
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return SHAPES[self.shape][0](right * cosine + down * sine, down * cosine - right * sine)


class Raster:
    """The pixel grid of an image, in short sides.

    Attributes:
        shape: (H, W).
        side: Pixels of the shorter side.
        extent: (x, y) of the bottom right corner.
        x: Centres of the columns, W.
        y: Centres of the rows, H x 1.
    """

    def __init__(self, height: int, width: int) -> None:
        """Lay H x W pixels, each 1 / min(H, W) wide."""
        self.shape = (height, width)
        self.side = min(height, width)
        self.extent = (width / self.side, height / self.side)
        self.x = (np.arange(width) + 0.5) / self.side
        self.y = (np.arange(height)[:, None] + 0.5) / self.side

    def box(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the image within reach of a point."""
        (top, left), (bottom, right) = (
            (max(0, math.floor(side * self.side)) for side in corner)
            for corner in ((y - reach, x - reach), (y + reach + 1.0 / self.side, x + reach + 1.0 / self.side))
        )
        return slice(top, bottom), slice(left, right)

    def share(self, distance: FloatArray) -> FloatArray:
        """Share of pixels in [0, 1] beyond an edge, from the distance of their centres, positive beyond."""
        return np.clip(0.5 + distance * self.side, 0.0, 1.0)


def smoothstep(values: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, and 3 t^2 - 2 t^3 between."""
    inside = np.clip(values, 0.0, 1.0)
    return inside * inside * (3.0 - 2.0 * inside)


def _polygon(x: FloatArray, y: FloatArray, *, corners: Sequence[tuple[float, float]], rounding: float) -> FloatArray:
    """Distance to a polygon that is widened by a rounding."""
    distance, inside = np.full(1, np.inf), np.zeros(1, np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        across, down = x1 - x0, y1 - y0
        share = np.clip(((x - x0) * across + (y - y0) * down) / (across**2 + down**2), 0.0, 1.0)
        distance = np.minimum(distance, np.hypot(x - x0 - share * across, y - y0 - share * down))
        if down:
            inside = inside ^ (((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (across / down)))
    return np.where(inside, -distance, distance) - rounding


def _corners(radii: Sequence[float]) -> list[tuple[float, float]]:
    """Points around the centre at equal angles."""
    angles = [2.0 * math.pi * number / len(radii) for number in range(len(radii))]
    return [(radius * math.sin(angle), radius * math.cos(angle)) for radius, angle in zip(radii, angles, strict=True)]


_CROSS = [
    (x * i, y * j)
    for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    for x, y in ((0.83, 0.22), (0.22, 0.22), (0.22, 0.83))[:: i * j]
]

# Name -> distance function and how far in from the outline the surface still rises, in radii.
SHAPES: dict[str, tuple[Callable[[FloatArray, FloatArray], FloatArray], float]] = {
    "ball": (lambda x, y: np.hypot(x, y) - 1.0, 1.0),
    "box": (partial(_polygon, corners=_corners([0.56 * math.sqrt(2.0)] * 4), rounding=0.2), 0.3),
    "triangle": (partial(_polygon, corners=_corners([0.86] * 3), rounding=0.14), 0.3),
    "star": (partial(_polygon, corners=_corners([0.92, 0.47] * 5), rounding=0.08), 0.42),
    # Not quite a distance, but without the crease that one would have along the long axis.
    "ellipse": (lambda x, y: 0.75 * (np.hypot(x, y / 0.62) - 1.0), 0.75),
    "ring": (lambda x, y: np.abs(np.hypot(x, y) - 0.69) - 0.31, 0.31),
    "capsule": (lambda x, y: np.hypot(np.maximum(np.abs(x) - 0.56, 0.0), y) - 0.44, 0.44),
    "cross": (partial(_polygon, corners=_CROSS, rounding=0.12), 0.3),
}


def random_object(generator: np.random.Generator, *, avoid: Sequence[Colour]) -> SyntheticObject:
    """An object at (0, 0), its colour away from the colours to avoid where a few attempts find one."""
    shape, radius = str(generator.choice(list(SHAPES))), generator.uniform(_SMALLEST_RADIUS, _LARGEST_RADIUS)
    best, best_gap = (0.5, 0.5, 0.5), -1.0
    for _ in range(_COLOUR_ATTEMPTS):
        saturation = generator.uniform(0.1, 0.45) if generator.random() < 0.25 else generator.uniform(0.6, 0.95)
        colour = colorsys.hsv_to_rgb(generator.random(), saturation, generator.uniform(0.4, 0.95))
        gap = min((sum(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in avoid), default=3.0)
        if gap > best_gap:
            best, best_gap = colour, gap
        if gap > _COLOUR_GAP:
            break
    gloss, angle = generator.uniform(0.1, 0.6), generator.uniform(0.0, 2.0 * math.pi)
    return SyntheticObject(shape, best, gloss, 0.0, 0.0, radius, angle)


@cache
def _inner_points(shape: str) -> tuple[FloatArray, FloatArray]:
    """Points of a regular grid inside a shape, in its own frame: x and y, shape N each."""
    y, x = np.mgrid[-7:8, -7:8] / 7.0
    inside = SHAPES[shape][0](x, y) < 0.0
    return x[inside], y[inside]


def _image_points(placed: SyntheticObject) -> tuple[FloatArray, FloatArray]:
    x, y = _inner_points(placed.shape)
    cosine, sine = placed.radius * math.cos(placed.angle), placed.radius * math.sin(placed.angle)
    return x * cosine - y * sine + placed.x, x * sine + y * cosine + placed.y


def lowest_point(placed: SyntheticObject) -> float:
    """Where an object touches the floor, y in short sides."""
    return float(_image_points(placed)[1].max())


def hidden_shares(objects: Sequence[SyntheticObject]) -> list[float]:
    """Share of each object in [0, 1] that later objects of the list hide."""
    shares = []
    for order, lower in enumerate(objects):
        hidden = np.zeros(len(_inner_points(lower.shape)[0]), np.bool_)
        for upper in objects[order + 1 :]:
            if math.hypot(upper.x - lower.x, upper.y - lower.y) < upper.radius + lower.radius:
                hidden |= upper.distance(*_image_points(lower)) < 0.0
        shares.append(float(hidden.mean()))
    return shares


def paint(canvas: FloatArray, labels: NDArray[np.uint8], label: int, placed: SyntheticObject, raster: Raster) -> None:
    """Paint a shaded object over the canvas, H x W x 3, and its label where it covers half of a pixel.

    The surface rises from the outline as a quarter circle and goes on as a shallow dome; diffuse light, a highlight
    and a darker rim follow from its normals and the fixed light.
    """
    box = raster.box(placed.x, placed.y, placed.radius + 1.0 / raster.side)
    x, y = raster.x[box[1]], raster.y[box[0]]
    distance = placed.distance(x, y)
    coverage = raster.share(-distance * placed.radius)
    labels[box][coverage >= 0.5] = label
    down, right = np.gradient(distance, 1.0 / (placed.radius * raster.side))
    rim = 1.0 - np.clip(distance / -SHAPES[placed.shape][1], 0.0, 1.0)
    dome = 0.42 * (1.0 - rim) / placed.radius
    normal_x, normal_y = right * rim + (x - placed.x) * dome, down * rim + (y - placed.y) * dome
    normal_z = np.sqrt(np.maximum(1.0 - normal_x**2 - normal_y**2, 0.0))
    facing, mirror = (
        np.maximum(normal_x * light[0] + normal_y * light[1] + normal_z * light[2], 0.0) for light in (_LIGHT, _HALFWAY)
    )
    shade = 0.36 + 0.2 * normal_z + 0.62 * facing
    colours = shade[..., None] * np.array(placed.colour) + placed.gloss * mirror[..., None] ** 32
    canvas[box] += (colours - canvas[box]) * coverage[..., None]


def cast_shadow(canvas: FloatArray, placed: SyntheticObject, raster: Raster, *, standing: bool) -> None:
    """Darken the canvas, H x W x 3, in place where an object keeps the light away.

    Args:
        canvas: Colours in [0, 1] before the light of the scene.
        placed: The object.
        raster: The pixel grid.
        standing: Whether the object stands on a floor (an ellipse around its foot) or lies flat (its outline, shifted).
    """
    radius = placed.radius
    if standing:
        x, y, blur, strength = placed.x + 0.22 * radius, lowest_point(placed) - 0.08 * radius, 0.75, 0.45
    else:
        x, y, blur, strength = placed.x + 0.18 * radius, placed.y + 0.23 * radius, 0.5, 0.4
    box = raster.box(x, y, (1.0 + blur) * radius)
    columns, rows = raster.x[box[1]], raster.y[box[0]]
    if standing:
        distance = np.hypot((columns - x) / radius, (rows - y) / (0.36 * radius)) - 1.0
    else:
        distance = placed.distance(columns - (x - placed.x), rows - (y - placed.y))
    canvas[box] *= 1.0 - strength * smoothstep((blur - distance) / (2.0 * blur))[..., None]
