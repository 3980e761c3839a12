"""What ``fit`` ends with: masks on a few pictures, health in words, a report, and what to type next."""

from __future__ import annotations

from pathlib import PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from astseg.cli.report import make_report, tell
from astseg.data import select
from astseg.data.formats.png import save_label_png, save_picture
from astseg.data.resize import place
from astseg.errors import UserError
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.overlay import overlay
from astseg.runs.folder import RunFolder
from astseg.training.monitor import few
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.cli.arguments import Fit
    from astseg.data import SceneSource
    from astseg.model.astseg import AstSeg

__all__ = ["finish"]

SHOWN = 12
"""Pictures whose masks are written."""

EXAMINED = 200
"""Pictures on which the model is examined."""


def finish(
    model: AstSeg,
    scenes: SceneArrays,
    folder: RunFolder,
    source: SceneSource,
    command: Fit,
    *,
    resize: str,
    crop: float | None,
    console: Console,
) -> None:
    """Write masks of a few pictures and the report; say whether it worked and what comes next."""
    written = write_examples(model, folder, source, command, resize=resize, crop=crop)
    page, health, findings = make_report(model, few(scenes, EXAMINED), folder.path)
    console.print("")
    tell(console, health, findings)
    console.print(f"\nmasks of {written} pictures  {folder.path / 'examples'}")
    console.print(f"report               {page}")
    console.print(
        f"next                 astseg segment {quote(str(command.out))} {quote(str(command.data))} --out masks"
    )


def write_examples(
    model: AstSeg, folder: RunFolder, source: SceneSource, command: Fit, *, resize: str, crop: float | None
) -> int:
    """Masks and overlays of some pictures, evenly spread, at their own size; how many could be read."""
    indices = select(source, command.split)
    shown = min(SHOWN, len(indices))
    segmenter = Segmenter(model, "letterbox" if resize == "letterbox" else "squeeze")
    written = 0
    for index in (indices[number * len(indices) // shown] for number in range(shown)):
        try:
            picture, _ = source.read(index)
        except UserError:
            continue
        cut = _kept(picture, model.renderer.image_size, resize, source.crop if crop is None else crop)
        labels = segmenter.predict(cut).labels
        name = str(PurePosixPath(source.scene_name(index)).with_suffix("")).replace("/", "_")
        save_label_png(labels, folder.path / "examples" / f"{name}_masks.png")
        save_picture(overlay(cut, labels), folder.path / "examples" / f"{name}.png")
        written += 1
    return written


def _kept(picture: NDArray[np.uint8], size: tuple[int, int], resize: str, crop: float) -> NDArray[np.uint8]:
    """The part of a picture that the model learnt from."""
    left, top, right, bottom = place((picture.shape[0], picture.shape[1]), size, resize=resize, crop=crop).box
    return np.ascontiguousarray(picture[top:bottom, left:right])
