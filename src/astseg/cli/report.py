"""What ``astseg health`` and ``astseg report`` do, and what ``fit`` and ``demo`` end with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.config.device import default_device
from astseg.data.sample import some_scenes
from astseg.diagnostics.health import Finding, Health, examine, judge
from astseg.diagnostics.report import Material, page
from astseg.errors import UserError
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline, load_pipeline
from astseg.runs.atomic import write_json, write_whole
from astseg.runs.folder import RunFolder
from astseg.types import SceneArrays

__all__ = ["health_run", "make_report", "report_run", "tell"]


def health_run(command: arguments.Health, console: Console) -> int:
    """``astseg health``."""
    pipeline, scenes = _revisited(command.run, command.data, command.split)
    with progress_bar(console, "examine", len(scenes)) as advance:
        health, _ = examine(pipeline, scenes, progress=advance)
    findings = judge(health)
    write_json(command.run / "health.json", {**health.summary(), "findings": [str(one) for one in findings]})
    tell(console, health, findings)
    return 0


def report_run(command: arguments.Report, console: Console) -> int:
    """``astseg report``."""
    pipeline, scenes = _revisited(command.run, command.data, command.split)
    with progress_bar(console, "examine", len(scenes)) as advance:
        file, _, _ = make_report(pipeline, scenes, command.run, progress=advance)
    console.print(f"open {file} in a browser")
    return 0


def make_report(
    pipeline: Pipeline, scenes: SceneArrays, run: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, Health, list[Finding]]:
    """Examine a model on some hundred scenes; write ``health.json`` and ``report.html`` into its run folder.

    Returns:
        The page, the figures, and what they mean.
    """
    health, each = examine(pipeline, scenes, progress=progress)
    findings = judge(health)
    evaluation = evaluate(pipeline, scenes)
    write_json(run / "health.json", {**health.summary(), "findings": [str(one) for one in findings]})
    file = run / "report.html"
    text = page(Material.collect(RunFolder(run), pipeline, scenes, health, findings, each, evaluation))
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    return file, health, findings


def tell(console: Console, health: Health, findings: list[Finding]) -> None:
    """Health on the screen: the figures in a line or two, then what they mean."""
    console.print(
        f"{health.images} pictures: {health.used:.1f} of {health.slots} slots used, objects cover"
        f" {100 * health.foreground:.0f} %; off by {health.background_error:.0f} of 255 levels on the background"
        + (f" and {health.object_error:.0f} on objects" if health.object_error == health.object_error else "")
        + f"; masks agree with those of shifted pictures by mIoU {health.shifted:.2f}, mirrored {health.flipped:.2f}"
    )
    for finding in findings:
        console.print(f"{'! ' if finding.wrong else '  '}{finding}")


def _revisited(run: Path, data: Path | None, split: str | None) -> tuple[Pipeline, SceneArrays]:
    """The pipeline of a run, and some scenes: those it learnt from, or others."""
    pipeline, config, info = load_pipeline(run, device=default_device())
    if data is None and info.data is None:
        raise UserError(f"'{run}' does not say what it learnt from: name the pictures too")
    if data is None and not Path(info.data or "").exists():
        raise UserError(f"the pictures that '{run}' learnt from, '{info.data}', are not there: name others")
    return pipeline, some_scenes(info, config.model.image_size, data=data, split=split)
