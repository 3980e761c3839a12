"""Examine a model and write what was found into its run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from astseg.diagnostics.health import Finding, Health, examine, judge
from astseg.diagnostics.report.material import Material
from astseg.diagnostics.report.page import page
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline
from astseg.runs.atomic import write_json, write_whole
from astseg.runs.folder import RunFolder
from astseg.types import SceneArrays

__all__ = ["describe", "make_report", "save_health"]


def make_report(
    pipeline: Pipeline, scenes: SceneArrays, run: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, Health, list[Finding]]:
    """Examine a model on some hundred scenes; write ``health.json`` and ``report.html`` into its run folder.

    Args:
        pipeline: The model and how its output becomes masks.
        scenes: N scenes at its size; where they have labels, the page has the metrics of the paper too.
        run: The run folder.
        progress: Called with the number of images done and their total.

    Returns:
        The page, the metrics, and what they mean.

    Raises:
        UserError: No scenes, scenes of another size, or a folder that cannot be written.
    """
    health, each = examine(pipeline, scenes, progress=progress)
    findings = judge(health)
    save_health(run, health, findings)
    evaluation = evaluate(pipeline, scenes)
    text = page(Material.collect(RunFolder(run), pipeline, scenes, health, findings, each, evaluation))
    file = run / "report.html"
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    return file, health, findings


def save_health(run: Path, health: Health, findings: list[Finding]) -> None:
    """Write ``health.json``: the metrics by name, and the findings."""
    write_json(run / "health.json", {**health.summary(), "findings": [str(one) for one in findings]})


def describe(health: Health, findings: list[Finding]) -> list[str]:
    """Lines for the screen: the metrics in one, then the findings, faults marked with ``!``."""
    on_objects = f" and {health.object_error:.0f} on objects" if health.object_error == health.object_error else ""
    metrics = (
        f"{health.images} pictures: {health.used:.1f} of {health.slots} slots used, objects cover"
        f" {100 * health.foreground:.0f} %; off by {health.background_error:.0f} of 255 levels on the background"
        f"{on_objects}; masks agree with those of shifted pictures by mIoU {health.shifted:.2f},"
        f" mirrored {health.flipped:.2f}"
    )
    return [metrics, *(f"{'! ' if finding.wrong else '  '}{finding}" for finding in findings)]
