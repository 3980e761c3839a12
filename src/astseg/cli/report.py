"""``astseg health`` and ``astseg report``: judge a run without labels; ``fit`` and ``demo`` end with them."""

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

__all__ = ["health_run", "make_report", "print_health", "report_run"]


def health_run(command: arguments.Health, console: Console) -> int:
    """``astseg health``."""
    pipeline, scenes = _sample(command)
    with progress_bar(console, "examine", len(scenes)) as advance:
        health, _ = examine(pipeline, scenes, progress=advance)
    findings = _judged(command.run, health)
    print_health(console, health, findings)
    console.print(f"written: {command.run / 'health.json'}; next: astseg report {command.run}")
    return 0


def report_run(command: arguments.Report, console: Console) -> int:
    """``astseg report``."""
    pipeline, scenes = _sample(command)
    with progress_bar(console, "examine", len(scenes)) as advance:
        file, _, _ = make_report(pipeline, scenes, command.run, progress=advance)
    console.print(f"open {file} in a browser")
    return 0


def make_report(
    pipeline: Pipeline, scenes: SceneArrays, run: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, Health, list[Finding]]:
    """Examine a model on some hundred scenes; write ``health.json`` and ``report.html`` into its run folder.

    Returns:
        The page, the metrics, and what they mean.
    """
    health, each = examine(pipeline, scenes, progress=progress)
    findings = _judged(run, health)
    evaluation = evaluate(pipeline, scenes)
    file = run / "report.html"
    text = page(Material.collect(RunFolder(run), pipeline, scenes, health, findings, each, evaluation))
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    return file, health, findings


def print_health(console: Console, health: Health, findings: list[Finding]) -> None:
    """Print the metrics of a run in a line or two, then what they mean."""
    console.print(
        f"{health.images} pictures: {health.used:.1f} of {health.slots} slots used, objects cover"
        f" {100 * health.foreground:.0f} %; off by {health.background_error:.0f} of 255 levels on the background"
        + (f" and {health.object_error:.0f} on objects" if health.object_error == health.object_error else "")
        + f"; masks agree with those of shifted pictures by mIoU {health.shifted:.2f}, mirrored {health.flipped:.2f}"
    )
    for finding in findings:
        console.print(f"{'! ' if finding.wrong else '  '}{finding}")


def _judged(run: Path, health: Health) -> list[Finding]:
    """What the metrics mean; both are written to ``health.json``."""
    findings = judge(health)
    write_json(run / "health.json", {**health.summary(), "findings": [str(one) for one in findings]})
    return findings


def _sample(command: arguments.Health) -> tuple[Pipeline, SceneArrays]:
    """The pipeline of a run, and some scenes: those it was trained on, or others.

    Raises:
        UserError: No run, or no scenes.
    """
    pipeline, config, info = load_pipeline(command.run, device=default_device())
    if command.data is None and info.data is None:
        raise UserError(f"'{command.run}' does not say what it was trained on: name the images too")
    if command.data is None and not Path(info.data or "").exists():
        raise UserError(f"the images that '{command.run}' was trained on, '{info.data}', are not there: name others")
    return pipeline, some_scenes(info, config.model.image_size, data=command.data, split=command.split)
