"""Pictures or videos to files: masks, tables of all objects, pictures to look at.

::

    OUT/masks/NAME.png       label map, palette PNG: the index of a pixel is the id of its object, 0 = background
    OUT/coco.json            COCO: run lengths, box, area and score of each object
    OUT/objects.csv          a line an object
    OUT/overlays/NAME.png    the picture with outlines and ids
    OUT/videos/NAME.mp4      the same of a video; its ids stay with the objects from frame to frame
    OUT/backgrounds/NAME.png, OUT/cutouts/NAME_ID.png (RGBA, the box of an object), OUT/reconstructions/NAME.png,
    OUT/layers/NAME.npz
    OUT/segment.json         what was done, and which pictures could not be read

Every file is written beside its place and renamed. While the model looks at a batch of pictures, threads read the next
one and write the results of the one before; memory does not grow with the number of pictures.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from astseg import __version__
from astseg.data import Reading, SceneSource
from astseg.data.paths import open_given
from astseg.data.resize import RESIZE_MODES
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError
from astseg.inference.writers.folder import KINDS, MARK, earlier_results, remove_results, result_names, write_pictures
from astseg.inference.writers.tables import Tables
from astseg.inference.writers.videos import VideoResults
from astseg.runs.atomic import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.segmenter import Segmenter

__all__ = ["SegmentSummary", "segment_folder"]

_LARGEST_BATCH = 2**24
"""Pixels of the pictures of a batch, whatever its size: photographs are large. About so many more are read ahead of it,
and so many wait to be written behind it."""

_AHEAD, _BEHIND = 2, 8
"""So many pictures at least are read ahead, and so many may wait to be written, however large they are."""

_MUCH = 0.1
"""A change of proportions that is worth telling."""

_USUAL = ("overlays", "backgrounds", "cutouts")

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class SegmentSummary:
    """What was done.

    Attributes:
        images: Number of pictures segmented.
        objects: Number of objects found in them.
        skipped: For each picture that could not be read, what is wrong with it, in a line that names it.
        written: What lies in the folder now: names of files, and of folders with a slash at the end.
        cropped: Number of pictures of which more than a tenth lies outside of what the model looks at.
    """

    images: int
    objects: int
    skipped: tuple[str, ...]
    written: tuple[str, ...] = ()
    cropped: int = 0


def segment_folder(
    segmenter: Segmenter,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int = 32,
    write: Collection[str] | None = None,
    resize: str | None = None,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentSummary:
    """Segment every picture of a folder, or every frame of a video, and write the results.

    Pictures that cannot be read are skipped and told. Results keep the pictures' names and subfolders; where two would
    get the same name, all keep their old suffix (``a.jpg.png``).

    Args:
        segmenter: The model.
        inputs: A picture, a folder of pictures with all its subfolders, a pattern, a video, or several of one kind;
            or anything else that :func:`astseg.data.open_source` takes.
        out: A new or empty folder, or one that this function made before: its earlier results are replaced.
        batch_size: Images a forward pass.
        write: What is written besides masks and tables: some of ``overlays``, ``backgrounds``, ``cutouts``,
            ``reconstructions``, ``layers``. None: the first three; of videos, whose overlays are videos, the first.
        resize: As for :meth:`Segmenter.predict`.
        reading: What of a video is taken; None: every frame.
        progress: Called with the number of pictures done and their total.

    Raises:
        UserError: No pictures or none that can be read, an ``out`` that holds other things or lies among the pictures,
            a batch size below 1, something unknown to write. Nothing has been written then.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    if resize is not None and resize not in RESIZE_MODES:
        raise UserError(f"resize is '{resize}', choose from {', '.join(RESIZE_MODES)}")
    given = [Path(one).expanduser() for one in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    out = Path(out).expanduser()
    source, root = open_given(given, reading)
    of_videos = isinstance(source, VideoSource)
    kinds = _kinds(write, of_videos)
    names = [source.scene_name(index) for index in range(len(source))]
    results = result_names(names)
    earlier = earlier_results(out)
    _check_apart(out, given, root, names)

    about: dict[str, Any] = {
        "astseg": __version__,
        "input": [str(one.absolute()) for one in given],
        "root": str(root.absolute()),
        "kind": "video" if of_videos else "pictures",
        "precision": segmenter.pipeline.precision,
        "preprocess": asdict(segmenter.preprocess.instead(resize)),
    }
    skipped: list[str] = []
    # Threads of their own for each, or a batch would be read only when the results of the one before are written.
    with (
        _cores_for_files(some=bool(kinds)) as cores,
        ThreadPoolExecutor(cores if kinds else 2 * cores) as readers,
        ThreadPoolExecutor(cores) as writers,
    ):
        # Each frame behind a fault of a video decodes it from its beginning, before the fault is known.
        pictures = _read(source, readers, skipped, at_once=2 * _AHEAD if of_videos else batch_size)
        first = next(pictures, None)
        if first is None:
            told = "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
            raise UserError(f"none of the {len(source)} pictures in {_named(given)} can be read: {told}")
        remove_results(out, earlier)
        # From now on the folder is known as ours, even if this run is interrupted.
        write_json(out / MARK, {"complete": False, **about, "results": results})
        work = _Work(segmenter, source, names, results, out, kinds, resize=resize)
        pictures = itertools.chain([first], pictures)
        try:
            tables = Tables(out, appearance_size=segmenter.pipeline.model.renderer.generator.appearance_size)
            with tables, VideoResults(out, source if isinstance(source, VideoSource) else None, kinds) as videos:
                for last in work.run(pictures, writers, tables, videos, batch_size=batch_size):
                    if progress is not None:
                        progress(last + 1, len(source))
        except BaseException:
            for pool in (readers, writers):
                pool.shutdown(cancel_futures=True)
            raise
    about |= {"images": tables.images, "objects": tables.objects, "skipped": skipped}
    write_json(out / MARK, {"complete": True, **about, "results": results})
    present = [f"{kind}/" for kind in ("masks", *KINDS, "videos") if (out / kind).is_dir()]
    written = (*present, "coco.json", "objects.csv")
    return SegmentSummary(tables.images, tables.objects, tuple(skipped), written, work.cropped)


@dataclass
class _Work:
    """What stays the same for all pictures, and what is counted of them."""

    segmenter: Segmenter
    source: SceneSource
    names: list[str]
    results: list[str]
    out: Path
    kinds: Collection[str]
    resize: str | None
    cropped: int = 0

    def run(
        self,
        pictures: Iterable[tuple[int, NDArray[np.uint8]]],
        writers: ThreadPoolExecutor,
        tables: Tables,
        videos: VideoResults,
        *,
        batch_size: int,
    ) -> Iterator[int]:
        """Segment and write; gives the number of the last picture of each batch when the batch is done."""
        writing: deque[Future[None]] = deque()
        for batch in _batches(pictures, batch_size):
            images = [image for _, image in batch]
            predictions = self.segmenter.predictions(
                images, batch_size=batch_size, resize=self.resize, layers="layers" in self.kinds
            )
            for (index, image), prediction in zip(batch, predictions, strict=True):
                name, result = self.names[index], self.results[index]
                self.cropped += prediction.placement.kept < 1 - _MUCH
                labels, objects = videos.follow(name, image, prediction)
                tables.add(name, f"masks/{result}.png", labels, objects)
                kinds = videos.kinds_of_frames
                task = (self.out, result, image, prediction, labels, objects, kinds)
                while writing and writing[0].done():
                    writing.popleft().result()
                # A whole batch may wait, or the writers would have nothing to do while the model runs.
                if len(writing) < max(_BEHIND, len(batch)):
                    writing.append(writers.submit(write_pictures, *task))
                else:
                    write_pictures(*task)  # instead of waiting for them
            yield batch[-1][0]
        for each in writing:
            each.result()


@contextmanager
def _cores_for_files(*, some: bool) -> Iterator[int]:
    """Half of the cores, one at least, for threads that read and write; the model computes on the others meanwhile.

    More threads than cores would take turns with the one that all others wait for. Where only masks are written (some
    is False) there is too little to do for them: the model keeps all cores.
    """
    before = torch.get_num_threads()
    cores = max(1, before // 2)
    torch.set_num_threads(max(1, before - cores) if some else before)
    try:
        yield cores
    finally:
        torch.set_num_threads(before)


def _kinds(write: Collection[str] | None, of_videos: bool) -> tuple[str, ...]:
    """What is written besides masks and tables."""
    if write is None:
        return ("overlays",) if of_videos else _USUAL
    for kind in write:
        if kind not in KINDS:
            raise UserError(f"'{kind}' cannot be written, choose from {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in write)


def _check_apart(out: Path, given: Sequence[Path], root: Path, names: Sequence[str]) -> None:
    """Make sure that results do not land among the pictures, nor lie above them, and are no pictures themselves."""
    inside = out.resolve()
    for one in given:
        outside = one.resolve()
        if (one.is_dir() and inside.is_relative_to(outside)) or outside.is_relative_to(inside):
            raise UserError(f"'{out}' and '{one}' lie in each other, expected separate folders: choose another")
    if inside.is_relative_to(root.resolve()):
        inner = inside.relative_to(root.resolve()).as_posix()
        below = "" if inner == "." else f"{inner}/"
        if any(name.startswith(below) for name in names):
            raise UserError(f"'{out}' holds some of the pictures that are named: choose another, or another pattern")


def _named(given: Sequence[Path]) -> str:
    return f"'{given[0]}'" if len(given) == 1 else f"'{given[0]}' and {len(given) - 1} more"


def _read(
    source: SceneSource, readers: ThreadPoolExecutor, skipped: list[str], *, at_once: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Pictures with their numbers, ``at_once`` read ahead and few where they are large; faults go to ``skipped``.

    Of a video nothing is read after its first fault: each try would decode it again from its beginning.
    """

    def read(index: int) -> NDArray[np.uint8] | UserError:
        if _video_of(source, index) in damaged:
            return UserError("")
        try:
            return source.read(index)[0]
        except UserError as error:
            return error

    def room(latest: NDArray[np.uint8] | UserError) -> int:
        pixels = _LARGEST_BATCH if isinstance(latest, UserError) else latest.shape[0] * latest.shape[1]
        return max(_AHEAD, min(at_once, _LARGEST_BATCH // pixels))

    damaged: set[str] = set()
    for index, result in enumerate(_ahead(readers, read, range(len(source)), room)):
        video = _video_of(source, index)
        if not isinstance(result, UserError):
            if video not in damaged:
                yield index, result
        elif video is None or video not in damaged:
            skipped.append(str(result) + (f" (its frames from {source.scene_name(index)} on)" if video else ""))
            if video is not None:
                damaged.add(video)


def _video_of(source: SceneSource, index: int) -> str | None:
    """The video that a frame is of, or None for pictures."""
    return os.path.dirname(source.scene_name(index)) if isinstance(source, VideoSource) else None


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], T], items: Iterable[Item], room: Callable[[T], int]
) -> Iterator[T]:
    """The results in order; the latest tells how many more are worked on meanwhile."""
    pending: deque[Future[T]] = deque()
    most = _AHEAD
    for item in items:
        pending.append(pool.submit(function, item))
        while len(pending) > most:
            result = pending.popleft().result()
            most = room(result)
            yield result
    while pending:
        yield pending.popleft().result()


def _batches(
    pictures: Iterable[tuple[int, NDArray[np.uint8]]], batch_size: int
) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    """Pictures with their numbers, ``batch_size`` at most and few where they are large."""
    batch: list[tuple[int, NDArray[np.uint8]]] = []
    pixels = 0
    for index, image in pictures:
        batch.append((index, image))
        pixels += image.shape[0] * image.shape[1]
        if len(batch) == batch_size or pixels >= _LARGEST_BATCH:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
