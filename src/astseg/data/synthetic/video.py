"""A made-up video with exact masks: objects that move over the desk, in front of and behind each other.

They go straight on at their own speeds and turn back at the borders of the image. Which lies above which does not
change. Every object keeps its label, also when it is wholly hidden for some frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from astseg.data.synthetic.backgrounds import DESK_COLOURS, draw_light
from astseg.data.synthetic.exact import RandomStream
from astseg.data.synthetic.paint import outline
from astseg.data.synthetic.scene import checked_raster, draw_scene, label_map
from astseg.data.synthetic.shapes import PlacedObject, Raster, draw_object
from astseg.types import SceneArrays

__all__ = ["render_video"]

_SLOWEST, _FASTEST = 0.006, 0.022
"""Short sides a frame."""


def render_video(*, seed: int, frames: int, size: int | tuple[int, int], objects: int = 4) -> SceneArrays:
    """Render a video of the desk.

    Args:
        seed: 0 to 2**64 - 1.
        frames: Number of frames, N.
        size: Side in pixels, or (height, width); at least 16.
        objects: Number of objects, 0 to 12.

    Returns:
        Images N x H x W x 3 and labels N x H x W; label k is the same object in all of them.

    Raises:
        UserError: An argument is outside its range.
    """
    raster = checked_raster("desk", seed=seed, start=0, count=frames, size=size, max_objects=objects)
    # Scenes of the same seed take the numbers below; a video has a stream of its own far above them.
    stream = RandomStream(family_number=0, seed=seed, index=(1 << 63) + seed % (1 << 32))
    light = draw_light(stream, raster)
    things: list[PlacedObject] = []
    for _ in range(objects):
        things.append(draw_object(stream, avoid=[*DESK_COLOURS, *(thing.colour for thing in things)]))
    starts = [(stream.between(0, 1), stream.between(0, 1)) for _ in things]
    speeds = [tuple(_signed(stream) for _ in range(2)) for _ in things]
    shape = (frames, raster.height, raster.width)
    images, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    for number in range(frames):
        placed = [
            _moved(thing, start, (speed[0] * number, speed[1] * number), raster)
            for thing, start, speed in zip(things, starts, speeds, strict=True)
        ]
        outlines = [outline(each, raster) for each in placed]
        labels[number] = label_map(outlines, raster)
        images[number] = draw_scene(placed, outlines, labels[number], raster, None, light).image
    names = [f"{number:06d}" for number in range(frames)]
    return SceneArrays(images, labels, names, f"made-up desk video of seed {seed}")


def _signed(stream: RandomStream) -> float:
    """A speed along one axis."""
    return stream.between(_SLOWEST, _FASTEST) * (1 if stream.integer(2) else -1)


def _moved(thing: PlacedObject, start: tuple[float, float], way: tuple[float, float], raster: Raster) -> PlacedObject:
    """An object after some way from a start, given as a part of the room it has along each axis."""
    place = []
    for begin, along, side in zip(start, way, raster.extent, strict=True):
        room = side - 2 * thing.radius
        there = (begin * room + along) % (2 * room)
        place.append(thing.radius + min(there, 2 * room - there))
    return replace(thing, x=place[0], y=place[1])
