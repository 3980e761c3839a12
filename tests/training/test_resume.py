"""A run that is killed at random moments, in every phase, ends as one that was never stopped."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from astseg.cli import main

SETTINGS = {
    "model": {
        "image_size": [20, 28],
        "slots": 6,
        "appearance": 5,
        "glimpse_crop": 8,
        "transformer_width": 16,
        "transformer_heads": 2,
        "transformer_layers": 1,
        "transformer_feedforward": 12,
        "dropout": 0.1,
    },
    "background": {"steps": 6, "batch": 4},
    "objects": {
        "steps": 14,
        "frozen_steps": 10,
        "pseudo_label_steps": 4,
        "pseudo_label_decay": 12,
        "batch": 3,
        "warmup": 2,
        "flip": True,
        "copy_paste": 0.5,
    },
}


class Kennel:
    """Commands in processes that can be killed with all that belongs to them."""

    def __init__(self) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "kennel.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout

    def run(self, words: list[str], *, kill_after: float | None = None, by: signal.Signals = signal.SIGKILL) -> int:
        """Exit code of a command; where it is killed after so many seconds, minus the signal if it died of it."""
        self.input.write(json.dumps(words) + "\n")
        self.input.flush()
        child = int(self.output.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.killpg(child, by)
        return int(self.output.readline())

    def close(self) -> None:
        self.input.close()
        self.process.wait(timeout=60)
        self.output.close()


@pytest.fixture(scope="module")
def kennel() -> Iterator[Kennel]:
    kennel = Kennel()
    yield kennel
    kennel.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes and settings."""
    folder = tmp_path_factory.mktemp("resume")
    assert main.run(f"scenes {folder}/desk --count 12 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    return folder


def words(place: Path, run: Path) -> list[str]:
    return f"train {place}/desk --out {run} --config {place}/tiny.json".split()


@pytest.fixture(scope="module")
def whole(place: Path, kennel: Kennel) -> tuple[str, float]:
    """Hash of the weights of a run that was never stopped, and how many seconds it took."""
    begin = time.monotonic()
    assert kennel.run(words(place, place / "whole")) == 0
    seconds = time.monotonic() - begin
    check_log(place / "whole")
    return weights_hash(place / "whole"), seconds


def weights_hash(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def steps_of(run: Path) -> list[tuple[str, int]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(entry["phase"], entry["step"]) for entry in entries if "picture" not in entry]


def check_log(run: Path) -> None:
    """Each phase to its end, in order, no step twice, and a line at every second step at least: no gaps."""
    steps = steps_of(run)
    assert max(Counter(steps).values()) == 1
    order = ["background", "pseudo_labels", "objects", "joint"]
    assert steps == sorted(steps, key=lambda one: (order.index(one[0]), one[1]))
    ends = [("background", 0, 6), ("pseudo_labels", 0, 4), ("objects", 4, 10), ("joint", 10, 14)]
    for phase, first, last in ends:
        told = [first, *(step for name, step in steps if name == phase)]
        assert told[-1] == last
        assert all(0 < after - before <= 2 for before, after in zip(told, told[1:], strict=False))


def kill_often(
    place: Path, kennel: Kennel, whole: tuple[str, float], folder: Path, *, kills: int, seed: int
) -> Counter[str]:
    """Kill runs at random moments, each until it has ended; where they stood when they were killed."""
    expected, seconds = whole
    chance = random.Random(seed)
    stood: Counter[str] = Counter()
    number = 0
    while kills > 0:
        run = folder / f"run-{number}"
        number += 1
        code = -1
        while code:
            is_fresh, begin = not run.exists(), time.monotonic()
            wait = chance.uniform(0, 0.7 * seconds) if kills > 0 else None
            code = kennel.run(words(place, run), kill_after=wait)
            if code == -signal.SIGKILL:
                kills -= 1
                stood[where(run)] += 1
            else:
                assert code == 0
                if is_fresh:  # on a machine that was busy before, most kills would come after the end
                    seconds = min(seconds, time.monotonic() - begin)
        assert weights_hash(run) == expected
        check_log(run)
        assert not [path.name for path in run.iterdir() if path.suffix in (".part", ".old") or path.name == ".lock"]
    return stood


def where(run: Path) -> str:
    """The phase of a killed run, by its newest state."""
    for name in ("training_state", "training_state.before"):
        if (run / name / "state.json").exists():
            return str(json.loads((run / name / "state.json").read_text())["phase"])
    return "nothing saved"


def test_killed_at_random_moments(place: Path, kennel: Kennel, whole: tuple[str, float], tmp_path: Path) -> None:
    stood = kill_often(place, kennel, whole, tmp_path, kills=5, seed=0)
    assert stood.total() == 5


@pytest.mark.slow
def test_killed_fifty_times_at_random_moments(
    place: Path, kennel: Kennel, whole: tuple[str, float], tmp_path: Path
) -> None:
    stood = kill_often(place, kennel, whole, tmp_path, kills=50, seed=1)
    assert stood.total() == 50
    print(dict(stood))
    assert stood.keys() >= {"background", "pseudo_labels", "objects", "joint"}


def test_stopped_politely(place: Path, kennel: Kennel, whole: tuple[str, float], tmp_path: Path) -> None:
    """A state is saved, and the process says how to go on. Before the first step a SIGTERM simply ends it."""
    expected, seconds = whole
    code = kennel.run(words(place, tmp_path / "run"), kill_after=seconds / 2, by=signal.SIGTERM)
    assert code in (130, 0, -signal.SIGTERM)
    while kennel.run(words(place, tmp_path / "run")):
        pass
    assert weights_hash(tmp_path / "run") == expected
    check_log(tmp_path / "run")


def test_a_damaged_state_costs_only_what_came_after_the_one_before(
    place: Path, kennel: Kennel, whole: tuple[str, float], tmp_path: Path
) -> None:
    expected, seconds = whole
    run = tmp_path / "run"
    while not (run / "training_state.before").exists():
        kennel.run(words(place, run), kill_after=seconds / 2)
    file = run / "training_state" / "model.safetensors"
    if file.exists():  # the kill may have come between two renames
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 64
        file.write_bytes(bytes(data))
    assert kennel.run(words(place, run)) == 0
    assert weights_hash(run) == expected
    check_log(run)
