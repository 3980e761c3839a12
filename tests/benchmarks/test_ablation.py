"""The ablation benchmark runs, resumes and draws what it measured."""

import json
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from astseg.data.synthetic.generate import render_scenes

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_every_variant_is_run_once(script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = render_scenes("desk", seed=3, count=9, size=(32, 32))
    assert scenes.labels is not None
    np.savez(tmp_path / "scenes.npz", images=scenes.images, masks=scenes.labels)
    reduced = script["reduced"]
    script["run_all"].__globals__["reduced"] = lambda plan: tiny(reduced(plan), script)
    words = f"{tmp_path / 'scenes.npz'} --out {tmp_path / 'out'} --slots 6 --train :6 --test 6: --steps 3 --points 2"
    script["main"](words.split())
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["variant"] for line in lines] == list(script["VARIANTS"])
    for line in lines:
        assert [point["step"] for point in line["curve"]] == [1, 2, 3]
        assert np.isfinite([line["ari_fg"], line["miou"], line["mse"]]).all()
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 2 + len(lines)
    assert len(list(ElementTree.fromstring((tmp_path / "out" / "curves.svg").read_text()).iter())) > 2 * len(lines)
    capsys.readouterr()
    script["main"](words.split())  # everything is there
    assert "seed 0" not in capsys.readouterr().out
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == len(lines)


def tiny(config: Any, script: dict[str, Any]) -> Any:
    return script["override"](config, {"background": {"steps": 2, "batch": 2}, "objects": {"batch": 2}})


def test_the_variants_differ_from_the_first_in_one_part_each(script: dict[str, Any]) -> None:
    first, *others = script["VARIANTS"].values()
    assert not first
    assert all(len(other) == 1 for other in others)
