"""One synthetic scene: what is in it, where it lies, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from astseg.data.synthetic.backgrounds import DESK_COLOURS, Room, desk, random_light
from astseg.data.synthetic.objects import (
    FloatArray,
    Raster,
    SyntheticObject,
    cast_shadow,
    hidden_shares,
    lowest_point,
    paint,
    random_object,
)
from astseg.errors import UserError

__all__ = ["FAMILIES", "SyntheticScene", "check_arguments", "draw_scene", "render_scene"]

FAMILIES = ("desk", "rooms")
_SMALLEST_SIDE = 16
_LARGEST = 2**64 - 1
_HIDDEN_SHARE_LIMIT = 0.5
_PLACING_ATTEMPTS = 80


@dataclass(frozen=True)
class SyntheticScene:
    """A rendered scene.

    Attributes:
        image: H x W x 3, uint8.
        labels: H x W, uint8: k is the frontmost object that covers half of the pixel or more, objects[k - 1]; 0 where
            there is none.
        background: H x W x 3, uint8: the same scene in the same light without objects and shadows.
        objects: From back to front.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    background: NDArray[np.uint8]
    objects: tuple[SyntheticObject, ...]


def render_scene(
    family: str, *, seed: int, index: int, size: int | tuple[int, int], max_objects: int = 6
) -> SyntheticScene:
    """Render one scene, in which every object has at least one pixel.

    Args:
        family: A name of :data:`FAMILIES`.
        seed: 0 to 2**64 - 1; each seed is another endless set of scenes.
        index: Number of the scene, from 0.
        size: Side in pixels, or (height, width); at least 16. Scenes of one aspect ratio look alike at any size, but at
            the smallest ones an object is left out if no pixel shows it.
        max_objects: The number of objects is uniform in 0 .. max_objects; 0 to 12.

    Raises:
        UserError: An argument is outside these ranges.
    """
    raster = check_arguments(family, seed=seed, start=index, size=size, max_objects=max_objects)
    generator = np.random.default_rng([seed, index, FAMILIES.index(family)])
    room = Room(generator, raster.extent) if family == "rooms" else None
    light = random_light(generator, raster)
    placed = _place_objects(generator, raster, room, count=int(generator.integers(max_objects + 1)))
    scene = draw_scene(placed, raster, light, room)
    seen = [each for number, each in enumerate(placed, start=1) if (scene.labels == number).any()]
    return scene if len(seen) == len(placed) else draw_scene(seen, raster, light, room)


def draw_scene(
    placed: Sequence[SyntheticObject], raster: Raster, light: FloatArray, room: Room | None = None
) -> SyntheticScene:
    """The pixels of a scene.

    Args:
        placed: The objects from back to front.
        raster: The grid of pixels.
        light: H x W x 3, multiplied onto the colours.
        room: The room, or None for the desk.
    """
    background = desk(raster.shape) if room is None else room.paint(raster)
    canvas, labels = background.copy(), np.zeros(raster.shape, np.uint8)
    if room is not None:  # the objects stand: their shadows fall on the floor, not on each other
        for each in placed:
            cast_shadow(canvas, each, raster, standing=True)
    for number, each in enumerate(placed, start=1):
        if room is None:
            cast_shadow(canvas, each, raster, standing=False)
        paint(canvas, labels, number, each, raster)
    image, behind = (
        np.clip(colours * light * 255.0 + 0.5, 0, 255).astype(np.uint8) for colours in (canvas, background)
    )
    return SyntheticScene(image, labels, behind, tuple(placed))


def check_arguments(
    family: str,
    *,
    seed: int,
    start: int = 0,
    count: int = 1,
    size: int | tuple[int, int],
    max_objects: int,
    processes: int = 1,
) -> Raster:
    """The pixel grid of the scenes asked for.

    Raises:
        UserError: An argument is outside its range.
    """
    if family not in FAMILIES:
        nearest = get_close_matches(family, FAMILIES, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown family {family!r}: expected one of {', '.join(FAMILIES)}; did you mean {nearest!r}?")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < _SMALLEST_SIDE:
        raise UserError(f"size {height}x{width} is too small: expected {_SMALLEST_SIDE} or more pixels a side")
    for name, value, low, high, more in (
        ("count", count, 1, _LARGEST, ""),
        ("processes", processes, 1, _LARGEST, ""),
        ("start", start, 0, _LARGEST, ""),
        ("seed", seed, 0, _LARGEST, ""),
        ("max_objects", max_objects, 0, 12, ", as more do not fit"),
    ):
        if not low <= value <= high:
            limit = "or more" if high == _LARGEST and value < low else f"to {high}"
            raise UserError(f"{name} is {value}: expected {low} {limit}{more}")
    return Raster(height, width)


def _place_objects(
    generator: np.random.Generator, raster: Raster, room: Room | None, *, count: int
) -> list[SyntheticObject]:
    """Objects from back to front, none of them more than half hidden.

    On the desk a later object lies on top; in a room the one whose foot is lower in the image stands in front.
    """
    objects: list[SyntheticObject] = []
    background = DESK_COLOURS if room is None else (room.wall, room.floor)
    for _ in range(count):
        drawn = random_object(generator, avoid=[*background, *(other.colour for other in objects)])
        for _ in range(_PLACING_ATTEMPTS):
            candidate = _placed(generator, drawn, raster, room)
            if candidate is None:
                continue
            trial = [*objects, candidate]
            if room is not None:
                trial.sort(key=lowest_point)
            if max(hidden_shares(trial)) <= _HIDDEN_SHARE_LIMIT:
                objects = trial
                break
    return objects


def _placed(
    generator: np.random.Generator, drawn: SyntheticObject, raster: Raster, room: Room | None
) -> SyntheticObject | None:
    """The object anywhere on the desk or the floor; None where the place drawn lies behind a wall."""
    width, height = raster.extent
    x = generator.uniform(drawn.radius, width - drawn.radius)
    if room is None:
        return replace(drawn, x=x, y=generator.uniform(drawn.radius, height - drawn.radius))
    foot = generator.uniform(room.horizon, height) - 0.02
    is_behind = foot < float(room.floor_line(np.array(x))) + 0.015
    return None if is_behind else replace(drawn, x=x, y=foot - lowest_point(drawn))
