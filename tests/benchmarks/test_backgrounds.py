"""The benchmark of background models runs, goes on, and says when a recipe was as good as the published one."""

import json
from functools import partial
from pathlib import Path

import pytest

import backgrounds as benchmark
from astseg.data.synthetic.generate import render_scenes


def test_two_recipes_run_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(render_scenes, "rooms", seed=0, count=9, size=32)
    monkeypatch.setattr(benchmark, "render_scenes", lambda *_, **__: few())
    words = f"rooms --size 32 --seconds 0.5 --points 2 --out {tmp_path} --recipes".split()
    words += ["small, varying", "small, paper"]
    benchmark.main(words)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["recipe"] for line in lines] == ["small, varying", "small, paper"]
    assert all(len(line["curve"]) >= 1 and line["curve"][-1]["mse"] > 0 for line in lines)
    capsys.readouterr()
    benchmark.main(words)  # everything is there
    assert "seed 0" not in capsys.readouterr().out


def test_the_table_tells_when_it_was_as_good_as_published() -> None:
    def run(name: str, *errors: float) -> dict[str, object]:
        curve = [{"seconds": 10.0 * (i + 1), "step": i, "mse": error} for i, error in enumerate(errors)]
        return {"recipe": name, "seed": 0, "curve": curve, "ari_fg": 0.5, "miou": 0.4}

    rows = benchmark.table([run("published, simple", 0.02, 0.01), run("a", 0.03, 0.009), run("b", 0.03, 0.02)])
    assert [row.split(" | ")[-1].strip(" |") for row in rows.splitlines()[2:]] == ["20 s", "20 s", "never"]
