"""From a source to arrays at the size the model sees.

Every fault found on the way (missing, broken or mismatched files, labels above the number of slots) is collected and
told at once, before any training starts.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.augment import variant
from astseg.data.open import Reading, SceneSource, open_source, select
from astseg.data.resize import RESIZE_MODES, place
from astseg.data.sources.cached import CachedSource
from astseg.errors import UserError
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from astseg.config import AugmentConfig

__all__ = ["fingerprint", "fitted", "load_scenes"]

Scene = tuple["NDArray[np.uint8]", "NDArray[np.uint8] | None"]

LARGEST_AUGMENTED = 4 * 2**30
"""Bytes; variants are kept in memory."""

IN_MEMORY = 2**30
"""Bytes; scenes of a cache that take more are read from it as they are needed."""

_TOLD = 5
_PART = 256


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
    resize: str = "crop",
    reading: Reading | None = None,
    memory: int = IN_MEMORY,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    broken: list[str] | None = None,
) -> SceneArrays:
    """Read scenes into memory, resized: bilinear for images (averaging where it shrinks), nearest for masks.

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
        resize: ``crop``, ``letterbox`` or ``squeeze``, see :mod:`astseg.data.resize`; only ``crop`` heeds the crop.
        reading: What of the source is taken; None: everything.
        memory: Scenes of a cache that take more bytes than this stay on disk and are read as they are indexed.
        augment: Make variants; those of a scene follow it. Only for collections that fit into memory with them.
        seed: Seed of the variants.
        broken: Scenes that cannot be read are left out, and what is wrong with them is added here; None: refuse them.

    Returns:
        The scenes in the order of the selection, whatever the order of reading.

    Raises:
        UserError: Everything that is wrong with the scenes, in one line that names the first few.
    """
    source = open_source(path, reading or Reading())
    target = _target(size, crop, limit, resize)
    indices = select(source, selection)[:limit]
    if skip_incomplete:
        indices = [index for index in indices if source.problem(index) is None]
        if not indices:
            raise UserError(f"none of the scenes '{selection}' in '{path}' is complete: choose others")
    copies = 1 if augment is None else augment.copies
    if isinstance(source, CachedSource) and target in (None, source.size) and copies == 1:
        if crop not in (None, 1.0):
            raise UserError(f"'{path}' was cropped when it was prepared, expected no crop: leave it out")
        return _from_cache(source, indices, str(path), selection, max_label, memory)
    share = crop if crop is not None else (1.0 if target is None else source.crop)
    if target is not None and copies > 1 and len(indices) * copies * target[0] * target[1] * 4 > LARGEST_AUGMENTED:
        gigabytes = len(indices) * copies * target[0] * target[1] * 4 / 1e9
        raise UserError(f"{copies} variants of {len(indices)} scenes take {gigabytes:.0f} GB: take fewer copies")
    read = partial(_variants, source, target, resize, share, augment, seed)
    images, labels, problems, kept = _read_all(source, indices, read, copies, progress)
    if broken is not None and kept and problems and images is not None:
        broken += problems
        problems, indices = [], [indices[position] for position in kept]
        rows = [position * copies + copy for position in kept for copy in range(copies)]
        images, labels = images[rows], None if labels is None else labels[rows]
    if labels is not None and max_label is not None:
        problems = _too_high(labels[::copies], [source.scene_name(index) for index in indices], max_label) + problems
    if problems or images is None:
        told = "; ".join(problems[:_TOLD]) + (f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else "")
        raise UserError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in '{path}': {told}")
    plain = [source.scene_name(index) for index in indices]
    names = tuple(f"{name}#{copy}" if copy else name for name in plain for copy in range(copies))
    words = f"{path} ({source.name}), {selection}: {len(indices)} of {len(source)} scenes"
    if copies > 1:
        words += f", {copies} variants of each"
    return SceneArrays(images=images, labels=labels, names=names, source=words)


def _variants(
    source: SceneSource,
    target: tuple[int, int] | None,
    resize: str,
    crop: float,
    augment: AugmentConfig | None,
    seed: int,
    index: int,
) -> list[Scene]:
    """A scene at the size asked for, and its variants after it."""
    if augment is None or augment.copies == 1:
        return [fitted(source, index, target, resize=resize, crop=crop)]
    image, mask = source.read(index)
    where = place((image.shape[0], image.shape[1]), target, resize=resize, crop=crop)
    first = where.image(image), None if mask is None else where.labels(mask)
    generators = [np.random.default_rng([seed, index, copy]) for copy in range(1, augment.copies)]
    return [first, *(variant(image, mask, where, augment, generator) for generator in generators)]


def _from_cache(
    source: CachedSource, indices: list[int], path: str, selection: str, max_label: int | None, memory: int
) -> SceneArrays:
    """Scenes of a cache at the size they have there, in memory or, if they are many, on disk."""
    images = source.images.chosen(indices)
    labels = None if source.labels is None else source.labels.chosen(indices)
    if labels is not None and max_label is not None and source.highest_label > max_label:
        highest = [int(labels[start : start + _PART].max()) for start in range(0, len(labels), _PART)]
        if max(highest) > max_label:
            begin = int(np.argmax(highest)) * _PART
            names = [source.scene_name(index) for index in indices[begin : begin + _PART]]
            told = _too_high(labels[begin : begin + _PART], names, max_label)[0]
            raise UserError(f"1 problem in '{path}': {told}")
    height, width = source.size
    in_memory = len(indices) * height * width * 4 <= memory
    return SceneArrays(
        images=images[:] if in_memory else images,
        labels=labels[:] if in_memory and labels is not None else labels,
        names=tuple(source.scene_name(index) for index in indices) if in_memory else source.names_of(indices),
        source=f"{path} ({source.name}), {selection}: {len(indices)} of {len(source)} scenes",
    )


def fingerprint(arrays: SceneArrays) -> str:
    """16 hexadecimal digits that change with any pixel, label or shape: SHA-256 of the images, then the labels."""
    digest = hashlib.sha256()
    for array in (arrays.images, arrays.labels):
        if array is not None:
            digest.update(repr(tuple(array.shape)).encode())
            for start in range(0, len(array), _PART):
                digest.update(np.ascontiguousarray(array[start : start + _PART]).data)
    return digest.hexdigest()[:16]


def _target(
    size: int | tuple[int, int] | None, crop: float | None, limit: int | None, resize: str
) -> tuple[int, int] | None:
    """The size as (height, width), after a check of the arguments."""
    if resize not in RESIZE_MODES:
        raise UserError(f"resize is '{resize}', choose from {', '.join(RESIZE_MODES)}")
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
    read: Callable[[int], list[Scene]],
    copies: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None, list[str], list[int]]:
    """Images and labels of the scenes, zeros where one could not be read; what is wrong with those; which were read."""

    def try_to_read(index: int) -> list[Scene] | str:
        try:
            return read(index)
        except UserError as error:
            return str(error)

    images: NDArray[np.uint8] | None = None
    labels: NDArray[np.uint8] | None = None
    problems: list[str] = []
    kept: list[int] = []
    # Pillow decodes and resizes without the interpreter lock; four threads also fill two busy cores.
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        for position, result in enumerate(pool.map(try_to_read, indices)):
            if progress is not None:
                progress(position + 1, len(indices))
            if isinstance(result, str):
                problems.append(result)
                continue
            image, mask = result[0]
            if images is None:
                images = np.zeros((len(indices) * copies, *image.shape), np.uint8)
                labels = None if mask is None else np.zeros(images.shape[:3], np.uint8)
            if image.shape != images.shape[1:]:
                got, expected = "{}x{}".format(*image.shape), "{1}x{2}".format(*images.shape)
                name = source.scene_name(indices[position])
                problems.append(f"'{name}' is {got} but the first scene is {expected}: choose one size for all")
                continue
            kept.append(position)
            for place_of, (one, its_mask) in enumerate(result, start=position * copies):
                images[place_of] = one
                if labels is not None and its_mask is not None:
                    labels[place_of] = its_mask
    finally:
        pool.shutdown(cancel_futures=True)
    return images, labels, problems, kept


def fitted(
    source: SceneSource, index: int, size: tuple[int, int] | None, *, resize: str, crop: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read one scene and bring it to a size, (height, width); None: as large as what is kept of it."""
    image, labels = source.read(index)
    where = place((image.shape[0], image.shape[1]), size, resize=resize, crop=crop)
    return where.image(image), None if labels is None else where.labels(labels)


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
