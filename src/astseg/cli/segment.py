"""``astseg segment`` and ``astseg export``: masks of images and videos, and those masks for other programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.errors import one_line
from astseg.export import export
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.folder import KINDS
from astseg.inference.writers.run import SegmentSummary, segment_folder

__all__ = ["export_labels", "segment_input"]

_LISTED = 20
"""The most lines about files that were skipped."""


def segment_input(command: arguments.Segment, console: Console) -> int:
    """``astseg segment``; 3 where some files could not be read."""
    segmenter = Segmenter.from_pretrained(command.run, precision=command.precision)
    began = time.monotonic()
    try:
        with progress_bar(console, "segment", None) as advance:
            summary = segment_folder(
                segmenter,
                command.inputs,
                command.out,
                batch_size=command.batch_size,
                write=KINDS if command.every else command.write,
                resize=command.resize,
                reading=command.reading,
                progress=advance,
            )
    except KeyboardInterrupt:
        state = "the masks that are there are whole, coco.json and objects.csv are not; the same command begins anew"
        console.print(f"stopped: {state}")
        return 130
    speed = summary.images / max(time.monotonic() - began, 1e-9)
    _list(console, "skipped", summary.skipped)
    if summary.skipped:
        named = f"; all are named in {command.out / 'segment.json'}" if len(summary.skipped) > _LISTED else ""
        console.print(f"{len(summary.skipped)} could not be read and were skipped{named}")
    console.print(f"{summary.objects} objects in {summary.images} images, {speed:.3g} images a second")
    if summary.cropped:
        console.print(_cropped(segmenter, summary, command.resize))
    console.print(f"{command.out} holds {', '.join(summary.written)}")
    look = next((kind for kind in ("videos/", "overlays/") if kind in summary.written), "masks/")
    console.print(f"look at {command.out / look}")
    console.print(f"next, to mend them or to train with them: astseg export {quote(str(command.out))} --to labelme")
    return 3 if summary.skipped else 0


def export_labels(command: arguments.Export, console: Console) -> int:
    """``astseg export``; 3 where some images were left out."""
    with progress_bar(console, "export", None) as advance:
        summary = export(command.segmented, command.to, command.out, label=command.label, progress=advance)
    _list(console, "left out", summary.skipped)
    console.print(f"{summary.objects} objects in {summary.images} images, for {command.to}: {summary.out}")
    file = summary.out / "annotations.xml"
    following = {
        "cvat": f"in CVAT make a task with {summary.pictures}, then upload {file} as 'CVAT 1.1'",
        "labelme": f"labelme {quote(str(summary.pictures))} --output {quote(str(summary.out))}",
        "yolo": f"yolo segment train data={quote(str(summary.out / 'data.yaml'))} model=yolo11n-seg.pt",
        "coco": f"give {summary.out / 'annotations.json'} to the training; its file names begin at {summary.out}",
        "geojson": f"in QuPath open an image of {summary.pictures} and drop its file of {summary.out} on it",
    }
    console.print(f"next: {following[command.to]}")
    return 3 if summary.skipped else 0


def _list(console: Console, what: str, lines: Sequence[str]) -> None:
    """The first of many lines about files."""
    for line in lines[:_LISTED]:
        console.print(f"{what}: {one_line(line)}")
    if len(lines) > _LISTED:
        console.print(f"{what}: {len(lines) - _LISTED} more")


def _cropped(segmenter: Segmenter, summary: SegmentSummary, resize: str | None) -> str:
    """Which preprocessing cut images off, and what to do about it."""
    preprocess = segmenter.preprocess.instead(resize)
    height, width = preprocess.size
    asked = "as in training" if resize in (None, segmenter.preprocess.resize) else "as asked for"
    return (
        f"of {summary.cropped} images the model sees the centre alone, {asked} (resize crop to {height}x{width}, crop"
        f" {preprocess.crop:g}), and the rest is background: with --resize squeeze it sees all of them"
    )
