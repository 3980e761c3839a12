"""Any source to a cache of shards that trains fast: cropped, resized, resumable, whole or not there.

What :mod:`astseg.data.sources.cached` reads. ``plan.json`` is written first and says what is being prepared; a shard is
written under another name and renamed when it is whole; ``manifest.json`` is written when all of them are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.data.benchmark import NoSplitError
from astseg.data.loading import fitted
from astseg.data.open import Reading, SceneSource, index_hash, open_source, select
from astseg.data.sources.cached import FORMAT, MANIFEST, PLAN, CachedSource, file_hash, find_cache, ranges
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEFAULT_SIZE", "prepare"]

DEFAULT_SIZE = (128, 128)
"""Where neither the caller nor the paper says another; scenes that are smaller keep the size of the first."""

SHARD_BYTES = 2**25
"""Images and labels of one shard together; what a process holds in memory."""

_TOLD = 20
_MARK = "shard-{:05d}.json"


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
        resize: How pictures of other proportions fit in, see :mod:`astseg.data.resize`.
        crop: Centre crop; None: what the source declares.
        reading: What of the source is taken.
        processes: How many work at once. More than one are started anew, so a script that asks for them needs the usual
            ``if __name__ == "__main__"``. The result is the same.
        progress: Called with the number of scenes done and their total.

    Raises:
        UserError: ``out`` holds something else, or scenes are broken: all of them are told, and what could be prepared
            is kept for the next call.
    """
    path, out, reading = Path(path).expanduser(), Path(out).expanduser(), reading or Reading()
    source = open_source(path, reading)
    if isinstance(source, CachedSource):
        raise UserError(f"'{path}' is a cache already: train from it")
    indices = select(source, selection)
    size = size or _usual_size(source, indices)
    if min(size) < 1:
        raise UserError(f"size is {size}, expected 1 pixel or more a side")
    crop = source.crop if crop is None else crop
    if not 0 < crop <= 1:
        raise UserError(f"crop is {crop}, expected a part of the short side above 0 and at most 1")
    plan = _plan(path, source, indices, size=size, resize=resize, crop=crop, selection=selection, reading=reading)
    if _begin(out, plan) and (finished := find_cache(out)) is not None:
        return finished
    per_shard = max(1, SHARD_BYTES // (size[0] * size[1] * 4))
    shards = [indices[start : start + per_shard] for start in range(0, len(indices), per_shard)]
    job = _Job(path, out, reading, size, resize, crop, source.has_labels)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(indices))

    problems = [problem for found in _work(job, shards, processes, source, advance) for problem in found]
    if problems:
        told = "; ".join(problems[:_TOLD]) + (f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else "")
        raise UserError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in '{path}': {told}")
    marks = [json.loads((out / _MARK.format(number)).read_text()) for number in range(len(shards))]
    manifest = {**plan, "splits": _splits(source, indices), "shards": marks}
    _write(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    for number in range(len(shards)):
        (out / _MARK.format(number)).unlink()
    (out / PLAN).unlink()
    cache = find_cache(out)
    assert cache is not None
    return cache


def _usual_size(source: SceneSource, indices: Sequence[int]) -> tuple[int, int]:
    """The size to prepare at where nobody says one."""
    if source.benchmark is not None:
        return source.benchmark.image_size
    for index in indices:
        try:
            height, width, _ = source.read(index)[0].shape
        except UserError:  # told with all others, later
            continue
        return DEFAULT_SIZE if height > DEFAULT_SIZE[0] or width > DEFAULT_SIZE[1] else (height, width)
    return DEFAULT_SIZE


def _plan(
    path: Path,
    source: SceneSource,
    indices: Sequence[int],
    *,
    size: tuple[int, int],
    resize: str,
    crop: float,
    selection: str,
    reading: Reading,
) -> dict[str, Any]:
    """What is prepared, as it goes into the manifest."""
    return {
        "format": FORMAT,
        "count": len(indices),
        "labels": source.has_labels,
        "source": {
            "path": str(path.resolve()),
            "format": source.name,
            "count": len(source),
            "selection": selection,
            "indices": ranges(indices),
            "hash": index_hash(indices),
            **asdict(reading),
        },
        "preprocessing": {"size": list(size), "resize": resize, "crop": crop},
        "benchmark": None if source.benchmark is None else json.loads(json.dumps(asdict(source.benchmark))),
    }


def _splits(source: SceneSource, indices: Sequence[int]) -> dict[str, list[list[int]]]:
    """Numbers of the prepared scenes by split of the source, as ranges."""
    splits = {}
    numbers = np.asarray(indices)
    order = np.argsort(numbers, kind="stable")
    for name in ("train", "val", "test"):
        try:
            wanted = np.asarray(source.split(name))
        except NoSplitError:
            continue
        at = np.searchsorted(numbers, wanted, sorter=order).clip(max=len(numbers) - 1)
        found = order[at]
        splits[name] = ranges(found[numbers[found] == wanted].tolist())
    return splits


def _begin(out: Path, plan: dict[str, Any]) -> bool:
    """Make the folder and write the plan, or make sure that it is the same one; whether the cache is finished.

    Raises:
        UserError: The folder holds something else, or cannot be made.
    """
    for name in (MANIFEST, PLAN):
        if not (out / name).is_file():
            continue
        try:
            before = json.loads((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        different = [key for key, value in plan.items() if before.get(key) != value]
        if different:
            raise UserError(f"'{out}' holds a cache with other {', '.join(different)}: choose another folder")
        return name == MANIFEST
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' holds something else than a cache: choose a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{out}' cannot be made ({error.strerror}): choose another folder") from None
    _write(out / PLAN, json.dumps(plan, indent=1).encode())
    return False


def _work(
    job: _Job,
    shards: Sequence[Sequence[int]],
    processes: int,
    source: SceneSource,
    advance: Callable[[int], None],
) -> Iterator[list[str]]:
    """Write the shards, here or in processes; what is wrong with each, when it is finished."""
    if processes < 1:
        raise UserError(f"processes is {processes}, expected at least 1")
    left = [number for number in range(len(shards)) if not _is_whole(job, number)]
    advance(sum(map(len, shards)) - sum(len(shards[number]) for number in left))
    if min(processes, len(left)) <= 1:
        for number in left:
            yield _write_shard(job, number, shards[number], source, advance)
        return
    context = multiprocessing.get_context("spawn")  # readers of other libraries do not all survive a fork
    executor = ProcessPoolExecutor(min(processes, len(left)), mp_context=context, initializer=_leave_stopping_to_parent)
    try:
        write = partial(_write_shard_elsewhere, job)
        pending = {executor.submit(write, number, shards[number]): number for number in left}
        for future in as_completed(pending):
            advance(len(shards[pending.pop(future)]))
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


_opened: dict[_Job, SceneSource] = {}


def _leave_stopping_to_parent() -> None:
    """Ctrl-C reaches every process of a terminal; here it would only leave a trace of the stack."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_shard_elsewhere(job: _Job, number: int, indices: Sequence[int]) -> list[str]:
    """:func:`_write_shard` in a process of its own, which opens the source once."""
    if job not in _opened:
        _opened[job] = open_source(job.path, job.reading)
    return _write_shard(job, number, indices, _opened[job], lambda _: None)


def _write_shard(
    job: _Job, number: int, indices: Sequence[int], source: SceneSource, advance: Callable[[int], None]
) -> list[str]:
    """Read the scenes of a shard and write its files, the mark that it is whole last; what is wrong with the scenes."""
    images = np.zeros((len(indices), *job.size, 3), np.uint8)
    labels = np.zeros((len(indices), *job.size), np.uint8) if job.has_labels else None
    problems = []
    for place, index in enumerate(indices):
        advance(1)
        try:
            image, mask = fitted(source, index, job.size, resize=job.resize, crop=job.crop)
        except UserError as error:
            problems.append(str(error))
            continue
        images[place] = image
        if labels is not None and mask is not None:
            labels[place] = mask
    if problems:
        return problems
    names = json.dumps([source.scene_name(index) for index in indices]).encode()
    files = {f"images-{number:05d}.npy": images, f"labels-{number:05d}.npy": labels, f"names-{number:05d}.json": names}
    hashes = {name: _write(job.out / name, content) for name, content in files.items() if content is not None}
    highest = 0 if labels is None else int(labels.max())
    mark = {"count": len(indices), "highest_label": highest, "sha256": hashes}
    _write(job.out / _MARK.format(number), json.dumps(mark).encode())
    return []


def _is_whole(job: _Job, number: int) -> bool:
    """Whether a shard was finished by an earlier call, and its files are as they were then."""
    try:
        hashes = json.loads((job.out / _MARK.format(number)).read_text())["sha256"]
        return all(file_hash(job.out / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path: Path, content: bytes | NDArray[np.uint8]) -> str:
    """Write a file, whole or not at all, also when the power fails; its SHA-256."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                np.save(file, content)
            file.flush()
            os.fsync(file.fileno())
        digest = file_hash(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): free space or choose another folder; what is there is kept"
        ) from None
    return digest
