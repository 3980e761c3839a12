"""``fit`` on pictures with small objects, of one place: the plan, a short run, masks, and what the folder holds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg import Segmenter
from astseg.cli import main
from astseg.errors import UserError
from tank import tank

FEW_STEPS = "--scene.steps 100 --scene.width 8 --scene.side 64"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tank") / "pictures"
    folder.mkdir()
    for number, picture in enumerate(tank(30, size=(192, 256), things=5)[0]):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path) -> Path:
    run = pictures.parent / "run"
    assert main.run(f"fit {pictures} --out {run} {FEW_STEPS}".split()) == 0
    return run


def test_the_plan_says_how_the_pictures_are_looked_at(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(f"fit {pictures} --out {tmp_path}/new --dry-run".split()) == 0
    out = capsys.readouterr().out
    assert "looked at in full" in out and "--scene.background" in out and "nothing was written" in out
    assert re.search(r"--scene.working-scale +1 \(192 x 256\)", out)
    assert not (tmp_path / "new").exists()


def test_a_run_holds_scene_settings_and_examples(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["scene"]["background"] == "fixed" and config["scene"]["steps"] == 100
    assert (run / "scene.safetensors").is_file() and len(list((run / "examples").iterdir())) == 24
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [50, 100]


def test_segment_finds_what_moves(run: Path, pictures: Path, tmp_path: Path) -> None:
    assert main.run(f"segment {run} {pictures} --out {tmp_path}/masks --write overlays backgrounds".split()) == 0
    _, labels, ground = tank(30, size=(192, 256), things=5)
    hit = np.mean(
        [
            (np.asarray(Image.open(tmp_path / "masks" / "masks" / f"{number:03d}.png")) > 0)[labels[number] > 0].mean()
            for number in range(30)
        ]
    )
    assert hit > 0.6  # a hundred steps of a narrow finder
    background = np.asarray(Image.open(tmp_path / "masks" / "backgrounds" / "000.png")).astype(int)
    assert np.median(np.abs(background - ground)) < 20


def test_the_same_command_again_has_nothing_to_do(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "scene.safetensors").read_bytes()
    assert main.run(f"fit {pictures} --out {run} {FEW_STEPS}".split()) == 0
    assert "trained already" in capsys.readouterr().out
    assert (run / "scene.safetensors").read_bytes() == before


def test_a_run_repeats(run: Path, pictures: Path, tmp_path: Path) -> None:
    assert main.run(f"fit {pictures} --out {tmp_path}/again {FEW_STEPS}".split()) == 0
    assert (tmp_path / "again" / "scene.safetensors").read_bytes() == (run / "scene.safetensors").read_bytes()


def test_a_run_that_was_stopped_goes_on(run: Path, pictures: Path, tmp_path: Path) -> None:
    """Stopped before the finder had learned: what is known of the scene is there, the finder is not."""
    from dataclasses import replace

    from astseg.discovery.scene_file import load_scene, save_scene
    from astseg.runs.folder import RunFolder

    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.json", "fit.json"):
        (stopped / name).write_bytes((run / name).read_bytes())
    config, _ = RunFolder(run).load_config()
    save_scene(stopped, replace(load_scene(run, config.scene), finder=None))
    with pytest.raises(UserError, match="has not learned"):
        Segmenter.from_pretrained(stopped)
    assert main.run(f"fit {pictures} --out {stopped} {FEW_STEPS}".split()) == 0
    assert (stopped / "scene.safetensors").read_bytes() == (run / "scene.safetensors").read_bytes()


def test_pictures_of_other_proportions_and_modes_are_refused(run: Path) -> None:
    segmenter = Segmenter.from_pretrained(run)
    with pytest.raises(UserError, match="same camera"):
        segmenter.predict(np.zeros((200, 200, 3), np.uint8))
    with pytest.raises(UserError, match="sees pictures whole"):
        segmenter.predict(np.zeros((192, 256, 3), np.uint8), resize="crop")


def test_a_mode_of_resizing_is_refused_before_anything_is_written(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(f"segment {run} {pictures} --out {tmp_path}/masks --resize crop".split()) == 2
    assert "sees pictures whole" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("command", ["evaluate {run} {pictures}", "health {run}", "report {run}", "serve {run}"])
def test_commands_that_need_layers_say_so(
    command: str, run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(command.format(run=run, pictures=pictures).split()) == 2
    assert "has no network of layers" in capsys.readouterr().err


def test_pictures_without_objects(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.png"
    Image.fromarray(tank(30, size=(192, 256), things=5)[2]).save(empty)
    assert main.run(f"fit {pictures} --out {tmp_path}/run --dry-run --empty {empty}".split()) == 0
    assert "1 pictures without objects" in capsys.readouterr().out
    Image.new("RGB", (64, 64)).save(empty)
    assert main.run(f"fit {pictures} --out {tmp_path}/run --dry-run --empty {empty}".split()) == 2
    assert "are not of 192 x 256" in capsys.readouterr().err
    assert main.run(f"fit {pictures} --out {tmp_path}/run --dry-run --scene.background given".split()) == 2
    assert "--empty" in capsys.readouterr().err
