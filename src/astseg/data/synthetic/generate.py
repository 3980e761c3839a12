"""Made-up scenes with exact masks, in memory or as a folder, for demos, tests and benchmarks.

Two families stand for the two kinds of data the method knows: ``desk`` is a fixed camera whose light changes, ``rooms``
a background that differs in every image. The pixels of scene ``index`` of a seed are the same on every machine,
whatever the number of processes, and the same scene at another size of the same aspect ratio looks the same.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from astseg.data.synthetic.scene import FAMILIES, SyntheticObject, SyntheticScene, checked_raster, render_scene
from astseg.data.synthetic.shapes import MAXIMUM_RADIUS, MINIMUM_RADIUS
from astseg.errors import UserError
from astseg.types import SceneArrays

__all__ = [
    "FAMILIES",
    "SyntheticObject",
    "SyntheticScene",
    "SyntheticScenes",
    "render_scene",
    "render_scenes",
    "write_scenes",
]

_CHUNK = 50
_FOLDER_SIZE = 1000
_COMPRESSION = 2  # of 9: twice as fast as the usual 6, files a few percent larger
# Names and colours of the CLEVR palette, for the json; a label's colour in the mask files comes from the same list.
_COLOUR_NAMES = {
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "yellow": (255, 238, 51),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "brown": (129, 74, 25),
    "gray": (87, 87, 87),
}

_Chunk = TypeVar("_Chunk")


@dataclass(frozen=True)
class SyntheticScenes(SceneArrays):
    """Many rendered scenes in memory.

    Attributes:
        backgrounds: N x H x W x 3, uint8, the scenes without objects and shadows, or None where not asked for.
    """

    backgrounds: NDArray[np.uint8] | None = None


def render_scenes(
    family: str,
    *,
    seed: int,
    start: int = 0,
    count: int,
    size: int | tuple[int, int],
    processes: int = 1,
    backgrounds: bool = False,
    max_objects: int = 6,
) -> SyntheticScenes:
    """Render the scenes start .. start + count - 1 of a seed into memory; same result for any number of processes.

    Args:
        family: A name of :data:`FAMILIES`.
        seed: 0 to 2**64 - 1.
        start: Number of the first scene.
        count: Number of scenes, N.
        size: Side in pixels, or (height, width); at least 16.
        processes: Worker processes; 1 renders here. Outside Linux a script that asks for more needs the usual
            ``if __name__ == "__main__"``.
        backgrounds: Also keep each scene without its objects.
        max_objects: The number of objects is uniform in 0 .. max_objects; 0 to 12.

    Raises:
        UserError: An argument is outside its range.
    """
    raster = checked_raster(
        family, seed=seed, start=start, count=count, size=size, max_objects=max_objects, processes=processes
    )
    shape = (count, raster.height, raster.width)
    images, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    behind = np.empty((*shape, 3), np.uint8) if backgrounds else None
    work = partial(
        _render_chunk, family=family, seed=seed, size=shape[1:], backgrounds=backgrounds, max_objects=max_objects
    )
    for numbers, (some_images, some_labels, some_behind) in _in_chunks(work, start, count, processes):
        place = slice(numbers.start - start, numbers.stop - start)
        images[place], labels[place] = some_images, some_labels
        if behind is not None and some_behind is not None:
            behind[place] = some_behind
    names = tuple(_name(family, index) for index in range(start, start + count))
    source = f"made-up {family} scenes {start} to {start + count - 1} of seed {seed}"
    return SyntheticScenes(images=images, labels=labels, names=names, source=source, backgrounds=behind)


def write_scenes(
    out: Path,
    family: str,
    *,
    count: int,
    size: int | tuple[int, int],
    seed: int,
    start: int = 0,
    processes: int = 1,
    max_objects: int = 6,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write scenes as a folder in the layout of CLEVRTEX, which any of its readers takes.

    ``OUT/desk_full/0/DESK_full_000000.png`` is the image, ``..._flat.png`` a palette picture whose index is the label,
    ``....json`` the objects in label order; a new folder every 1000 scenes. ``OUT/README.md`` and ``OUT/scenes.json``
    say how the scenes were made. All is written to a temporary folder beside OUT and renamed at the end.

    Args:
        out: Folder to make; it must not exist or be empty.
        family: A name of :data:`FAMILIES`.
        count: Number of scenes.
        size: Side in pixels, or (height, width); at least 16.
        seed: 0 to 2**64 - 1.
        start: Number of the first scene.
        processes: Worker processes, see :func:`render_scenes`.
        max_objects: The number of objects is uniform in 0 .. max_objects; 0 to 12.
        progress: Called here with the number of scenes written so far, now and then, the last time with count.

    Raises:
        UserError: An argument is outside its range, or OUT holds something.
    """
    raster = checked_raster(
        family, seed=seed, start=start, count=count, size=size, max_objects=max_objects, processes=processes
    )
    out = Path(out).absolute()
    unfinished = _unfinished_folder(out)
    try:
        for first in range(start // _FOLDER_SIZE, (start + count - 1) // _FOLDER_SIZE + 1):
            (unfinished / f"{family}_full" / str(first)).mkdir(parents=True)
        shape = (raster.height, raster.width)
        work = partial(_write_chunk, folder=unfinished, family=family, seed=seed, size=shape, max_objects=max_objects)
        done = 0
        for numbers, _ in _in_chunks(work, start, count, processes):
            done += len(numbers)
            if progress is not None:
                progress(done)
        made = {"family": family, "seed": seed, "start": start, "count": count, "size": list(shape)}
        made["max_objects"] = max_objects
        (unfinished / "scenes.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(_readme(made), encoding="utf-8")
        if out.is_dir():
            out.rmdir()  # empty, as seen above; a folder in use since then stops us here
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _unfinished_folder(out: Path) -> Path:
    """A new folder beside one that is to be made.

    Raises:
        UserError: There is something already, or no folder can be made there.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: expected a new or empty folder, give another name")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"folder {out} is not empty: expected a new or empty one, give another name or remove it")
    unfinished = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make folder {unfinished} ({error.strerror}): give another name for {out}") from error
    return unfinished


def _in_chunks(
    work: Callable[[range], _Chunk], start: int, count: int, processes: int
) -> Iterator[tuple[range, _Chunk]]:
    """Do the work on the numbers start .. start + count - 1 in chunks, here or in processes; yield as they finish."""
    stop = start + count
    chunks = [range(first, min(first + _CHUNK, stop)) for first in range(start, stop, _CHUNK)]
    processes = min(processes, len(chunks))
    if processes == 1:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    # Workers touch only numpy and Pillow, so forking beside loaded libraries is safe, and needs no guarded main module.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context)
    try:
        jobs = {executor.submit(work, chunk): chunk for chunk in chunks}
        for job in as_completed(jobs):
            yield jobs.pop(job), job.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _render_chunk(
    numbers: range, *, family: str, seed: int, size: tuple[int, int], backgrounds: bool, max_objects: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Images, labels and backgrounds (or None) of some scenes, stacked."""
    scenes = [render_scene(family, seed=seed, index=index, size=size, max_objects=max_objects) for index in numbers]
    behind = np.stack([scene.background for scene in scenes]) if backgrounds else None
    return np.stack([scene.image for scene in scenes]), np.stack([scene.labels for scene in scenes]), behind


def _write_chunk(
    numbers: range, *, folder: Path, family: str, seed: int, size: tuple[int, int], max_objects: int
) -> None:
    """Write the files of some scenes; the json comes last, so that a scene with a json is whole."""
    palette = _mask_palette()
    for index in numbers:
        scene = render_scene(family, seed=seed, index=index, size=size, max_objects=max_objects)
        stem = folder / f"{family}_full" / str(index // _FOLDER_SIZE) / _name(family, index)
        Image.fromarray(scene.image).save(f"{stem}.png", compress_level=_COMPRESSION)
        mask = Image.fromarray(scene.labels)
        mask.putpalette(palette)
        mask.save(f"{stem}_flat.png")
        Path(f"{stem}.json").write_text(json.dumps(_scene_json(scene, family, index), indent=1), encoding="utf-8")


def _name(family: str, index: int) -> str:
    return f"{family.upper()}_full_{index:06d}"


def _mask_palette() -> bytes:
    """256 RGB colours (so masks have 8 bits a pixel): black for the background, then the named ones over and over."""
    colours = list(_COLOUR_NAMES.values())
    return bytes([0, 0, 0]) + b"".join(bytes(colours[label % len(colours)]) for label in range(255))


def _scene_json(scene: SyntheticScene, family: str, index: int) -> dict[str, Any]:
    """A scene in the words of CLEVRTEX, as far as they apply; ``pixel_coords`` ends with the rank from the front."""
    side, count = min(scene.labels.shape), len(scene.objects)
    objects = [
        {
            "shape": each.shape,
            "rotation": round(each.rotation, 3),
            "size": ("small", "medium", "large")[
                min(2, max(0, int((each.radius / side - MINIMUM_RADIUS) / (MAXIMUM_RADIUS - MINIMUM_RADIUS) * 3.0)))
            ],
            "pixel_coords": [int(each.x), int(each.y), float(count - number)],
            "index": number + 1,
            "color": _colour_name(each.colour),
            "material": "glossy" if each.gloss > 0.35 else "matte",
            "rgb": list(each.colour),
            "radius": round(each.radius, 3),
        }
        for number, each in enumerate(scene.objects)
    ]
    return {
        "num_objects": count,
        "split": "full",
        "image_index": index,
        "image_filename": f"{_name(family, index)}.png",
        "ground_material": family,
        "objects": objects,
    }


def _colour_name(colour: tuple[int, int, int]) -> str:
    """The nearest named colour, by the sum of absolute differences."""
    return min(
        _COLOUR_NAMES, key=lambda name: sum(abs(a - b) for a, b in zip(colour, _COLOUR_NAMES[name], strict=True))
    )


def _readme(made: dict[str, Any]) -> str:
    """What a folder of scenes says of itself to a person."""
    family, first, last = made["family"], made["start"], made["start"] + made["count"] - 1
    height, width = made["size"]
    return f"""# Made-up scenes: {family}

{made["count"]} scenes of {height}x{width} pixels (height x width), numbers {first} to {last} of seed {made["seed"]},
with 0 to {made["max_objects"]} objects each. Drawn by a program (astseg): the numbers in `scenes.json` give the same
pixels again on any machine.

The layout is that of CLEVRTEX: `{family}_full/N/{family.upper()}_full_NNNNNN.png` is the image, `..._flat.png` a
palette picture whose index is the object (0 background), `....json` lists the objects in the order of these numbers,
lowest first. The last of the three `pixel_coords` is the rank from the front (1 = nothing lies on top).
"""
