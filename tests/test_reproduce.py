"""The script that repeats a published training: all phases, stopped and continued, with what to expect told first."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astseg.cli import main
from astseg.config.presets import PRESETS, preset

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "reproduce.sh"
SETTINGS = {
    "model": {
        "image_size": [20, 28],
        "slots": 6,
        "appearance": 5,
        "backbone": "cnn",
        "backbone_weights": None,
        "transformer_width": 16,
        "transformer_heads": 2,
        "transformer_layers": 1,
        "transformer_feedforward": 12,
        "background_width": "small",
    },
    "background": {"steps": 12, "batch": 4},
    "objects": {"steps": 24, "frozen_steps": 12, "batch": 2},
}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    assert main.run(f"scenes {folder}/desk --count 20 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    return folder


def start(*words: object, **environment: str) -> "subprocess.Popen[str]":
    variables = {**os.environ, "ASTSEG": str(Path(sys.executable).with_name("astseg")), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *map(str, words)],
        env={**variables, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, error = process.communicate(timeout=200)
    return process.returncode, out, error


def test_a_published_training_stopped_and_continued(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("clevrtex-ct", place / "desk", run, "--config", place / "tiny.json")
    process = start(*words, SEED="3")
    while not (run / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    status, out, _ = finish(process)
    assert status == 130
    assert "clevrtex-ct: CLEVRTEX, 128x128" in out
    assert "background  500000 steps" in out
    assert "step 5,751" in out

    status, out, error = finish(start(*words, SEED="3"))
    assert (status, error) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("== phase")] == [
        f"== phase 1: the background, in {run}",
        "== phases 2 and 3: the objects on the frozen background, then both",
    ]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {entry["phase"] for entry in log} == {"background", "objects", "joint"}
    values = json.loads((run / "reproduction.json").read_text())
    assert (values["protocol"], values["split"], values["count"], values["seed"]) == ("reference", "test", 2, 3)
    assert "AKOrN" in (run / "reproduction.md").read_text()
    assert (run / "reproduction.md").read_text() in out


def test_baseline_training_of_data_without_splits(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("objects-room-bt-unet", place / "desk", run, "--config", place / "tiny.json", "--steps", 3)
    status, out, error = finish(start(*words, TRAIN_SPLIT=":-4", TEST_SPLIT="-4:", PROTOCOL="genesis"))
    assert (status, error) == (0, "")
    assert "phase 1" not in out
    assert "(of objects-room-bt; its ablations differ)" in out
    values = json.loads((run / "reproduction.json").read_text())
    assert (values["protocol"], values["count"]) == ("genesis", 4)


@pytest.mark.parametrize("words", [[], ["clevrtex-ct"], ["--help"]])
def test_how_to_call_it(words: list[str]) -> None:
    status, _, error = finish(start(*words))
    assert status == 2
    assert "scripts/reproduce.sh PRESET DATA [OUT]" in error


def test_an_unknown_preset(tmp_path: Path) -> None:
    status, _, error = finish(start("clevrtex-cd", tmp_path))
    assert status != 0
    assert "did you mean 'clevrtex-ct'?" in error


def test_every_published_preset_has_its_expectations() -> None:
    with (ROOT / "scripts" / "expected.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    steps = {(row["preset"], row["phase"]): int(row["steps"]) for row in rows}
    for name in PRESETS:
        if name == "small":
            continue
        config = preset(name)
        curriculum = config.objects.scenario == "curriculum"
        frozen = config.objects.frozen_steps if curriculum else 0
        expected = {(name, "joint"): config.objects.steps - frozen}
        if curriculum:
            expected |= {(name, "background"): config.background.steps, (name, "objects"): frozen}
        assert {key: value for key, value in steps.items() if key[0] == name} == expected
    told = (ROOT / "docs" / "reproduction.md").read_text()
    for row in rows:
        hours = f"{float(row['hours_from']):g} to {float(row['hours_to']):g}"
        cells = (row["preset"], row["phase"], f"{int(row['steps']):,}", row["teraflop_a_step"], hours, row["gib"])
        assert f"| {' | '.join(cells)} |" in told
    assert all(float(row["hours_to"]) > 0 and float(row["gib"]) > 0 for row in rows)
    assert all(float(row["hours_from"]) <= float(row["hours_to"]) for row in rows)
