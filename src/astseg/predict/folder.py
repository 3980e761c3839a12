"""A folder of pictures to files: masks, overlays, one table of all objects.

::

    OUT/masks/NAME.png       label map, palette PNG: the index of a pixel is the id of its object, 0 = background
    OUT/overlays/NAME.png    the picture with outlines and ids
    OUT/objects.csv          a line an object
    OUT/segment.json         what was done, and which pictures could not be read
    OUT/backgrounds/NAME.png, OUT/reconstructions/NAME.png, OUT/layers/NAME_ID.png (RGBA)    only where asked for
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from astseg.checkpoint import write_json
from astseg.data import SceneSource, open_source
from astseg.data.pictures import PICTURE_SUFFIXES
from astseg.outputs import overlay, save_label_png, save_picture, write_whole
from astseg.types import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.predict.prediction import ObjectPrediction, Prediction
    from astseg.predict.segmenter import Segmenter

__all__ = ["SegmentSummary", "segment_folder"]

_MARK = "segment.json"
_COLUMNS = ("file", "id", "x", "y", "w", "h", "area", "position_x", "position_y", "scale_x", "scale_y", "activation")
_LARGEST_BATCH = 2**25
"""Pixels of the pictures that are held at a time, whatever the batch size: photographs are large."""


@dataclass(frozen=True)
class SegmentSummary:
    """What was done.

    Attributes:
        images: Number of pictures segmented.
        objects: Number of objects found in them.
        skipped: For each picture that could not be read, what is wrong with it, in a line that names it.
    """

    images: int
    objects: int
    skipped: tuple[str, ...]


def segment_folder(
    segmenter: Segmenter,
    source_path: str | Path,
    out: str | Path,
    *,
    batch_size: int = 32,
    every: bool = False,
    fit: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentSummary:
    """Segment every picture of a folder and write the results.

    Pictures that cannot be read are skipped and told. Results keep the pictures' names and subfolders; where two would
    get the same name, all keep their old suffix (``a.jpg.png``).

    Args:
        segmenter: The model.
        source_path: A picture, a folder of pictures with all its subfolders, or anything else that
            :func:`astseg.data.open_source` takes.
        out: A new or empty folder, or one that this function made before: its earlier results are replaced.
        batch_size: Images a forward pass.
        every: Write backgrounds, reconstructions and layers too.
        fit: As for :meth:`Segmenter.predict`.
        progress: Called with the number of pictures done and their total.

    Raises:
        UserError: No pictures or none that can be read, an ``out`` that holds other things or lies among the pictures,
            a batch size below 1. Nothing has been written then.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    source_path, out = Path(source_path).expanduser(), Path(out).expanduser()
    source = open_source(source_path)
    names = [source.scene_name(index) for index in range(len(source))]
    results = _result_names(names)
    earlier = _earlier_results(out)
    inside, outside = out.resolve(), source_path.resolve()
    if (source_path.is_dir() and inside.is_relative_to(outside)) or outside.is_relative_to(inside):
        raise UserError(f"'{out}' and '{source_path}' lie in each other, expected separate folders: choose another")

    skipped: list[str] = []
    rows: list[list[Any]] = []
    done = 0
    for batch in _batches(source, batch_size, skipped):
        predictions = segmenter.predict([image for _, image in batch], batch_size=batch_size, fit=fit)
        if not done:
            _remove(out, earlier)
            # From now on the folder is known as ours, even if this run is interrupted.
            write_json(out / _MARK, {"complete": False, "results": results})
        for (index, image), prediction in zip(batch, predictions, strict=True):
            _write_pictures(out, results[index], image, prediction, every=every)
            rows += [_row(names[index], found) for found in prediction.objects]
        done += len(batch)
        if progress is not None:
            progress(batch[-1][0] + 1, len(source))
    if not done:
        told = "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
        raise UserError(f"none of the {len(source)} pictures in '{source_path}' can be read: {told}")
    write_whole(out / "objects.csv", lambda part: _write_csv(part, rows))
    about = {"input": str(source_path), "images": done, "objects": len(rows), "skipped": skipped}
    write_json(out / _MARK, {"complete": True, **about, "results": results})
    return SegmentSummary(done, len(rows), tuple(skipped))


def _result_names(names: list[str]) -> list[str]:
    """Names of the results, without suffix where that keeps them apart, also for file systems that ignore case."""
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"scene '{name}' has a name that leads out of its folder: rename it")
    stems = [
        str(PurePosixPath(name).with_suffix("")) if Path(name).suffix.lower() in PICTURE_SUFFIXES else name
        for name in names
    ]
    return stems if len({stem.casefold() for stem in stems}) == len(stems) else names


def _earlier_results(out: Path) -> list[str]:
    """Names of the results that an earlier call left in ``out``.

    Raises:
        UserError: ``out`` is no folder, or holds things of other origin.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise UserError(f"'{out}' is a file, expected a new folder or one made by this command: choose another")
    if not any(out.iterdir()):
        return []
    try:
        results: list[str] = json.loads((out / _MARK).read_text())["results"]
        _result_names(results)
        return results
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"'{out}' is not empty and was not made by this command (no {_MARK}): choose a new folder"
        ) from None


def _remove(out: Path, results: list[str]) -> None:
    """Remove the files of earlier results; whatever else lies there stays."""
    (out / "objects.csv").unlink(missing_ok=True)
    for result in results:
        for kind in ("masks", "overlays", "backgrounds", "reconstructions"):
            (out / kind / f"{result}.png").unlink(missing_ok=True)
        layers = out / "layers" / result
        for label in range(1, 256) if layers.parent.is_dir() else ():
            layers.with_name(f"{layers.name}_{label}.png").unlink(missing_ok=True)


def _batches(source: SceneSource, batch_size: int, skipped: list[str]) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    """Pictures with their indices, ``batch_size`` at most and few where they are large; faults go to ``skipped``."""
    batch: list[tuple[int, NDArray[np.uint8]]] = []
    pixels = 0
    for index in range(len(source)):
        try:
            image, _ = source.read(index)
        except UserError as error:
            skipped.append(str(error))
            continue
        batch.append((index, image))
        pixels += image.shape[0] * image.shape[1]
        if len(batch) == batch_size or pixels >= _LARGEST_BATCH:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _write_pictures(out: Path, result: str, image: NDArray[np.uint8], prediction: Prediction, *, every: bool) -> None:
    save_label_png(prediction.labels, out / "masks" / f"{result}.png")
    save_picture(overlay(image, prediction.labels), out / "overlays" / f"{result}.png")
    if every:
        save_picture(Image.fromarray(prediction.background), out / "backgrounds" / f"{result}.png")
        save_picture(Image.fromarray(prediction.reconstruction), out / "reconstructions" / f"{result}.png")
        for found, layer in zip(prediction.objects, prediction.layers, strict=True):
            save_picture(Image.fromarray(layer), out / "layers" / f"{result}_{found.id}.png")


def _row(name: str, found: ObjectPrediction) -> list[Any]:
    """A line of the table; numbers to six digits."""
    numbers = (*found.position, *found.scale, found.activation)
    return [
        name,
        found.id,
        *found.box,
        found.area,
        *(f"{number:.6g}" for number in numbers),
        found.order,
        f"{found.visibility:.6g}",
        *(f"{number:.6g}" for number in found.appearance),
    ]


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    columns = [*_COLUMNS, "order", "visibility"]
    size = len(rows[0]) - len(columns) if rows else 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *(f"a_{index}" for index in range(size))])
        writer.writerows(rows)
