"""Evaluating runs from the command line: circumstances, every image, mean and deviation, published results beside."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astseg.cli import main
from astseg.cli.arguments import parse
from astseg.config import Config
from astseg.data import index_hash
from astseg.evaluation import comparison
from astseg.evaluation.comparison import (
    COMPARED_METRICS,
    Measured,
    comparison_table,
    described,
    over_runs,
    published_name,
    summary,
)
from astseg.evaluation.evaluate import PROTOCOLS, Evaluation
from astseg.evaluation.published import PublishedResult, published_results
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from tiny import PAPER_FORM

COUNT = 7
CONFIG = Config(model=replace(PAPER_FORM.model, slots=6, transformer_width=16, background_log_activation=-1.0))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes and three runs of different seeds, for reading only."""
    folder = tmp_path_factory.mktemp("comparison")
    assert main.run(f"scenes {folder}/desk --count {COUNT} --size 32 --seed 5 --processes 1".split()) == 0
    for seed in range(3):
        torch.manual_seed(seed)
        run = RunFolder(folder / f"run-{seed}")
        run.save_config(CONFIG, RunInfo(preset="clevrtex-ct", seed=seed, crop=0.8 if seed < 2 else None))
        run.save_weights(build(CONFIG.model))
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place, tmp_path / "place")
    return tmp_path / "place"


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_figures_come_with_what_they_were_measured_on(
    protocol: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"evaluate {copied}/run-0 {copied}/desk --split 1:6 --protocol {protocol}"
    assert main.run(words.split()) == 0
    values = read(copied / "run-0" / "metrics.json")
    expected = {
        "protocol": protocol,
        "data": f"{copied}/desk",
        "split": "1:6",
        "split_hash": index_hash(range(1, 6)),
        "count": 5,
        "size": [20, 28],
        "crop": 0.8,
        "seed": 0,
    }
    assert {name: values[name] for name in expected} == expected
    printed = capsys.readouterr().out
    assert f"protocol {protocol}, 5 images of {copied}/desk" in printed
    assert f"split 1:6 ({expected['split_hash']}), 20x28, crop 0.8" in printed


def test_genesis_has_no_miou_and_the_same_coverings(copied: Path) -> None:
    found = {}
    for protocol in PROTOCOLS:
        assert main.run(f"evaluate {copied}/run-0 {copied}/desk --protocol {protocol}".split()) == 0
        found[protocol] = read(copied / "run-0" / "metrics.json")
    assert "miou" not in found["genesis"]
    for name in ("ari", "ari_fg", "msc", "msc_fg", "scaled_sc", "scaled_sc_fg", "mse"):
        assert found["genesis"][name] == pytest.approx(found["astseg"][name], abs=1e-9)
    assert "mSC" in found["clevrtex"]


def test_every_image_has_a_line(copied: Path, tmp_path: Path) -> None:
    words = f"evaluate {copied}/run-0 {copied}/run-1 {copied}/desk --csv {tmp_path}/images.csv"
    assert main.run(words.split()) == 0
    with (tmp_path / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * COUNT
    for seed in (0, 1):
        of_run = [row for row in rows if row["run"] == str(copied / f"run-{seed}")]
        assert len({row["image"] for row in of_run}) == COUNT
        values = read(copied / f"run-{seed}" / "metrics.json")
        for name in ("miou", "ari_fg", "mse"):
            assert np.mean([float(row[name]) for row in of_run]) == pytest.approx(values[name], rel=1e-4)
        with (copied / f"run-{seed}" / "per_image.csv").open(newline="") as file:
            assert list(csv.DictReader(file)) == of_run


def test_several_runs_have_mean_and_deviation(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [copied / f"run-{seed}" for seed in range(3)]
    words = ["evaluate", *map(str, runs), f"{copied}/desk", "--json", f"{tmp_path}/all.json"]
    assert main.run([*words, "--crop", "0.9"]) == 0
    values = read(tmp_path / "all.json")
    of_runs = [read(run / "metrics.json") for run in runs]
    assert values["runs"] == [{"run": str(run), **one} for run, one in zip(runs, of_runs, strict=True)]
    for name in ("miou", "ari_fg", "mse"):
        single = [one[name] for one in of_runs]
        assert values["mean"][name] == pytest.approx(np.mean(single))
        assert values["standard_deviation"][name] == pytest.approx(np.std(single, ddof=1))
    assert (values["protocol"], values["count"], values["crop"]) == ("astseg", COUNT, 0.9)
    assert "seed" not in values  # it differs
    printed = capsys.readouterr().out
    assert f"{values['mean']['miou']:.4f}" in printed
    assert f"{values['standard_deviation']['miou']:.4f}" in printed


def test_the_crop_of_the_data_where_none_was_given(copied: Path) -> None:
    assert main.run(f"evaluate {copied}/run-2 {copied}/desk".split()) == 0
    assert read(copied / "run-2" / "metrics.json")["crop"] == 1.0


def test_a_table_beside_published_figures(copied: Path, tmp_path: Path) -> None:
    words = f"evaluate {copied}/run-0 {copied}/run-1 {copied}/desk --table {tmp_path}/table.md --json {tmp_path}/a.json"
    assert main.run(words.split()) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    values = read(tmp_path / "a.json")
    assert lines[0] == "| model | ARI-FG | mBO | mIoU | pretraining | training | source |"
    assert lines[1] == "|-|-|-|-|-|-|-|"
    mean, deviation = 100 * values["mean"]["miou"], 100 * values["standard_deviation"]["miou"]
    assert f"**{mean:.1f} ± {deviation:.1f}**" in lines[2]
    assert f"protocol astseg, {COUNT} images" in lines[2]
    rows = lines[3 : lines.index("")]
    assert [row.split("|")[1].strip() for row in rows] == [result.model for result in published_results()["clevrtex"]]
    assert "| DINOv2 ViT-S/14 |" in next(row for row in rows if row.startswith("| DINOSAUR |"))
    assert all(row.count("|") == 8 for row in [lines[2], *rows])
    assert "compare only where" in lines[-1]
    assert main.run(f"{words} --published clevr".split()) == 0
    table = (tmp_path / "table.md").read_text()
    assert "| 98.3 ± 0.1 | - | 90.3 ± 0.2 | ImageNet (Segformer-B3) | 2,500 + 125,000 steps" in table
    assert "; 3 runs; 128x128 |" in table


def test_what_evaluate_does_not_take(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (f"{copied}/run-0", "required: DATA"),
        (f"{copied}/run-0 {copied}/run-0 {copied}/desk", "named twice"),
        (f"{copied}/run-0 {copied}/desk --csv {tmp_path}", "is a folder, expected a file"),
        (f"{copied}/run-0 {copied}/desk --table {tmp_path}", "is a folder, expected a file"),
        (f"{copied}/run-0 {copied}/none {copied}/desk", "none' is not there"),
    ):
        capsys.readouterr()
        assert main.run(["evaluate", *words.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (copied / "run-0" / "metrics.json").exists()


@pytest.mark.parametrize(("noise", "told"), [("0", ""), ("0.25", ", masks by weights and colours (0.25)")])
def test_by_what_pixels_choose_their_layer(
    noise: str, told: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(f"evaluate {copied}/run-0 {copied}/desk --colour-std {noise}".split()) == 0
    assert read(copied / "run-0" / "metrics.json")["colour_std"] == float(noise)
    assert " ".join(capsys.readouterr().out.split()).count(f"crop 0.8{told} written: ") == 1


def test_places_by_proposals(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a second look makes none, and is not to be asked for any."""
    common = f"evaluate {copied}/run-0 {copied}/desk --proposals".split()
    assert main.run([*common, "False"]) == 0
    assert read(copied / "run-0" / "metrics.json")["proposals"] is False
    capsys.readouterr()
    assert main.run([*common, "True"]) == 2
    assert "has no glimpse encoder, which proposals need" in capsys.readouterr().err


@pytest.mark.parametrize("noise", ["-0.1", "nan", "inf"])
def test_a_noise_that_is_none(noise: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(f"evaluate {copied}/run-0 {copied}/desk --colour-std={noise}".split()) == 2
    assert "expected 0 (off) or more" in capsys.readouterr().err


# Parts


def measured(values: dict[str, float], run: str = "a", **circumstances: object) -> Measured:
    result = Evaluation(values, {name: np.array([v]) for name, v in values.items()}, ("one",), "x", "astseg", None)  # type: ignore[arg-type]
    told = {"protocol": "astseg", "data": "d", "split": "all", "split_hash": "ab", "count": 1, "size": [20, 28]}
    return Measured(Path(run), result, {**told, "crop": 1.0, "seed": 0, **circumstances}, "small")


def test_deviation_is_that_of_a_sample() -> None:
    mean, deviation = over_runs([measured({"miou": 0.2}), measured({"miou": 0.6})])
    assert mean["miou"] == pytest.approx(0.4)
    assert deviation["miou"] == pytest.approx(0.4 / 2**0.5)
    assert np.isnan(over_runs([measured({"miou": 0.2})])[1]["miou"])


def test_what_is_no_number_is_none_in_json() -> None:
    values = summary([measured({"mSC": float("nan")}), measured({"mSC": 0.5}, run="b")])
    assert values["mean"]["mSC"] is None
    json.dumps(values, allow_nan=False)


def test_the_table_takes_the_names_of_the_protocol() -> None:
    assert "| **50.0** | **-** | **40.0** |" in comparison_table([measured({"ARI_FG": 0.5, "mIoU": 0.4})], None)
    assert "| **50.0** | **30.0** | **-** |" in comparison_table([measured({"ari_fg": 0.5, "msc_fg": 0.3})], None)
    assert set(COMPARED_METRICS) == {"ARI-FG", "mBO", "mIoU"}


def test_published_figures_of_a_preset() -> None:
    assert published_name(["clevrtex-ct", "clevrtex-bt-unet"]) == "clevrtex"
    assert published_name(["clevr-ct", "clevrtex-ct"]) is None
    assert published_name(["shapestacks-ct"]) == "shapestacks"
    assert published_name(["objects-room-bt"]) == "objects-room"
    assert published_name(["small"]) is None
    assert published_name([None]) is None


def test_every_published_result_has_a_source_and_a_metric() -> None:
    for results in published_results().values():
        assert len({(result.model, result.source) for result in results}) == len(results)
        for result in results:
            assert result.source
            assert result.pretraining != "-"
            assert {result.ari_fg, result.mbo, result.miou} != {"-"}
    sprites = next(result for result in published_results()["clevr"] if result.model.startswith("DTI-Sprites"))
    assert "Karazija" not in (sprites.source or "")
    assert (sprites.ari_fg, sprites.miou, sprites.training) == ("93.2 ± 2.0", "54.5 ± 1.2", "351,900 steps")


def test_data_sets_with_published_results_are_the_choices_of_the_command() -> None:
    for name in published_results():
        parsed = parse(["evaluate", "run", "data", "--published", name])
        assert parsed.published == name


def test_a_result_without_a_source_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = PublishedResult(model="Unread", ari_fg="12.3")
    monkeypatch.setattr(comparison, "published_results", lambda: {"clevr": (unread,)})
    assert "| Unread | 12.3 | - | - | - | - | (no source) |" in comparison_table([measured({"ari_fg": 0.5})], "clevr")


def test_circumstances_in_words() -> None:
    plain = "protocol astseg, 1 images of d, split all (ab), 20x28, crop 1"
    assert described(measured({}, colour_std=0.0).circumstances) == plain
    assert described(measured({}, colour_std=0.15).circumstances) == f"{plain}, masks by weights and colours (0.15)"
    told = described(measured({}, colour_std=0.15, proposals=True).circumstances)
    assert told == f"{plain}, masks by weights and colours (0.15), slots placed by proposals"
    assert described(measured({}, precision="float32").circumstances) == plain
    assert described(measured({}, precision="bfloat16").circumstances) == f"{plain}, backbone in bfloat16"
