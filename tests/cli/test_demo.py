"""The demo with a tiny model: from nothing to figures, again, interrupted, and beside other things."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from astseg.cli import demo
from astseg.cli.arguments import Demo
from astseg.cli.demo import run_demo
from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.errors import UserError
from astseg.runs.folder import RunFolder, load_model
from astseg.training import session
from tiny import MODEL

TINY = Config(
    model=replace(MODEL, image_size=(24, 24), slots=6, transformer_width=8),
    background=BackgroundConfig(steps=3, batch=4),
    objects=ObjectsConfig(
        steps=8, frozen_steps=4, batch=2, warmup=2, entropy_ramp=4, pseudo_label_weight=1.0, pseudo_label_decay=4
    ),
)
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "preset", lambda name: TINY)
    monkeypatch.setattr(demo, "SIZE", 24)
    monkeypatch.setattr(demo, "PROCESSES", 1)


def command(out: Path) -> Demo:
    return Demo(out=out, scenes=7, test_scenes=5, seed=3, steps=4, minutes=None)


def quiet() -> Console:
    return Console(file=io.StringIO(), soft_wrap=True, markup=False, highlight=False)


def files(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_from_nothing_to_figures_and_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = run_demo(command(out), quiet())
    assert result is not None and result.count == 5
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ari_fg"] == result.mean["ari_fg"]
    assert (metrics["count"], metrics["train_scenes"], metrics["family"], metrics["seed"]) == (5, 7, "desk", 3)
    _, config, _ = load_model(out)
    assert config == TINY.with_steps(4)
    assert (config.objects.steps, config.objects.frozen_steps) == (4, 2)
    card = (out / "README.md").read_text()
    assert f"| ari_fg | {result.mean['ari_fg']:.4f} |" in card
    assert (out / "panels" / "latest.png").is_file()
    assert {path.name for path in (out / "scenes").iterdir()} == {"train", "test"}
    state = RunFolder(out).load_state()
    assert state is not None
    assert state.phase == "done"

    before = files(out)
    console = quiet()
    again = run_demo(command(out), console)
    assert "this demo is trained already" in console.file.getvalue()  # type: ignore[attr-defined]
    assert again is not None and again.mean == result.mean
    assert files(out) == before

    for other in (replace(command(out), family="rooms"), replace(command(out), scenes=8)):
        with pytest.raises(UserError, match=r"holds other scenes: (family|count) .*choose another folder"):
            run_demo(other, quiet())
    for other in (replace(command(out), seed=4), replace(command(out), steps=5)):
        with pytest.raises(UserError, match=r"holds (other scenes: seed|a run that differs in objects.steps)"):
            run_demo(other, quiet())
    assert files(out) == before


def test_an_interrupted_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_demo(command(tmp_path / "whole"), quiet())

    def stopping(name: str) -> Callable[..., object]:
        def stop(*args: object, **kwargs: object) -> object:
            raise KeyboardInterrupt

        return stop

    places = [(demo, "load_scenes"), (session, "train"), (session, "write_card"), (demo, "evaluate")]
    for module, name in [*places, (demo, "write_card"), (demo, "write_json")]:  # before each of them
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, stopping(name))
            run_demo(command(tmp_path / "parts"), quiet())
    run_demo(command(tmp_path / "parts"), quiet())
    one, other = files(tmp_path / "whole"), files(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert one["model.safetensors"] == other["model.safetensors"]


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run_demo(command(tmp_path), quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_half_a_folder_of_scenes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo" / "scenes" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no whole scenes \(.*\): choose another folder"):
        run_demo(command(tmp_path / "demo"), quiet())


def test_a_demo_that_was_killed_as_it_began_goes_on(tmp_path: Path) -> None:
    """Whichever of its first files were there."""
    run_demo(command(tmp_path / "whole"), quiet())
    first = ["scenes", ".lock", "config.json.part", "config.json"]
    for number in range(len(first) + 1):
        out = tmp_path / str(number)
        out.mkdir()
        for name in first[:number]:
            if name == "scenes":
                shutil.copytree(tmp_path / "whole" / name, out / name)
            elif name == "config.json":
                shutil.copy(tmp_path / "whole" / name, out / name)
            else:
                (out / name).write_text("half")
        run_demo(command(out), quiet())
        assert files(out)["model.safetensors"] == files(tmp_path / "whole")["model.safetensors"]


def test_a_folder_that_is_held_is_left_alone(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "demo").lock():
        before = files(tmp_path)
        with pytest.raises(UserError, match="is being trained by process"):
            run_demo(command(tmp_path / "demo"), quiet())
        assert files(tmp_path) == before
