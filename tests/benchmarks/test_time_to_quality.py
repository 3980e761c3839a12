"""The benchmark of recipes runs, goes on and draws what it measured."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

import time_to_quality as benchmark
from astseg.config import Config, override
from astseg.config.presets import preset


def test_recipes_are_runs_that_can_be_made() -> None:
    for recipe in benchmark.RECIPES.values():
        assert isinstance(override(preset("small"), recipe), Config)


def test_each_recipe_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"background": {"steps": 2, "batch": 2}, "objects": {"batch": 2, "steps": 4, "frozen_steps": 3}}
    settled = override(override(preset("small"), tiny), {"objects": {"pseudo_label_steps": 2}})
    monkeypatch.setattr(benchmark, "preset", lambda name: settled)
    words = f"--count 9 --test-count 9 --size 32 --every 0 --minutes 5 --out {tmp_path} --recipes small paper".split()
    benchmark.main(words)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["recipe"] for line in lines] == ["small", "paper"]
    curve = lines[0]["curve"]
    assert [point["phase"] for point in curve] == [
        *["background"] * 2,
        *["pseudo_labels"] * 2,
        "objects",
        "joint",
        "done",
    ]
    assert [point["images"] for point in curve] == [2, 4, 6, 8, 10, 12, 12]
    assert (tmp_path / "table.md").read_text().count("\n") == 4
    ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    capsys.readouterr()
    benchmark.main(words)  # everything is there
    assert "seed 0" not in capsys.readouterr().out
