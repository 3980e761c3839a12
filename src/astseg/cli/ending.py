"""The end of ``fit``: masks of a few images, health, a report, and the next command."""

from __future__ import annotations

from pathlib import PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console

from astseg.cli.report import make_report, print_health
from astseg.data import select
from astseg.data.formats.png import save_label_png, save_picture
from astseg.data.open import evenly_spaced
from astseg.data.resize import Preprocess
from astseg.errors import UserError
from astseg.inference.pipeline import Pipeline
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.overlay import overlay
from astseg.runs.folder import RunFolder
from astseg.training.monitor import few
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from astseg.cli.arguments import Fit
    from astseg.data import SceneSource
    from astseg.runs.info import RunInfo

__all__ = ["finish", "print_next", "write_examples"]

SHOWN = 12
"""Images whose masks are written."""

EXAMINED = 200
"""Images on which the model is examined."""


def finish(
    pipeline: Pipeline,
    scenes: SceneArrays,
    folder: RunFolder,
    source: SceneSource,
    command: Fit,
    info: RunInfo,
    *,
    console: Console,
) -> None:
    """Write masks of a few images and the report; print whether it worked and what comes next."""
    preprocess = Preprocess.of_run(pipeline.image_size, info)
    counts = write_examples(Segmenter(pipeline, preprocess), folder, source, command)
    page, health, findings = make_report(pipeline, few(scenes, EXAMINED), folder.path)
    console.print("")
    print_health(console, health, findings)
    console.print(f"\nmasks of {len(counts)} pictures  {folder.path / 'examples'}")
    console.print(f"report               {page}")
    print_next(command, console)


def print_next(command: Fit, console: Console) -> None:
    """What to type next."""
    console.print(
        f"next                 astseg segment {quote(str(command.out))} {quote(str(command.data))} --out masks"
    )


def write_examples(segmenter: Segmenter, folder: RunFolder, source: SceneSource, command: Fit) -> list[int]:
    """Masks and overlays of some images, evenly spaced, at their own size; the number of objects of each."""
    indices = select(source, command.split)
    counts = []
    for index in (indices[number] for number in evenly_spaced(min(SHOWN, len(indices)), len(indices))):
        try:
            picture, _ = source.read(index)
        except UserError:
            continue
        prediction = segmenter.predict(picture, layers=False)
        labels = prediction.labels
        name = str(PurePosixPath(source.scene_name(index)).with_suffix("")).replace("/", "_")
        save_label_png(labels, folder.path / "examples" / f"{name}_masks.png")
        save_picture(overlay(picture, labels), folder.path / "examples" / f"{name}.png")
        counts.append(len(prediction.objects))
    return counts
