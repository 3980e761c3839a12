"""Numbers that are not finite are named, kept and rolled back from; a collapse is reported."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.data.synthetic.generate import render_scenes
from astseg.errors import UserError
from astseg.runs.folder import RunFolder
from astseg.training import phases, steps
from astseg.training.batches import Batches
from astseg.training.divergence import DivergedError, DivergenceMonitor, learning_rate_factor, roll_back
from astseg.training.logging import Reporter
from astseg.training.loop import train
from astseg.types import SceneArrays
from tiny import PAPER_FORM

H, W, K = 20, 28, 3
CPU = torch.device("cpu")
CONFIG = Config(
    model=replace(PAPER_FORM.model, dropout=0.0),
    background=BackgroundConfig(steps=5, batch=4),
    objects=ObjectsConfig(steps=6, frozen_steps=3, batch=3, learning_rate=1e-3, warmup=0),
)


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=11, size=(H, W))


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(tmp_path: Path, screen: io.StringIO) -> Reporter:
    (tmp_path / "run").mkdir()
    return Reporter(tmp_path / "run" / "log.jsonl", console=Console(file=screen, width=1000))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def start(run: RunFolder, scenes: SceneArrays, reporter: Reporter, config: Config = CONFIG) -> nn.Module:
    return train(config, scenes, run=run, seed=4, reporter=reporter, device=CPU)


def poisoned(
    monkeypatch: pytest.MonkeyPatch, name: str, step: int, times: int, spoil: Callable[[dict[str, Tensor]], None]
) -> list[int]:
    """Has a function of losses give wrong ones at its n-th batch, so many times; counts its calls."""
    honest = getattr(phases, name)
    images: list[Tensor] = []
    calls: list[int] = []

    def losses(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        nonlocal times
        found: dict[str, Tensor] = honest(*args, **kwargs)
        batch = args[0] if name == "background_loss" else args[2]
        known = [number for number, one in enumerate(images) if torch.equal(one, batch)]
        if not known:
            images.append(batch.clone())
        number = known[0] if known else len(images) - 1
        calls.append(number)
        if number == step and times > 0:
            times -= 1
            spoil(found)
        return found

    monkeypatch.setattr(phases, name, losses)
    return calls


def make_nan(losses: dict[str, Tensor]) -> None:
    losses["reconstruction"] = losses["reconstruction"] * math.nan
    if "total" in losses:
        losses["total"] = losses["reconstruction"] + losses["predicted_error"]


def steepen(losses: dict[str, Tensor]) -> None:
    """A finite loss whose gradient is not: the root of zero."""
    name = next(iter(losses))
    losses[name] = losses[name] + (losses[name] - losses[name]).sqrt()


@pytest.mark.parametrize(
    ("name", "phase", "step", "number"),
    [("background_loss", "background", 3, 2), ("object_losses", "objects", 2, 1), ("object_losses", "joint", 5, 4)],
)
def test_it_rolls_back_and_goes_on_with_a_lower_learning_rate(
    name: str,
    phase: str,
    step: int,
    number: int,
    run: RunFolder,
    scenes: SceneArrays,
    reporter: Reporter,
    screen: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", -1.0)
    calls = poisoned(monkeypatch, name, number, 1, make_nan)
    start(run, scenes, reporter)
    assert calls.count(number) == 2
    assert calls.count(number - 1) == 1  # a state was saved after it
    file = run.path / "divergence" / f"{phase}_{step:06d}.safetensors"
    kept = load_file(file)
    size = CONFIG.background.batch if phase == "background" else CONFIG.objects.batch
    loop = "background" if phase == "background" else "objects"
    batches = Batches(scenes, size=size, seed=4, flip=False, device=CPU, loop=loop)
    images, indices, mirrored = batches.draw(step - 1)
    assert torch.equal(kept["images"], images)
    assert torch.equal(kept["indices"], indices)
    assert torch.equal(kept["mirrored"], mirrored)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert (about["phase"], about["step"], about["seed"]) == (phase, str(step), "4")
    assert json.loads(about["not_finite"])["reconstruction"] == "nan"
    told = screen.getvalue()
    assert f"the training has diverged in phase '{phase}', step {step}: " in told
    assert "reconstruction is nan" in told
    assert "on with 0.5 of the rate" in told
    state = run.load_state()
    assert state is not None and state.phase == "done"
    entries = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    logged = [(entry["phase"], entry["step"]) for entry in entries]
    assert len(logged) == len(set(logged)) == CONFIG.background.steps + CONFIG.objects.steps
    full = CONFIG.background.learning_rate if phase == "background" else CONFIG.objects.learning_rate
    rates = {(entry["phase"], entry["step"]): entry["rate"] for entry in entries}
    assert rates[phase, step - 1] == full
    assert rates[phase, step] == full / 2


def test_three_times_and_no_more(
    run: RunFolder, scenes: SceneArrays, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = poisoned(monkeypatch, "object_losses", 1, 99, make_nan)
    with pytest.raises(
        UserError,
        match=r"^the training has diverged in phase 'objects', step 2: reconstruction is nan; 3 times .* in vain: look"
        r" at the batches in '.*divergence', and start a new run with a lower learning rate$",
    ):
        start(run, scenes, reporter)
    assert calls.count(1) == 4
    assert learning_rate_factor(run) == 1 / 8
    state = run.load_state()
    assert state is not None and (state.phase, state.step) == ("objects", 0)
    assert all(tensor.isfinite().all() for tensor in load_file(run.path / "training_state/model.safetensors").values())
    with pytest.raises(UserError, match="in vain"):  # the same command does not begin to count anew
        start(run, scenes, reporter)
    assert calls.count(1) == 5


def test_before_the_first_state_it_begins_anew(
    run: RunFolder, scenes: SceneArrays, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = poisoned(monkeypatch, "background_loss", 2, 1, make_nan)
    start(run, scenes, reporter)
    assert calls[:6] == [0, 1, 2, 0, 1, 2]
    (entry,) = json.loads((run.path / "divergence" / "rollbacks.json").read_text())
    assert entry["back_to"] == {"phase": "background", "step": 0}
    assert (entry["phase"], entry["step"]) == ("background", 3)


def test_a_gradient_that_is_not_finite_is_named(
    run: RunFolder, scenes: SceneArrays, reporter: Reporter, screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, "object_losses", 1, 1, steepen)
    start(run, scenes, reporter)
    assert "phase 'objects', step 2: the gradient of '" in screen.getvalue()


def test_finite_numbers_pass(run: RunFolder, reporter: Reporter) -> None:
    divergence = DivergenceMonitor(run, reporter, seed=0)
    assert divergence.factor == 1
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    divergence.check("joint", 3, {"a": torch.tensor(1.0)}, model, ())
    assert not (run.path / "divergence").exists()
    assert model.bias.grad is not None
    model.bias.grad[1] = math.inf
    batch = (torch.ones(1, 3, 5, 4), torch.tensor([6]), torch.tensor([True]))
    with pytest.raises(
        DivergedError, match=r"step 4: the gradient of 'bias' is inf; start again with a lower"
    ) as error:
        divergence.check("joint", 3, {"a": torch.tensor(1.0)}, model, batch)
    assert (error.value.phase, error.value.step) == ("joint", 4)


@pytest.mark.parametrize("text", ["{", "3", "[" * 100_000])
def test_broken_notes_of_rollbacks(text: str, run: RunFolder, reporter: Reporter) -> None:
    (run.path / "divergence").mkdir(parents=True)
    (run.path / "divergence" / "rollbacks.json").write_text(text)
    with pytest.raises(
        UserError, match=r"rollbacks.json' (is broken|holds no list).*: remove it, and the full learning"
    ):
        DivergenceMonitor(run, reporter, seed=0)
    with pytest.raises(UserError):
        roll_back(run, reporter, DivergedError("joint", 3, {"a": math.nan}))


# Collapse


def weights(background: float) -> Tensor:
    """B=2, L=3, H=5, W=4 layer weights."""
    found = torch.full((2, 3, 5, 4), (1 - background) / 2)
    found[:, 0] = background
    return found


def watched(run: RunFolder, reporter: Reporter, background: float, progress: list[float]) -> None:
    divergence = DivergenceMonitor(run, reporter, seed=0)
    for step, part in enumerate(progress):
        divergence.check_collapse("objects", step, part, [weights(background)])


@pytest.mark.parametrize(
    ("background", "line"), [(0.99, "no object is active"), (0.01, "all pixels are foreground"), (0.0, "all pixels")]
)
def test_a_collapse_is_told_with_what_to_try(
    background: float, line: str, run: RunFolder, reporter: Reporter, screen: io.StringIO
) -> None:
    watched(run, reporter, background, [0.0, 0.29, 0.31, 0.4, 0.49, 0.5, 0.6])
    told = screen.getvalue().splitlines()
    assert [text[:27] for text in told] == [
        "phase 'objects', step 3: " + line[:2],
        "phase 'objects', step 6: " + line[:2],
    ]
    assert all(line in text and "background.steps" in text for text in told)


def test_no_collapse(run: RunFolder, reporter: Reporter, screen: io.StringIO) -> None:
    divergence = DivergenceMonitor(run, reporter, seed=0)
    mixed = weights(0.99)
    mixed[0, 0, 2, 1], mixed[0, 2, 2, 1] = 0.1, 0.895  # one pixel of one object
    for step, part in enumerate([0.0, 0.4, 0.8, 1.0]):
        divergence.check_collapse("joint", step, part, list(mixed.chunk(2)))
    watched(run, reporter, 0.99, [0.0, 0.1, 0.29])  # too early to tell
    watched(run, reporter, 0.99, [0.45, 0.49])  # a run that goes on was told before
    assert screen.getvalue() == ""


def test_a_training_that_draws_nothing_says_so(
    run: RunFolder, scenes: SceneArrays, reporter: Reporter, screen: io.StringIO
) -> None:
    start(run, scenes, reporter, replace(CONFIG, model=replace(CONFIG.model, background_log_activation=30.0)))
    assert "no object is active" in screen.getvalue()
