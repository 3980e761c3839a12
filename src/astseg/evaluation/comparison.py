"""Evaluations side by side: mean and standard deviation over runs, every image in a table, published results."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astseg.evaluation.evaluate import Evaluation
from astseg.evaluation.published import PublishedResult, published_results
from astseg.runs.atomic import write_whole

__all__ = ["Measured", "comparison_table", "described", "over_runs", "published_name", "summary", "write_per_image"]

COMPARED_METRICS = {"ARI-FG": ("ari_fg", "ARI_FG"), "mBO": ("msc_fg",), "mIoU": ("miou", "mIoU")}
"""What papers give, and its names in the protocols. mBO, the mean over true objects of the best IoU with any predicted
mask, is the foreground mSC; the CLEVRTEX evaluator has none."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The metrics of one run.

    Attributes:
        run: Its folder.
        result: The metrics.
        circumstances: What a metric means nothing without: protocol, data, split, split_hash, camera, stride, frames,
            count, size, resize, crop, seed, and how slots are placed and pixels are assigned to layers.
        preset: Name of its preset.
    """

    run: Path
    result: Evaluation
    circumstances: dict[str, Any]
    preset: str | None


def over_runs(measured: Sequence[Measured]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation (of the sample, n - 1; NaN of a single run) of every metric over runs."""
    values = {name: np.array([one.result.mean[name] for one in measured]) for name in measured[0].result.mean}
    mean = {name: float(of_runs.mean()) for name, of_runs in values.items()}
    several = len(measured) > 1
    deviation = {name: float(of_runs.std(ddof=1)) if several else math.nan for name, of_runs in values.items()}
    return mean, deviation


def summary(measured: Sequence[Measured]) -> dict[str, Any]:
    """The metrics ready for JSON: flat for one run; for several each, mean and standard deviation. None for NaN."""
    flat = [{**one.result.summary(), **one.circumstances} for one in measured]
    if len(flat) == 1:
        return flat[0]
    mean, deviation = (
        {name: value if math.isfinite(value) else None for name, value in values.items()}
        for values in over_runs(measured)
    )
    runs = [{"run": str(one.run), **values} for one, values in zip(measured, flat, strict=True)]
    shared = {name: value for name, value in flat[0].items() if all(other.get(name) == value for other in flat)}
    circumstances = {name: shared[name] for name in measured[0].circumstances if name in shared}
    return {"mean": mean, "standard_deviation": deviation, **circumstances, "runs": runs}


def write_per_image(measured: Sequence[Measured], file: Path) -> None:
    """Every metric of every image as CSV: ``run``, ``image``, then the metrics; an empty cell for no number.

    Raises:
        UserError: The file cannot be written there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(measured[0].result.per_image)
    writer.writerow(["run", "image", *names])
    for one in measured:
        columns = [one.result.per_image[name] for name in names]
        for image, *values in zip(one.result.names, *columns, strict=True):
            writer.writerow([one.run, image, *("" if math.isnan(value) else f"{value:.6g}" for value in values)])
    write_whole(file, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def published_name(presets: Sequence[str | None]) -> str | None:
    """The data set of these presets, if they agree and there are published results of it: ``clevr`` of ``clevr-ct``."""
    found = {
        next((name for name in published_results() if f"{preset}-".startswith(f"{name}-")), None) for preset in presets
    }
    return found.pop() if len(found) == 1 else None


def comparison_table(measured: Sequence[Measured], published: str | None) -> str:
    """Markdown: the result, with what it was measured on, above the published ones with their sources.

    Args:
        measured: The runs, all on the same scenes.
        published: A name in :func:`astseg.evaluation.published.published_results`, or None for the result alone.
    """
    mean, deviation = over_runs(measured)
    cells = []
    for names in COMPARED_METRICS.values():
        name = next((name for name in names if name in mean), None)
        spread = f" ± {100 * deviation[name]:.1f}" if name is not None and len(measured) > 1 else ""
        cells.append("-" if name is None else f"{100 * mean[name]:.1f}{spread}")
    runs = ", ".join(f"`{one.run}`" for one in measured)
    measured_row = ["**astseg**", *(f"**{cell}**" for cell in cells), "-", "-"]
    rows = [[*measured_row, f"{runs}; {described(measured[0].circumstances)}"]]
    rows += [_published_row(result) for result in published_results().get(published or "", ())]
    header = ["model", *COMPARED_METRICS, "pretraining", "training", "source"]
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    lines.insert(1, "|-" * len(header) + "|")
    notes = [
        "Percent, means over all images" + ("; standard deviation over runs (n - 1)." if len(measured) > 1 else ".")
    ]
    if published is not None:
        notes.append(
            f"Published results are of {published} as its authors released it, after full training: they compare only"
            " where the data above are those. mBO: mean over true objects of the best IoU with any predicted mask; an"
            " image without objects counts 0 here."
        )
    return "\n".join([*lines, "", *notes]) + "\n"


def _published_row(result: PublishedResult) -> list[str]:
    """The cells of a published result; where nobody read the number, its source says so."""
    runs = None if result.runs is None else f"{result.runs} run" + "s" * (result.runs > 1)
    details = (result.source or "(no source)", runs, result.resolution, result.note)
    source = "; ".join(detail for detail in details if detail)
    return [result.model, result.ari_fg, result.mbo, result.miou, result.pretraining, result.training, source]


def described(circumstances: dict[str, Any]) -> str:
    """The circumstances of a metric in words.

    >>> described({"protocol": "astseg", "count": 50, "split": "test", "split_hash": "ab", "size": [64, 48],
    ...            "crop": 0.8, "data": "clevr"})
    'protocol astseg, 50 images of clevr, split test (ab), 64x48, crop 0.8'

    What is read of the data, how slots are placed and pixels assigned, and in which precision, is added where it is not
    the default.
    """
    values = {**circumstances, "size": "x".join(map(str, circumstances["size"]))}
    read = {name: circumstances.get(name) for name in ("camera", "stride", "frames")}
    more = [f", {name} {value}" for name, value in read.items() if value is not None and (name, value) != ("stride", 1)]
    std = circumstances.get("colour_std", 0)
    more += [f", masks by weights and colours ({std:g})"] if std else []
    more += [", slots placed by proposals"] if circumstances.get("proposals") else []
    more += [", backbone in bfloat16"] if circumstances.get("precision") == "bfloat16" else []
    return (
        "protocol {protocol}, {count} images of {data}, split {split} ({split_hash}), {size}, crop {crop:g}"
    ).format(**values) + "".join(more)
