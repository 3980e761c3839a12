"""From pictures to masks in one command: what it leaves, that it goes on, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from astseg.cli import fit as fit_run
from astseg.cli import main
from astseg.runs import folder as run_folder
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training import loop, session

Draw = Callable[..., NDArray[np.uint8]]
Folder = Callable[..., Path]
TINY = {
    "model": {
        "image_size": [20, 28],
        "slots": 4,
        "appearance": 5,
        "glimpse_crop": 4,
        "transformer_width": 16,
        "transformer_heads": 2,
        "transformer_layers": 1,
        "transformer_feedforward": 12,
    },
    "background": {"steps": 12, "batch": 4, "precision": "float32"},
    "objects": {"batch": 2, "precision": "float32"},
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "default_device", lambda: torch.device("cpu"))


@pytest.fixture
def settings(tmp_path: Path) -> str:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return f"--config {tmp_path / 'tiny.json'} --seed 3"


def test_from_pictures_to_masks_and_again(
    folder: Folder, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = folder(30), tmp_path / "run"
    (path / "0011.png").write_bytes(b"broken")
    command = f"fit {path} --out {out} --steps 20 {settings}"
    assert main.run(command.split()) == 0
    said = capsys.readouterr().out
    assert "left out, since they cannot be read: 1 of 30 pictures" in said
    assert f"next                 astseg segment {out} {path} --out masks" in said
    config, info = RunFolder(out).load_config()
    assert (config.model.image_size, config.model.slots, config.objects.steps) == ((20, 28), 4, 20)
    assert (info.images, info.data, info.resize, info.crop) == (29, str(path), "crop", 1.0)
    told = json.loads((out / "fit.json").read_text())
    assert {row["option"] for row in told["plan"]} >= {"--model.slots", "--steps", "--objects.flip"}
    for name in ("model.safetensors", "report.html", "health.json", "README.md"):
        assert (out / name).is_file()
    masks = sorted((out / "examples").glob("*_masks.png"))
    assert len(masks) >= 11
    assert Image.open(masks[0]).size == (52, 40)

    assert main.run(command.split()) == 0
    assert "is trained already" in capsys.readouterr().out
    assert main.run([*command.split(), "--resize", "letterbox"]) == 2
    assert "differs in resize (crop, now letterbox)" in capsys.readouterr().err
    assert main.run([*command.split(), "--model.background-width", "auto"]) == 0
    assert main.run([*command.split(), "--dry-run"]) == 0
    assert "goes on as it was planned" in capsys.readouterr().out
    assert main.run([*command.split(), "--model.slots", "5"]) == 2
    assert "differs in model.slots (4, now 5)" in capsys.readouterr().err
    assert main.run([*command.split(), "--steps", "21"]) == 2
    assert "differs in objects.steps (20, now 21)" in capsys.readouterr().err
    assert main.run([*command.split(), "--preset", "clevr-ct"]) == 2
    assert "use astseg train" in capsys.readouterr().err
    assert main.run(f"segment {out} {path / '0000.png'} --out {tmp_path / 'masks'}".split()) == 0


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    folder: Folder, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(24)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = f"--steps 12 {settings}"
    assert main.run(f"fit {path} --out {whole} {words}".split()) == 0

    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    for module, name in ((session, "train"), (session, "write_card"), (fit_run, "finish")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopped)
            assert main.run(f"fit {path} --out {parts} {words}".split()) == 130
        assert "the same command again goes on from here" in capsys.readouterr().err
    assert main.run(f"fit {path} --out {parts} {words}".split()) == 0
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert (parts / "README.md").is_file()


def test_a_folder_that_is_held_is_left_alone(
    folder: Folder, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = folder(24), tmp_path / "run"
    with RunFolder(out).lock():
        assert main.run(f"fit {path} --out {out} --steps 4 {settings}".split()) == 2
        captured = capsys.readouterr()
        assert "is being trained by process" in captured.err
        assert "The plan" not in captured.out  # it is refused before minutes are spent
        assert [file.name for file in out.iterdir()] == [".lock"]


def test_a_run_that_was_killed_as_it_began_is_begun_anew(
    folder: Folder, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each of its first writes, as a kill or a full disk would end it."""
    path = folder(24)
    command = f"fit {path} --steps 12 {settings} --out"
    written: list[str] = []

    def stopping(module: ModuleType, name: str, after: bool) -> Callable[..., object]:
        honest = getattr(module, name)

        def write(file: Path, *args: object) -> None:
            written.append(file.name)
            if after:
                honest(file, *args)
            else:
                file.parent.mkdir(exist_ok=True)
                file.with_name(file.name + ".part").write_text("{")  # what is left where the process is killed
            raise SystemExit

        return write

    for module in (session, run_folder):  # fit.json, and then config.json
        for after in (False, True):
            out = tmp_path / f"{module.__name__}-{after}"
            with monkeypatch.context() as patch, pytest.raises(SystemExit):
                patch.setattr(module, "write_json", stopping(module, "write_json", after))
                main.run([*command.split(), str(out)])
            assert out.is_dir()
            assert main.run([*command.split(), str(out)]) == 0
            assert (out / "report.html").is_file()
            assert not list(out.glob("*.part"))
    assert written == ["fit.json"] * 2 + ["config.json"] * 2


def test_a_dry_run_writes_nothing(
    folder: Folder, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(24)
    before = sorted(tmp_path.rglob("*"))
    assert main.run(f"fit {path} --out {tmp_path / 'run'} --dry-run --minutes 5 {settings}".split()) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "nothing was written" in said
    assert "one, in one light" in said


def test_other_folders_are_left_alone(
    folder: Folder, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(24)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "a.jpg").touch()
    assert main.run(f"fit {path} --out {tmp_path / 'holiday'} {settings}".split()) == 2
    assert "holds no run: choose another folder" in capsys.readouterr().err
    RunFolder(tmp_path / "other").save_config(fit_run.Config(), RunInfo("small", data="x"))
    assert main.run(f"fit {path} --out {tmp_path / 'other'} {settings}".split()) == 2
    assert "was not begun by 'astseg fit'" in capsys.readouterr().err


def test_too_many_broken_ones_are_refused_before_anything_is_written(
    folder: Folder, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from astseg.autofit import survey

    monkeypatch.setattr(survey, "SAMPLED", 12)  # every second one is looked at
    path = folder(24)
    for number in range(1, 24, 4):
        (path / f"{number:04d}.png").write_bytes(b"broken")
    assert main.run(f"fit {path} --out {tmp_path / 'run'} --steps 4 {settings}".split()) == 2
    assert "6 of 24 pictures cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
