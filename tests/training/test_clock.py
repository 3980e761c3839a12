"""The clock of a loop, by steps and by time."""

import types

import pytest

from astseg.training import clock as timing
from astseg.training.clock import Clock


def test_clock_counts_steps_without_a_limit() -> None:
    assert list(Clock(3, minutes=None).left(0)) == [(0, 0), (1, 1), (2, 2)]
    assert list(Clock(3, minutes=None).left(2)) == [(2, 2)]
    assert list(Clock(3, minutes=None).left(3)) == []


def test_clock_by_time_and_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock(100, minutes=0.5, seconds=15.0)
    positions = []
    for step, position in clock.left(7):
        positions.append((step, position))
        now[0] += 3
    assert positions == [(7, 50), (8, 60), (9, 70), (10, 80), (11, 90)]
    assert clock.seconds() == 30
    assert list(Clock(5, minutes=60.0).left(3)) == [(3, 3), (4, 4)]
