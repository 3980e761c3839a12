"""Schedules at each border of each case, and against the reference's own values."""

import types
from pathlib import Path

import numpy as np
import pytest

from astseg.training import schedule
from astseg.training.schedule import (
    Clock,
    background_beta,
    background_learning_rate,
    cosine_learning_rate,
    entropy_weight,
    learning_rate,
    parsimony_weight,
    phase,
    pseudo_label_weight,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.npz"


@pytest.mark.parametrize(
    ("name", "rate", "warmup", "steps", "ramp"),
    [("synthetic", 4e-5, 5_000, 125_000, 10_000), ("natural", 1e-5, 20_000, 500_000, 20_000)],
)
def test_golden_schedules_are_exact(name: str, rate: float, warmup: int, steps: int, ramp: int) -> None:
    golden = np.load(GOLDEN)
    finished = golden[f"{name}_steps"].tolist()
    rates = [learning_rate(step, rate=rate, warmup=warmup, steps=steps) for step in finished]
    before = [learning_rate(step - 1, rate=rate, warmup=warmup, steps=steps) for step in finished]
    ramps = [entropy_weight(step, weight=1.0, ramp=ramp) for step in finished]
    np.testing.assert_array_equal(rates, golden[f"{name}_lr_used"])
    np.testing.assert_array_equal(before, golden[f"{name}_rate_function"])  # theirs counts the step that is run
    np.testing.assert_array_equal(ramps, golden[f"{name}_entropy_ramp"])


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.04), (1, 0.16), (3, 0.64), (4, 1.0), (5, 1.0), (7, 1.0), (8, 0.1), (9, 0.1), (500, 0.1)],
)
def test_learning_rate_at_each_border(step: int, expected: float) -> None:
    """Warm-up 5, drop at 9 of 10 iterations; the iteration being run counts, so each border comes one step earlier."""
    assert learning_rate(step, rate=1.0, warmup=5, steps=10) == pytest.approx(expected)


def test_learning_rate_without_warmup_starts_full() -> None:
    assert learning_rate(0, rate=3e-4, warmup=0, steps=100) == 3e-4


def test_learning_rate_has_dropped_where_the_warmup_ends_no_earlier() -> None:
    """The full rate begins with the iteration of the warm-up's number, unless the drop has come."""
    assert learning_rate(9, rate=1.0, warmup=10, steps=10) == 0.1


def test_learning_rate_without_decay_stays_full() -> None:
    assert learning_rate(99, rate=3e-4, warmup=5, steps=100, decay=1.0) == 3e-4


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (1, 0.0625), (2, 0.25), (3, 0.5625), (4, 1.0), (5, 1.0)])
def test_entropy_weight_at_each_border(step: int, expected: float) -> None:
    assert entropy_weight(step, weight=1e-2, ramp=4) == pytest.approx(1e-2 * expected)


def test_entropy_weight_without_ramp_is_full_at_once() -> None:
    assert entropy_weight(0, weight=1e-2, ramp=0) == 1e-2


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (29, 0.0), (30, 0.0), (31, 0.15), (50, 3.0), (69, 5.85), (70, 6.0), (71, 6.0), (99, 6.0)],
)
def test_background_beta_at_each_border(step: int, expected: float) -> None:
    assert background_beta(step, steps=100, beta=6.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("step", [0, 1, 50, 99])
def test_background_beta_without_ramp_is_full_at_once(step: int) -> None:
    assert background_beta(step, steps=100, beta=6.0, ramp_start=0.0, ramp_end=0.0) == 6.0


@pytest.mark.parametrize(("step", "expected"), [(49, 0.0), (50, 6.0), (51, 6.0)])
def test_background_beta_with_an_empty_ramp_jumps(step: int, expected: float) -> None:
    assert background_beta(step, steps=100, beta=6.0, ramp_start=0.5, ramp_end=0.5) == expected


@pytest.mark.parametrize(("step", "expected"), [(0, 2e-3), (79, 2e-3), (80, 2e-4), (99, 2e-4)])
def test_background_learning_rate_at_its_border(step: int, expected: float) -> None:
    assert background_learning_rate(step, rate=2e-3, steps=100) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, "objects"), (6, "objects"), (7, "joint"), (8, "joint")])
def test_curriculum_freezes_the_background_first(step: int, expected: str) -> None:
    assert phase(step, scenario="curriculum", frozen_steps=7) == expected


@pytest.mark.parametrize("step", [0, 6, 7, 8])
def test_baseline_is_joint_from_the_first_step(step: int) -> None:
    assert phase(step, scenario="baseline", frozen_steps=7) == "joint"


def test_curriculum_without_frozen_steps_is_joint_at_once() -> None:
    assert phase(0, scenario="curriculum", frozen_steps=0) == "joint"


@pytest.mark.parametrize(
    ("step", "expected"), [(0, "pseudo_labels"), (3, "pseudo_labels"), (4, "objects"), (6, "objects"), (7, "joint")]
)
def test_curriculum_begins_with_guided_steps(step, expected):
    assert phase(step, scenario="curriculum", frozen_steps=7, pseudo_label_steps=4) == expected


def test_guided_steps_are_frozen_steps_and_no_part_of_the_baseline():
    assert phase(5, scenario="curriculum", frozen_steps=5, pseudo_label_steps=9) == "joint"
    assert phase(0, scenario="baseline", frozen_steps=5, pseudo_label_steps=9) == "joint"


def test_guidance_falls_to_nothing():
    weights = [pseudo_label_weight(step, weight=0.4, steps=8) for step in (0, 2, 7, 8, 9)]
    assert weights == pytest.approx([0.4, 0.4 * 0.75**2, 0.4 / 64, 0, 0])
    assert pseudo_label_weight(0, weight=0.4, steps=0) == 0


def test_cosine_learning_rate_rises_falls_and_leaves_the_floor():
    def rate(step):
        return cosine_learning_rate(step, rate=1e-3, warmup=10, steps=1000)

    assert rate(0) == pytest.approx(1e-5, rel=1e-3)
    assert rate(9) == pytest.approx(1e-3, rel=1e-3)
    assert rate(499) == pytest.approx(1e-3 * 0.51)
    assert rate(999) == pytest.approx(2e-5)
    assert rate(1500) == pytest.approx(2e-5)  # it does not rise again
    assert cosine_learning_rate(0, rate=1e-3, warmup=0, steps=1000) == pytest.approx(1e-3, rel=1e-3)


def test_parsimony_rises_and_falls():
    weights = [parsimony_weight(step, weight=0.5, ramp=10, steps=100) for step in (0, 5, 10, 50, 100)]
    assert weights == pytest.approx([0, 0.5 * 0.25 * 0.95, 0.45, 0.25, 0])


def test_a_clock_without_a_limit_counts_steps() -> None:
    assert [Clock(3, minutes=None).position(step) for step in (0, 2, 5)] == [0, 2, 5]


def test_a_clock_goes_by_time_or_by_steps_whichever_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(schedule, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock(100, minutes=0.5, seconds=15.0)
    assert [clock.position(step) for step in (7, 50, 60)] == [50, 50, 60]
    now[0] += 9
    assert clock.seconds() == 24
    assert clock.position(8) == 80
    now[0] += 6
    assert clock.position(9) == 100
    assert Clock(5, minutes=0.0).position(1) == 5
