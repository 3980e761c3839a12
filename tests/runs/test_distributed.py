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
from astseg.runs.distributed import ALONE, ReadOnlyRunFolder, assembled
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
    "import sys; from astseg.cli import main; from astseg.training import logging, loop;"
    "loop.SAVE_SECONDS = -1.0; logging.LOG_EVERY = 1; main.main(sys.argv[1:])"
)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def processes(words: list[str], count: int) -> list["subprocess.Popen[str]"]:
    """So many processes, as torchrun would start them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-c", OFTEN, *words],
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


def test_shares_make_up_the_batch() -> None:
    scenes = render_scenes("desk", seed=3, count=9, size=(20, 28))
    cpu = torch.device("cpu")
    whole = Batches(scenes, size=6, seed=4, flip=True, device=cpu).draw(5)
    parts = [Batches(scenes, size=6, seed=4, flip=True, device=cpu, share=(part, 3)).draw(5) for part in range(3)]
    for together, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(together, torch.cat(pieces))
    with pytest.raises(UserError, match="a batch of 6 cannot be shared evenly by 4 processes: choose a multiple"):
        Batches(scenes, size=6, seed=4, flip=True, device=cpu, share=(0, 4))


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert assembled() is ALONE
    assert ALONE.is_first
    assert ALONE.any(True, False) == (True, False)
    assert list(ALONE.agreed(iter([(3, 4)]))) == [(3, 4)]
    assert ALONE.gathered([1]) == [1]


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


def test_several_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"several processes need accelerate: pip install 'astseg\[distributed\]'"):
        assembled()


def test_onlookers_write_nothing(tmp_path: Path) -> None:
    run = ReadOnlyRunFolder(tmp_path)
    model = torch.nn.Linear(3, 2)
    run.save_state(TrainingState("joint", 1, 0.0, 0.0, 0), model, None)
    run.save_weights(model)
    run.trim_log("joint", 1)
    run.save_config(None, None)
    assert not list(tmp_path.iterdir())
