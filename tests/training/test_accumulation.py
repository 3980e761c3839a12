"""A step's gradients: gathered part by part, and shortened where they are too long."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.data import fingerprint
from astseg.data.synthetic.generate import render_scenes
from astseg.errors import UserError
from astseg.runs.distributed import SINGLE, World
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training import logging
from astseg.training.batches import Batches
from astseg.training.logging import Reporter
from astseg.training.loop import Watch, train
from astseg.types import SceneArrays
from tiny import MODEL, ROUNDS_ALIKE

H, W = MODEL.image_size
CPU = torch.device("cpu")
CONFIG = Config(
    model=replace(MODEL, dropout=0.0),
    background=BackgroundConfig(steps=4, batch=5),
    objects=ObjectsConfig(
        steps=7,
        frozen_steps=4,
        batch=6,
        learning_rate=1e-3,
        warmup=2,
        entropy_ramp=1,
        parsimony_weight=1e-3,
        flip=True,
    ),
)
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=11, size=(H, W))


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "LOG_EVERY", 1)


def with_objects(**settings: Any) -> Config:
    return replace(CONFIG, objects=replace(CONFIG.objects, **settings))


def loud(config: Config) -> Config:
    """With objects that count from the start: their gradients do too, which are e^-11 of that else."""
    return replace(config, model=replace(config.model, background_log_activation=2.0))


def start(
    folder: Path,
    scenes: SceneArrays,
    config: Config = CONFIG,
    *,
    watch: Watch | None = None,
    background_only: bool = False,
    world: World = SINGLE,
) -> None:
    run = RunFolder(folder)
    run.begin(config, RunInfo("small", fingerprint=fingerprint(scenes)))
    with Reporter(run.log_path) as reporter:
        train(
            config,
            scenes,
            run=run,
            seed=0,
            reporter=reporter,
            device=CPU,
            watch=watch,
            background_only=background_only,
            world=world,
        )


def losses(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert not [name for name in first if not torch.equal(first[name], second[name])]


class Gathered:
    """A watch that keeps the gradients with which each step of the objects was taken."""

    def __init__(self) -> None:
        self.steps: list[Gradients] = []

    def __call__(self, model: nn.Module, phase: str, step: int, seconds: float) -> None:
        if phase != "background":
            named = [item for item in model.named_parameters() if item[1].requires_grad]
            self.steps.append({name: one.grad.clone() for name, one in named if one.grad is not None})

    def norms(self) -> list[float]:
        return [float(torch.cat([one.flatten() for one in step.values()]).norm()) for step in self.steps]


def test_parts_make_up_the_batch(scenes: SceneArrays) -> None:
    batch = Batches(scenes, size=6, seed=4, flip=True, device=CPU).draw(5)
    parts = list(batch.split(3))
    assert [len(images) for images, _, _ in parts] == [2, 2, 2]
    for whole, pieces in zip(batch, zip(*parts, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(pieces))


def assert_close(one: Path, other: Path, *, smallest: float) -> None:
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == 11
    for left, right in zip(first, second, strict=True):
        assert left.pop("phase") == right.pop("phase")
        assert left == pytest.approx(right, rel=1e-5 if ROUNDS_ALIKE else 1e-4, abs=smallest)


def test_a_run_in_parts_has_the_losses_of_the_whole(scenes: SceneArrays, tmp_path: Path) -> None:
    """But for rounding: Adam divides by gradients that are tiny at first, so the tiniest losses drift apart.

    On one thread: shared out among two, some processors add up parts in another way than the whole, and by the last
    step all losses drift.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start(tmp_path / "whole", scenes)
        start(tmp_path / "parts", scenes, with_objects(accumulate=3))
    finally:
        torch.set_num_threads(threads)
    assert_close(tmp_path / "whole", tmp_path / "parts", smallest=1e-6)


def test_a_step_in_parts_has_the_gradients_of_the_whole(scenes: SceneArrays, tmp_path: Path) -> None:
    """Where the weights hardly move, every step is held against its equal; Adam's would hide a sum from a mean."""
    slow = loud(with_objects(learning_rate=1e-9))
    whole, parts = Gathered(), Gathered()
    start(tmp_path / "whole", scenes, slow, watch=whole)
    start(tmp_path / "parts", scenes, replace(slow, objects=replace(slow.objects, accumulate=3)), watch=parts)
    assert_close(tmp_path / "whole", tmp_path / "parts", smallest=0.0)
    for one, other in zip(whole.steps, parts.steps, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_guidance_works_in_parts(scenes: SceneArrays, tmp_path: Path) -> None:
    config = with_objects(accumulate=2, pseudo_label_steps=2, pseudo_label_weight=1.0, pseudo_label_decay=6)
    start(tmp_path, scenes, replace(config, model=replace(CONFIG.model, glimpse_crop=8)))
    names = [set(entry) for entry in losses(tmp_path) if entry["phase"] != "background"]
    assert all("glimpse" in found for found in names[:2])
    assert all("pseudo_labels" in found for found in names[2:4])


def test_long_gradients_are_shortened_and_keep_their_direction(scenes: SceneArrays, tmp_path: Path) -> None:
    free, clipped = Gathered(), Gathered()
    start(tmp_path / "free", scenes, loud(CONFIG), watch=free)
    limit = min(free.norms()) / 9
    start(tmp_path / "clipped", scenes, loud(with_objects(clip=limit)), watch=clipped)
    assert clipped.norms() == pytest.approx([limit] * 7, rel=1e-3)
    for name, gradient in free.steps[0].items():
        expected = gradient * limit / free.norms()[0]
        torch.testing.assert_close(clipped.steps[0][name], expected, rtol=1e-3, atol=1e-9)


def test_short_gradients_stay_as_they_are(scenes: SceneArrays, tmp_path: Path) -> None:
    start(tmp_path / "free", scenes)
    start(tmp_path / "far", scenes, with_objects(clip=1e6))
    assert_same(tmp_path / "free", tmp_path / "far")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(precision: str, scenes: SceneArrays, tmp_path: Path) -> None:
    """With dropout; and no gradient that is left over from the background counts in the norm."""
    config = with_objects(accumulate=2, clip=0.01, precision=precision)
    config = loud(replace(config, model=replace(CONFIG.model, dropout=0.2)))
    start(tmp_path / "whole", scenes, config)

    def stop_at(phase: str, step: int) -> Watch:
        def watch(model: nn.Module, now: str, finished: int, seconds: float) -> None:
            if (now, finished) == (phase, step):
                signal.raise_signal(signal.SIGINT)

        return watch

    start(tmp_path / "stopped", scenes, config, background_only=True)
    for phase, step in (("objects", 1), ("objects", 4), ("joint", 6)):
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "stopped", scenes, config, watch=stop_at(phase, step))
    start(tmp_path / "stopped", scenes, config)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


class Pair(World):
    """Two processes, before they begin."""

    size = 2


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_trained(
    scenes: SceneArrays, tmp_path: Path
) -> None:
    expected = (
        "an objects batch of 6 cannot be divided evenly among 2 processes with 2 parts each: choose a multiple of 4"
    )
    with pytest.raises(UserError, match=expected):
        start(tmp_path, scenes, with_objects(accumulate=2), world=Pair())
    assert not (tmp_path / "log.jsonl").exists() or not losses(tmp_path)
