"""A synthetic video with exact masks: objects that move over the desk, in front of and behind each other.

They go straight on at their own speeds and turn back at the borders of the image. Their order in depth does not change.
Every object keeps its label, also while it is wholly hidden.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from astseg.data.synthetic.backgrounds import DESK_COLOURS, random_light
from astseg.data.synthetic.objects import SyntheticObject, random_object
from astseg.data.synthetic.scene import FAMILIES, check_arguments, draw_scene
from astseg.types import SceneArrays

__all__ = ["render_video"]

_SLOWEST, _FASTEST = 0.006, 0.022  # short sides a frame


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
    raster = check_arguments("desk", seed=seed, count=frames, size=size, max_objects=objects)
    generator = np.random.default_rng([seed, 0, len(FAMILIES)])
    light = random_light(generator, raster)
    things: list[SyntheticObject] = []
    for _ in range(objects):
        things.append(random_object(generator, avoid=[*DESK_COLOURS, *(thing.colour for thing in things)]))
    starts = generator.random((objects, 2))
    speeds = generator.uniform(_SLOWEST, _FASTEST, (objects, 2)) * generator.choice([-1, 1], (objects, 2))
    free = np.reshape([np.subtract(raster.extent, 2 * thing.radius) for thing in things], (objects, 2))
    shape = (frames, *raster.shape)
    images, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    for number in range(frames):
        there = (starts * free + number * speeds) % (2 * free)
        there = np.minimum(there, 2 * free - there)
        placed = [
            replace(thing, x=thing.radius + x, y=thing.radius + y) for thing, (x, y) in zip(things, there, strict=True)
        ]
        scene = draw_scene(placed, raster, light)
        images[number], labels[number] = scene.image, scene.labels
    names = [f"{number:06d}" for number in range(frames)]
    return SceneArrays(images, labels, names, f"synthetic desk video of seed {seed}")
