"""The two loops: same seed, same weights; an interrupted run ends as an uninterrupted one; phases do what they say."""

import json
import math
import signal
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.data import fingerprint, load_scenes
from astseg.data.cache import prepare
from astseg.data.synthetic.generate import render_scenes
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.model.background import BackgroundModel
from astseg.runs.folder import RunFolder, TrainingState
from astseg.runs.info import RunInfo
from astseg.training import batches, logging, phases, schedule, steps
from astseg.training import loop as training
from astseg.training.logging import Reporter
from astseg.training.loop import Watch, choose_background_width, train
from astseg.training.losses import reconstruction_loss
from astseg.training.signals import StopRequest
from astseg.types import SceneArrays
from tiny import MODEL

(H, W), K = MODEL.image_size, MODEL.slots
CPU = torch.device("cpu")

TINY = Config(
    model=MODEL,
    background=BackgroundConfig(steps=5, batch=4, ramp=(0.3, 0.7)),
    objects=ObjectsConfig(
        steps=9,
        frozen_steps=5,
        batch=3,
        learning_rate=1e-3,
        warmup=2,
        entropy_ramp=4,
        pseudo_label_weight=1.0,
        pseudo_label_decay=4,
        flip=True,
    ),
)
Weights = dict[str, Tensor]


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=11, size=(H, W))


@pytest.fixture(autouse=True)
def log_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "LOG_EVERY", 2)


def start(
    folder: Path,
    scenes: SceneArrays,
    config: Config = TINY,
    *,
    seed: int = 0,
    minutes: float | None = None,
    watch: Watch | None = None,
    background_only: bool = False,
) -> AstSeg:
    """What the commands do: begin the run or check that it is the same one, and train."""
    run = RunFolder(folder)
    config = run.begin(config, RunInfo("small", seed=seed, fingerprint=fingerprint(scenes)))
    with Reporter(run.log_path) as reporter:
        return train(
            config,
            scenes,
            run=run,
            seed=seed,
            reporter=reporter,
            minutes=minutes,
            device=CPU,
            watch=watch,
            background_only=background_only,
        )


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def assert_same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def at(phase: str, step: int, act: Callable[[], None]) -> Watch:
    """A watch that acts after one step."""

    def watch(model: nn.Module, now: str, finished: int, seconds: float) -> None:
        if (now, finished) == (phase, step):
            act()

    return watch


def kill() -> None:
    raise Killed


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, scenes: SceneArrays) -> Path:
    folder = tmp_path_factory.mktemp("train") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "LOG_EVERY", 2)
        start(folder, scenes)
    return folder


# The same run


def test_the_same_seed_gives_the_same_weights(uninterrupted: Path, scenes: SceneArrays, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever happened before
    model = start(tmp_path / "again", scenes)
    assert_same(weights_of(tmp_path / "again"), weights_of(uninterrupted))
    assert_same(weights_of(uninterrupted), dict(model.state_dict()))
    assert not any(module.training for module in model.modules())


def test_another_seed_gives_other_weights(uninterrupted: Path, scenes: SceneArrays, tmp_path: Path) -> None:
    start(tmp_path / "other", scenes, seed=1)
    one, other = weights_of(uninterrupted), weights_of(tmp_path / "other")
    assert all(not torch.equal(one[name], other[name]) for name in one if one[name].ndim > 1)


def test_the_log_of_a_whole_run(uninterrupted: Path) -> None:
    entries = log(uninterrupted)
    assert [(entry["phase"], entry["step"]) for entry in entries] == [
        *[("background", step) for step in (2, 4, 5)],
        *[("objects", step) for step in (2, 4, 5)],
        *[("joint", step) for step in (6, 8, 9)],
    ]
    for entry in entries:
        guided = entry["phase"] == "objects" and entry["step"] <= TINY.objects.pseudo_label_decay
        assert ("pseudo_labels" in entry) == guided
        assert ("total" in entry) == (entry["phase"] == "background")
    assert all(math.isfinite(value) for entry in entries for value in entry.values() if not isinstance(value, str))
    assert RunFolder(uninterrupted).load_state() is not None


# Interruptions

STOPS = [
    ("background", 1),
    ("background", 3),
    ("background", 5),
    ("objects", 2),
    ("objects", 5),
    ("joint", 6),
    ("joint", 8),
    ("joint", 9),
]


@pytest.mark.parametrize(("phase", "step"), STOPS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    phase: str, step: int, uninterrupted: Path, scenes: SceneArrays, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "run", scenes, watch=at(phase, step, interrupt))
    state = RunFolder(tmp_path / "run").load_state()
    assert state is not None
    assert (state.phase, state.step) == (phase, step)
    start(tmp_path / "run", scenes)
    assert_same(weights_of(tmp_path / "run"), weights_of(uninterrupted))
    logged = [(entry["phase"], entry["step"]) for entry in log(tmp_path / "run")]
    assert max(Counter(logged).values()) == 1
    assert set(logged) >= {(entry["phase"], entry["step"]) for entry in log(uninterrupted)}


@pytest.mark.parametrize(("phase", "step"), [("background", 1), ("background", 4), ("objects", 4), ("joint", 8)])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    phase: str,
    step: int,
    uninterrupted: Path,
    scenes: SceneArrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", -1.0)  # after every step
    with pytest.raises(Killed):
        start(tmp_path / "run", scenes, watch=at(phase, step, kill))
    state = RunFolder(tmp_path / "run").load_state()
    assert (state is None) if (phase, step) == ("background", 1) else (state is not None and state.step == step - 1)
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"phase": "joi')  # killed while it wrote this
    start(tmp_path / "run", scenes)
    assert_same(weights_of(tmp_path / "run"), weights_of(uninterrupted))
    logged = [(entry["phase"], entry["step"]) for entry in log(tmp_path / "run")]
    assert max(Counter(logged).values()) == 1


def test_a_run_killed_before_its_first_state_begins_anew(
    uninterrupted: Path, scenes: SceneArrays, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        start(tmp_path / "run", scenes, watch=at("background", 4, kill))
    assert RunFolder(tmp_path / "run").load_state() is None
    assert len(log(tmp_path / "run")) == 2
    start(tmp_path / "run", scenes)
    assert_same(weights_of(tmp_path / "run"), weights_of(uninterrupted))
    assert [(entry["phase"], entry["step"]) for entry in log(tmp_path / "run")] == [
        (entry["phase"], entry["step"]) for entry in log(uninterrupted)
    ]


def test_many_interruptions_in_low_precision(scenes: SceneArrays, tmp_path: Path) -> None:
    config = replace(
        TINY,
        background=replace(TINY.background, precision="bfloat16"),
        objects=replace(TINY.objects, precision="bfloat16"),
    )
    start(tmp_path / "whole", scenes, config)
    for phase, step in STOPS[1::2]:
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "parts", scenes, config, watch=at(phase, step, interrupt))
    start(tmp_path / "parts", scenes, config)
    assert_same(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))


def test_a_finished_run_stays_as_it_is(uninterrupted: Path, scenes: SceneArrays) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    model = start(uninterrupted, scenes, minutes=1e-9)
    assert_same(dict(model.state_dict()), weights_of(uninterrupted))
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_the_background_alone_and_then_the_rest(uninterrupted: Path, scenes: SceneArrays, tmp_path: Path) -> None:
    start(tmp_path / "run", scenes, background_only=True)
    state = RunFolder(tmp_path / "run").load_state()
    assert state is not None
    assert (state.phase, state.step) == ("objects", 0)
    only = weights_of(tmp_path / "run")
    start(tmp_path / "run", scenes)
    whole = weights_of(tmp_path / "run")
    assert_same(whole, weights_of(uninterrupted))
    assert only.keys() == whole.keys()


def test_interruption_puts_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as interruption:
        interruption.obey()
        assert signal.getsignal(signal.SIGTERM) != before[1]
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before  # a second one kills
        with pytest.raises(KeyboardInterrupt):
            interruption.obey()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_interruption_outside_the_main_thread_does_nothing() -> None:
    seen = []

    def work() -> None:
        with StopRequest() as interruption:
            seen.append(interruption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


# Phases


class Recorder:
    """A watch that keeps the weights after each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Weights]] = []

    def __call__(self, model: nn.Module, phase: str, step: int, seconds: float) -> None:
        self.seen.append((phase, step, {name: value.clone() for name, value in model.state_dict().items()}))

    def changes(self) -> Iterator[tuple[str, set[str]]]:
        """For each step but the first: its phase, and which parts of the model it changed."""
        for (_, _, before), (phase, _, after) in zip(self.seen, self.seen[1:], strict=False):
            changed = {name for name in after if not torch.equal(before[name], after[name])}
            yield phase, {name.split(".")[0] for name in changed}


def test_each_phase_trains_its_part(scenes: SceneArrays, tmp_path: Path) -> None:
    recorder = Recorder()
    start(tmp_path / "run", scenes, watch=recorder)
    assert [(phase, step) for phase, step, _ in recorder.seen] == [
        *[("background", step) for step in range(1, 6)],
        *[("objects", step) for step in range(1, 6)],
        *[("joint", step) for step in range(6, 10)],
    ]
    parts = {
        "background": {"background_model"},
        "objects": {"encoder", "renderer"},
        "joint": {"background_model", "encoder", "renderer"},
    }
    for phase, changed in recorder.changes():
        assert changed == parts[phase]


def test_pseudo_label_steps_come_first_and_go_on_where_they_stood(scenes: SceneArrays, tmp_path: Path) -> None:
    """With a glimpse encoder. The optimiser goes on from these steps into the rendered ones, over a stop too."""
    config = replace(TINY, model=replace(MODEL, glimpse_crop=8), objects=replace(TINY.objects, pseudo_label_steps=3))
    recorder = Recorder()
    start(tmp_path / "whole", scenes, config, watch=recorder)
    assert [(phase, step) for phase, step, _ in recorder.seen if phase != "background"] == [
        *[("pseudo_labels", step) for step in range(1, 4)],
        *[("objects", step) for step in range(4, 6)],
        *[("joint", step) for step in range(6, 10)],
    ]
    assert {"attention", "position", "scale", "activation", "glimpse"} <= log(tmp_path / "whole")[3].keys()
    for phase, step in [("pseudo_labels", 2), ("pseudo_labels", 3), ("objects", 4)]:
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "parts", scenes, config, watch=at(phase, step, interrupt))
    start(tmp_path / "parts", scenes, config)
    assert_same(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))


def test_pseudo_label_steps_do_without_a_glimpse_encoder(scenes: SceneArrays, tmp_path: Path) -> None:
    config = replace(TINY, objects=replace(TINY.objects, pseudo_label_steps=2, pseudo_label_weight=0.0, steps=4))
    start(tmp_path / "run", scenes, config)
    guided = [entry for entry in log(tmp_path / "run") if entry["phase"] == "pseudo_labels"]
    assert guided
    assert all("glimpse" not in entry for entry in guided)


def test_the_baseline_is_joint_from_the_start(scenes: SceneArrays, tmp_path: Path) -> None:
    config = replace(TINY, objects=replace(TINY.objects, scenario="baseline", pseudo_label_weight=0.0, steps=4))
    recorder = Recorder()
    start(tmp_path / "run", scenes, config, watch=recorder)
    assert [(phase, step) for phase, step, _ in recorder.seen] == [("joint", step) for step in range(1, 5)]
    assert all(changed == {"background_model", "encoder", "renderer"} for _, changed in recorder.changes())
    assert {entry["phase"] for entry in log(tmp_path / "run")} == {"joint"}
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "parts", scenes, config, watch=at("joint", 2, interrupt))
    start(tmp_path / "parts", scenes, config)
    assert_same(weights_of(tmp_path / "parts"), weights_of(tmp_path / "run"))


def moments(folder: Path) -> Weights:
    return load_file(folder / "training_state" / "optimizer.safetensors")


def test_the_optimiser_is_rebuilt_at_the_switch(
    scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", -1.0)
    model = build(MODEL)
    for phase, step, counted, parameters in [
        ("objects", 5, 4, model.object_parameters()),
        ("joint", 6, 5, model.object_parameters()),
        ("joint", 9, 3, list(model.parameters())),
    ]:
        with pytest.raises(Killed):
            start(tmp_path / "run", scenes, watch=at(phase, step, kill))
        saved = moments(tmp_path / "run")
        counts = {int(tensor) for name, tensor in saved.items() if name.endswith(".step")}
        assert counts == {counted}
        averages = [tensor for name, tensor in saved.items() if name.endswith(".exp_avg")]
        assert sum(tensor.numel() for tensor in averages) == sum(parameter.numel() for parameter in parameters)


def test_without_pseudo_labels(scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batches, phases):
        monkeypatch.setattr(module, "find_components", None)  # nobody looks for components
    start(tmp_path / "run", scenes, replace(TINY, objects=replace(TINY.objects, pseudo_label_weight=0.0)))
    assert not any("pseudo_labels" in entry for entry in log(tmp_path / "run"))


def test_a_joint_step_computes_the_background_once(
    scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its pseudo-labels are the components of that background."""
    calls: list[str] = []
    found: list[Tensor] = []

    def counted(self: BackgroundModel, images: Tensor, forward: Any = BackgroundModel.forward) -> Any:
        calls.append("background")
        return forward(self, images)

    def seen(images: Tensor, background: Tensor, predicted_error: Tensor, **settings: Any) -> Components:
        found.append(background)
        return find_components(images, background, predicted_error, **settings)

    monkeypatch.setattr(BackgroundModel, "forward", counted)
    monkeypatch.setattr(phases, "find_components", seen)
    objects = replace(TINY.objects, pseudo_label_decay=50)
    per_step = Counter[str]()

    def watch(model: nn.Module, phase: str, step: int, seconds: float) -> None:
        per_step[f"{phase} {step}"] = len(calls)
        calls.clear()

    start(tmp_path / "run", scenes, replace(TINY, objects=objects), watch=watch)
    assert [per_step[f"joint {step}"] for step in range(6, 10)] == [1] * 4
    assert len(found) == 4


def test_backgrounds_that_do_not_fit_in_memory_are_memory_mapped(
    uninterrupted: Path, scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, and no file is left."""
    monkeypatch.setattr(batches, "IN_MEMORY_BYTES", 0)
    start(tmp_path / "run", scenes)
    assert_same(weights_of(tmp_path / "run"), weights_of(uninterrupted))
    assert not list((tmp_path / "run").glob("backgrounds*"))


def test_backgrounds_are_kept_of_images_on_disk_too(
    uninterrupted: Path, scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phase 2 never calls the background model in a step, wherever the images are."""
    np.savez(tmp_path / "a.npz", images=scenes.images)
    prepare(tmp_path / "a.npz", tmp_path / "cache", size=(H, W))
    stored = load_scenes(tmp_path / "cache", size=(H, W), memory=0)
    assert not isinstance(stored.images, np.ndarray)
    seen: list[str] = []

    def watch(model: nn.Module, phase: str, step: int, seconds: float) -> None:
        if (phase, step) == ("objects", 1):
            monkeypatch.setattr(BackgroundModel, "forward", None)
        if (phase, step) == ("objects", 5):
            monkeypatch.undo()
            monkeypatch.setattr(logging, "LOG_EVERY", 2)
        seen.append(phase)

    start(tmp_path / "run", stored, watch=watch)
    assert Counter(seen) == {"background": 5, "objects": 5, "joint": 4}
    assert_same(weights_of(tmp_path / "run"), weights_of(uninterrupted))


def test_the_template_starts_from_images_of_the_whole_set(tmp_path: Path) -> None:
    """A lamp that is switched off after the first 400 of 1,000 images: the median is dark."""
    images = np.full((1000, H, W, 3), 50, np.uint8)
    images[:400] = 200
    lit = SceneArrays(images, None, tuple(map(str, range(1000))), "a lamp")
    config = replace(TINY, background=replace(TINY.background, steps=1, learning_rate=1e-9))
    model = start(tmp_path / "run", lit, config, background_only=True)
    template = model.background_model.template
    assert template is not None
    assert float(template[:3].detach().sigmoid().mean()) * 255 == pytest.approx(50, abs=1)


def test_training_learns(scenes: SceneArrays, tmp_path: Path) -> None:
    """Two scenes by heart."""
    assert scenes.labels is not None
    two = SceneArrays(scenes.images[[1, 4]], scenes.labels[[1, 4]], ("a", "b"), "two scenes")
    objects = replace(TINY.objects, steps=40, frozen_steps=40, pseudo_label_decay=80, learning_rate=3e-3, flip=False)
    start(tmp_path / "run", two, replace(TINY, background=replace(TINY.background, steps=20), objects=objects))
    for phase, name in (("background", "reconstruction"), ("objects", "pseudo_labels")):
        values = [entry[name] for entry in log(tmp_path / "run") if entry["phase"] == phase]
        assert np.mean(values[-4:]) < 0.7 * np.mean(values[:4])


def test_a_diverged_run_says_which_loss(scenes: SceneArrays, tmp_path: Path) -> None:
    config = replace(TINY, objects=replace(TINY.objects, learning_rate=1e38, warmup=0))
    with pytest.raises(UserError, match=r"diverged in phase 'objects', step 2: .* is nan.*lower learning rate"):
        start(tmp_path / "run", scenes, config)
    assert not (tmp_path / "run" / "model.safetensors").exists()


# Time


class FakeTime:
    """A clock that moves on when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(schedule, "time", types.SimpleNamespace(monotonic=lambda: self.now))

    def __call__(self, model: nn.Module, phase: str, step: int, seconds: float) -> None:
        self.now += 1


def test_a_run_with_a_limit_ends_in_time_and_in_its_last_phase(
    scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTime(monkeypatch)
    config = Config(
        model=MODEL,
        background=replace(TINY.background, steps=1000, time_fraction=0.25),
        objects=ObjectsConfig(
            steps=4000,
            frozen_steps=2000,
            batch=3,
            warmup=10,
            pseudo_label_weight=1.0,
            pseudo_label_decay=1000,
            learning_rate=1e-3,
        ),
    )
    start(tmp_path / "run", scenes, config, minutes=40 / 60, watch=fake)
    assert fake.now == 1040  # a second a step: 10 of the background, 30 of the objects
    entries = log(tmp_path / "run")
    last = {entry["phase"]: entry for entry in entries}
    assert [phase for phase in last] == ["background", "objects", "joint"]
    assert last["background"]["step"] == 10
    assert last["background"]["rate"] == pytest.approx(2e-4)  # a tenth at the end
    assert last["background"]["beta"] == 6
    assert last["objects"]["step"] == 15
    assert last["joint"]["step"] == 30
    assert last["joint"]["rate"] == pytest.approx(1e-4)
    assert "pseudo_labels" not in last["objects"]
    state = RunFolder(tmp_path / "run").load_state()
    assert state == TrainingState("done", 30, 30.0, 10.0, 0)


def test_time_before_an_interruption_counts(
    scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTime(monkeypatch)
    config = replace(TINY, objects=replace(TINY.objects, steps=2000, frozen_steps=1000))

    def watch(model: nn.Module, phase: str, step: int, seconds: float) -> None:
        fake(model, phase, step, seconds)
        if (phase, step) == ("objects", 6):
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "run", scenes, config, minutes=20 / 60, watch=watch)
    assert fake.now == 1011
    fake.now += 5000
    with pytest.raises(UserError, match="the run has taken 0.2 of its 0.1 minutes already: give it more minutes"):
        start(tmp_path / "run", scenes, config, minutes=0.1, watch=fake)
    start(tmp_path / "run", scenes, config, minutes=20 / 60, watch=fake)
    assert fake.now == 6021  # the second after the last saved step was not noted
    state = RunFolder(tmp_path / "run").load_state()
    assert state is not None
    assert (state.phase, state.step) == ("done", 16)


def test_the_width_by_a_short_run(scenes: SceneArrays, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, model=replace(MODEL, background_width="auto"))
    assert choose_background_width(config, scenes, seed=0, device=CPU, steps=2) == "simple"
    monkeypatch.setattr(training, "is_complex", lambda drawn: len(drawn) == 15)
    assert choose_background_width(config, scenes, seed=0, device=CPU, steps=2) == "complex"


def test_reconstruction_of_a_trained_model_is_better_than_that_of_a_fresh_one(
    uninterrupted: Path, scenes: SceneArrays
) -> None:
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255
    torch.manual_seed(0)
    model = build(MODEL).eval()
    with torch.no_grad():
        before = reconstruction_loss(model(images).reconstruction, images)
        model.load_state_dict(weights_of(uninterrupted))
        assert reconstruction_loss(model(images).reconstruction, images) < before
