"""Pictures during training: when they are due, what they say, and that the training does not notice them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from astseg.data.synthetic.generate import render_scenes
from astseg.model.astseg import AstSeg, build
from astseg.runs.folder import RunFolder
from astseg.training import monitor as watching
from astseg.training.logging import Reporter
from astseg.training.monitor import TrainingMonitor, few
from astseg.types import SceneArrays
from tiny import PAPER_FORM

H, W = 20, 28


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=10, size=(H, W))


@pytest.fixture
def model() -> AstSeg:
    torch.manual_seed(0)
    return build(PAPER_FORM.model)


def panels(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.panels.iterdir()) if run.panels.exists() else []


def test_pictures_are_due_by_the_clock(
    tmp_path: Path, scenes: SceneArrays, model: AstSeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 50.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now)
    drawn: list[tuple[float, str]] = []
    watch = TrainingMonitor(RunFolder(tmp_path), scenes, Reporter())
    monkeypatch.setattr(watch, "draw", lambda model, name: drawn.append((now - 50, name)) or {})
    for second in range(900):
        now = 50.0 + second
        if not 60 <= second < 160:  # a slow step: two pictures were due, one is drawn
            watch(model, "objects", second, 0.0)
    assert [second for second, _ in drawn] == [5, 20, 45, 160, *range(210, 600, 60), 690, 810]
    assert drawn[0][1] == "objects_000005"


def test_a_picture_and_its_figures(tmp_path: Path, scenes: SceneArrays, model: AstSeg) -> None:
    text = io.StringIO()
    run = RunFolder(tmp_path / "run")
    watch = TrainingMonitor(run, scenes, Reporter(console=Console(file=text, width=30)))
    figures = watch.draw(model, "joint_000012")
    assert {"ari_fg", "miou", "mse"} <= figures.keys()
    file = run.panels / "joint_000012.png"
    assert panels(run) == ["joint_000012.png", "latest.png"]
    assert file.read_bytes() == (run.panels / "latest.png").read_bytes()
    assert Image.open(file).width > 8 * W
    told = text.getvalue()
    assert told.startswith(f"picture {file}  (10 scenes: ARI-FG ")
    assert all(name in told for name in ("mIoU", "MSE", "slots used"))
    assert told.count("\n") == 1


def test_the_figures_of_a_picture_are_logged(tmp_path: Path, scenes: SceneArrays, model: AstSeg) -> None:
    log = tmp_path / "log.jsonl"
    watch = TrainingMonitor(RunFolder(tmp_path), scenes, Reporter(log))
    watch.due = [0.0]
    watch(model, "joint", 12, 3.5)
    entry = json.loads(log.read_text())
    assert (entry["phase"], entry["step"], entry["seconds"], entry["picture"]) == ("joint", 12, 3.5, "joint_000012")
    assert entry["mse"] > 0
    assert 0 <= entry["miou"] <= 1


def test_pictures_without_labels(tmp_path: Path, scenes: SceneArrays, model: AstSeg) -> None:
    text = io.StringIO()
    unlabelled = SceneArrays(scenes.images, None, scenes.names, scenes.source)
    TrainingMonitor(RunFolder(tmp_path), unlabelled, Reporter(console=Console(file=text))).draw(model, "a")
    assert "MSE" in text.getvalue()
    assert "ARI" not in text.getvalue()


def test_the_training_does_not_notice(tmp_path: Path, scenes: SceneArrays, model: AstSeg) -> None:
    model.train()
    model.background_model.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    TrainingMonitor(RunFolder(tmp_path), scenes, Reporter()).draw(model, "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.rand(2, 3, H, W)).reconstruction.sum().backward()  # nothing was left behind that has no gradient


@pytest.mark.parametrize(
    ("count", "wanted", "indices"), [(10, 4, [0, 2, 5, 7]), (10, 10, range(10)), (3, 5, range(3)), (7, 1, [0])]
)
def test_few(scenes: SceneArrays, count: int, wanted: int, indices: list[int]) -> None:
    assert scenes.labels is not None
    some = SceneArrays(scenes.images[:count], scenes.labels[:count], scenes.names[:count], "here")
    chosen = few(some, wanted)
    assert chosen.labels is not None
    np.testing.assert_array_equal(chosen.images, scenes.images[list(indices)])
    np.testing.assert_array_equal(chosen.labels, scenes.labels[list(indices)])
    assert chosen.names == tuple(scenes.names[index] for index in indices)
    assert few(SceneArrays(some.images, None, some.names, "here"), wanted).labels is None
