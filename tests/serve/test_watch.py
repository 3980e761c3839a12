"""Runs that are watched: what is told of them, and stopping and going on with a real training."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from astseg.cli.serve import going_on
from astseg.config import Config
from astseg.data.synthetic.generate import write_scenes
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.runs.lock import FolderLock, holder
from astseg.serve.watch import WatchedRuns
from serve.conftest import Serving
from tiny import MODEL, MODEL_SETTINGS


def begun(folder: Path, **info: str) -> RunFolder:
    run = RunFolder(folder)
    run.save_config(Config(model=MODEL), RunInfo("small", **info))
    return run


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_told_of_a_run(serving: Serving, tmp_path: Path) -> None:
    run = begun(tmp_path / "runs" / "a <b>")
    lines = [{"phase": "background", "step": n, "seconds": n / 5, "reconstruction": 1 / n} for n in (10, 20, 30)]
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "obj')
    with serving(runs=WatchedRuns(below=tmp_path / "runs")) as server:
        (told,) = httpx.get(f"{server}/runs").json()
        assert (told["name"], told["training"], told["phase"], told["step"]) == ("a <b>", False, "background", 30)
        assert httpx.get(f"{server}/runs/a <b>/panel").status_code == 404
        run.panels.mkdir()
        Image.new("RGB", (4, 4)).save(run.panels / "latest.png")
        (run.path / "health.json").write_text(json.dumps({"findings": ["nothing is visibly wrong"]}))
        view = httpx.get(f"{server}/runs/a <b>").json()
        assert view["health"] == ["nothing is visibly wrong"]
        assert [curve["title"] for curve in view["curves"]] == ["Background: losses"]
        assert httpx.get(f"{server}/runs/a <b>/panel").headers["content-type"] == "image/png"
        assert httpx.get(f"{server}/runs/b").status_code == 404
        assert httpx.post(f"{server}/segment").status_code in (404, 405)  # there is no model


def test_links_to_elsewhere_are_not_followed(serving: Serving, tmp_path: Path) -> None:
    elsewhere = begun(tmp_path / "elsewhere")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(elsewhere.path)
    run = begun(tmp_path / "runs" / "own")
    run.panels.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (run.panels / "latest.png").symlink_to(tmp_path / "secret.png")
    with serving(runs=WatchedRuns(below=tmp_path / "runs")) as server:
        assert [one["name"] for one in httpx.get(f"{server}/runs").json()] == ["own"]
        assert httpx.get(f"{server}/runs/own/panel").status_code == 404


def test_who_holds_a_folder(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with FolderLock(tmp_path):
        assert holder(tmp_path) is not None
    (tmp_path / ".lock").write_text("process 1 on another")  # left by one that was killed
    assert holder(tmp_path) is None


@pytest.mark.slow
def test_stop_and_go_on(serving: Serving, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "desk", "desk", count=12, size=32, seed=2, processes=1)
    (tmp_path / "settings.json").write_text(json.dumps({"model": MODEL_SETTINGS}))
    words = ["train", str(tmp_path / "desk"), "--out", str(tmp_path / "runs" / "one")]
    words += ["--config", str(tmp_path / "settings.json"), "--background.steps", "100000"]
    (tmp_path / "runs").mkdir()

    def command(run: RunFolder) -> list[str]:
        return going_on(run) if run.is_begun else words

    watched = WatchedRuns(tmp_path / "runs" / "one", command=command)
    with serving(runs=watched) as server:

        def told(key: str) -> object:
            return httpx.get(f"{server}/runs/one").json()[key]

        steps = []
        for _ in range(2):  # begins, and goes on
            assert httpx.post(f"{server}/runs/one/go-on").status_code == 202
            assert httpx.post(f"{server}/runs/one/go-on").status_code == 409
            until(lambda: int(str(told("step"))) > (steps[-1] if steps else 0))
            assert httpx.post(f"{server}/runs/one/stop").status_code == 202
            until(lambda: not told("training"))
            assert told("message") == ""
            steps.append(int(str(told("step"))))
        assert steps[1] > steps[0] > 0
        assert httpx.post(f"{server}/runs/one/stop").status_code == 409
        (tmp_path / "desk").rename(tmp_path / "gone")
        assert httpx.post(f"{server}/runs/one/go-on").status_code == 409
