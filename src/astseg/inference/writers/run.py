"""Images or videos to files: masks, tables of all objects, images to look at.

::

    OUT/masks/NAME.png       label map, palette PNG: the index of a pixel is the id of its object, 0 = background
    OUT/coco.json            COCO: run lengths, box, area and score of each object
    OUT/objects.csv          a line an object
    OUT/overlays/NAME.png    the image with outlines and ids
    OUT/videos/NAME.mp4      the same of a video; its ids stay with the objects from frame to frame
    OUT/backgrounds/NAME.png, OUT/cutouts/NAME_ID.png (RGBA, the box of an object), OUT/reconstructions/NAME.png,
    OUT/layers/NAME.npz
    OUT/segment.json         what was done, and which images could not be read

Every file is written to a temporary name and renamed. While the model runs on a batch of images, threads read the next
one and write the results of the one before; memory does not grow with the number of images.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from astseg import __version__
from astseg.data import Reading, SceneSource
from astseg.data.paths import open_given
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError
from astseg.inference.batches import batches
from astseg.inference.writers.folder import KINDS, MARK, earlier_results, remove_results, result_names, write_images
from astseg.inference.writers.read_ahead import read_images
from astseg.inference.writers.tables import Tables
from astseg.inference.writers.videos import VideoResults
from astseg.runs.atomic import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.segmenter import Segmenter

__all__ = ["SegmentSummary", "segment_folder"]

_BEHIND = 8
"""At least so many images may wait to be written, however large they are."""

_CROPPED = 0.1
"""Share of an image outside what the model sees from which on it is counted as cropped."""

_USUAL = ("overlays", "backgrounds", "cutouts")


@dataclass(frozen=True)
class SegmentSummary:
    """What was done.

    Attributes:
        images: Number of images segmented.
        objects: Number of objects found in them.
        skipped: For each image that could not be read, what is wrong with it, in a line that names it.
        written: What lies in the folder now: names of files, and of folders with a slash at the end.
        cropped: Number of images of which more than a tenth lies outside of what the model looks at.
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
    """Segment every image of a folder, or every frame of a video, and write the results.

    Images that cannot be read are skipped and listed. Results keep the images' names and subfolders; where two would
    get the same name, all keep their old suffix (``a.jpg.png``).

    Args:
        segmenter: The model.
        inputs: An image, a folder of images with all its subfolders, a pattern, a video, or several of one kind;
            or anything else that :func:`astseg.data.open_source` takes.
        out: A new or empty folder, or one that this function made before: its earlier results are replaced.
        batch_size: Images a forward pass.
        write: What is written besides masks and tables: some of ``overlays``, ``backgrounds``, ``cutouts``,
            ``reconstructions``, ``layers``. None: the first three; of videos, whose overlays are videos, the first.
        resize: As for :meth:`Segmenter.predict`.
        reading: What of a video is taken; None: every frame.
        progress: Called with the number of images done and their total.

    Raises:
        UserError: No images or none that can be read, an ``out`` that holds other things or lies among the images,
            a batch size below 1, something unknown to write. Nothing has been written then.
    """
    given = [Path(one).expanduser() for one in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    job, root = _prepared(segmenter, given, Path(out).expanduser(), batch_size, write, resize, reading)
    out, source = job.out, job.source
    earlier = earlier_results(out)
    about = {
        "astseg": __version__,
        "input": [str(one.absolute()) for one in given],
        "root": str(root.absolute()),
        "kind": "video" if isinstance(source, VideoSource) else "pictures",
        "precision": segmenter.precision,
        "preprocess": asdict(segmenter.preprocess.instead(resize)),
    }
    skipped: list[str] = []
    with _threads(share_cores=bool(job.kinds)) as (readers, writers):
        images = read_images(source, readers, skipped, batch_size)
        first = next(images, None)
        if first is None:
            raise _none_readable(given, len(source), skipped)
        remove_results(out, earlier)
        # From now on the folder is known as ours, even if this run is interrupted.
        write_json(out / MARK, {"complete": False, **about, "results": job.results})
        counts = job.run(itertools.chain([first], images), writers, progress)
    write_json(out / MARK, {"complete": True, **about, **counts, "skipped": skipped, "results": job.results})
    present = [f"{kind}/" for kind in ("masks", *KINDS, "videos") if (out / kind).is_dir()]
    return SegmentSummary(
        **counts, skipped=tuple(skipped), written=(*present, "coco.json", "objects.csv"), cropped=job.cropped
    )


def _prepared(
    segmenter: Segmenter,
    given: Sequence[Path],
    out: Path,
    batch_size: int,
    write: Collection[str] | None,
    resize: str | None,
    reading: Reading | None,
) -> tuple[_Job, Path]:
    """What is to be done, and the folder of the images. Raises UserError; nothing is written."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    segmenter.preprocess.instead(resize)  # refuses an unknown mode
    source, root = open_given(given, reading)
    kinds = _kinds(write, of_videos=isinstance(source, VideoSource))
    names = [source.scene_name(index) for index in range(len(source))]
    results = result_names(names)
    _check_apart(out, given, root, names)
    return _Job(segmenter, source, names, results, out, kinds, resize, batch_size), root


def _none_readable(given: Sequence[Path], total: int, skipped: Sequence[str]) -> UserError:
    named = f"'{given[0]}'" + (f" and {len(given) - 1} more" if len(given) > 1 else "")
    reasons = "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    return UserError(f"none of the {total} pictures in {named} can be read: {reasons}")


@dataclass
class _Job:
    """What stays the same for all images, and the number of those that were cropped."""

    segmenter: Segmenter
    source: SceneSource
    names: list[str]
    results: list[str]
    out: Path
    kinds: Collection[str]
    resize: str | None
    batch_size: int
    cropped: int = 0

    def run(
        self,
        images: Iterable[tuple[int, NDArray[np.uint8]]],
        pool: ThreadPoolExecutor,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, int]:
        """Segment and write; returns the numbers of images and objects."""
        appearance_size = self.segmenter.appearance_size
        source = self.source if isinstance(self.source, VideoSource) else None
        writing: deque[Future[None]] = deque()
        with (
            Tables(self.out, appearance_size=appearance_size) as tables,
            VideoResults(self.out, source, self.kinds) as videos,
        ):
            for batch in batches(images, self.batch_size):
                self._segment(batch, tables, videos, pool, writing)
                if progress is not None:
                    progress(batch[-1][0] + 1, len(self.source))
            for each in writing:
                each.result()
        return {"images": tables.images, "objects": tables.objects}

    def _segment(
        self,
        batch: list[tuple[int, NDArray[np.uint8]]],
        tables: Tables,
        videos: VideoResults,
        pool: ThreadPoolExecutor,
        writing: deque[Future[None]],
    ) -> None:
        """Segment a batch; its files are written by the pool, or here where too many wait for that."""
        predictions = self.segmenter.predictions(
            [image for _, image in batch],
            batch_size=self.batch_size,
            resize=self.resize,
            layers="layers" in self.kinds,
        )
        for (index, image), prediction in zip(batch, predictions, strict=True):
            name, result = self.names[index], self.results[index]
            self.cropped += prediction.placement.kept < 1 - _CROPPED
            labels, objects = videos.follow(name, image, prediction)
            tables.add(name, f"masks/{result}.png", labels, objects)
            task = (self.out, result, image, prediction, labels, objects, videos.kinds_of_frames)
            while writing and writing[0].done():
                writing.popleft().result()
            # A whole batch may wait, or the writers would have nothing to do while the model runs.
            if len(writing) < max(_BEHIND, len(batch)):
                writing.append(pool.submit(write_images, *task))
            else:
                write_images(*task)


@contextmanager
def _threads(*, share_cores: bool) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Threads that read and threads that write; with one pool a batch would be read only after the last was written.

    They get half of the cores, and the model computes on the others: more threads than cores would take turns with the
    one that all others wait for. Where only masks are written (``share_cores`` is False) there is too little to do for
    them, and the model keeps all cores.
    """
    before = torch.get_num_threads()
    cores = max(1, before // 2)
    torch.set_num_threads(max(1, before - cores) if share_cores else before)
    try:
        with (
            ThreadPoolExecutor(cores if share_cores else 2 * cores) as readers,
            ThreadPoolExecutor(cores) as writers,
        ):
            try:
                yield readers, writers
            except BaseException:
                for pool in (readers, writers):
                    pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)


def _kinds(write: Collection[str] | None, *, of_videos: bool) -> tuple[str, ...]:
    """What is written besides masks and tables."""
    if write is None:
        return ("overlays",) if of_videos else _USUAL
    for kind in write:
        if kind not in KINDS:
            raise UserError(f"'{kind}' cannot be written, choose from {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in write)


def _check_apart(out: Path, given: Sequence[Path], root: Path, names: Sequence[str]) -> None:
    """Make sure that results do not land among the images, nor lie above them, and are no images themselves."""
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
