"""The command line: what it parses, what it refuses in one line, and the main job from end to end."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from astseg.cli import evaluate, main
from astseg.config.device import default_device, resolved_precision
from astseg.training import loop
from tiny import MODEL_SETTINGS

SETTINGS: dict[str, Any] = {
    "model": MODEL_SETTINGS,
    "background": {"steps": 12, "batch": 4, "precision": "float32"},
    "objects": {
        "steps": 24,
        "frozen_steps": 12,
        "batch": 2,
        "warmup": 2,
        "pseudo_label_steps": 4,
        "pseudo_label_decay": 8,
        "precision": "float32",
    },
}
Lines = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """Runs are compared bit for bit, which a GPU does not promise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        for module in (evaluate, loop):
            patch.setattr(module, "default_device", lambda: torch.device("cpu"))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, settings and a trained run, for reading only."""
    folder = tmp_path_factory.mktemp("cli")
    assert main.run(f"scenes {folder}/desk --count 12 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    assert main.run(f"train {folder}/desk --out {folder}/run --config {folder}/tiny.json".split()) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Runs a command that must end with 2 and one line, and leave nothing behind; gives that line."""

    def run(*words: object, out: Path | None = None) -> str:
        capsys.readouterr()
        before = tree(out.parent) if out is not None and out.parent.is_dir() else {}
        assert main.run([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("astseg: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        if out is not None and out.parent.is_dir():
            assert tree(out.parent) == before
        return error

    return run


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def scene_file(folder: Path, number: int, end: str = ".png") -> Path:
    return folder / "desk_full" / "0" / f"DESK_full_{number:06d}{end}"


def test_baseline_has_no_background_of_its_own(place: Path, tmp_path: Path, refused: Lines) -> None:
    out = tmp_path / "run"
    words = (
        "--objects.scenario",
        "baseline",
        "--objects.pseudo_label_weight",
        "0",
        "--objects.pseudo-label-steps",
        "0",
    )
    assert "use 'astseg train'" in refused("train-background", place / "desk", "--out", out, *words, out=out)


def test_tensorboard_that_is_not_there(
    place: Path, tmp_path: Path, refused: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "run"
    assert "TensorBoard is not installed" in refused("train", place / "desk", "--out", out, "--tensorboard", out=out)


# Runs that go on


def test_a_finished_run_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(place / "run")
    for command in ("train", "train-background"):
        capsys.readouterr()
        assert main.run(f"{command} {place}/desk --out {place}/run --config {place}/tiny.json --seed 0".split()) == 0
        assert f"is trained already: {place}/run" in capsys.readouterr().out
    assert tree(place / "run") == before


def test_a_finished_run_that_was_killed_before_its_card_gets_it(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    (run / "README.md").unlink()
    assert main.run(f"train {place}/desk --out {run} --config {place}/tiny.json --seed 0".split()) == 0
    assert "# " in (run / "README.md").read_text()


def test_another_run_is_refused(place: Path, tmp_path: Path, refused: Lines) -> None:
    words = ("train", place / "desk", "--out", place / "run", "--config", place / "tiny.json")
    run = place / "run"
    assert "holds a run that differs in seed (0, now 1)" in refused(*words, "--seed", 1, out=run)
    assert "differs in fingerprint (" in refused(*words, "--split", ":6", out=run)
    assert "differs in objects.batch (2, now 5)" in refused(*words, "--objects.batch", 5, out=run)
    assert "differs in objects.steps (24, now 48)" in refused(*words, "--steps", 48, out=run)
    assert "differs in model.slots (6, now 8)" in refused(*words, "--model.slots", 8, out=run)
    assert "differs in background.steps" in refused(*words[:-2], "--config", changed(tmp_path), out=run)


def changed(folder: Path) -> Path:
    file = folder / "changed.json"
    file.write_text(json.dumps({**SETTINGS, "background": {**SETTINGS["background"], "steps": 13}}))
    return file


def test_the_background_first_and_then_the_rest(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--steps`` are those of each command's part; the weights are those of one command with the same steps."""
    out = tmp_path / "run"
    words = f"{place}/desk --out {out} --config {changed(tmp_path)}".split()
    capsys.readouterr()
    assert main.run(["train-background", *words, "--steps", "12"]) == 0
    assert f"next: astseg train {' '.join(words)}\n" in capsys.readouterr().out
    assert main.run(["train-background", *words, "--steps", "12"]) == 0
    assert "the background is trained already" in capsys.readouterr().out
    assert main.run(["train", *words]) == 0
    assert_same_weights(out, place / "run")
    assert json.loads((out / "config.json").read_text())["background"]["steps"] == 12


def test_the_width_of_the_background_is_chosen_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = f"train-background {place}/desk --out {out} --config {place}/tiny.json --steps 2".split()
    capsys.readouterr()
    assert main.run([*words, "--model.background-width", "auto"]) == 0
    assert "the background is simple" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["model"]["background_width"] == "simple"
    assert main.run([*words, "--model.background-width", "auto"]) == 0
    assert "a short run" not in capsys.readouterr().out


def test_a_limit_of_time(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = f"train {place}/desk --out {out} --config {place}/tiny.json --steps 100000 --minutes 0.05".split()
    assert main.run([*words, "--background.steps", "100000"]) == 0
    state = json.loads((out / "training_state" / "state.json").read_text())
    assert state["phase"] == "done"
    assert state["step"] < 100_000  # the schedules shrank
    last = {entry["phase"]: entry for entry in log(out)}
    assert list(last) == ["background", "pseudo_labels", "objects", "joint"]
    assert last["joint"]["rate"] < 0.5 * last["objects"]["rate"]
    assert last["background"]["rate"] == pytest.approx(2e-4)


def log(run: Path) -> list[dict[str, Any]]:
    """The lines of the steps, without those of pictures."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if "picture" not in entry]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Results


def test_scenes_without_masks_have_some_figures(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        shutil.copy(scene_file(place / "desk", number), pictures / f"{number}.png")
    shutil.copytree(place / "run", tmp_path / "run")
    assert main.run(f"evaluate {tmp_path}/run {pictures} --json {tmp_path}/out.json".split()) == 0
    assert "these scenes have no masks" in capsys.readouterr().out
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["count"] == 3
    assert "mse" in values
    assert "ari_fg" not in values


def test_a_broken_picture_among_others(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        shutil.copy(scene_file(place / "desk", number), pictures / f"{number}.png")
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:300])
    capsys.readouterr()
    assert main.run(f"segment {place}/run {pictures} --out {tmp_path}/masks".split()) == 3
    captured = capsys.readouterr()
    assert "skipped: '1.png' is not a complete picture" in captured.out
    assert "in 2 images" in captured.out
    assert sorted(path.name for path in (tmp_path / "masks" / "masks").iterdir()) == ["0.png", "2.png"]


def test_names_in_brackets_are_told_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(f"scenes {tmp_path}/[red] --count 1 --size 16 --processes 1".split()) == 0
    assert f"1 scenes in {tmp_path}/[red]; next" in capsys.readouterr().out


# From end to end, as installed


def installed() -> list[str]:
    script = Path(sys.executable).with_name("astseg")
    return [str(script)] if script.exists() else [sys.executable, "-c", "from astseg.cli.main import main; main()"]


def run_installed(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [*installed(), *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_from_end_to_end(place: Path, tmp_path: Path) -> None:
    """Scenes, training (stopped by Ctrl-C and continued), figures, masks; the same as in one process without a stop."""
    desk, run = tmp_path / "desk", tmp_path / "run"
    made = run_installed("scenes", desk, "--count", 12, "--size", 32, "--seed", 5)
    assert (made.returncode, made.stderr) == (0, "")
    assert scene_file(desk, 11).read_bytes() == scene_file(place / "desk", 11).read_bytes()

    training = ["train", desk, "--out", run, "--config", place / "tiny.json"]
    process = subprocess.Popen(
        [*installed(), *(str(word) for word in training)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (run / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, told) == (130, "astseg: stopped; the same command again goes on from here\n")
    assert json.loads((run / "training_state" / "state.json").read_text())["phase"] != "done"
    went_on = run_installed(*training)
    assert (went_on.returncode, went_on.stderr) == (0, "")
    assert_same_weights(run, place / "run")
    assert max(Counter((entry["phase"], entry["step"]) for entry in log(run)).values()) == 1
    states = {"training_state", "training_state.before"}
    assert {path.name for path in run.iterdir()} == {
        "README.md",
        "config.json",
        "log.jsonl",
        "panels",
        "model.safetensors",
    } | states

    measured = run_installed("evaluate", run, desk, "--json", tmp_path / "figures.json", "--split", ":8")
    assert (measured.returncode, measured.stderr) == (0, "")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == json.loads((run / "metrics.json").read_text())
    assert (figures["count"], figures["size"], figures["seed"]) == (8, [20, 28], 0)
    assert all(0 <= figures[name] <= 1 for name in ("miou", "foreground"))
    assert f"{figures['miou']:.4f}" in measured.stdout

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        shutil.copy(scene_file(desk, number), pictures / f"{number}.png")
    segmented = run_installed("segment", run, pictures, "--out", tmp_path / "masks", "--every")
    assert (segmented.returncode, segmented.stderr) == (0, "")
    with (tmp_path / "masks" / "objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number in range(3):
        labels = np.asarray(Image.open(tmp_path / "masks" / "masks" / f"{number}.png"))
        assert labels.shape == (32, 32)
        areas = {int(row["id"]): int(row["area"]) for row in rows if row["file"] == f"{number}.png"}
        assert areas == {int(label): int((labels == label).sum()) for label in np.unique(labels) if label}
        assert (tmp_path / "masks" / "backgrounds" / f"{number}.png").is_file()
    assert f"{len(rows)} objects in 3 images" in segmented.stdout


def test_a_precision_is_asked_for_and_told(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(place / "run", tmp_path / "run")
    quick = resolved_precision("auto", default_device())
    for precision, told in (("float32", "float32"), ("bfloat16", "bfloat16"), ("auto", quick)):
        assert main.run(f"evaluate {run} {place}/desk --precision {precision}".split()) == 0
        assert json.loads((run / "metrics.json").read_text())["precision"] == told
        words = f"segment {run} {place}/desk --out {tmp_path}/{precision} --precision {precision} --write"
        assert main.run(words.split()) == 0
        assert json.loads((tmp_path / precision / "segment.json").read_text())["precision"] == told


KILLED = """
import os, signal, sys
from astseg.cli import main
from astseg.training import monitor, steps

def die(self, model, phase, step, seconds):
    if (phase, step) == ("objects", 7):
        os.kill(os.getpid(), signal.SIGKILL)

steps.SAVE_SECONDS = -1.0
monitor.TrainingMonitor.__call__ = die
main.main(sys.argv[1:])
"""


def test_a_killed_process_is_continued(place: Path, tmp_path: Path) -> None:
    words = f"train {place}/desk --out {tmp_path}/run --config {place}/tiny.json".split()
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run" / "training_state" / "state.json").read_text())["step"] == 6
    assert main.run(words) == 0
    assert_same_weights(tmp_path / "run", place / "run")
    assert max(Counter((entry["phase"], entry["step"]) for entry in log(tmp_path / "run")).values()) == 1
