"""``astseg health`` and ``astseg report``: judge a run without labels; ``fit`` and ``demo`` end with them."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

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

__all__ = ["health_run", "make_report", "print_health", "report_run"]


def health_run(command: arguments.Health, console: Console) -> int:
    """``astseg health``."""
    pipeline, scenes = _sample(command)
    with progress_bar(console, "examine", len(scenes)) as advance:
        health, _ = examine(pipeline, scenes, progress=advance)
    findings = judge(health)
    save_health(command.run, health, findings)
    print_health(console, health, findings)
    console.print(f"written: {command.run / 'health.json'}; next: astseg report {quote(str(command.run))}")
    return 0


def report_run(command: arguments.Report, console: Console) -> int:
    """``astseg report``."""
    pipeline, scenes = _sample(command)
    with progress_bar(console, "examine", len(scenes)) as advance:
        file, _, _ = make_report(pipeline, scenes, command.run, progress=advance)
    console.print(f"open {file} in a browser")
    return 0


def print_health(console: Console, health: Health, findings: list[Finding]) -> None:
    """Print the metrics of a run in a line or two, then what they mean."""
    for line in describe(health, findings):
        console.print(line)


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
