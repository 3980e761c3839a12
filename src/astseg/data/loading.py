"""From a source to arrays at the size the model sees.

Every fault found on the way (missing, broken or mismatched files, labels above the number of slots) is collected and
reported at once, before any training starts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from astseg.data.augment import variant
from astseg.data.open import Reading, open_source, select
from astseg.data.resize import RESIZE_MODES, place
from astseg.data.source import SceneSource
from astseg.data.sources.cached import CachedSource, StoredRows
from astseg.errors import UserError
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from astseg.config import AugmentConfig

__all__ = ["check_crop", "check_size", "fingerprint", "fitted", "in_threads", "joined", "load_scenes"]

T = TypeVar("T")
Scene = tuple["NDArray[np.uint8]", "NDArray[np.uint8] | None"]

LARGEST_AUGMENTED = 4 * 2**30
"""Bytes; variants are kept in memory."""

IN_MEMORY = 2**30
"""Bytes; scenes of a cache that take more are read from it as they are needed."""

_CHUNK = 256


@dataclass(frozen=True)
class _Loader:
    """How the scenes of a source are read.

    Attributes:
        source: The source.
        size: (height, width), or None to keep the scenes' own.
        resize: One of :data:`RESIZE_MODES`.
        crop: Part to keep, in (0, 1].
        augment: How variants are made, or None.
        seed: Seed of the variants.
    """

    source: SceneSource
    size: tuple[int, int] | None
    resize: str
    crop: float
    augment: AugmentConfig | None
    seed: int

    @property
    def copies(self) -> int:
        """Images made of each scene."""
        return 1 if self.augment is None else self.augment.copies

    def read(self, index: int) -> list[Scene]:
        """A scene at the size asked for, and its variants after it."""
        if self.augment is None or self.copies == 1:
            return [fitted(self.source, index, self.size, resize=self.resize, crop=self.crop)]
        image, mask = self.source.read(index)
        where = place((image.shape[0], image.shape[1]), self.size, resize=self.resize, crop=self.crop)
        first = where.image(image), None if mask is None else where.labels(mask)
        generators = [np.random.default_rng([self.seed, index, copy]) for copy in range(1, self.copies)]
        return [first, *(variant(image, mask, where, self.augment, generator) for generator in generators)]


def in_threads(read: Callable[[int], T], indices: Sequence[int]) -> Iterator[T | str]:
    """What some scenes are read as, in order; or the text of the UserError that came of it."""

    def read_or_problem(index: int) -> T | str:
        try:
            return read(index)
        except UserError as error:
            return str(error)

    # Pillow decodes and resizes without the interpreter lock; four threads also fill two busy cores.
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        yield from pool.map(read_or_problem, indices)
    finally:
        pool.shutdown(cancel_futures=True)


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
        limit: Keep at most the first ``limit`` of the selection.
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
    if skip_incomplete and not (indices := [index for index in indices if source.problem(index) is None]):
        raise UserError(f"none of the scenes '{selection}' in '{path}' is complete: choose others")

    def words(count: int) -> str:
        return f"{path} ({source.name}), {selection}: {count} of {len(source)} scenes"

    share = crop if crop is not None else (1.0 if target is None else source.crop)
    loader = _Loader(source, target, resize, share, augment, seed)
    if isinstance(source, CachedSource) and target in (None, source.size) and loader.copies == 1:
        if crop not in (None, 1.0):
            raise UserError(f"'{path}' was cropped when it was prepared, expected no crop: leave it out")
        return _from_cache(source, indices, str(path), words(len(indices)), max_label, memory)
    return _into_memory(loader, indices, str(path), words, max_label, progress, broken)


def _into_memory(
    loader: _Loader,
    indices: Sequence[int],
    path: str,
    words: Callable[[int], str],
    max_label: int | None,
    progress: Callable[[int, int], None] | None,
    broken: list[str] | None,
) -> SceneArrays:
    """Scenes and their variants, see :func:`load_scenes`."""
    copies, name = loader.copies, loader.source.scene_name
    if loader.size is not None and copies > 1:
        size = len(indices) * copies * loader.size[0] * loader.size[1] * 4
        if size > LARGEST_AUGMENTED:
            raise UserError(f"{copies} variants of {len(indices)} scenes take {size / 1e9:.0f} GB: take fewer copies")
    images: NDArray[np.uint8] | None = None
    labels: NDArray[np.uint8] | None = None
    problems: list[str] = []
    kept: list[int] = []
    for done, (index, found) in enumerate(zip(indices, in_threads(loader.read, indices), strict=True), start=1):
        if progress is not None:
            progress(done, len(indices))
        if isinstance(found, str):
            problems.append(found)
            continue
        if images is None:
            images = np.zeros((len(indices) * copies, *found[0][0].shape), np.uint8)
            labels = None if found[0][1] is None else np.zeros(images.shape[:3], np.uint8)
        if found[0][0].shape != images.shape[1:]:
            got, expected = "{}x{}".format(*found[0][0].shape), "{1}x{2}".format(*images.shape)
            problems.append(f"'{name(index)}' is {got} but the first scene is {expected}: choose one size for all")
            continue
        for row, (image, mask) in enumerate(found, start=len(kept) * copies):
            images[row] = image
            if labels is not None and mask is not None:
                labels[row] = mask
        kept.append(index)
    if images is not None and len(kept) < len(indices):
        images, labels = images[: len(kept) * copies], None if labels is None else labels[: len(kept) * copies]
    names = [name(index) for index in kept]
    too_high = [] if labels is None or max_label is None else _too_high(labels[::copies], names, max_label)
    if broken is not None and kept:
        broken += problems
        problems = []
    if images is None or too_high or problems:
        raise joined(too_high + problems, path)
    names = [f"{name}#{copy}" if copy else name for name in names for copy in range(copies)]
    described = words(len(kept)) + (f", {copies} variants of each" if copies > 1 else "")
    return SceneArrays(images=images, labels=labels, names=tuple(names), source=described)


def _from_cache(
    source: CachedSource, indices: list[int], path: str, words: str, max_label: int | None, memory: int
) -> SceneArrays:
    """Scenes of a cache at the size they have there, in memory or, if they are many, on disk."""
    images, names = StoredRows(source.images, indices), StoredRows(source.names, indices)
    labels = None if source.labels is None else StoredRows(source.labels, indices)
    if labels is not None and max_label is not None and source.highest_label > max_label:
        for start in range(0, len(labels), _CHUNK):
            some = slice(start, start + _CHUNK)
            if problems := _too_high(labels[some], names[some], max_label):
                raise joined(problems, path)
    height, width = source.size
    if len(indices) * height * width * 4 > memory:
        return SceneArrays(images, labels, names, words)
    return SceneArrays(images[:], None if labels is None else labels[:], tuple(names[:].tolist()), words)


def joined(problems: Sequence[str], path: str | os.PathLike[str], *, named: int = 5) -> UserError:
    """The error of everything that is wrong with a source, in one line that names the first few problems."""
    more = len(problems) - named
    text = "; ".join(problems[:named]) + (f"; and {more} more" if more > 0 else "")
    return UserError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in '{path}': {text}")


def fingerprint(arrays: SceneArrays) -> str:
    """16 hexadecimal digits that change with any pixel, label or shape: SHA-256 of the images, then the labels."""
    digest = hashlib.sha256()
    for array in (arrays.images, arrays.labels):
        if array is not None:
            digest.update(repr(tuple(array.shape)).encode())
            for start in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).data)
    return digest.hexdigest()[:16]


def check_crop(crop: float) -> float:
    """The crop. Raises UserError where it is not in (0, 1]."""
    if not 0 < crop <= 1:
        raise UserError(f"crop is {crop}, expected a part of the short side above 0 and at most 1")
    return crop


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """The size as (height, width). Raises UserError where a side is not positive."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UserError(f"size is {size}, expected 1 pixel or more a side")
    return height, width


def _target(
    size: int | tuple[int, int] | None, crop: float | None, limit: int | None, resize: str
) -> tuple[int, int] | None:
    """The size as (height, width), after a check of the arguments."""
    if resize not in RESIZE_MODES:
        raise UserError(f"resize is '{resize}', choose from {', '.join(RESIZE_MODES)}")
    if crop is not None:
        check_crop(crop)
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}, expected 1 scene or more")
    return None if size is None else check_size(size)


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
