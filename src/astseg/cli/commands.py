"""What each command runs. Loaded only after the arguments are parsed, because it loads torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.demo import demo
from astseg.cli.evaluate import evaluate_run
from astseg.cli.fit import run_fit
from astseg.cli.import_reference import import_weights
from astseg.cli.report import health_run, report_run
from astseg.cli.scenes import make_scenes
from astseg.cli.segment import export_labels, segment_input
from astseg.cli.train import train_run

__all__ = ["run"]


def run(command: Any) -> int:
    """Run a parsed command; its exit code.

    Raises:
        UserError: A mistake of the user.
    """
    console = Console(soft_wrap=True, markup=False, highlight=False)
    actions: dict[type, Callable[[Any, Console], int]] = {
        arguments.Scenes: make_scenes,
        arguments.Fit: run_fit,
        arguments.Train: train_run,
        arguments.TrainBackground: train_run,
        arguments.Evaluate: evaluate_run,
        arguments.Segment: segment_input,
        arguments.Export: export_labels,
        arguments.Demo: demo,
        arguments.Health: health_run,
        arguments.Report: report_run,
        arguments.ImportReference: import_weights,
    }
    return actions[type(command)](command, console)
