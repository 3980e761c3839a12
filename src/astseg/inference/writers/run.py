"""Images or videos to files: masks, tables of all objects, images to look at.

::

    OUT/masks/NAME.png       label map, palette PNG: the index of a pixel is the id of its object, 0 = background
    OUT/coco.json            COCO: run lengths, box, area and score of each object
    OUT/objects.csv          a line an object; of videos with the number of the frame and its time
    OUT/counts.csv           a line an image: how many objects it has
    OUT/mot.txt              of a video: the lines of the MOTChallenge; of several: OUT/mot/NAME.txt
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
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astseg import __version__
from astseg.data import Reading
from astseg.data.paths import open_given
from astseg.data.sources.video import VideoSource
from astseg.errors import UserError
from astseg.inference.writers.folder import (
    KINDS,
    MARK,
    TABLES,
    VIDEO_KINDS,
    earlier_results,
    remove_results,
    result_names,
)
from astseg.inference.writers.job import Job, threads
from astseg.inference.writers.read_ahead import read_images
from astseg.runs.atomic import write_json

if TYPE_CHECKING:
    from astseg.inference.segmenter import Segmenter

__all__ = ["SegmentSummary", "about_run", "check_apart", "kinds_of", "present", "segment_folder"]

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
        dropped: Frames of a stream that came in faster than they could be segmented, and were left out.
    """

    images: int
    objects: int
    skipped: tuple[str, ...]
    written: tuple[str, ...] = ()
    cropped: int = 0
    dropped: int = 0


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
    out = Path(out).expanduser()
    segmenter.check_options(batch_size, resize)
    source, root = open_given(given, reading)
    video = source if isinstance(source, VideoSource) else None
    names = [source.scene_name(index) for index in range(len(source))]
    results = result_names(names)
    check_apart(out, given, root, names)
    kinds = kinds_of(write, of_videos=video is not None)
    rate_of, several = (None, False) if video is None else (video.rate, video.frame(0)[0] != video.frame(-1)[0])
    job = Job(segmenter, out, kinds, resize, batch_size, rate_of, several)
    earlier = earlier_results(out)
    about = about_run(
        segmenter, [str(one.absolute()) for one in given], root, resize, kind="pictures" if video is None else "video"
    )
    skipped: list[str] = []
    with threads(share_cores=bool(kinds)) as (readers, writers):
        images = read_images(source, results, readers, skipped, batch_size)
        first = next(images, None)
        if first is None:
            raise _none_readable(given, len(source), skipped)
        remove_results(out, earlier)
        # From now on the folder is known as ours, even if this run is interrupted.
        write_json(out / MARK, {"complete": False, **about, "results": results})
        done = None if progress is None else lambda count: progress(count, len(source))
        counts = job.run(itertools.chain([first], images), writers, done=done)
    write_json(out / MARK, {"complete": True, **about, **counts, "skipped": skipped, "results": results})
    return SegmentSummary(**counts, skipped=tuple(skipped), written=present(out), cropped=job.cropped)


def about_run(
    segmenter: Segmenter, given: Sequence[str], root: Path, resize: str | None, *, kind: str
) -> dict[str, Any]:
    """What ``segment.json`` says of how its folder was made."""
    return {
        "astseg": __version__,
        "input": list(given),
        "root": str(root.absolute()),
        "kind": kind,
        "precision": segmenter.precision,
        "preprocess": asdict(segmenter.preprocess.instead(resize)),
    }


def present(out: Path) -> tuple[str, ...]:
    """What of all that can be written lies in a folder: names of files, and of folders with a slash at the end."""
    folders = [f"{kind}/" for kind in ("masks", *KINDS, *VIDEO_KINDS) if (out / kind).is_dir()]
    return (*folders, *(table for table in TABLES if (out / table).is_file()))


def _none_readable(given: Sequence[Path], total: int, skipped: Sequence[str]) -> UserError:
    named = f"'{given[0]}'" + (f" and {len(given) - 1} more" if len(given) > 1 else "")
    reasons = "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    return UserError(f"none of the {total} pictures in {named} can be read: {reasons}")


def kinds_of(write: Collection[str] | None, *, of_videos: bool) -> tuple[str, ...]:
    """What is written besides masks and tables. Raises UserError for something unknown."""
    if write is None:
        return ("overlays",) if of_videos else _USUAL
    for kind in write:
        if kind not in KINDS:
            raise UserError(f"'{kind}' cannot be written, choose from {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in write)


def check_apart(out: Path, given: Sequence[Path], root: Path, names: Sequence[str]) -> None:
    """Make sure that results do not land among the images, nor lie above them, and are no images themselves.

    Raises:
        UserError: They would.
    """
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
