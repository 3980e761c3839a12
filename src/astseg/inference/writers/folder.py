"""The folder that ``segment`` writes into: the files of each image, their names, what an earlier call left there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from astseg.data.formats.pictures import PICTURE_SUFFIXES
from astseg.data.formats.png import save_label_png, save_picture
from astseg.errors import UserError
from astseg.inference.writers.overlay import overlay
from astseg.runs.atomic import atomic_path, writing_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction, Prediction

__all__ = [
    "KINDS",
    "MARK",
    "TABLES",
    "VIDEO_KINDS",
    "earlier_results",
    "remove_results",
    "result_names",
    "write_images",
]

MARK = "segment.json"
KINDS = ("overlays", "backgrounds", "cutouts", "reconstructions", "layers")
"""What can be written of an image besides its mask."""

VIDEO_KINDS = ("videos", "mot")
"""Folders of files that are one a video."""

TABLES = ("coco.json", "objects.csv", "counts.csv", "mot.txt")

_LONGEST = 200
"""Bytes of a part of a result's name; file systems take 255, and endings are added."""


def write_images(
    out: Path,
    result: str,
    image: NDArray[np.uint8],
    prediction: Prediction,
    labels: NDArray[np.int32],
    objects: Sequence[tuple[int, ObjectPrediction]],
    kinds: Collection[str],
) -> None:
    """Write the files of one image.

    Args:
        out: The folder.
        result: Name of the results, without an ending.
        image: H x W x 3.
        prediction: What the model says of it.
        labels: H x W, its label map.
        objects: Its objects with their numbers in that map, in the order of the prediction.
        kinds: Which of :data:`KINDS`.

    Raises:
        UserError: A file cannot be written.
    """
    save_label_png(labels, out / "masks" / f"{result}.png")
    if "overlays" in kinds:
        save_picture(overlay(image, labels), out / "overlays" / f"{result}.png", fast=True)
    for kind in ("backgrounds", "reconstructions"):
        if kind in kinds:
            drawn = prediction.background if kind == "backgrounds" else prediction.reconstruction
            save_picture(Image.fromarray(drawn), out / kind / f"{result}.png", fast=True)
    if "cutouts" in kinds:
        for label, found in objects:
            x, y, width, height = found.box
            alpha = np.where(labels[y : y + height, x : x + width] == label, 255, 0).astype(np.uint8)
            cutout = Image.fromarray(np.dstack([image[y : y + height, x : x + width], alpha]))
            save_picture(cutout, out / "cutouts" / f"{result}_{label}.png", fast=True)
    if "layers" in kinds:
        arrays: dict[str, NDArray[Any]] = {
            "layers": prediction.layers,
            "ids": np.array([label for label, _ in objects], np.int32),
            "background": prediction.background,
            "labels": labels,
        }
        path = out / "layers" / f"{result}.npz"
        with atomic_path(path) as part, writing_errors(path), part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)  # given a name, numpy would append its ending


def result_names(names: Sequence[str], *, keep: bool = False) -> list[str]:
    """Names of the results, without suffix where that keeps them apart, also for file systems that ignore case.

    Args:
        names: Of the images.
        keep: Whether the suffixes stay in any case.

    Raises:
        UserError: A name that leads out of the folder.
    """
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"scene '{name}' has a name that leads out of its folder: rename it")
    stems = [
        str(PurePosixPath(name).with_suffix("")) if Path(name).suffix.lower() in PICTURE_SUFFIXES else name
        for name in names
    ]
    results = stems if not keep and len({stem.casefold() for stem in stems}) == len(stems) else names
    return ["/".join(_shortened(part) for part in result.split("/")) for result in results]


def _shortened(part: str) -> str:
    """A part of a path that leaves room for endings; what is cut off is replaced by a hash of the whole."""
    whole = os.fsencode(part)
    if len(whole) <= _LONGEST:
        return part
    return whole[: _LONGEST - 9].decode(errors="ignore") + "_" + hashlib.sha256(whole).hexdigest()[:8]


def earlier_results(out: Path) -> list[str]:
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
        results: list[str] = json.loads((out / MARK).read_text(encoding="utf-8"))["results"]
        result_names(results)
        return results
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"'{out}' is not empty and was not made by this command (no {MARK}): choose a new folder"
        ) from None


def remove_results(out: Path, results: Sequence[str]) -> None:
    """Remove the files of earlier results; whatever else lies there stays.

    Args:
        out: The folder.
        results: Names of the results; one that ends in a slash is a folder of them.
    """
    for table in TABLES:
        for ending in ("", ".part", ".now", ".now.part"):
            (out / f"{table}{ending}").unlink(missing_ok=True)
    known = set(results)
    videos = {os.path.dirname(result) for result in results}
    videos |= {f"{video}{ending}" for video in videos for ending in (".mp4", ".txt")}
    for kind in ("masks", *KINDS, *VIDEO_KINDS):
        for path in list(_files(out / kind)):
            # A process that was killed leaves its last files unfinished.
            file = path.relative_to(out / kind).as_posix().removesuffix(".part")
            name = os.path.splitext(file)[0]
            if kind == "cutouts":
                name = name.rpartition("_")[0]
            if file in videos if kind in VIDEO_KINDS else name in known or os.path.dirname(name) + "/" in known:
                path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that may not be there."""
    for inside, _, files in os.walk(folder):
        yield from (Path(inside) / file for file in files)
