"""Arithmetic of the made-up scenes that gives the same bits on every machine.

Random numbers are raw Philox words turned into floats by an exact scaling, noise comes from integer hashes, and all
else is elementwise + - * / sqrt floor min max in float64, which IEEE 754 rounds the same way everywhere. Sines,
exponentials, powers and sums over arrays (whose last bits depend on library and processor) are kept away from pixels.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Colour", "FloatArray", "RandomStream", "clamp", "hue_colour", "lattice_noise", "smoothstep", "square_wave"]

FloatArray: TypeAlias = NDArray[np.float64]
Colour: TypeAlias = tuple[float, float, float]

_WORDS_A_DRAW = 128


class RandomStream:
    """An endless stream of random numbers, one for each (family, seed, index)."""

    def __init__(self, *, family_number: int, seed: int, index: int) -> None:
        """Start the stream of one scene.

        Args:
            family_number: Position of the family in the list of families.
            seed: 0 to 2**64 - 1, the key of the generator.
            index: Number of the scene, 0 to 2**64 - 1; its counter starts 2**64 steps from its neighbours'.
        """
        self._generator = np.random.Philox(key=seed, counter=(family_number << 192) | (index << 64))
        self._words: list[int] = []

    def unit(self) -> float:
        """A multiple of 2**-53 in [0, 1)."""
        if not self._words:
            self._words = self._generator.random_raw(_WORDS_A_DRAW).tolist()
        return float(self._words.pop() >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A number in [low, high]."""
        return low + (high - low) * self.unit()

    def integer(self, count: int) -> int:
        """A whole number in 0 .. count - 1."""
        return int(self.unit() * count)

    def direction(self) -> tuple[float, float]:
        """A point on the unit circle, uniform: drawn in the square, kept inside the disc, scaled to length one."""
        while True:
            x, y = self.between(-1.0, 1.0), self.between(-1.0, 1.0)
            squared = x * x + y * y
            if 0.01 < squared <= 1.0:
                length = math.sqrt(squared)
                return x / length, y / length


def clamp(values: FloatArray, low: float = 0.0, high: float = 1.0) -> FloatArray:
    """Values cut to [low, high], any shape."""
    return np.minimum(np.maximum(values, low), high)


def smoothstep(values: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, and 3 t^2 - 2 t^3 between, any shape."""
    cut = clamp(values)
    return cut * cut * (3.0 - 2.0 * cut)


def square_wave(phase: FloatArray, footprint: FloatArray | float) -> FloatArray:
    """A wave of period 2 between -0.5 and 0.5, filtered so that it never aliases.

    Args:
        phase: Position along the wave, any shape; it jumps halfway between whole numbers.
        footprint: Width of a pixel in the same unit, above 0; jumps are ramps this wide, and finer waves fade.
    """
    half = phase * 0.5
    edge_distance = np.abs((half - np.floor(half)) * 2.0 - 1.0) - 0.5
    return clamp(edge_distance / footprint, -0.5, 0.5)


def lattice_noise(x: FloatArray, y: FloatArray, *, salt: int) -> FloatArray:
    """Value noise: random numbers at whole coordinates, smoothly joined, about one bump a unit.

    Args:
        x: Coordinates of the columns, shape W or H x W.
        y: Coordinates of the rows, shape H x 1 or H x W; broadcast against x.
        salt: Which noise, a whole number.

    Returns:
        H x W in [0, 1).
    """
    x_floor, y_floor = np.floor(x), np.floor(y)
    x_weight, y_weight = smoothstep(x - x_floor), smoothstep(y - y_floor)
    # To int64 first: a negative float cast straight to an unsigned integer is undefined in C.
    column, row = x_floor.astype(np.int64).astype(np.uint32), y_floor.astype(np.int64).astype(np.uint32)
    one = np.uint32(1)
    top = _mix(_lattice(column, row, salt), _lattice(column + one, row, salt), x_weight)
    bottom = _mix(_lattice(column, row + one, salt), _lattice(column + one, row + one, salt), x_weight)
    return _mix(top, bottom, y_weight)


def hue_colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB in [0, 1] of a colour given by hue in [0, 1), saturation and value in [0, 1] (the hexcone)."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        step = (offset + hue * 6.0) % 6.0
        channels.append(value - value * saturation * max(0.0, min(step, 4.0 - step, 1.0)))
    return channels[0], channels[1], channels[2]


def _mix(first: FloatArray, second: FloatArray, weight: FloatArray) -> FloatArray:
    return first + (second - first) * weight


def _lattice(column: NDArray[np.uint32], row: NDArray[np.uint32], salt: int) -> FloatArray:
    """A number in [0, 1) for each lattice point: a multiply-and-shift hash modulo 2**32."""
    word = column * np.uint32(0x9E3779B1) + row * np.uint32(0x85EBCA77) + np.uint32((salt * 0xC2B2AE3D) & 0xFFFFFFFF)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    word = (word ^ (word >> np.uint32(12))) * np.uint32(0x297A2D39)
    word = word ^ (word >> np.uint32(15))
    return word.astype(np.float64) * 2.0**-32
