"""Look at every scene of a source and report everything that is wrong with it, all at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.loading import in_threads
from astseg.data.open import index_hash, source_hash
from astseg.data.source import SPLITS, NoSplitError, SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Check", "check_source"]


@dataclass
class Check:
    """What a source holds.

    Attributes:
        name: Its format, in words.
        count: Number of scenes, broken ones included.
        read: Number of scenes that could be read.
        sizes: How many scenes have which (height, width).
        splits: Number of scenes and hash of the indices, by split, where the source declares any.
        has_labels: Whether there are masks.
        slots: K that labels were held against, or None.
        mean: Mean of red, green and blue over all pixels, in [0, 1].
        std: Standard deviation of the same.
        objects: How many scenes show how many labels besides the background.
        highest_label: Over all scenes.
        foreground: Share of the pixels that are not background.
        problems: A line for each thing that is wrong; it names the scene or file.
    """

    name: str
    count: int = 0
    read: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    splits: dict[str, tuple[int, str]] = field(default_factory=dict)
    has_labels: bool = False
    slots: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (0.0, 0.0, 0.0)
    objects: Counter[int] = field(default_factory=Counter)
    highest_label: int = 0
    foreground: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """What is kept of one scene: its size, how many pixels have which level of red, green and blue, and which label."""

    size: tuple[int, int]
    levels: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    digest: bytes


def check_source(
    source: SceneSource, *, slots: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Check:
    """Read every scene once. Memory does not grow with the number of scenes but for a digest of each.

    Args:
        source: What :func:`astseg.data.open_source` gave.
        slots: K; labels above it are reported. None: what the paper has for this data set, if it is one of its.
        progress: Called with the number of scenes looked at and their total.
    """
    if slots is None and source.benchmark is not None:
        slots = source.benchmark.slots
    check = Check(source.name, has_labels=source.has_labels, slots=slots)
    check.count = _count(source, check.problems)
    _add_splits(source, check)
    levels, labels = np.zeros((3, 256), np.int64), np.zeros(256, np.int64)
    known: dict[bytes, str] = {}
    for index, seen in enumerate(in_threads(partial(_look, source), range(check.count))):
        if progress is not None:
            progress(index + 1, check.count)
        if isinstance(seen, str):
            check.problems.append(seen)
            continue
        name = source.scene_name(index)
        check.read += 1
        check.sizes[seen.size] += 1
        levels += seen.levels
        if (np.count_nonzero(seen.levels, axis=1) == 1).all():
            check.problems.append(f"'{name}' is empty: every pixel is {tuple(seen.levels.argmax(axis=1).tolist())}")
        if (other := known.setdefault(seen.digest, name)) != name:
            check.problems.append(f"'{name}' is the same picture as '{other}'")
        if seen.labels is not None:
            labels += seen.labels
            present = np.flatnonzero(seen.labels[1:]) + 1
            check.objects[len(present)] += 1
            if slots is not None and len(present) and present[-1] > slots:
                check.problems.append(f"label {present[-1]} in '{name}' is above {slots}, the number of slots")
    if check.read:
        shares, values = levels / levels.sum(axis=1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        check.mean = tuple(mean)
        check.std = tuple(np.sqrt(np.maximum(0, shares @ values**2 - mean**2)))
    if labels.any():
        check.highest_label = int(np.flatnonzero(labels)[-1])
        check.foreground = float(labels[1:].sum() / labels.sum())
    return check


def _count(source: SceneSource, problems: list[str]) -> int:
    """Number of scenes; of a file that is damaged further on, of those in front of the damage."""
    try:
        return len(source)
    except UserError as error:
        problems.append(str(error))
    count = 0
    try:
        while True:
            source.read(count)
            count += 1
    except (UserError, IndexError):
        return count


def _add_splits(source: SceneSource, check: Check) -> None:
    """Number and hash of the splits that the source declares."""
    check.splits["all"] = (check.count, index_hash(range(check.count)))
    for split in SPLITS:
        try:
            indices = source.split(split)
            check.splits[split] = (len(indices), source_hash(source, indices))
        except NoSplitError:
            continue
        except UserError as error:
            if str(error) not in check.problems:
                check.problems.append(str(error))


def _look(source: SceneSource, index: int) -> _Seen:
    image, labels = source.read(index)
    height, width, _ = image.shape
    levels = np.stack([np.bincount(image[:, :, channel].ravel(), minlength=256) for channel in range(3)])
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(image).data)
    counts = None if labels is None else np.bincount(labels.ravel(), minlength=256)
    return _Seen((height, width), levels, counts, digest.digest())
