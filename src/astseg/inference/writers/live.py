"""Results of what comes in while one waits: a camera, a network stream, a folder that is watched.

The files are those of :mod:`astseg.inference.writers.run`. Masks are whole at every moment. The tables of pictures are
brought up to date whenever none waits; those of a stream, and its video of overlays, are there when it ends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.sources.live import LiveSource
from astseg.errors import UserError
from astseg.inference.writers.folder import MARK, earlier_results, remove_results, result_names
from astseg.inference.writers.job import Job, threads
from astseg.inference.writers.read_ahead import Picture
from astseg.inference.writers.run import SegmentSummary, about_run, check_apart, kinds_of, present
from astseg.inference.writers.tables import Tables
from astseg.runs.atomic import write_json

if TYPE_CHECKING:
    from astseg.inference.segmenter import Segmenter

__all__ = ["segment_live"]

_SHARE = 10
"""Bringing tables up to date takes at most one part in so many of the time."""


def segment_live(
    segmenter: Segmenter,
    source: LiveSource,
    out: str | Path,
    *,
    stopped: Callable[[], bool],
    batch_size: int = 32,
    write: Collection[str] | None = None,
    resize: str | None = None,
    progress: Callable[[int, None], None] | None = None,
) -> SegmentSummary:
    """Segment what comes in, until the source ends or that is asked for.

    Args:
        segmenter: The model.
        source: Where pictures come from.
        out: As for :func:`~astseg.inference.writers.run.segment_folder`.
        stopped: Whether to end; asked several times a second. Whatever has come in by then is finished.
        batch_size: Images a forward pass, at most; what has come in does not wait for more.
        write: As for :func:`~astseg.inference.writers.run.segment_folder`.
        resize: As for :meth:`Segmenter.predict`.
        progress: Called with the number of images done, and None.

    Raises:
        UserError: A stream without a frame, and as for :func:`~astseg.inference.writers.run.segment_folder`. Nothing
            has been written then.
    """
    out = Path(out).expanduser()
    segmenter.check_options(batch_size, resize)
    video = source.video
    root = Path() if video is not None else Path(source.name)
    if video is None:
        check_apart(out, [root], root, [])
    kinds = kinds_of(write, of_videos=video is not None)
    earlier = earlier_results(out)
    about = about_run(segmenter, [source.name], root, resize, kind="pictures" if video is None else "video")
    results: list[str] = [] if video is None else [f"{video}/"]
    pictures = _pictures(source, stopped, results)
    if video is not None:
        pictures = _begun(pictures, source, stopped)
    remove_results(out, earlier)
    write_json(out / MARK, {"complete": False, **about, "results": results})
    pace = _Pace()

    def publish(tables: Tables) -> None:
        if video is None and pace.is_due(tables.images):
            tables.publish()
            counts = {"images": tables.images, "objects": tables.objects}
            write_json(
                out / MARK, {"complete": False, **about, **counts, "skipped": source.skipped, "results": results}
            )
            pace.done()

    job = Job(segmenter, out, kinds, resize, batch_size, None if video is None else lambda _: source.rate)
    done = None if progress is None else lambda count: progress(count, None)
    with threads(share_cores=bool(kinds)) as (_, writers):
        counts = job.run(pictures, writers, done=done, idle=publish)
    write_json(out / MARK, {"complete": True, **about, **counts, "skipped": source.skipped, "results": results})
    return SegmentSummary(
        **counts, skipped=tuple(source.skipped), written=present(out), cropped=job.cropped, dropped=source.dropped
    )


def _pictures(source: LiveSource, stopped: Callable[[], bool], results: list[str]) -> Iterator[Picture | None]:
    """What comes in, with the names of the results; those of pictures go to ``results``."""
    count = 0
    for arrival in source.arrivals(stopped):
        if arrival is None:
            yield None
            continue
        # Pictures keep their ending: one of the same name with another may still come.
        result = result_names([arrival.name], keep=True)[0]
        if source.video is None:
            results.append(result)
        yield Picture(count, arrival.name, result, arrival.image, source.video, arrival.number, arrival.seconds)
        count += 1


def _begun(
    pictures: Iterator[Picture | None], source: LiveSource, stopped: Callable[[], bool]
) -> Iterator[Picture | None]:
    """The pictures of a stream from the first on, which has come in when this returns.

    Raises:
        UserError: There is none.
        KeyboardInterrupt: It was to end before.
    """
    first = next((picture for picture in pictures if picture is not None), None)
    if first is not None:
        return itertools.chain([first], pictures)
    if stopped():
        raise KeyboardInterrupt
    raise UserError(f"'{source.name}' ends before its first frame: check the address")


class _Pace:
    """When tables are brought up to date: where there is something new, and not for more than a part of the time."""

    def __init__(self) -> None:
        self._images, self._due, self._began = -1, 0.0, 0.0

    def is_due(self, images: int) -> bool:
        """Whether to do it now, for so many images."""
        self._began = time.monotonic()
        if images == self._images or self._began < self._due:
            return False
        self._images = images
        return True

    def done(self) -> None:
        """It was done."""
        now = time.monotonic()
        self._due = now + _SHARE * (now - self._began)
