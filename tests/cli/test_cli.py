"""The command line: what it parses, what it refuses in one line, and the main job from end to end."""

import csv
import json
import os
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

from astseg.cli import arguments, commands, evaluate, main
from astseg.cli.arguments import parse
from astseg.config import Config
from astseg.config.device import default_device, resolved_precision
from astseg.config.presets import PRESETS, preset
from astseg.errors import UserError
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


# Parsing


def test_scenes_by_default() -> None:
    command = parse(["scenes", "here"])
    assert command == arguments.Scenes(out=Path("here"))
    assert (command.family, command.count, command.size, command.seed) == ("desk", 1000, 64, 0)


def test_train_by_default() -> None:
    command = parse(["train", "data", "--out", "run"])
    assert command == arguments.Train(data=Path("data"), out=Path("run"), settings=preset("small"))
    assert (command.seed, command.minutes, command.steps, command.split, command.crop) == (0, None, None, "all", None)


@pytest.mark.parametrize("name", ["train", "train-background"])
def test_every_training_command_takes_seed_minutes_and_steps(name: str) -> None:
    command = parse(f"{name} data --out run --seed 4 --minutes 2.5 --steps 70".split())
    assert isinstance(command, arguments.Train) == (name == "train")
    assert (command.seed, command.minutes, command.steps) == (4, 2.5, 70)


def test_the_demo_takes_them_too() -> None:
    command = parse(["demo", "--seed", "4", "--minutes", "2.5", "--steps", "70", "--out", "here"])
    assert command == arguments.Demo(out=Path("here"), seed=4, minutes=2.5, steps=70)
    assert parse(["demo"]) == arguments.Demo()


@pytest.mark.parametrize("words", [["--preset", "shapestacks-bt"], ["--preset=shapestacks-bt"]])
def test_a_preset_is_the_default_of_all_settings(words: list[str]) -> None:
    command = parse(["train", "data", *words, "--out", "run", "--objects.batch", "3"])
    assert command.preset == "shapestacks-bt"
    expected = preset("shapestacks-bt")
    assert command.settings.model == expected.model
    assert command.settings.objects.scenario == "baseline"
    assert command.settings.objects.batch == 3


def test_files_are_laid_over_presets_and_options_over_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model:\n  slots: 4\n  image_size: 32\nobjects: {learning_rate: 1e-4, steps: 9}\n")
    command = parse(["train", "data", "--out", "run", "--config", str(file), "--objects.steps", "8"])
    settings: Config = command.settings
    assert (settings.model.slots, settings.model.image_size) == (4, (32, 32))
    assert (settings.objects.learning_rate, settings.objects.steps) == (1e-4, 8)
    assert settings.background == preset("small").background
    assert command.config == file
    file.with_suffix(".json").write_text('{"model": {"slots": 4, "image_size": [32, 32]}}')
    assert parse(["train", "data", "--out", "run", f"--config={file.with_suffix('.json')}"]).settings.model.slots == 4
    file.write_text("# nothing\n")
    assert parse(["train", "data", "--out", "run", "--config", str(file)]).settings == preset("small")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--preset clevr-ct --model.no-isotropic",
        "--model.slots 4 --model.image-size 48 64 --model.isotropic --objects.flip --objects.betas 0.8 0.95",
        "--preset clevrtex-ct --model.backbone-weights None --objects.eps 1e-7",
    ],
)
def test_settings_are_spelled_as_they_are_parsed(words: str) -> None:
    command = parse(["train", "data", "--out", "run", *words.split()])
    usual = arguments.usual_settings(command.preset, None)
    spelled = arguments.spelled_settings(command.settings, usual)
    again = parse(["train", "data", "--out", "run", "--preset", command.preset, *spelled])
    assert again.settings == command.settings
    assert bool(spelled) == bool(words)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train-background", "--help"], ["demo", "-h"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if words == ["--help"]:
        names = ["demo", "scenes", "train", "train-background", "evaluate", "segment"]
        assert all(name in text for name in [*names, *PRESETS])
    else:
        assert all(option in text for option in ("--out", "--seed", "--minutes", "--steps"))


def test_parsing_loads_no_torch() -> None:
    program = (
        "import sys; from astseg.cli.arguments import parse\n"
        "for words in ('--help', 'train --help', 'train-background --help', 'train data --out run'):\n"
        "    try: parse(words.split())\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trian"],
        ["train"],
        ["train", "data"],
        ["train", "data", "--out", "run", "--modle.slots", "3"],
        ["train", "data", "--out", "run", "--seed", "0.5"],
        ["scenes", "here", "--family", "kitchen"],
        ["evaluate", "run", "data", "--protocol", "ours"],
    ],
)
def test_other_mistakes_are_told_by_the_parser(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("astseg: ")
    assert captured.err.count("\n") == 1
    assert " --help" in captured.err


# Exit codes


def test_main_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["astseg", "train", "d", "--out", "r", "--steps", "3"])
    monkeypatch.setattr(main, "run", lambda words: len(words))
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 6


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("no such thing"), 2, "astseg: no such thing\n"),
        (KeyboardInterrupt(), 130, "astseg: stopped; the same command again goes on from here\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(command: object) -> int:
        raise error

    monkeypatch.setattr(commands, "run", fail)
    assert main.run(["demo"]) == code
    assert capsys.readouterr().err == told


# Settings that are refused


@pytest.mark.parametrize("command", ["train", "train-background"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset smal", "'smal' is not a preset: did you mean 'small'?"),
        ("--preset=clevr", "'clevr' is not a preset: did you mean 'clevr-"),
        ("--model.slots 0", "slots is 0, expected at least 1: it is the largest number of objects"),
        ("--model.image-size 8 8", "image_size is (8, 8), expected sides of at least 16"),
        ("--model.backbone cn", "backbone is 'cn': did you mean 'cnn'?"),
        ("--model.backbone-weights a/b", "backbone cnn has none: leave them out"),
        ("--objects.precision float16", "objects precision is 'float16': did you mean 'bfloat16'?"),
        ("--objects.scenario baseline", "guidance needs a trained background"),
        ("--steps 0", "steps is 0, expected at least 1"),
        ("--steps -5", "steps is -5, expected at least 1"),
        ("--minutes 0", "minutes is 0, expected more than 0"),
        ("--minutes -3", "minutes is -3, expected more than 0"),
        ("--minutes nan", "minutes is nan, expected more than 0"),
        ("--seed -1", "seed is -1, expected 0 to 4294967295"),
        ("--split 40:", "selection '40:' chooses none of the 12 scenes"),
        ("--split some", "selection 'some' is not understood"),
        ("--crop 0", "crop is 0.0, expected a part of the short side"),
    ],
)
def test_settings_that_are_refused(
    command: str, words: str, message: str, place: Path, tmp_path: Path, refused: Lines
) -> None:
    out = tmp_path / "run"
    assert message in refused(command, place / "desk", "--out", out, *words.split(), out=out)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "model: {slotz: 3}", "'model.slotz' is not a setting: did you mean 'slots'?"),
        ("a.yaml", "modle: {slots: 3}", "'modle' is not a setting: did you mean 'model'?"),
        ("a.yaml", "model: {slots: 0}", "slots is 0, expected at least 1"),
        ("a.json", '{"model": {"slots": 0}}', "slots is 0, expected at least 1"),
        ("a.yaml", "model: {slots: many}", "'model.slots' is 'many', expected a whole number"),
        ("a.yaml", "model: 3", "model is 3, expected names and values"),
        ("a.yaml", "model: {slots: 3\nobjects: [", "a.yaml' is broken: "),
        ("a.json", '{"model": ', "a.json' is broken: "),
        ("a.yaml", "- 1\n- 2", "a.yaml' holds list, expected names and values"),
        ("a.yaml", b"\xff\xfe\x00", "a.yaml' is no text"),
        ("a.yaml", None, "a.yaml' cannot be read (No such file or directory)"),
    ],
)
def test_files_of_settings_that_are_refused(
    name: str, text: str | bytes | None, message: str, place: Path, tmp_path: Path, refused: Lines
) -> None:
    file, out = tmp_path / name, tmp_path / "run"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert message in refused("train", place / "desk", "--out", out, "--config", file, out=out)


def test_a_folder_of_settings(place: Path, tmp_path: Path, refused: Lines) -> None:
    assert "cannot be read" in refused("train", place / "desk", "--out", tmp_path / "run", "--config", tmp_path)


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


# Data that is refused


def broken_scenes(place: Path, folder: Path, kind: str) -> Path:
    """A copy of the scenes with one fault."""
    data = folder / "data"
    if kind == "missing":
        return data
    if kind == "empty":
        data.mkdir()
        return data
    if kind == "text":
        data.write_text("hello")
        return data
    shutil.copytree(place / "desk", data)
    image, mask = scene_file(data, 4), scene_file(data, 4, "_flat.png")
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:500])
    elif kind == "other size":
        Image.new("P", (30, 31)).save(mask)
    elif kind == "high label":
        labels = np.zeros((32, 32), np.uint8)
        labels[3:9, 2:20] = 9
        picture = Image.fromarray(labels)
        picture.putpalette([0] * 768)
        picture.save(mask)
    elif kind == "no mask":
        mask.unlink()
    return data


DATA_FAULTS = [
    ("missing", "data' does not exist: expected a folder of pictures"),
    ("empty", "data' holds no pictures: expected PNG"),
    ("text", "data' is of no known format"),
    ("truncated", "1 problem in '.*data': 'DESK_full_000004.png' is not a complete picture"),
    ("other size", "mask 'DESK_full_000004_flat.png' is 31x30 but its image is 32x32"),
    ("high label", "label 9 in 'DESK_full_000004' is above the 6 slots: use 9 slots or more"),
    ("no mask", "mask 'DESK_full_000004_flat.png' is missing"),
]


@pytest.mark.parametrize(("kind", "message"), DATA_FAULTS)
def test_data_that_cannot_be_trained_on(kind: str, message: str, place: Path, tmp_path: Path, refused: Lines) -> None:
    data, out = broken_scenes(place, tmp_path, kind), tmp_path / "run"
    for command in ("train", "train-background"):
        line = refused(command, data, "--out", out, "--config", place / "tiny.json", out=out)
        assert message.replace(".*", str(tmp_path) + os.sep) in line


@pytest.mark.parametrize(("kind", "message"), DATA_FAULTS)
def test_data_that_cannot_be_measured_on(kind: str, message: str, place: Path, tmp_path: Path, refused: Lines) -> None:
    data = broken_scenes(place, tmp_path, kind)
    line = refused("evaluate", place / "run", data, "--json", tmp_path / "out.json", out=place / "run")
    assert message.replace(".*", str(tmp_path) + os.sep) in line
    assert not (tmp_path / "out.json").exists()


# Folders that are refused


@pytest.mark.parametrize("command", ["train", "train-background"])
def test_where_a_run_cannot_be(command: str, place: Path, tmp_path: Path, refused: Lines) -> None:
    words = (command, place / "desk", "--config", place / "tiny.json", "--out")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").touch()
    assert "is a file, expected a run folder" in refused(*words, tmp_path / "file", out=tmp_path / "file")
    assert "cannot be written" in refused(*words, tmp_path / "file" / "run", out=tmp_path / "file")
    assert "is not empty and holds no run" in refused(*words, tmp_path / "full", out=tmp_path / "full" / "x")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["evaluate", "segment"])
def test_runs_that_cannot_be_used(command: str, place: Path, tmp_path: Path, refused: Lines) -> None:
    end = ("--out", tmp_path / "masks") if command == "segment" else ()
    out = tmp_path / "masks"
    assert "is not there, expected a run folder" in refused(command, tmp_path / "no", place / "desk", *end, out=out)
    assert "has no config.json" in refused(command, tmp_path, place / "desk", *end, out=out)
    (tmp_path / "run").mkdir()
    shutil.copy(place / "run" / "config.json", tmp_path / "run")
    assert "has no model.safetensors" in refused(command, tmp_path / "run", place / "desk", *end, out=out)
    (tmp_path / "run" / "model.safetensors").write_text("half")
    assert "model.safetensors' is broken" in refused(command, tmp_path / "run", place / "desk", *end, out=out)
    (tmp_path / "run" / "config.json").write_text("{")
    assert "config.json' is broken" in refused(command, tmp_path / "run", place / "desk", *end, out=out)


def test_what_evaluate_refuses(place: Path, tmp_path: Path, refused: Lines) -> None:
    words = ("evaluate", place / "run", place / "desk")
    assert "is a folder, expected a file" in refused(*words, "--json", tmp_path, out=place / "run")
    assert "batch_size is 0" in refused(*words, "--batch-size", 0, out=place / "run")
    assert "chooses none" in refused(*words, "--split", "50:", out=place / "run")


def test_what_segment_refuses(place: Path, tmp_path: Path, refused: Lines) -> None:
    out = tmp_path / "out"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert "holds no pictures" in refused("segment", place / "run", pictures, "--out", out, out=out)
    assert "does not exist" in refused("segment", place / "run", tmp_path / "no", "--out", out, out=out)
    (pictures / "a.png").write_bytes(b"\x89PNG")
    assert "none of the 1 pictures in" in refused("segment", place / "run", pictures, "--out", out, out=out)
    Image.new("RGB", (30, 20)).save(pictures / "b.png")
    (tmp_path / "file").touch()
    assert "is a file" in refused("segment", place / "run", pictures, "--out", tmp_path / "file", out=out)
    assert "is not empty" in refused("segment", place / "run", pictures, "--out", place, out=out)
    assert "batch_size is 0" in refused("segment", place / "run", pictures, "--out", out, "--batch-size", 0, out=out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--count 0", "count is 0: expected 1 or more scenes"),
        ("--size 8", "size"),
        ("--processes 0", "processes"),
        ("--seed -1", "seed"),
    ],
)
def test_scenes_that_are_refused(words: str, message: str, tmp_path: Path, refused: Lines) -> None:
    out = tmp_path / "scenes"
    assert message in refused("scenes", out, *words.split(), out=out)


def test_where_scenes_cannot_be(place: Path, tmp_path: Path, refused: Lines) -> None:
    (tmp_path / "file").touch()
    words = ("--count", 2, "--size", 16)
    assert "is a file" in refused("scenes", tmp_path / "file", *words, out=tmp_path / "file")
    assert "is not empty" in refused("scenes", place, *words, out=place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scenes 0", "scenes is 0, expected at least 1"),
        ("--test-scenes 0", "test_scenes is 0, expected at least 1"),
        ("--minutes 0", "minutes is 0, expected more than 0"),
        ("--steps 0", "steps is 0, expected at least 1"),
        ("--seed -1", "seed is -1"),
    ],
)
def test_demos_that_are_refused(words: str, message: str, tmp_path: Path, refused: Lines) -> None:
    out = tmp_path / "demo"
    assert message in refused("demo", "--out", out, *words.split(), out=out)


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
    start = time.monotonic()
    assert main.run([*words, "--background.steps", "100000"]) == 0
    assert time.monotonic() - start < 30
    state = json.loads((out / "training_state" / "state.json").read_text())
    assert state["phase"] == "done"
    assert 3 <= state["seconds"] + state["background_seconds"] < 6
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
    weights = {"model.safetensors"}
    assert {path.name for path in run.iterdir()} == {
        "README.md",
        "config.json",
        "log.jsonl",
        "panels",
    } | states | weights

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
