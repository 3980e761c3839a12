"""``astseg segment`` and ``astseg export``: masks of images and videos, and those masks for other programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.errors import one_line
from astseg.data.sources.live import LiveSource
from astseg.data.sources.stream import StreamSource, is_stream
from astseg.data.sources.watched import WatchedFolder
from astseg.errors import UserError
from astseg.export import export
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.folder import KINDS
from astseg.inference.writers.live import segment_live
from astseg.inference.writers.run import SegmentSummary, segment_folder
from astseg.training.signals import StopRequest

__all__ = ["export_labels", "segment_input"]

_LISTED = 20
"""The most lines about files that were skipped."""


def segment_input(command: arguments.Segment, console: Console) -> int:
    """``astseg segment``; 3 where some files could not be read."""
    segmenter = Segmenter.from_pretrained(command.run, precision=command.precision)
    began = time.monotonic()
    try:
        with progress_bar(console, "segment", None) as advance:
            summary = _segmented(segmenter, command, advance, console)
    except KeyboardInterrupt:
        state = "the masks that are there are whole, coco.json and objects.csv are not; the same command begins anew"
        console.print(f"stopped: {state}")
        return 130
    if summary.dropped:
        console.print(f"{summary.dropped} frames came in faster than they could be segmented and were left out")
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


def _segmented(
    segmenter: Segmenter, command: arguments.Segment, advance: Callable[[int, int | None], None], console: Console
) -> SegmentSummary:
    """Segment files, or what comes in until Ctrl-C or SIGTERM."""
    write = KINDS if command.every else command.write
    source = _live_source(command)
    if source is None:
        return segment_folder(
            segmenter,
            command.inputs,
            command.out,
            batch_size=command.batch_size,
            write=write,
            resize=command.resize,
            reading=command.reading,
            progress=advance,
        )
    console.print(f"waiting for {source.name}: Ctrl-C ends, with all results whole")
    with StopRequest() as stop:
        return segment_live(
            segmenter,
            source,
            command.out,
            stopped=lambda: stop.requested,
            batch_size=command.batch_size,
            write=write,
            resize=command.resize,
            progress=advance,
        )


def _live_source(command: arguments.Segment) -> LiveSource | None:
    """A stream or a watched folder where one is named; None where files are."""
    streams = [given for given in command.inputs if is_stream(given)]
    if len(command.inputs) > 1 and (command.watch or streams):
        what = "--watch takes one folder" if command.watch else f"'{streams[0]}' is a stream"
        raise UserError(f"{what}, and {len(command.inputs)} inputs are named: name it in a call of its own")
    if streams and command.watch:
        raise UserError(f"'{streams[0]}' is a stream, and --watch takes a folder: leave --watch out")
    if streams:
        return StreamSource(streams[0], stride=command.reading.stride, frames=command.reading.frames)
    return WatchedFolder(Path(command.inputs[0]).expanduser()) if command.watch else None


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
