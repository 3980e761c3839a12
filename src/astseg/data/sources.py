"""From a path to arrays: recognise its format, choose scenes, bring them to the size the model sees.

Every fault found on the way (missing, broken or mismatched files, labels above the number of slots) is collected and
told at once, before any training starts.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from astseg.data.clevrtex import find_clevrtex
from astseg.data.folder import FolderSource
from astseg.data.npz import NpzSource
from astseg.data.pictures import PICTURE_SUFFIXES
from astseg.types import SceneArrays, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["SceneSource", "fingerprint", "index_hash", "load_scenes", "open_source", "select"]

_SPLITS = ("train", "val", "test")
_SLICE = re.compile(r"(-?[0-9]+)?:(-?[0-9]+)?(?::(-?[0-9]+)?)?")
_TOLD = 5


class SceneSource(Protocol):
    """A data set whose scenes are read one by one."""

    @property
    def name(self) -> str:
        """The format, in words."""

    @property
    def has_labels(self) -> bool:
        """Whether scenes have masks."""

    @property
    def crop(self) -> float:
        """Part of the short side that the data set's protocol keeps, in (0, 1]."""

    def __len__(self) -> int:
        """Number of scenes."""

    def scene_name(self, index: int) -> str:
        """Name of a scene, unique in the source."""

    def problem(self, index: int) -> str | None:
        """What is known to be missing of a scene without reading it, in words, or None."""

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image H x W x 3 and labels H x W, uint8, at the source's own size. Raises UserError for a broken scene."""

    def split(self, name: str) -> list[int]:
        """Indices of the split ``train``, ``val`` or ``test``. Raises UserError where the source declares none."""


def open_source(path: str | os.PathLike[str]) -> SceneSource:
    """Recognise a data set.

    Args:
        path: A ``.npz`` file, a folder in the CLEVRTEX layout, any other folder of pictures, or one picture.

    Raises:
        UserError: The path does not exist, holds no scenes, or is of no known format.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        try:
            return find_clevrtex(path) or FolderSource(path)
        except PermissionError as error:
            raise UserError(f"'{path}' cannot be listed ({error.strerror}): check its permissions") from error
    if not path.is_file():
        raise UserError(f"'{path}' does not exist: expected a folder of pictures, a picture or a .npz file")
    if path.suffix.lower() == ".npz":
        return NpzSource(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return FolderSource(path)
    raise UserError(f"'{path}' is of no known format: expected a folder of pictures, a picture or a .npz file")


def select(source: SceneSource, selection: str) -> list[int]:
    """Choose scenes.

    Args:
        source: The data set.
        selection: ``all``, a split (``train``, ``val``, ``test``) or a Python slice such as ``:-50`` or ``0:100:2``.

    Returns:
        Their indices, at least one.

    Raises:
        UserError: The selection is not understood, or chooses nothing.
    """
    text = selection.strip()
    if text == "all":
        chosen = list(range(len(source)))
    elif text in _SPLITS:
        chosen = source.split(text)
    elif match := _SLICE.fullmatch(text):
        start, stop, step = (int(number) if number else None for number in match.groups())
        if step == 0:
            raise UserError(f"selection '{selection}' has step 0: use a step of 1 or more")
        chosen = list(range(len(source)))[start:stop:step]
    else:
        raise UserError(f"selection '{selection}' is not understood: use all, train, val, test or a slice as ':-50'")
    if not chosen:
        raise UserError(f"selection '{selection}' chooses none of the {len(source)} scenes: choose at least one")
    return chosen


def load_scenes(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None,
    selection: str = "all",
    limit: int | None = None,
    crop: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_label: int | None = None,
    skip_incomplete: bool = False,
) -> SceneArrays:
    """Read scenes into memory: centre crop, then bilinear for images (averaging where it shrinks), nearest for masks.

    Args:
        path: Anything :func:`open_source` recognises.
        size: Side of the square, or (height, width), to resize to; None keeps the scenes' own size, which must be one.
        selection: What :func:`select` understands.
        limit: Keep the first so many of the selection.
        crop: Part to keep, in (0, 1], of the largest centred rectangle with the target's proportions: for squares, of
            the short side. Default: what the source declares, or everything where ``size`` is None.
        progress: Called with the number of scenes read and their total, in this thread.
        max_label: Refuse masks with labels above it: the number of slots.
        skip_incomplete: Leave out scenes of which a file is missing, instead of refusing them.

    Returns:
        The scenes in the order of the selection, whatever the order of reading.

    Raises:
        UserError: Everything that is wrong with the scenes, in one line that names the first few.
    """
    source = open_source(path)
    target = _target(size, crop, limit)
    indices = select(source, selection)[:limit]
    if skip_incomplete:
        indices = [index for index in indices if source.problem(index) is None]
        if not indices:
            raise UserError(f"none of the scenes '{selection}' in '{path}' is complete: choose others")
    share = crop if crop is not None else (1.0 if target is None else source.crop)
    images, labels, problems = _read_all(source, indices, target, share, progress)
    if labels is not None and max_label is not None:
        problems = _too_high(labels, [source.scene_name(index) for index in indices], max_label) + problems
    if problems or images is None:
        told = "; ".join(problems[:_TOLD]) + (f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else "")
        raise UserError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in '{path}': {told}")
    names = tuple(source.scene_name(index) for index in indices)
    words = f"{path} ({source.name}), {selection}: {len(indices)} of {len(source)} scenes"
    return SceneArrays(images=images, labels=labels, names=names, source=words)


def fingerprint(arrays: SceneArrays) -> str:
    """16 hexadecimal digits that change with any pixel, label or shape: SHA-256 of the images, then the labels."""
    digest = hashlib.sha256()
    for array in (arrays.images, arrays.labels):
        if array is not None:
            digest.update(repr(array.shape).encode())
            digest.update(np.ravel(array).data)
    return digest.hexdigest()[:16]


def index_hash(indices: Sequence[int]) -> str:
    """12 hexadecimal digits that name a choice of scenes and their order: SHA-256 of the comma-separated indices."""
    return hashlib.sha256(",".join(str(int(index)) for index in indices).encode()).hexdigest()[:12]


def _target(size: int | tuple[int, int] | None, crop: float | None, limit: int | None) -> tuple[int, int] | None:
    """The size as (height, width), after a check of the three arguments."""
    if crop is not None and not 0 < crop <= 1:
        raise UserError(f"crop is {crop}, expected a part of the short side above 0 and at most 1")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}, expected 1 scene or more")
    target = (size, size) if isinstance(size, int) else size
    if target is not None and min(target) < 1:
        raise UserError(f"size is {size}, expected 1 pixel or more a side")
    return target


def _read_all(
    source: SceneSource,
    indices: list[int],
    target: tuple[int, int] | None,
    crop: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None, list[str]]:
    """Images and labels of the scenes, zeros where one could not be read, and what is wrong with those."""

    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | str:
        try:
            return _fit(*source.read(index), target, crop)
        except UserError as error:
            return str(error)

    images: NDArray[np.uint8] | None = None
    labels: NDArray[np.uint8] | None = None
    problems: list[str] = []
    # Pillow decodes and resizes without the interpreter lock; four threads also fill two busy cores.
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        for position, result in enumerate(pool.map(read, indices)):
            if progress is not None:
                progress(position + 1, len(indices))
            if isinstance(result, str):
                problems.append(result)
                continue
            image, mask = result
            if images is None:
                images = np.zeros((len(indices), *image.shape), np.uint8)
                labels = None if mask is None else np.zeros(images.shape[:3], np.uint8)
            if image.shape != images.shape[1:]:
                got, expected = "{}x{}".format(*image.shape), "{1}x{2}".format(*images.shape)
                name = source.scene_name(indices[position])
                problems.append(f"'{name}' is {got} but the first scene is {expected}: choose one size for all")
                continue
            images[position] = image
            if labels is not None and mask is not None:
                labels[position] = mask
    finally:
        pool.shutdown(cancel_futures=True)
    return images, labels, problems


def _fit(
    image: NDArray[np.uint8], labels: NDArray[np.uint8] | None, target: tuple[int, int] | None, crop: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Crop and resize one scene to ``target``, (height, width), or only crop it where that is None."""
    full = image.shape[:2]
    height, width = target or full
    box = _centre_box(full, (height, width), crop)
    if full == (height, width) and box == (0, 0, width, height):
        return image, labels
    if target is None:
        height, width = box[3] - box[1], box[2] - box[0]
    picture = Image.fromarray(image).crop(box).resize((width, height), Image.Resampling.BILINEAR)
    if labels is None:
        return np.asarray(picture), None
    mask = Image.fromarray(labels).crop(box).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(picture), np.asarray(mask)


def _centre_box(full: tuple[int, ...], target: tuple[int, int], crop: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part to keep: the target's proportions, centred, ``crop`` of what fits.

    >>> _centre_box((240, 320), (128, 128), 0.8)
    (64, 24, 256, 216)
    """
    fit = min(full[0] * target[1], full[1] * target[0])  # full height or full width, times the target's other side
    height, width = (max(1, int(crop * fit / side + 1e-6)) for side in (target[1], target[0]))
    left, top = (full[1] - width) // 2, (full[0] - height) // 2
    return left, top, left + width, top + height


def _too_high(labels: NDArray[np.uint8], names: list[str], max_label: int) -> list[str]:
    """One line for all labels above the number of slots, which names the scene with the highest; or none."""
    highest = labels.max(axis=(1, 2))
    count = int((highest > max_label).sum())
    if not count:
        return []
    worst = int(highest.argmax())
    others = f" (so are labels in {count - 1} more)" if count > 1 else ""
    return [
        f"label {highest[worst]} in '{names[worst]}' is above the {max_label} slots{others}: "
        f"use {highest[worst]} slots or more"
    ]
