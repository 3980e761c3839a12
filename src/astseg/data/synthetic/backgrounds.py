"""What lies behind the objects of the made-up scenes: a fixed desk, rooms that always differ, and the light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from astseg.data.synthetic.exact import (
    Colour,
    FloatArray,
    RandomStream,
    clamp,
    hue_colour,
    lattice_noise,
    smoothstep,
    square_wave,
)
from astseg.data.synthetic.shapes import Raster

__all__ = ["DESK_COLOURS", "Room", "desk", "draw_light", "draw_room", "room"]

# The lightest and darkest wood, and the mean: what objects on the desk must differ from.
_WOOD_LIGHT: Colour = (0.80, 0.62, 0.43)
_WOOD_DARK: Colour = (0.53, 0.35, 0.21)
DESK_COLOURS: tuple[Colour, ...] = (_WOOD_LIGHT, _WOOD_DARK)
_PLANK_HEIGHT = 0.29
_DESK_SUPERSAMPLED_SIDE = 512


@lru_cache(maxsize=4)
def desk(raster: Raster) -> FloatArray:
    """The planks of the desk, 3 x H x W in [0, 1], read-only; one picture for every size, filtered to its pixels."""
    factor = max(1, _DESK_SUPERSAMPLED_SIDE // raster.short_side)
    fine = _wood(Raster(raster.height * factor, raster.width * factor))
    mean = np.zeros((3, raster.height, raster.width))
    for row in range(factor):  # added one by one: a library's own sum may order its additions as it likes
        for column in range(factor):
            mean += fine[:, row::factor, column::factor]
    mean /= float(factor * factor)
    mean.setflags(write=False)
    return mean


def _wood(raster: Raster) -> FloatArray:
    """Planks from left to right, 3 x H x W in [0, 1]: year lines bent by slow noise, fine fibres, dark seams."""
    x, y = raster.columns(), raster.rows()
    plank = np.floor(y / _PLANK_HEIGHT + 0.35)
    tone = lattice_noise(plank, plank, salt=11)
    shifted = x + plank * 3.7
    bend = lattice_noise(shifted * 1.3, y * 2.6, salt=1) + 0.4 * lattice_noise(shifted * 3.1, y * 6.0, salt=2)
    year = y * 13.0 + bend * 6.0 + tone * 5.0
    ring = np.abs((year - np.floor(year)) * 2.0 - 1.0)
    fibre = (
        lattice_noise(shifted * 7.0, y * 120.0, salt=3) * 0.6 + lattice_noise(shifted * 18.0, y * 260.0, salt=4) * 0.4
    )
    cloud = lattice_noise(shifted * 2.2, y * 4.0, salt=5)
    darkness = clamp(0.12 + 0.38 * smoothstep(ring * 1.2 - 0.2) + 0.3 * fibre + 0.22 * cloud + 0.3 * (tone - 0.5))
    position = y / _PLANK_HEIGHT + 0.35 - plank
    seam_distance = np.minimum(position, 1.0 - position) * _PLANK_HEIGHT
    seam = 1.0 - 0.55 * smoothstep(1.0 - seam_distance / 0.008) - 0.1 * smoothstep(1.0 - seam_distance / 0.03)
    return np.stack(
        [(light + (dark - light) * darkness) * seam for light, dark in zip(_WOOD_LIGHT, _WOOD_DARK, strict=True)]
    )


@dataclass(frozen=True)
class Room:
    """A room seen from its front: back wall, side walls, floor; lengths in short sides, shares in [0, 1].

    Attributes:
        wall: Colour of the walls.
        floor: Colour of the floor.
        board: Colour of the skirting board.
        horizon: Where the back wall meets the floor, from the top edge.
        vanishing: The point (x, y) where lines into the depth meet, above the horizon.
        corners: Left and right corner of the back wall; outside the image where that wall is not seen.
        side_shades: Brightness of the left and the right wall against the back wall.
        board_height: Height of the skirting board at the back wall.
        floor_pattern: ``plain``, ``tiles``, ``planks`` or ``carpet``.
        floor_contrast: Strength of the pattern.
        tile: Width of a tile or plank at the back wall.
        wall_pattern: ``plain``, ``stripes`` or ``plaster``.
        wall_contrast: Strength of the pattern.
        stripe: Width of a wall stripe.
        salt: Which noise.
    """

    wall: Colour
    floor: Colour
    board: Colour
    horizon: float
    vanishing: tuple[float, float]
    corners: tuple[float, float]
    side_shades: tuple[float, float]
    board_height: float
    floor_pattern: str
    floor_contrast: float
    tile: float
    wall_pattern: str
    wall_contrast: float
    stripe: float
    salt: int

    def floor_line(self, x: FloatArray) -> FloatArray:
        """Where the walls meet the floor: y for each x, any shape."""
        left, right = self.corners
        depth = self.horizon - self.vanishing[1]
        left_slope, right_slope = depth / (self.vanishing[0] - left), depth / (right - self.vanishing[0])
        return self.horizon + left_slope * np.maximum(left - x, 0.0) + right_slope * np.maximum(x - right, 0.0)


def draw_room(stream: RandomStream, raster: Raster) -> Room:
    """A random room for an image of this shape."""
    width, height = raster.extent
    horizon = stream.between(0.24, 0.42) * height
    middle = stream.between(0.35, 0.65) * width
    left = stream.between(0.08, 0.24) * width if stream.unit() < 0.45 else -1.0
    right = stream.between(0.76, 0.92) * width if stream.unit() < 0.45 else width + 1.0
    wall = hue_colour(stream.unit(), stream.between(0.04, 0.3), stream.between(0.6, 0.88))
    floor = hue_colour(stream.unit(), stream.between(0.08, 0.42), stream.between(0.35, 0.78))
    white = stream.between(0.75, 0.95)
    bright_left = stream.unit() < 0.5
    near, far = stream.between(1.03, 1.12), stream.between(0.74, 0.9)
    return Room(
        wall=wall,
        floor=floor,
        board=(white, white, 0.97 * white) if stream.unit() < 0.6 else hue_colour(stream.unit(), 0.35, 0.35),
        horizon=horizon,
        vanishing=(middle, horizon - stream.between(0.14, 0.3)),
        corners=(left, right),
        side_shades=(near, far) if bright_left else (far, near),
        board_height=stream.between(0.018, 0.04),
        floor_pattern=("plain", "tiles", "planks", "carpet")[stream.integer(4)],
        floor_contrast=stream.between(0.1, 0.3),
        tile=stream.between(0.1, 0.2),
        wall_pattern=("plain", "stripes", "plaster")[stream.integer(3)],
        wall_contrast=stream.between(0.05, 0.14),
        stripe=stream.between(0.05, 0.12),
        salt=stream.integer(1 << 30),
    )


def room(look: Room, raster: Raster) -> FloatArray:
    """Paint a room, 3 x H x W in [0, 1], before the light of the scene."""
    x, y = raster.columns(), raster.rows()
    line = look.floor_line(x)
    below = (y - line) * raster.short_side
    floor_share = clamp(0.5 + below)
    wall_scale = (line - look.vanishing[1]) / (look.horizon - look.vanishing[1])  # 1 at the back, more on side walls
    board_share = clamp(0.5 + below + look.board_height * raster.short_side * wall_scale)
    near_line = smoothstep(1.0 - np.abs(y - line) / 0.13)
    corner_dark = 1.0 - 0.12 * near_line * near_line
    wall = _wall_tone(look, raster, x, y) * corner_dark
    floor = _floor_tone(look, raster, x, y) * corner_dark
    board = _side_shade(look, raster, x) * (0.92 + 0.0 * y)
    wall_share, board_only = 1.0 - board_share, board_share - floor_share
    wall, board, floor = wall * wall_share, board * board_only, floor * floor_share
    return np.stack([look.wall[c] * wall + look.board[c] * board + look.floor[c] * floor for c in range(3)])


def _side_shade(look: Room, raster: Raster, x: FloatArray) -> FloatArray:
    """Brightness of the walls by column, shape W."""
    left = clamp(0.5 + (look.corners[0] - x) * raster.short_side)
    right = clamp(0.5 + (x - look.corners[1]) * raster.short_side)
    return 1.0 + (look.side_shades[0] - 1.0) * left + (look.side_shades[1] - 1.0) * right


def _wall_tone(look: Room, raster: Raster, x: FloatArray, y: FloatArray) -> FloatArray:
    """Brightness of the walls, H x W or broadcast to it."""
    fold = np.minimum(np.abs(x - look.corners[0]), np.abs(x - look.corners[1]))
    tone = _side_shade(look, raster, x) * (1.0 - 0.08 * smoothstep(1.0 - fold / 0.08)) * (1.05 - 0.14 * y)
    if look.wall_pattern == "stripes":
        tone = tone * (1.0 + look.wall_contrast * square_wave(x / look.stripe, raster.step / look.stripe))
    elif look.wall_pattern == "plaster":
        coarse, fine = (
            lattice_noise(x * 7.0, y * 7.0, salt=look.salt),
            lattice_noise(x * 23.0, y * 23.0, salt=look.salt + 1),
        )
        tone = tone * (1.0 + look.wall_contrast * (1.2 * coarse + 0.5 * fine - 0.85))
    return tone


def _floor_tone(look: Room, raster: Raster, x: FloatArray, y: FloatArray) -> FloatArray:
    """Brightness of the floor, H x W or broadcast to it; tiles and planks run to the vanishing point."""
    middle, top = look.vanishing
    depth = look.horizon - top
    drop = np.maximum(y - top, 0.5 * depth)
    distance = depth / drop  # 1 at the back wall, less in front
    tone = 0.9 + 0.16 * smoothstep((y - look.horizon) / 0.7)
    if look.floor_pattern == "plain":
        return tone
    if look.floor_pattern == "carpet":
        coarse, fine = (
            lattice_noise(x * 9.0, y * 16.0, salt=look.salt),
            lattice_noise(x * 31.0, y * 53.0, salt=look.salt + 1),
        )
        return tone * (1.0 + look.floor_contrast * (0.8 * coarse + 0.4 * fine - 0.6))
    pixel = distance * (raster.step / look.tile)
    across = square_wave((x - middle) * distance / look.tile, pixel)
    if look.floor_pattern == "planks":
        return tone * (1.0 + look.floor_contrast * across)
    rows = distance * (2.0 * depth / look.tile)
    along = square_wave(rows, pixel * (2.0 * depth) / drop)
    return tone * (1.0 + 2.0 * look.floor_contrast * across * along)


def draw_light(stream: RandomStream, raster: Raster) -> FloatArray:
    """A random light to multiply a scene with, 3 x H x W: brightness, a soft slope in some direction, a slight tint."""
    brightness = stream.between(0.8, 1.12)
    across, down = stream.direction()
    strength = stream.between(0.0, 0.22)
    warm, green = stream.between(-0.05, 0.05), stream.between(-0.02, 0.02)
    x, y = raster.columns() / raster.extent[0] - 0.5, raster.rows() / raster.extent[1] - 0.5
    light = brightness * (1.0 + strength * (x * (2.0 * across) + y * (2.0 * down)))
    return np.stack([light * (1.0 + warm), light * (1.0 + green), light * (1.0 - warm)])
