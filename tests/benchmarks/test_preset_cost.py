"""The cost of a training: what is counted by hand, and the authors' logged hours come back."""

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "preset_cost.py"))


def test_arithmetic_and_memory_by_hand(script: dict[str, Any]) -> None:
    """A layer of 3 x 5 on two images: 60 operations forward, 60 for the slope of its weights; its input is kept."""
    layer, images = nn.Linear(3, 5, bias=False), torch.rand(2, 3)
    operations, kept = script["counted"](lambda: layer(images).sum(), list(layer.parameters()))
    assert operations == (60 + 60) / 2
    assert kept == 2 * 3 * 4 / 2


def test_hours_are_those_of_the_logs_at_the_preset_they_are_of(script: dict[str, Any]) -> None:
    costs = [
        script["Cost"]("clevrtex-ct", "background", 500_000, 9e12, 2**30),
        script["Cost"]("clevrtex-ct", "objects", 30_000, 4e12, 2**30),
        script["Cost"]("clevrtex-ct", "joint", 95_000, 8e12, 2**30),
        script["Cost"]("other", "background", 500_000, 4.5e12, 2**30),
    ]
    rows = script["rows"](costs)
    assert float(rows[0]["hours_to"]) == pytest.approx(66.1, abs=0.05)
    assert float(rows[1]["hours_to"]) + float(rows[2]["hours_to"]) == pytest.approx(12.4, abs=0.1)
    assert float(rows[3]["hours_to"]) == pytest.approx(66.1 / 2, abs=0.1)
    assert float(rows[0]["hours_from"]) == pytest.approx(66.1 * 448 / 1555, abs=0.1)


def test_the_table_that_the_script_of_reproduction_reads(script: dict[str, Any]) -> None:
    with (ROOT / "scripts" / "expected.tsv").open(newline="") as file:
        rows = {(row["preset"], row["phase"]): float(row["hours_to"]) for row in csv.DictReader(file, delimiter="\t")}
    assert rows["clevrtex-ct", "background"] == pytest.approx(66.1, abs=0.1)
    assert rows["clevrtex-ct", "objects"] + rows["clevrtex-ct", "joint"] == pytest.approx(12.4, abs=0.1)
