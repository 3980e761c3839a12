"""What a run tells: means of the steps since the last line, each step in one line of the log only."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from astseg.errors import UserError
from astseg.training import logging
from astseg.training.logging import Reporter, spelled_time


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tell(reporter: Reporter, phase: str, step: int, steps: int = 100, **losses: float) -> None:
    values = {name: torch.tensor(value) for name, value in losses.items()}
    reporter.step(phase, step, step, steps, values, seconds=step / 2, rate=0.5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_spelled_time(seconds: float, text: str) -> None:
    assert spelled_time(seconds) == text


def test_a_line_holds_means(tmp_path: Path) -> None:
    with Reporter(tmp_path / "log.jsonl") as reporter:
        for step in range(20):
            tell(reporter, "objects", step, a=step, b=1.0)
    assert lines(tmp_path / "log.jsonl") == [
        {"phase": "objects", "step": 10, "seconds": 4.5, "a": 4.5, "b": 1.0, "rate": 0.5},
        {"phase": "objects", "step": 20, "seconds": 9.5, "a": 14.5, "b": 1.0, "rate": 0.5},
    ]


def test_the_last_step_is_told(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "log.jsonl")
    for step in range(13):
        tell(reporter, "objects", step, steps=13, a=step)
    assert [(line["step"], line["a"]) for line in lines(tmp_path / "log.jsonl")] == [(10, 4.5), (13, 11.0)]


def test_phases_and_losses_do_not_mix(tmp_path: Path) -> None:
    """A loop that time cuts short ends without a last position; the guidance ends in the middle of ten steps."""
    reporter = Reporter(tmp_path / "log.jsonl")
    for step in range(3):
        tell(reporter, "background", step, total=8.0)
    for step in range(4):
        tell(reporter, "objects", step, reconstruction=1.0, pseudo_labels=5.0)
    for step in range(4, 7):
        tell(reporter, "objects", step, reconstruction=1.0)
    for step in range(7, 10):
        tell(reporter, "joint", step, reconstruction=1.0)
    told = lines(tmp_path / "log.jsonl")
    kept = [{name: line[name] for name in line if name not in ("seconds", "rate")} for line in told]
    assert kept == [
        {"phase": "background", "step": 3, "total": 8.0},
        {"phase": "objects", "step": 4, "reconstruction": 1.0, "pseudo_labels": 5.0},
        {"phase": "objects", "step": 7, "reconstruction": 1.0},
        {"phase": "joint", "step": 10, "reconstruction": 1.0},
    ]


def test_flush(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "log.jsonl")
    reporter.flush()
    for step in range(3):
        tell(reporter, "objects", step, a=step)
    reporter.flush()
    reporter.flush()
    for step in range(3, 10):
        tell(reporter, "objects", step, a=step)
    assert [(line["step"], line["a"]) for line in lines(tmp_path / "log.jsonl")] == [(3, 1.0), (10, 6.0)]


@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_loss_that_is_not_finite_is_named(tmp_path: Path, value: float, word: str) -> None:
    reporter = Reporter(tmp_path / "log.jsonl")
    for step in range(9):
        tell(reporter, "joint", step, good=1.0, bad=1.0)
    message = f"the training has diverged in phase 'joint', steps 1 to 10: bad is {word}; start again with a lower"
    with pytest.raises(UserError, match=message):
        tell(reporter, "joint", 9, good=1.0, bad=value)
    assert not lines(tmp_path / "log.jsonl")


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    with Reporter(console=Console(file=text, force_terminal=False, width=40)) as reporter:
        for step in range(50):
            tell(reporter, "objects", step, a=0.25)
        reporter.print("picture [1]")
    told = text.getvalue().splitlines()
    assert told[0] == "objects    step 10 (10 %)  2.0 steps/s  0:40 left  a 0.25"
    assert told[1:] == ["picture [1]"]  # the next ones came within ten seconds
    monkeypatch.setattr(logging, "PRINT_SECONDS", 0.0)
    with Reporter(console=Console(file=text, force_terminal=False, width=40)) as reporter:
        for step in range(20):
            tell(reporter, "objects", step, a=0.25)
    assert len(text.getvalue().splitlines()) == 4


def test_a_single_step_tells_neither_speed_nor_time() -> None:
    """A phase may begin with a line of its own; how long its first step took is not known then."""
    text = io.StringIO()
    with Reporter(console=Console(file=text, force_terminal=False, width=40)) as reporter:
        tell(reporter, "pseudo_labels", 30, a=0.25)
        reporter.flush()
        tell(reporter, "objects", 31, steps=32, a=0.5)
    assert text.getvalue().splitlines() == ["pseudo_labels step 31 (31 %)  a 0.25", "objects    step 32 (100 %)  a 0.5"]


def test_a_line_on_a_terminal_is_gone_at_the_end() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=60)
    with Reporter(console=console) as reporter:
        assert reporter.live is not None
        for step in range(20):
            tell(reporter, "objects", step, a=0.25)
        reporter.live.refresh()
        assert "step 20 (20 %)" in text.getvalue()
    assert not reporter.live.is_started


def test_nothing_to_tell_it_to() -> None:
    with Reporter() as reporter:
        for step in range(10):
            tell(reporter, "objects", step, a=0.25)
        reporter.print("nothing")


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard is not installed: pip install 'astseg\[tensorboard\]'"):
        Reporter(tensorboard=tmp_path / "board")


def test_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            told.append((str(folder), 0.0, 0))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append(("closed", 0.0, 0))

    monkeypatch.setattr(logging, "require_tensorboard", lambda: Writer)
    with Reporter(tensorboard=Path("board")) as reporter:
        for step in range(10):
            tell(reporter, "joint", step, a=0.25)
    assert told == [
        ("board", 0.0, 0),
        ("joint/seconds", 4.5, 10),
        ("joint/a", 0.25, 10),
        ("joint/rate", 0.5, 10),
        ("closed", 0.0, 0),
    ]
