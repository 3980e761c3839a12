"""What ``astseg segment`` and ``astseg export`` do and tell."""

from __future__ import annotations

import time
from shlex import quote

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.errors import one_line
from astseg.data import Reading
from astseg.export import export
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.folder import KINDS
from astseg.inference.writers.run import segment_folder

__all__ = ["export_labels", "segment_input"]

_MOST_TOLD = 20
"""Lines about files that were skipped."""


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
                reading=Reading(stride=command.stride, frames=command.frames),
                progress=advance,
            )
    except KeyboardInterrupt:
        told = "the masks that are there are whole, coco.json and objects.csv are not; the same command begins anew"
        console.print(f"stopped: {told}")
        return 130
    speed = summary.images / max(time.monotonic() - began, 1e-9)
    for line in summary.skipped[:_MOST_TOLD]:
        console.print(f"skipped: {one_line(line)}")
    if summary.skipped:
        more = len(summary.skipped) - _MOST_TOLD
        unlisted = f"; {more} more are named in {command.out / 'segment.json'}" if more > 0 else ""
        console.print(f"{len(summary.skipped)} could not be read and were skipped{unlisted}")
    console.print(f"{summary.objects} objects in {summary.images} images, {speed:.3g} images a second")
    if summary.cropped:
        console.print(
            f"in {summary.cropped} the model looks at the centre alone, as it was trained, and the rest is background:"
            " --resize squeeze has it look at all"
        )
    console.print(f"{command.out} holds {', '.join(summary.written)}")
    look = next((kind for kind in ("videos/", "overlays/") if kind in summary.written), "masks/")
    console.print(f"look at {command.out / look}")
    console.print(f"next, to mend them or to train with them: astseg export {quote(str(command.out))} --to labelme")
    return 3 if summary.skipped else 0


def export_labels(command: arguments.Export, console: Console) -> int:
    """``astseg export``; 3 where some pictures were left out."""
    with progress_bar(console, "export", None) as advance:
        summary = export(command.segmented, command.to, command.out, label=command.label, progress=advance)
    for line in summary.skipped[:_MOST_TOLD]:
        console.print(f"left out: {one_line(line)}")
    if len(summary.skipped) > _MOST_TOLD:
        console.print(f"left out: {len(summary.skipped) - _MOST_TOLD} more")
    console.print(f"{summary.objects} objects in {summary.images} images, for {command.to}: {summary.out}")
    file = summary.out / "annotations.xml"
    following = {
        "cvat": f"in CVAT make a task with {summary.pictures}, then upload {file} as 'CVAT 1.1'",
        "labelme": f"labelme {quote(str(summary.pictures))} --output {quote(str(summary.out))}",
        "yolo": f"yolo segment train data={quote(str(summary.out / 'data.yaml'))} model=yolo11n-seg.pt",
    }
    console.print(f"next: {following[command.to]}")
    return 3 if summary.skipped else 0
