"""Synthetic scenes with exact masks, in memory or as a folder, for demos, tests and benchmarks.

Two families stand for the two kinds of data the method knows: ``desk`` is a fixed camera whose light changes, ``rooms``
a background that differs in every image. Scene ``index`` of a seed is the same whatever the number of processes.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from astseg.data.formats.png import PALETTE
from astseg.data.synthetic.scene import FAMILIES, SyntheticScene, check_arguments, render_scene
from astseg.errors import UserError
from astseg.runs.atomic import cannot_write
from astseg.types import SceneArrays

__all__ = ["FAMILIES", "SyntheticScene", "SyntheticScenes", "render_scene", "render_scenes", "write_scenes"]

_CHUNK = 50
_SCENES_A_FOLDER = 1000
_MEDIUM, _LARGE = 0.1033, 0.1267  # radii in short sides: thirds of their range
_COMPRESSION = 2  # of 9: twice as fast as the usual 6, files a few percent larger

_Result = TypeVar("_Result")


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
    """Render the scenes start .. start + count - 1 of a seed into memory.

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
    raster = check_arguments(
        family, seed=seed, start=start, count=count, size=size, max_objects=max_objects, processes=processes
    )
    shape = (count, *raster.shape)
    images, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    behind = np.empty((*shape, 3), np.uint8) if backgrounds else None
    render = partial(_render, family, {"seed": seed, "size": raster.shape, "max_objects": max_objects})
    for number, scene in enumerate(_each(render, range(start, start + count), processes)):
        images[number], labels[number] = scene.image, scene.labels
        if behind is not None:
            behind[number] = scene.background
    names = tuple(_name(family, index) for index in range(start, start + count))
    source = f"synthetic {family} scenes {start} to {start + count - 1} of seed {seed}"
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
    """Write scenes as a folder in the layout of CLEVRTEX, which any of its readers takes; or nothing at all.

    ``OUT/desk_full/0/DESK_full_000000.png`` is the image, ``..._flat.png`` a palette image whose index is the label,
    ``....json`` the objects in label order; a new folder every 1000 scenes. ``OUT/README.md`` and ``OUT/scenes.json``
    say how the scenes were made.

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
        UserError: An argument is outside its range, or OUT holds something or cannot be written.
    """
    raster = check_arguments(
        family, seed=seed, start=start, count=count, size=size, max_objects=max_objects, processes=processes
    )
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UserError(f"'{out}' {what}: expected a new or empty folder, give another name")
    unfinished = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    try:
        for number in range(start // _SCENES_A_FOLDER, (start + count - 1) // _SCENES_A_FOLDER + 1):
            (unfinished / f"{family}_full" / str(number)).mkdir(parents=True)
        write = partial(_write, unfinished, family, {"seed": seed, "size": raster.shape, "max_objects": max_objects})
        for done, _ in enumerate(_each(write, range(start, start + count), processes), start=1):
            if progress is not None:
                progress(done)
        about = {"family": family, "seed": seed, "start": start, "count": count}
        about |= {"size": raster.shape, "max_objects": max_objects}
        (unfinished / "scenes.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(_readme(about), encoding="utf-8")
        unfinished.replace(out)  # an empty folder in its place gives way, one in use since then does not
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # nothing is there after a success


def _each(work: Callable[[int], _Result], numbers: range, processes: int) -> Iterator[_Result]:
    """What the work makes of each number, in order, here or in processes."""
    processes = min(processes, -(-len(numbers) // _CHUNK))
    if processes == 1:
        yield from map(work, numbers)
        return
    # Workers touch only NumPy and Pillow, so forking beside loaded libraries is safe, and needs no guarded main module.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context)
    try:
        yield from executor.map(work, numbers, chunksize=_CHUNK)
    finally:
        executor.shutdown(cancel_futures=True)


def _render(family: str, options: dict[str, Any], index: int) -> SyntheticScene:
    return render_scene(family, index=index, **options)


def _write(folder: Path, family: str, options: dict[str, Any], index: int) -> None:
    """Write the files of a scene; the json comes last, so that a scene with a json is whole."""
    scene = render_scene(family, index=index, **options)
    stem = folder / f"{family}_full" / str(index // _SCENES_A_FOLDER) / _name(family, index)
    Image.fromarray(scene.image).save(f"{stem}.png", compress_level=_COMPRESSION)
    mask = Image.fromarray(scene.labels)
    mask.putpalette(PALETTE.tobytes())
    mask.save(f"{stem}_flat.png")
    Path(f"{stem}.json").write_text(json.dumps(_description(scene, family, index), indent=1), encoding="utf-8")


def _name(family: str, index: int) -> str:
    return f"{family.upper()}_full_{index:06d}"


def _description(scene: SyntheticScene, family: str, index: int) -> dict[str, Any]:
    """A scene in the words of CLEVRTEX, as far as they apply; ``pixel_coords`` ends with the rank from the front."""
    side, count = min(scene.labels.shape), len(scene.objects)
    objects = [
        {
            "index": number,
            "shape": each.shape,
            "size": "small" if each.radius < _MEDIUM else "medium" if each.radius < _LARGE else "large",
            "color": "#" + bytes(round(255 * channel) for channel in each.colour).hex(),
            "material": "glossy" if each.gloss > 0.35 else "matte",
            "rotation": round(math.degrees(each.angle), 3),
            "pixel_coords": [int(each.x * side), int(each.y * side), float(count + 1 - number)],
            "radius": round(each.radius * side, 3),
        }
        for number, each in enumerate(scene.objects, start=1)
    ]
    about = {"num_objects": count, "split": "full", "image_index": index, "ground_material": family}
    return {**about, "image_filename": f"{_name(family, index)}.png", "objects": objects}


def _readme(about: dict[str, Any]) -> str:
    """What a folder of scenes says of itself to a person."""
    return """# Synthetic {family} scenes

{count} scenes of {size[0]}x{size[1]} pixels (height x width), from number {start} of seed {seed} on, with 0 to
{max_objects} objects each, rendered by astseg with the settings in `scenes.json`.

The layout is that of CLEVRTEX: `{family}_full/N/{name}_full_NNNNNN.png` is the image, `..._flat.png` a palette image
whose index is the object (0 background), `....json` lists the objects in the order of these numbers, from back to
front. The last of the three `pixel_coords` is the rank from the front (1 = nothing lies on top).
""".format(**about, name=about["family"].upper())
