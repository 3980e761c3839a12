"""Published results to compare with: ``published.toml`` holds them, each with the source in which it was read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["PublishedResult", "published_results"]


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """What a source gives for a model on one data set: metrics in percent as printed, a dash where it gives none.

    Attributes:
        model: Name of the model.
        source: Where the numbers were read; None if nowhere, which tables mark.
        ari_fg: ARI-FG.
        mbo: Mean best overlap over true objects (mBO, mSC-FG).
        miou: mIoU over matched pairs, background included.
        pretraining: What the weights were trained on before.
        training: Training budget.
        runs: Number of runs that the metrics are means of.
        resolution: Height x width in pixels.
        note: What else to know of the row.
    """

    model: str
    source: str | None = None
    ari_fg: str = "-"
    mbo: str = "-"
    miou: str = "-"
    pretraining: str = "-"
    training: str = "-"
    runs: int | None = None
    resolution: str | None = None
    note: str | None = None


@cache
def published_results() -> dict[str, tuple[PublishedResult, ...]]:
    """The rows of each data set, by its name: ``clevr``, ``clevrtex``, ``clevrtex-outd``, ..."""
    results: dict[str, tuple[PublishedResult, ...]] = {}
    for table in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["tables"]:
        data, rows = table.pop("data"), table.pop("rows")
        results[data] = (*results.get(data, ()), *(PublishedResult(**{**table, **row}) for row in rows))
    return results
