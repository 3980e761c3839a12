"""One made-up scene: what is in it, where it lies, and its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from astseg.data.synthetic.backgrounds import DESK_COLOURS, Room, desk, draw_light, draw_room, room
from astseg.data.synthetic.exact import FloatArray, RandomStream, clamp
from astseg.data.synthetic.paint import Outline, outline, paint, shadow
from astseg.data.synthetic.shapes import PlacedObject, Raster, draw_object, hidden_shares, lowest_point
from astseg.errors import UserError

__all__ = [
    "FAMILIES",
    "SyntheticObject",
    "SyntheticScene",
    "checked_raster",
    "draw_scene",
    "label_map",
    "render_scene",
]

FAMILIES = ("desk", "rooms")
_SMALLEST_SIDE = 16
_LARGEST_OBJECT_COUNT = 12
_HIDDEN_SHARE_LIMIT = 0.5
_PLACING_ATTEMPTS = 80


@dataclass(frozen=True)
class SyntheticObject:
    """One object of a rendered scene.

    Attributes:
        shape: ``ball``, ``box``, ``triangle``, ``star``, ``ellipse``, ``ring``, ``capsule`` or ``cross``.
        colour: RGB, 0 to 255, before shading.
        x: Centre in pixels from the left edge of the image.
        y: Centre in pixels from the top edge of the image.
        radius: Radius in pixels of the circle around the shape.
        rotation: Degrees in [0, 360), clockwise.
        gloss: Strength of the highlight in [0, 1].
    """

    shape: str
    colour: tuple[int, int, int]
    x: float
    y: float
    radius: float
    rotation: float
    gloss: float


@dataclass(frozen=True)
class SyntheticScene:
    """A rendered scene.

    Attributes:
        image: H x W x 3, uint8.
        labels: H x W, uint8: the topmost object that covers half of the pixel or more, 0 where none does; object k of
            ``objects`` (from 1) has label k and at least one pixel.
        background: H x W x 3, uint8: the same scene in the same light without objects and shadows.
        objects: In draw order, the first one lowest.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    background: NDArray[np.uint8]
    objects: tuple[SyntheticObject, ...]


def render_scene(
    family: str, *, seed: int, index: int, size: int | tuple[int, int], max_objects: int = 6
) -> SyntheticScene:
    """Render one scene.

    Args:
        family: A name of :data:`FAMILIES`.
        seed: 0 to 2**64 - 1; each seed is another endless set of scenes.
        index: Number of the scene, from 0.
        size: Side in pixels, or (height, width); at least 16. At the smallest sizes an object may be left out because
            no pixel would show it.
        max_objects: The number of objects is uniform in 0 .. max_objects; 0 to 12.

    Raises:
        UserError: An argument is outside these ranges.
    """
    raster = checked_raster(family, seed=seed, start=index, count=1, size=size, max_objects=max_objects)
    stream = RandomStream(family_number=FAMILIES.index(family), seed=seed, index=index)
    look = draw_room(stream, raster) if family == "rooms" else None
    light = draw_light(stream, raster)
    placed = _place_objects(stream, raster, look, count=stream.integer(max_objects + 1))
    outlines = [outline(each, raster) for each in placed]
    labels = label_map(outlines, raster)
    seen = set(np.unique(labels).tolist())
    if not all(number in seen for number in range(1, len(placed) + 1)):
        kept = [number - 1 for number in range(1, len(placed) + 1) if number in seen]
        placed, outlines = [placed[number] for number in kept], [outlines[number] for number in kept]
        labels = label_map(outlines, raster)

    return draw_scene(placed, outlines, labels, raster, look, light)


def draw_scene(
    placed: list[PlacedObject],
    outlines: list[Outline],
    labels: NDArray[np.uint8],
    raster: Raster,
    look: Room | None,
    light: FloatArray,
) -> SyntheticScene:
    """The pixels of a scene.

    Args:
        placed: The objects in draw order.
        outlines: Theirs.
        labels: H x W, their label map.
        raster: The grid of pixels.
        look: The room, or None for the desk.
        light: 3 x H x W, or what broadcasts to it, multiplied onto the colours.
    """
    background = desk(raster) if look is None else room(look, raster)
    canvas = background.copy()
    if look is not None:  # objects stand on the floor: their shadows fall on it, not on each other
        for each in placed:
            shadow(canvas, each, raster, flat=False)
    for each, outlined in zip(placed, outlines, strict=True):
        if look is None:
            shadow(canvas, each, raster, flat=True)
        paint(canvas, each, raster, outlined)
    return SyntheticScene(
        image=_to_bytes(canvas * light),
        labels=labels,
        background=_to_bytes(background * light),
        objects=tuple(_described(each, raster) for each in placed),
    )


def checked_raster(
    family: str,
    *,
    seed: int,
    start: int,
    count: int,
    size: int | tuple[int, int],
    max_objects: int,
    processes: int = 1,
) -> Raster:
    """The pixel grid of the scenes asked for, after a look at every argument.

    Raises:
        UserError: An argument is outside its range.
    """
    if family not in FAMILIES:
        nearest = get_close_matches(family, FAMILIES, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown family {family!r}: expected one of {', '.join(FAMILIES)}; did you mean {nearest!r}?")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < _SMALLEST_SIDE:
        raise UserError(f"size {height}x{width} is too small: expected {_SMALLEST_SIDE} or more pixels a side")
    if count < 1:
        raise UserError(f"count is {count}: expected 1 or more scenes")
    if not 0 <= start <= start + count <= 1 << 64:
        raise UserError(f"scene numbers start at {start}: expected 0 or more")
    if not 0 <= seed < 1 << 64:
        raise UserError(f"seed is {seed}: expected a whole number from 0 to 2**64 - 1")
    if processes < 1:
        raise UserError(f"processes is {processes}: expected 1 or more")
    if not 0 <= max_objects <= _LARGEST_OBJECT_COUNT:
        raise UserError(f"max_objects is {max_objects}: expected 0 to {_LARGEST_OBJECT_COUNT}, as more do not fit")
    return Raster(height, width)


def _place_objects(stream: RandomStream, raster: Raster, look: Room | None, *, count: int) -> list[PlacedObject]:
    """Objects in draw order, none of them more than half hidden.

    On the desk a later object lies on top; in a room the one whose foot is lower in the image stands in front.
    """
    objects: list[PlacedObject] = []
    background = DESK_COLOURS if look is None else (look.wall, look.floor)
    for _ in range(count):
        drawn = draw_object(stream, avoid=[*background, *(other.colour for other in objects)])
        for _ in range(_PLACING_ATTEMPTS):
            candidate = _laid(stream, drawn, raster) if look is None else _stood(stream, drawn, raster, look)
            if candidate is None:
                continue
            trial = [*objects, candidate] if look is None else sorted([*objects, candidate], key=_foot)
            if max(hidden_shares(trial)) <= _HIDDEN_SHARE_LIMIT:
                objects = trial
                break
    return objects


def _laid(stream: RandomStream, drawn: PlacedObject, raster: Raster) -> PlacedObject:
    """The object anywhere on the desk, its outline within the image."""
    width, height = raster.extent
    x = stream.between(drawn.radius, width - drawn.radius)
    return replace(drawn, x=x, y=stream.between(drawn.radius, height - drawn.radius))


def _stood(stream: RandomStream, drawn: PlacedObject, raster: Raster, look: Room) -> PlacedObject | None:
    """The object somewhere on the floor, or None where the place drawn lies behind a wall."""
    width, height = raster.extent
    x, foot = stream.between(drawn.radius, width - drawn.radius), stream.between(look.horizon, height) - 0.02
    if foot < float(look.floor_line(np.array(x))) + 0.015:
        return None
    return replace(drawn, x=x, y=foot - lowest_point(drawn.shape, drawn.cosine, drawn.sine) * drawn.radius)


def _foot(placed: PlacedObject) -> float:
    """The lowest point of an object, y in short sides."""
    return placed.y + lowest_point(placed.shape, placed.cosine, placed.sine) * placed.radius


def label_map(outlines: list[Outline], raster: Raster) -> NDArray[np.uint8]:
    """H x W, the number (from 1) of the last outline that covers half of the pixel or more, 0 where none does."""
    labels = np.zeros((raster.height, raster.width), dtype=np.uint8)
    for number, outlined in enumerate(outlines, start=1):
        top, bottom, left, right = outlined.box
        labels[top:bottom, left:right][outlined.coverage >= 0.5] = number
    return labels


def _to_bytes(colours: FloatArray) -> NDArray[np.uint8]:
    """3 x H x W in [0, 1] and beyond -> H x W x 3, uint8, rounded."""
    levels = clamp(colours * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def _described(placed: PlacedObject, raster: Raster) -> SyntheticObject:
    red, green, blue = (int(channel * 255.0 + 0.5) for channel in placed.colour)
    return SyntheticObject(
        shape=placed.shape,
        colour=(red, green, blue),
        x=placed.x * raster.short_side,
        y=placed.y * raster.short_side,
        radius=placed.radius * raster.short_side,
        rotation=math.degrees(math.atan2(placed.sine, placed.cosine)) % 360.0,
        gloss=placed.gloss,
    )
