"""``astseg health`` and ``astseg report``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.config.device import default_device
from astseg.data.sample import some_scenes
from astseg.diagnostics.health import Finding, Health, examine, judge
from astseg.diagnostics.report import describe, make_report, save_health
from astseg.errors import UserError
from astseg.inference.pipeline import Pipeline, load_pipeline
from astseg.types import SceneArrays

__all__ = ["health_run", "make_report", "report_run", "tell"]


def health_run(command: arguments.Health, console: Console) -> int:
    """``astseg health``."""
    pipeline, scenes = _loaded(command.run, command.data, command.split)
    with progress_bar(console, "examine", len(scenes)) as advance:
        health, _ = examine(pipeline, scenes, progress=advance)
    findings = judge(health)
    save_health(command.run, health, findings)
    tell(console, health, findings)
    return 0


def report_run(command: arguments.Report, console: Console) -> int:
    """``astseg report``."""
    pipeline, scenes = _loaded(command.run, command.data, command.split)
    with progress_bar(console, "examine", len(scenes)) as advance:
        file, _, _ = make_report(pipeline, scenes, command.run, progress=advance)
    console.print(f"open {file} in a browser")
    return 0


def tell(console: Console, health: Health, findings: list[Finding]) -> None:
    """Print health: the metrics in a line, then what they mean."""
    for line in describe(health, findings):
        console.print(line)


def _loaded(run: Path, data: Path | None, split: str | None) -> tuple[Pipeline, SceneArrays]:
    """The pipeline of a run, and some scenes: those it learnt from, or others."""
    pipeline, config, info = load_pipeline(run, device=default_device())
    if data is None and info.data is None:
        raise UserError(f"'{run}' does not say what it learnt from: name the pictures too")
    if data is None and not Path(info.data or "").exists():
        raise UserError(f"the pictures that '{run}' learnt from, '{info.data}', are not there: name others")
    return pipeline, some_scenes(info, config.model.image_size, data=data, split=split)
