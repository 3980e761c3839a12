"""Any source to a cache of memory-mapped arrays that trains fast: cropped, resized, resumable.

What :mod:`astseg.data.sources.cached` reads. ``plan.json`` is written first and says what is being prepared; the arrays
then get their full size and are filled part by part, each with a ``part-00000000.json`` once it is on the disk;
``manifest.json`` is written when all of them are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.data.loading import check_crop, check_size, fitted, joined
from astseg.data.open import Reading, index_hash, open_source, select
from astseg.data.source import SPLITS, NoSplitError, SceneSource
from astseg.data.sources.cached import (
    FORMAT,
    IMAGES,
    LABELS,
    MANIFEST,
    PLAN,
    SCENES,
    CachedSource,
    file_hash,
    find_cache,
)
from astseg.errors import UserError
from astseg.runs.atomic import cannot_write, write_json, write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEFAULT_SIZE", "prepare"]

DEFAULT_SIZE = (128, 128)
"""Where neither the caller nor the paper says another; scenes that are smaller keep the size of the first."""

PART_BYTES = 2**25
"""Images and labels of one part together; what a process holds in memory."""


@dataclass(frozen=True)
class _Job:
    """What every process needs to know."""

    path: Path
    out: Path
    reading: Reading
    size: tuple[int, int]
    resize: str
    crop: float
    has_labels: bool

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of pixels, and the shape of a scene in them."""
        return {IMAGES: (*self.size, 3), LABELS: self.size} if self.has_labels else {IMAGES: (*self.size, 3)}

    def mark(self, part: _Part) -> Path:
        """The file that says that a part is whole."""
        return self.out / f"part-{part.start:08d}.json"


@dataclass(frozen=True)
class _Part:
    """Some scenes: their first row in the arrays, and their indices in the source."""

    start: int
    indices: Sequence[int]


def prepare(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    selection: str = "all",
    resize: str = "crop",
    crop: float | None = None,
    reading: Reading | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CachedSource:
    """Prepare a cache, or finish one that was interrupted.

    Args:
        path: Anything :func:`astseg.data.open_source` recognises.
        out: A new or empty folder, or one in which the same call was interrupted.
        size: (H, W); None: the paper's for its data sets, else that of the first scene, or :data:`DEFAULT_SIZE` where
            that is larger.
        selection: Which scenes, see :func:`astseg.data.select`.
        resize: How images of other proportions are resized, see :mod:`astseg.data.resize`.
        crop: Centre crop; None: what the source declares.
        reading: What of the source is taken.
        processes: How many work at once. More than one are spawned, so a script that asks for them needs the usual
            ``if __name__ == "__main__"``. The result is the same.
        progress: Called with the number of scenes done and their total.

    Raises:
        UserError: ``out`` holds something else, or scenes are broken: all of them are named, and what could be prepared
            is kept for the next call.
    """
    path, out, reading = Path(path).expanduser(), Path(out).expanduser(), reading or Reading()
    source = open_source(path, reading)
    if isinstance(source, CachedSource):
        raise UserError(f"'{path}' is a cache already: train from it")
    if processes < 1:
        raise UserError(f"processes is {processes}, expected at least 1")
    indices = select(source, selection)
    size = check_size(size or _usual_size(source, indices))
    job = _Job(path, out, reading, size, resize, check_crop(source.crop if crop is None else crop), source.has_labels)
    plan = _plan(job, source, indices, selection)
    if not _is_finished(out, plan):
        _begin(job, plan)
        highest, problems, done = 0, [], 0
        for part, result in _fill(job, _parts(job, indices), processes, source):
            done += len(part.indices)
            if isinstance(result, int):
                highest = max(highest, result)
            else:
                problems += result
            if progress is not None:
                progress(done, len(indices))
        if problems:
            raise joined(problems, path, named=20)
        _finish(job, {**plan, "highest_label": highest}, source, indices)
    cache = find_cache(out)
    assert cache is not None
    return cache


def _usual_size(source: SceneSource, indices: Sequence[int]) -> tuple[int, int]:
    """The size to prepare at by default."""
    if source.benchmark is not None:
        return source.benchmark.image_size
    for index in indices:
        try:
            height, width, _ = source.read(index)[0].shape
        except UserError:  # reported with all others, later
            continue
        return DEFAULT_SIZE if height > DEFAULT_SIZE[0] or width > DEFAULT_SIZE[1] else (height, width)
    return DEFAULT_SIZE


def _plan(job: _Job, source: SceneSource, indices: Sequence[int], selection: str) -> dict[str, Any]:
    """What is prepared, as it goes into the manifest."""
    plan = {
        "format": FORMAT,
        "count": len(indices),
        "labels": job.has_labels,
        "source": {
            "path": str(job.path.resolve()),
            "format": source.name,
            "count": len(source),
            "selection": selection,
            "hash": index_hash(indices),
            **asdict(job.reading),
        },
        "preprocessing": {"size": job.size, "resize": job.resize, "crop": job.crop},
        "benchmark": None if source.benchmark is None else asdict(source.benchmark),
    }
    as_read: dict[str, Any] = json.loads(json.dumps(plan))  # tuples become lists
    return as_read


def _is_finished(out: Path, plan: dict[str, Any]) -> bool:
    """Whether the same cache is there already, whole.

    Raises:
        UserError: The folder holds something else.
    """
    name = next((name for name in (MANIFEST, PLAN) if (out / name).is_file()), None)
    if name is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"'{out}' holds something else than a cache: choose a new folder")
        return False
    try:
        before = json.loads((out / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    if different := [key for key, value in plan.items() if before.get(key) != value]:
        raise UserError(f"'{out}' holds a cache with other {', '.join(different)}: choose another folder")
    return name == MANIFEST


def _begin(job: _Job, plan: dict[str, Any]) -> None:
    """Write the plan, and the arrays at their full size, unless an earlier call did."""
    write_json(job.out / PLAN, plan)
    for name, shape in job.row_shapes.items():
        if not (job.out / name).is_file():
            _write_array(job.out / name, np.uint8, (plan["count"], *shape))


def _write_array(path: Path, kind: Any, shape: tuple[int, ...], values: NDArray[Any] | None = None) -> None:
    """Write an array as ``.npy``; one without values is of zeros, which take no space yet."""

    def write(part: Path) -> None:
        array = np.lib.format.open_memmap(part, "w+", kind, shape)
        if values is not None:
            array[:] = values
            array.flush()

    write_whole(path, write)


def _finish(job: _Job, manifest: dict[str, Any], source: SceneSource, indices: Sequence[int]) -> None:
    """Write the table of scenes and the manifest, and remove what an interrupted call needs."""
    splits = {name: numbers for name in SPLITS if (numbers := _split(source, name)) is not None}
    names = [source.scene_name(index) for index in indices]
    kind = [("name", f"U{max(map(len, names))}"), ("index", np.int64), *((name, np.bool_) for name in SPLITS)]
    scenes = np.zeros(len(indices), kind)
    scenes["name"], scenes["index"] = names, indices
    for name, numbers in splits.items():
        scenes[name] = np.isin(indices, numbers)
    _write_array(job.out / SCENES, kind, scenes.shape, scenes)
    hashes = {name: file_hash(job.out / name) for name in (*job.row_shapes, SCENES)}
    write_json(job.out / MANIFEST, {**manifest, "splits": list(splits), "sha256": hashes})
    for file in (*job.out.glob("part-*.json"), job.out / PLAN):
        file.unlink()


def _split(source: SceneSource, name: str) -> list[int] | None:
    try:
        return source.split(name)
    except NoSplitError:
        return None


def _parts(job: _Job, indices: Sequence[int]) -> list[_Part]:
    rows = max(1, PART_BYTES // (job.size[0] * job.size[1] * 4))
    return [_Part(start, indices[start : start + rows]) for start in range(0, len(indices), rows)]


def _fill(
    job: _Job, parts: Sequence[_Part], processes: int, source: SceneSource
) -> Iterator[tuple[_Part, int | list[str]]]:
    """Fill the parts that an earlier call did not, here or in processes; see :func:`_fill_part` for what is given."""
    left = []
    for part in parts:
        try:
            yield part, int(json.loads(job.mark(part).read_text())["highest_label"])
        except (OSError, ValueError, KeyError, TypeError):
            left.append(part)
    if min(processes, len(left)) <= 1:
        yield from ((part, _fill_part(job, part, source)) for part in left)
        return
    context = multiprocessing.get_context("spawn")  # readers of other libraries do not all survive a fork
    # Ctrl-C reaches every process of a terminal: stopping is left to this one.
    ignored = (signal.SIGINT, signal.SIG_IGN)
    executor = ProcessPoolExecutor(min(processes, len(left)), context, initializer=signal.signal, initargs=ignored)
    try:
        pending = {executor.submit(_fill_part, job, part): part for part in left}
        for future in as_completed(pending):
            yield pending[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _opened(job: _Job) -> SceneSource:
    """The source, opened once in each process."""
    return open_source(job.path, job.reading)


def _fill_part(job: _Job, part: _Part, source: SceneSource | None = None) -> int | list[str]:
    """Read the scenes of a part and write them, the mark that they are on the disk last.

    Returns:
        The highest label, or what is wrong with the scenes, of which then none is written.
    """
    source = _opened(job) if source is None else source
    rows = {name: np.zeros((len(part.indices), *shape), np.uint8) for name, shape in job.row_shapes.items()}
    problems = []
    for row, index in enumerate(part.indices):
        try:
            image, labels = fitted(source, index, job.size, resize=job.resize, crop=job.crop)
        except UserError as error:
            problems.append(str(error))
            continue
        rows[IMAGES][row] = image
        if labels is not None:
            rows[LABELS][row] = labels
    if problems:
        return problems
    for name, values in rows.items():
        _write_rows(job.out / name, part.start, values)
    highest = int(rows[LABELS].max()) if job.has_labels else 0
    write_json(job.mark(part), {"highest_label": highest})
    return highest


def _write_rows(path: Path, start: int, rows: NDArray[np.uint8]) -> None:
    """Overwrite rows of an array on disk. By writing, as a full disk kills a process that fills a memory map."""
    count, *_ = np.load(path, mmap_mode="r").shape
    try:
        with path.open("r+b") as file:
            file.seek((start - count) * rows[0].nbytes, os.SEEK_END)
            file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
