"""``astseg health``, ``report`` and ``evaluate`` on data of which a run takes a part: a camera, a stride, a split."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from astseg.cli import main
from astseg.cli.arguments import parse
from astseg.cli.report import _sample
from astseg.runs.folder import RunFolder
from astseg.types import SceneArrays

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def run(spread_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(spread_run, tmp_path / "run")))


def trained_on(run: RunFolder, data: Path, **changes: object) -> None:
    """Have the run say what it was trained on."""
    config, info = run.load_config()
    run.save_config(config, replace(info, data=str(data), **changes))  # type: ignore[arg-type]


def sample(words: str) -> SceneArrays:
    return _sample(parse(words.split()))[1]


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    """ShapeStacks with two scenarios; the grey level of an image is ten times the number of its camera."""
    folder = tmp_path / "shapestacks"
    for scenario in ("env_blocks-easy-h=2-vcom=0-vpsf=0-v=1", "env_ccs-easy-h=2-vcom=1-vpsf=0-v=1"):
        for camera in (1, 3, 10):
            image = folder / "recordings" / scenario / f"rgb-w=2-f=5-l={camera}-c=unique-cam_{camera}-mono-0.png"
            mask = folder / "iseg" / scenario / f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map"
            for file in (image, mask):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * camera, np.uint8)).save(image)
            rgba = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
            rgba[..., :3] = 0
            rgba[4:12, 8:20, :3] = 32
            Image.fromarray(rgba).save(mask, format="PNG")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Thirteen frames."""
    file = tmp_path / "a.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(13):
            frame = np.full((HEIGHT, WIDTH, 3), 15 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


@pytest.mark.parametrize("command", ["health", "report"])
def test_a_run_of_one_camera_is_judged_on_that_camera(command: str, run: RunFolder, cameras: Path) -> None:
    trained_on(run, cameras, camera=3)
    scenes = sample(f"{command} {run.path}")
    assert [name.rpartition("/")[2] for name in scenes.names] == ["cam_3", "cam_3"]
    assert (np.asarray(scenes.images) == 30).all()
    assert main.run([command, str(run.path)]) == 0
    assert json.loads((run.path / "health.json").read_text())["images"] == 2


@pytest.mark.parametrize("command", ["health", "report"])
def test_a_run_of_some_frames_is_judged_on_those(command: str, run: RunFolder, video: Path) -> None:
    trained_on(run, video, stride=3, frames=4, split="1:")
    assert sample(f"{command} {run.path}").names == ("a.mp4/000003", "a.mp4/000006", "a.mp4/000009")
    assert len(sample(f"{command} {run.path} --split :1").names) == 1
    assert main.run([command, str(run.path)]) == 0
    assert json.loads((run.path / "health.json").read_text())["images"] == 3


def test_other_data_are_read_whole(run: RunFolder, cameras: Path, video: Path) -> None:
    trained_on(run, video, stride=3, camera=10)
    assert len(sample(f"health {run.path} {cameras}").names) == 6


def test_evaluate_reads_what_it_is_told(run: RunFolder, cameras: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The preprocessing is the run's; which scenes are measured on is the command's, and stands beside the metrics."""
    trained_on(run, cameras, camera=3, resize="letterbox", crop=0.8)
    assert main.run(f"evaluate {run.path} {cameras}".split()) == 0
    values = json.loads((run.path / "metrics.json").read_text())
    assert (values["count"], values["camera"], values["resize"]) == (6, None, "letterbox")
    assert ", camera" not in capsys.readouterr().out
    assert main.run(f"evaluate {run.path} {cameras} --camera 10".split()) == 0
    values = json.loads((run.path / "metrics.json").read_text())
    assert (values["count"], values["camera"]) == (2, 10)
    assert ", camera 10" in capsys.readouterr().out


def test_a_run_that_does_not_know_its_data(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["health", str(run.path)]) == 2
    assert "does not say what it was trained on: name the images too" in capsys.readouterr().err
    trained_on(run, tmp_path / "gone")
    assert main.run(["report", str(run.path)]) == 2
    assert "gone', are not there: name others" in capsys.readouterr().err
    assert not (run.path / "report.html").exists()
