"""What lies behind the objects of the synthetic scenes: one fixed desk, rooms that always differ, and the light."""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache

import numpy as np
from PIL import Image

from astseg.data.synthetic.objects import Colour, FloatArray, Raster, smoothstep

__all__ = ["DESK_COLOURS", "Room", "desk", "random_light"]

# The lightest and darkest wood: what objects on the desk must differ from.
DESK_COLOURS: tuple[Colour, ...] = ((0.80, 0.62, 0.43), (0.53, 0.35, 0.21))
_PLANK_HEIGHT = 0.29
_DESK_SIDE = 512


@lru_cache(maxsize=4)
def desk(shape: tuple[int, int]) -> FloatArray:
    """The planks of the desk, H x W x 3 in [0, 1], read-only: one texture, resized to the pixels asked for."""
    generator = np.random.default_rng(11)
    rows, columns = (round(_DESK_SIDE * side / min(shape)) for side in shape)
    plank = round(_DESK_SIDE * _PLANK_HEIGHT)
    planks = np.concatenate([_plank(generator, plank, columns) for _ in range(2 + rows // plank)])
    shown = planks[plank // 3 : plank // 3 + rows]
    fine = Image.fromarray((shown * 255.0).round().astype(np.uint8))
    texture = np.asarray(fine.resize(shape[::-1], Image.Resampling.BICUBIC)) / 255.0
    texture.setflags(write=False)
    return texture


def _plank(generator: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """A plank from left to right, rows x columns x 3: year lines bent by slow noise, fine fibres, dark seams."""

    def noise(down: float, across: float) -> FloatArray:
        return _noise(generator, rows, columns, rows / _DESK_SIDE * down, columns / _DESK_SIDE * across)

    tone = generator.random()
    y = (np.arange(rows)[:, None] + 0.5) / _DESK_SIDE
    year = 13.0 * y + 6.0 * noise(2.6, 1.3) + 2.4 * noise(6.0, 3.1) + 5.0 * tone
    ring = np.abs(year % 1.0 * 2.0 - 1.0)
    grain = 0.38 * smoothstep(ring * 1.2 - 0.2) + 0.18 * noise(120.0, 7.0) + 0.12 * noise(260.0, 18.0)
    darkness = np.clip(0.12 + grain + 0.22 * noise(4.0, 2.2) + 0.3 * (tone - 0.5), 0.0, 1.0)[..., None]
    border = np.minimum(y, rows / _DESK_SIDE - y)
    seam = 1.0 - 0.55 * smoothstep(1.0 - border / 0.008) - 0.1 * smoothstep(1.0 - border / 0.03)
    light, dark = map(np.array, DESK_COLOURS)
    wood: FloatArray = (light + (dark - light) * darkness) * seam[..., None]
    return wood


def _noise(generator: np.random.Generator, rows: int, columns: int, down: float, across: float) -> FloatArray:
    """Smooth noise of about this many bumps down and across, rows x columns around [0, 1]."""
    bumps = generator.random((math.ceil(down) + 2, math.ceil(across) + 2)).astype(np.float32)
    box = (0.5, 0.5, 0.5 + across, 0.5 + down)
    return np.asarray(Image.fromarray(bumps).resize((columns, rows), Image.Resampling.BICUBIC, box), np.float64)


def _waves(phase: FloatArray, pixel: FloatArray | float) -> FloatArray:
    """A square wave of period 2 between -0.5 and 0.5; pixel: a pixel's width in the same unit, as wide as its ramps."""
    border: FloatArray = np.abs(phase * 0.5 % 1.0 * 2.0 - 1.0) - 0.5
    return np.clip(border / pixel, -0.5, 0.5)


class Room:
    """A random room seen from its front: back wall, side walls, skirting board, floor; lengths in short sides.

    Attributes:
        wall: Colour of the walls.
        floor: Colour of the floor.
        horizon: Where the back wall meets the floor, from the top edge.
    """

    def __init__(self, generator: np.random.Generator, extent: tuple[float, float]) -> None:
        """Draw a room for images that reach to (x, y)."""
        uniform, (width, height) = generator.uniform, extent
        self.horizon = uniform(0.24, 0.42) * height
        self._vanishing = uniform(0.35, 0.65) * width, self.horizon - uniform(0.14, 0.3)
        left, right = uniform(0.08, 0.24) * width, uniform(0.76, 0.92) * width
        # Corners outside the image: that side wall is not seen.
        self._corners = left if uniform() < 0.45 else -1.0, right if uniform() < 0.45 else width + 1.0
        self._side_shades = generator.permutation([uniform(1.03, 1.12), uniform(0.74, 0.9)])
        self.wall = colorsys.hsv_to_rgb(uniform(), uniform(0.04, 0.3), uniform(0.6, 0.88))
        self.floor = colorsys.hsv_to_rgb(uniform(), uniform(0.08, 0.42), uniform(0.35, 0.78))
        white, hue = uniform(0.75, 0.95), uniform()
        self._board = (white, white, 0.97 * white) if uniform() < 0.6 else colorsys.hsv_to_rgb(hue, 0.35, 0.35)
        self._board_height = uniform(0.018, 0.04)
        self._floor_pattern = str(generator.choice(["plain", "tiles", "planks", "carpet"]))
        self._wall_pattern = str(generator.choice(["plain", "stripes", "plaster"]))
        self._floor_contrast, self._wall_contrast = uniform(0.1, 0.3), uniform(0.05, 0.14)
        self._tile, self._stripe = uniform(0.1, 0.2), uniform(0.05, 0.12)
        self._noise_seed = generator.integers(1 << 30)

    def floor_line(self, x: FloatArray) -> FloatArray:
        """Where the walls meet the floor: y for each x."""
        (left, right), (middle, top) = self._corners, self._vanishing
        beyond_left, beyond_right = np.maximum(left - x, 0.0), np.maximum(x - right, 0.0)
        return self.horizon + (self.horizon - top) * (beyond_left / (middle - left) + beyond_right / (right - middle))

    def paint(self, raster: Raster) -> FloatArray:
        """The room, H x W x 3 in [0, 1], before the light of the scene."""
        x, y, line = raster.x, raster.y, self.floor_line(raster.x)
        wall_scale = (line - self._vanishing[1]) / (self.horizon - self._vanishing[1])  # 1 at the back, more beside it
        floor_share = raster.share(y - line)
        board_share = raster.share(y - line + self._board_height * wall_scale)
        beyond = self._corners[0] - x, x - self._corners[1]
        sides = 1.0 + sum(
            (shade - 1.0) * raster.share(far) for shade, far in zip(self._side_shades, beyond, strict=True)
        )
        fold = np.minimum(*map(np.abs, beyond))
        wall = sides * (1.0 - 0.08 * smoothstep(1.0 - fold / 0.08)) * (1.05 - 0.14 * y) * self._wall_texture(raster)
        floor = (0.9 + 0.16 * smoothstep((y - self.horizon) / 0.7)) * self._floor_texture(raster)
        corner_dark = 1.0 - 0.12 * smoothstep(1.0 - np.abs(y - line) / 0.13) ** 2
        shares = 1.0 - board_share, board_share - floor_share, floor_share
        tones = wall * corner_dark, 0.92 * sides, floor * corner_dark
        layers = np.stack([tone * share for tone, share in zip(tones, shares, strict=True)], axis=-1)
        painted: FloatArray = layers @ np.array([self.wall, self._board, self.floor])
        return painted

    def _wall_texture(self, raster: Raster) -> FloatArray:
        """Brightness of the walls around 1."""
        texture = np.ones(1)
        if self._wall_pattern == "stripes":
            texture = 1.0 + self._wall_contrast * _waves(raster.x / self._stripe, 1.0 / (raster.side * self._stripe))
        elif self._wall_pattern == "plaster":
            texture = 1.0 + 1.2 * self._wall_contrast * self._rough(raster, 7.0, 7.0)
        return texture

    def _floor_texture(self, raster: Raster) -> FloatArray:
        """Brightness of the floor around 1; tiles and planks run to the vanishing point."""
        middle, top = self._vanishing
        depth = self.horizon - top
        drop = np.maximum(raster.y - top, 0.5 * depth)
        distance = depth / drop  # 1 at the back wall, less in front
        pixel = distance / (raster.side * self._tile)
        texture = np.zeros(1)
        if self._floor_pattern == "carpet":
            texture = 0.8 * self._rough(raster, 16.0, 9.0)
        elif self._floor_pattern != "plain":
            texture = _waves((raster.x - middle) * distance / self._tile, pixel)
        if self._floor_pattern == "tiles":
            texture = 2.0 * texture * _waves(2.0 * depth * distance / self._tile, pixel * 2.0 * depth / drop)
        return 1.0 + self._floor_contrast * texture

    def _rough(self, raster: Raster, down: float, across: float) -> FloatArray:
        """Coarse and fine noise around 0 with this many bumps a short side, H x W; the same at every size."""
        generator = np.random.default_rng(self._noise_seed)
        down, across = down * raster.extent[1], across * raster.extent[0]
        coarse = _noise(generator, *raster.shape, down, across)
        return coarse + 0.5 * _noise(generator, *raster.shape, 3.4 * down, 3.4 * across) - 0.75


def random_light(generator: np.random.Generator, raster: Raster) -> FloatArray:
    """A light to multiply a scene with, H x W x 3: brightness, a gradient in some direction, a slight tint."""
    brightness, strength = generator.uniform(0.8, 1.12), generator.uniform(0.0, 0.22)
    angle = generator.uniform(0.0, 2.0 * math.pi)
    warm, green = generator.uniform(-0.05, 0.05), generator.uniform(-0.02, 0.02)
    x, y = (centre / side - 0.5 for centre, side in zip((raster.x, raster.y), raster.extent, strict=True))
    light = brightness * (1.0 + 2.0 * strength * (x * math.cos(angle) + y * math.sin(angle)))
    tinted: FloatArray = light[..., None] * np.array([1.0 + warm, 1.0 + green, 1.0 - warm])
    return tinted
