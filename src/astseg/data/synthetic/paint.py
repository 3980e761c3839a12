"""The objects of the made-up scenes as pixels: coverage, shading and shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astseg.data.synthetic.exact import FloatArray, clamp, smoothstep
from astseg.data.synthetic.shapes import SHAPES, PlacedObject, Raster, lowest_point

__all__ = ["Outline", "outline", "paint", "shadow"]

# Unit vectors: the light comes from above left in front of the picture; the second lies halfway to the eye.
_LIGHT = (-0.48, -0.6, 0.64)
_HALFWAY = (-0.265, -0.3313, 0.9055)


def shadow(canvas: FloatArray, placed: PlacedObject, raster: Raster, *, flat: bool) -> None:
    """Darken the canvas, 3 x H x W, in place where the object keeps the light away.

    Args:
        canvas: Colours in [0, 1] before the light of the scene.
        placed: The object.
        raster: The pixel grid.
        flat: True for an object that lies on what is shown (its outline, shifted), False for one that stands on a floor
            (an ellipse around its foot).
    """
    radius = placed.radius
    if flat:
        x, y, blur, strength = placed.x + 0.18 * radius, placed.y + 0.23 * radius, 0.5, 0.4
    else:
        foot = lowest_point(placed.shape, placed.cosine, placed.sine)
        x, y, blur, strength = placed.x + 0.22 * radius, placed.y + (foot - 0.08) * radius, 0.75, 0.45
    top, bottom, left, right = raster.box(x, y, (1.0 + blur) * radius)
    if top >= bottom or left >= right:
        return
    columns, rows = raster.columns(left, right), raster.rows(top, bottom)
    if flat:
        distance = placed.distance(columns - (x - placed.x), rows - (y - placed.y))
    else:
        across, down = (columns - x) / radius, (rows - y) / (0.36 * radius)
        distance = np.sqrt(across * across + down * down) - 1.0
    canvas[:, top:bottom, left:right] *= 1.0 - strength * smoothstep((blur - distance) / (2.0 * blur))


@dataclass(frozen=True)
class Outline:
    """Where an object meets the pixel grid.

    Attributes:
        box: Rows top .. bottom - 1, columns left .. right - 1.
        distance: (bottom - top + 2) x (right - left + 2), signed distance in radii, a pixel more on each side.
        coverage: (bottom - top) x (right - left), share of each pixel that the object covers, in [0, 1].
    """

    box: tuple[int, int, int, int]
    distance: FloatArray
    coverage: FloatArray


def outline(placed: PlacedObject, raster: Raster) -> Outline:
    """Meet an object with the pixel grid; pixels on the edge are covered by the share their centre's distance tells."""
    top, bottom, left, right = box = raster.box(placed.x, placed.y, placed.radius + raster.step)
    distance = placed.distance(raster.columns(left - 1, right + 1), raster.rows(top - 1, bottom + 1))
    coverage = clamp(0.5 - distance[1:-1, 1:-1] * (placed.radius * raster.short_side))
    return Outline(box, distance, coverage)


def paint(canvas: FloatArray, placed: PlacedObject, raster: Raster, outline: Outline) -> None:
    """Paint a shaded object over the canvas, 3 x H x W, in place.

    The surface rises from the outline as a quarter circle and goes on as a shallow dome; a matte part, a highlight
    and a darker rim follow from its slope and the fixed light.
    """
    top, bottom, left, right = outline.box
    across = (raster.columns(left, right) - placed.x) / placed.radius
    down = (raster.rows(top, bottom) - placed.y) / placed.radius
    per_pixel = 0.5 * placed.radius * raster.short_side
    grow_x = (outline.distance[1:-1, 2:] - outline.distance[1:-1, :-2]) * per_pixel
    grow_y = (outline.distance[2:, 1:-1] - outline.distance[:-2, 1:-1]) * per_pixel
    rise = 1.0 - clamp(outline.distance[1:-1, 1:-1] * (-1.0 / SHAPES[placed.shape][1]))
    dome = 0.42 * (1.0 - rise)
    slope_x, slope_y = grow_x * rise + across * dome, grow_y * rise + down * dome
    height = np.sqrt(np.maximum(1.0 - slope_x * slope_x - slope_y * slope_y, 0.0))
    facing = np.maximum(slope_x * _LIGHT[0] + slope_y * _LIGHT[1] + height * _LIGHT[2], 0.0)
    mirror = np.maximum(slope_x * _HALFWAY[0] + slope_y * _HALFWAY[1] + height * _HALFWAY[2], 0.0)
    mirror = mirror * mirror
    mirror = mirror * mirror
    mirror = mirror * mirror
    mirror = mirror * mirror
    highlight = placed.gloss * mirror * mirror  # the 32nd power
    shade = 0.36 + 0.2 * height + 0.62 * facing
    area = canvas[:, top:bottom, left:right]
    for channel, tone in zip(area, placed.colour, strict=True):
        channel += (tone * shade + highlight - channel) * outline.coverage
