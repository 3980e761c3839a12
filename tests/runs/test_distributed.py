"""Several processes that train one model: real ones, on the CPU, which talk to each other through gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astseg.cli import main
from astseg.data.synthetic.generate import render_scenes
from astseg.errors import UserError
from astseg.runs.distributed import SINGLE, ReadOnlyRunFolder, World, init_world
from astseg.runs.states import TrainingState
from astseg.training.batches import Batches
from tiny import ROUNDS_ALIKE

WEIGHTS = 1e-3 if ROUNDS_ALIKE else 4e-3
"""By how much weights may differ; Adam makes whole steps of gradients near 0 too, and one of the background is 2e-3."""

SETTINGS: dict[str, Any] = {
    "inference": {"proposals": False},
    "model": {
        "image_size": [20, 28],
        "slots": 6,
        "appearance": 5,
        "glimpse_crop": 0,
        "transformer_width": 16,
        "transformer_heads": 2,
        "transformer_layers": 1,
        "transformer_feedforward": 12,
        "dropout": 0.0,
    },
    "background": {"steps": 4, "batch": 4, "precision": "float32"},
    "objects": {
        "steps": 6,
        "frozen_steps": 4,
        "batch": 6,
        "warmup": 2,
        "pseudo_label_steps": 0,
        "pseudo_label_weight": 0.0,
        "entropy_ramp": 1,
        "flip": True,
        "precision": "float32",
    },
}
OFTEN = (
    "import sys; from astseg.cli import main; from astseg.training import logging, steps;"
    "steps.SAVE_SECONDS = -1.0; logging.LOG_EVERY = 1; main.main(sys.argv[1:])"
)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def processes(words: list[str], count: int, *, program: str = OFTEN) -> list["subprocess.Popen[str]"]:
    """So many processes, as torchrun would start them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(count)
    ]


def run(words: list[str], count: int) -> list[str]:
    """Run a command in so many processes; what the first one told."""
    started = processes(words, count)
    told = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * count, told
    assert all(out == "" for out, _ in told[1:])
    return told[0][0].splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, settings, and a run of one process."""
    folder = tmp_path_factory.mktemp("team")
    assert main.run(f"scenes {folder}/desk --count 12 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    run(train(folder, folder / "one"), 1)
    run(train(folder, folder / "two"), 2)
    return folder


def train(place: Path, out: Path, command: str = "train") -> list[str]:
    return f"{command} {place}/desk --out {out} --config {place}/tiny.json".split()


def wait_for(run: Path, there: Callable[[dict[str, Any]], bool]) -> None:
    """Until the run has saved a state that is wanted."""
    file, end = run / "training_state" / "state.json", time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            if there(json.loads(file.read_text())):
                return
        time.sleep(0.005)
    raise TimeoutError(file)


def losses(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]
    return [entry for entry in kept if "picture" not in entry]


def assert_losses_close(one: Path, other: Path, tolerance: float) -> None:
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == 10
    for left, right in zip(first, second, strict=True):
        assert left.pop("phase") == right.pop("phase")
        assert left == pytest.approx(right, rel=tolerance, abs=1e-6)


def assert_close(one: Path, other: Path) -> None:
    assert_losses_close(one, other, tolerance=1e-5)
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-3, atol=WEIGHTS)


def test_two_processes_have_the_losses_of_one(place: Path) -> None:
    assert_close(place / "one", place / "two")


def test_two_processes_measure_exactly_as_one(place: Path, tmp_path: Path) -> None:
    words = f"evaluate {place}/one {place}/desk --batch-size 3 --json".split()
    run([*words, str(tmp_path / "one.json")], 1)
    run([*words, str(tmp_path / "two.json")], 2)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(("first", "then"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on(first: int, then: int, place: Path, tmp_path: Path) -> None:
    run(train(place, tmp_path / "run", "train-background"), first)
    run(train(place, tmp_path / "run"), then)
    assert_close(tmp_path / "run", place / "one")


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_lost_process_ends_the_run_and_leaves_a_state(lost: int, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = processes(train(place, out), 2)
    end = time.monotonic() + 120
    while not (out / "training_state" / "state.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    started[lost].send_signal(signal.SIGKILL)
    told = [process.communicate(timeout=120)[1] for process in started]
    assert started[lost].returncode == -signal.SIGKILL
    assert started[1 - lost].returncode == 2
    (line,) = [line for line in told[1 - lost].splitlines() if line.startswith("astseg: ")]
    assert line.startswith("astseg: another process of this run has ended or cannot be reached (")
    assert line.endswith("start all of them again with the same command, and the run goes on from its last state")
    run(train(place, out), 1)
    assert_close(out, place / "one")


def test_two_processes_with_parts_of_a_batch_have_the_losses_of_one(place: Path, tmp_path: Path) -> None:
    run([*train(place, tmp_path / "run"), "--objects.accumulate", "3"], 2)
    assert_losses_close(place / "one", tmp_path / "run", tolerance=1e-5)


def in_half_precision(place: Path, out: Path, parts: int) -> list[str]:
    """As :func:`train`, with short gradients; so many parts of a batch."""
    words = f"--objects.precision bfloat16 --objects.clip 1e-6 --objects.accumulate {parts}"
    return [*train(place, out), *words.split()]


@pytest.mark.slow
def test_parts_of_a_batch_in_half_precision(place: Path, tmp_path: Path) -> None:
    """Two processes with three parts each have the losses of one with all six images at once, as far as bfloat16 goes;
    and a run of two that was stopped ends as one that was not, bit for bit."""
    one, whole, stopped = tmp_path / "one", tmp_path / "whole", tmp_path / "stopped"
    run(in_half_precision(place, one, 1), 1)
    run(in_half_precision(place, whole, 3), 2)
    assert_losses_close(one, whole, tolerance=4e-3)
    run(train(place, stopped, "train-background") + in_half_precision(place, stopped, 3)[6:], 2)
    started = processes(in_half_precision(place, stopped, 3), 2)
    wait_for(stopped, lambda state: state["phase"] in ("objects", "joint") and state["step"] > 0)
    for process in started:
        process.kill()
    for process in started:
        process.communicate(timeout=120)
    assert all(process.returncode == -signal.SIGKILL for process in started)
    run(in_half_precision(place, stopped, 3), 2)
    weights, others = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert not [name for name in weights if not torch.equal(weights[name], others[name])]


def test_fit_by_two_processes(place: Path, tmp_path: Path) -> None:
    """One of them surveys, plans, prints and writes, and both train the same model."""
    model = {**SETTINGS["model"], "glimpse_crop": 8}
    settings = {"model": model, "background": SETTINGS["background"], "objects": {"batch": 4, "precision": "float32"}}
    (tmp_path / "fit.json").write_text(json.dumps(settings))
    assert main.run(f"scenes {tmp_path}/desk --count 24 --size 32 --seed 6 --processes 1".split()) == 0
    words = f"fit {tmp_path}/desk --config {tmp_path}/fit.json --steps 8 --out".split()
    out = tmp_path / "run"
    lines = run([*words, str(out)], 2)
    assert sum(line.startswith("The plan;") for line in lines) == 1
    assert sum("since the command began" in line for line in lines) == 1
    steps = [(entry["phase"], entry["step"]) for entry in losses(out)]
    assert len(steps) == len(set(steps)) > 8
    assert (out / "report.html").is_file() and (out / "README.md").is_file()
    assert any("is trained already" in line for line in run([*words, str(out)], 2))
    (tmp_path / "empty").mkdir()
    refused = processes(["fit", str(tmp_path / "empty"), "--out", str(tmp_path / "other")], 2)
    told = [process.communicate(timeout=240)[1] for process in refused]
    assert [process.returncode for process in refused] == [2, 2]
    assert all(text.startswith("astseg: ") and text.count("\n") == 1 for text in told)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_demo_by_two_processes(tmp_path: Path) -> None:
    """Scenes are made once, measured once; gradients are averaged."""
    program = OFTEN.replace(
        "main.main(",
        "from astseg.cli import demo; from astseg.config import Config, override; import json;"
        f"settings = json.loads({json.dumps(json.dumps(SETTINGS))!s});"
        "settings['model']['image_size'] = [24, 24];"
        "demo.SIZE, demo.PROCESSES, demo.preset = 24, 1, lambda name: override(Config(), settings);"
        "main.main(",
    )
    out = tmp_path / "demo"
    started = processes(f"demo --out {out} --scenes 7 --test-scenes 5 --steps 6".split(), 2, program=program)
    printed = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert printed[1][0] == ""
    assert printed[0][0].count("making 7 desk scenes") == 1
    assert json.loads((out / "metrics.json").read_text())["count"] == 5
    assert len(losses(out)) == 10


@pytest.mark.slow
def test_under_torchrun(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", "astseg", *train(place, tmp_path / "run")]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    one, two = load_file(place / "one" / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=WEIGHTS)


class Rank(World):
    """One of several, before they talk to each other."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def test_the_parts_of_the_ranks_make_up_the_batch() -> None:
    scenes = render_scenes("desk", seed=3, count=9, size=(20, 28))
    cpu = torch.device("cpu")
    whole = Batches(scenes, size=6, seed=4, flip=True, device=cpu).draw(5)
    parts, noise = [], []
    for rank in range(3):
        own = Batches(scenes, size=6, seed=4, flip=True, device=cpu, world=Rank(rank, 3))
        parts.append(own.draw(5))
        noise.append(float(torch.rand(())))
    for together, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(together, torch.cat(pieces))
    assert len(set(noise)) == 3
    with pytest.raises(UserError, match="a batch of 6 cannot be divided evenly among 4 processes: choose a multiple"):
        Batches(scenes, size=6, seed=4, flip=True, device=cpu, world=Rank(0, 4))


def test_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert init_world() is SINGLE
    assert SINGLE.is_main
    assert SINGLE.maximum(True, 3) == (True, 3)
    assert SINGLE.gather([1]) == [1]
    assert SINGLE.from_main(lambda: 5) == 5
    assert torch.equal(SINGLE.all_gather(torch.ones(2)), torch.ones(2))


COLLECTIVES = """
import torch
from torch import nn
from astseg.errors import UserError
from astseg.runs.distributed import init_world

world = init_world()
assert world.size == 2 and world.is_main == (world.rank == 0)
assert world.maximum(world.rank, 5 - world.rank, False) == (1, 5, 0)
assert world.gather([world.rank, "x"]) == [0, "x", 1, "x"]
assert world.all_gather(torch.full((1, 2), world.rank)).tolist() == [[0, 0], [1, 1]]
made = []
assert world.from_main(lambda: made.append(1) or "plan") == "plan"
assert len(made) == (world.rank == 0)
def refuse():
    raise UserError("no plan")
try:
    world.from_main(refuse)
except UserError as error:
    assert str(error) == "no plan"
else:
    raise AssertionError

start = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
both, one, none = (nn.Parameter(start.clone()) for _ in range(3))
both.grad = torch.full_like(both, 1.0 + world.rank)
if world.rank == 1:
    one.grad = torch.arange(120.0).view(2, 3, 4, 5)
losses = world.average([both, one, none], {"a": torch.tensor(float(world.rank)), "b": torch.tensor(2.0)})
assert {name: float(value) for name, value in losses.items()} == {"a": 0.5, "b": 2.0}
assert (both.grad == 1.5).all() and both.grad.stride() == both.stride()
assert torch.equal(one.grad, torch.arange(120.0).view(2, 3, 4, 5) / 2)
assert none.grad is None  # Adam leaves it as it is
import os
os._exit(0)
"""


def test_collectives() -> None:
    started = processes(["-"], 2, program=COLLECTIVES)
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended


@pytest.mark.parametrize(("words", "code"), [(["presets"], 0), (["presets", "none"], 2)])
@pytest.mark.parametrize("count", ["1", "2"])
def test_one_of_several_ends_at_once(words: list[str], code: int, count: str) -> None:
    """Its output is whole and its exit code the command's, but nothing is torn down."""
    script = (
        "import atexit, sys; from astseg.cli import main; atexit.register(print, 'torn down'); main.main(sys.argv[1:])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WORLD_SIZE": count},
    )
    assert ended.returncode == code
    assert ("torn down" in ended.stdout) == (count == "1")
    assert ("clevr-ct" in ended.stdout) == (code == 0)
    assert ended.stderr.count("\n") == (code == 2)


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    run = ReadOnlyRunFolder(tmp_path)
    model = torch.nn.Linear(3, 2)
    run.save_state(TrainingState("joint", 1, 0.0, 0.0, 0), model, None)
    run.save_weights(model)
    assert not list(tmp_path.iterdir())
