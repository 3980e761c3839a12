"""What changes with time, as pure functions of the step.

Sources: AST-Seg (Sauvalle and de La Fortelle, WACV 2023), supplement, tables of hyperparameters and training schedule;
AE-NE (same authors, WACV 2023) for the background model.

``step`` is everywhere the number of finished iterations: 0 in the first one. Faithful oddity: the authors count the
iteration before they set the learning rate, but after they read the entropy weight. So ``learning_rate(step)`` is their
rate formula at ``step + 1`` (the first iteration does not run at rate 0), and ``entropy_weight(step)`` is theirs at
``step``. The functions of the background model take ``step`` as it is.
"""

from __future__ import annotations

import math
import time
from typing import Literal

from astseg.config import ObjectsConfig

__all__ = [
    "Clock",
    "Phase",
    "background_beta",
    "background_learning_rate",
    "cosine_learning_rate",
    "entropy_weight",
    "pseudo_label_weight",
    "learning_rate",
    "object_learning_rate",
    "parsimony_weight",
    "phase",
]

Phase = Literal["pseudo_labels", "objects", "joint"]


def learning_rate(
    step: int, *, rate: float, warmup: int, steps: int, decay_at: float = 0.9, decay: float = 0.1
) -> float:
    """Learning rate of the objects in the iteration that follows ``step`` finished ones.

    With s = step + 1 (see the top of this file):

    1. s < warmup: ``rate * (s / warmup) ** 2``;
    2. warmup <= s < decay_at * steps: ``rate``;
    3. from there on: ``decay * rate``.

    Args:
        step: Finished iterations, 0 or more.
        rate: Full learning rate.
        warmup: Iterations until the full rate; 0 for none.
        steps: Iterations of the whole training.
        decay_at: Fraction of the steps after which the rate drops.
        decay: Factor of that drop.
    """
    counted = step + 1
    if counted < warmup:
        return rate * (counted / warmup) ** 2
    if counted < decay_at * steps:
        return rate
    return decay * rate


def cosine_learning_rate(step: int, *, rate: float, warmup: int, steps: int, floor: float = 0.02) -> float:
    """Learning rate of the objects that falls along half a cosine from the first step on; not in the paper.

    With s = step + 1: ``rate * min(1, s / warmup) ** 2 * (floor + (1 - floor) * (1 + cos(pi * s / steps)) / 2)``.

    Args:
        step: Finished iterations, 0 or more.
        rate: Full learning rate.
        warmup: Iterations until the full rate; 0 for none.
        steps: Iterations of the whole training.
        floor: Part of the rate that is left at the end.
    """
    counted = step + 1
    warm = min(1.0, counted / warmup) ** 2 if warmup else 1.0
    return rate * warm * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, counted / steps))) / 2)


def object_learning_rate(step: int, config: ObjectsConfig) -> float:
    """The learning rate of the objects in the form that the settings ask for."""
    rate, warmup, steps = config.learning_rate, config.warmup, config.steps
    if config.decay == "cosine":
        return cosine_learning_rate(step, rate=rate, warmup=warmup, steps=steps)
    return learning_rate(step, rate=rate, warmup=warmup, steps=steps, decay_at=config.decay_from)


def entropy_weight(step: int, *, weight: float, ramp: int) -> float:
    """Weight of the pixel entropy loss: ``weight * min(1, step / ramp) ** 2``.

    Args:
        step: Finished iterations, 0 or more.
        weight: Full weight.
        ramp: Iterations until the full weight; 0: full from the first one.
    """
    if step < ramp:
        return weight * (step / ramp) ** 2
    return weight


def parsimony_weight(step: int, *, weight: float, ramp: int, steps: int) -> float:
    """Weight of the parsimony loss: ``weight * min(1, step / ramp) ** 2 * (1 - step / steps)``; not in the paper.

    It rises with the entropy weight, when objects begin to double, and falls to 0 so that it does not shrink them.

    Args:
        step: Finished iterations, 0 or more.
        weight: Weight without ramp and fall.
        ramp: Iterations of the rise; 0: none.
        steps: Iterations of the whole training.
    """
    return entropy_weight(step, weight=weight, ramp=ramp) * max(0.0, 1 - step / steps)


def pseudo_label_weight(step: int, *, weight: float, steps: int) -> float:
    """Weight of the pseudo-label loss: ``weight * (1 - step / steps) ** 2``; not in the paper.

    Args:
        step: Finished iterations, 0 or more.
        weight: Weight at the start.
        steps: Iterations until it is 0; 0: never any.
    """
    return weight * max(0.0, 1 - step / steps) ** 2 if steps else 0.0


def background_beta(step: int, *, steps: int, beta: float, ramp_start: float = 0.3, ramp_end: float = 0.7) -> float:
    """How strongly the background loss leaves out pixels that look like foreground.

    1. step < ramp_start * steps: 0, all pixels count alike;
    2. until ramp_end * steps: linear from 0 to ``beta``;
    3. from there on: ``beta``.

    The authors have no ramp: ``ramp_start=0, ramp_end=0``.

    Args:
        step: Finished iterations, 0 or more.
        steps: Iterations of the background training.
        beta: Full value; 6 in AE-NE.
        ramp_start: Fraction of the steps at which it leaves 0, in [0, 1].
        ramp_end: Fraction of the steps at which it is full, in [ramp_start, 1].
    """
    start, end = ramp_start * steps, ramp_end * steps
    if step < start:
        return 0.0
    if step < end:
        return beta * (step - start) / (end - start)
    return beta


def background_learning_rate(step: int, *, rate: float, steps: int, decay_at: float = 0.8, decay: float = 0.1) -> float:
    """Learning rate of the background model trained by itself (AE-NE: a tenth for the last 20 %).

    1. step < decay_at * steps: ``rate``;
    2. from there on: ``decay * rate``.

    Args:
        step: Finished iterations, 0 or more.
        rate: Full learning rate.
        steps: Iterations of the background training.
        decay_at: Fraction of the steps after which the rate drops.
        decay: Factor of that drop.
    """
    return rate if step < decay_at * steps else decay * rate


def phase(step: int, *, scenario: str, frozen_steps: int, pseudo_label_steps: int = 0) -> Phase:
    """What the training of the objects trains in the iteration that follows ``step`` finished ones.

    1. Baseline training (BT): ``joint``, objects and background, from the first iteration;
    2. curriculum training (CT), step < pseudo_label_steps: ``pseudo_labels``, encoder and glimpses apart from each
       other, by pseudo-labels alone (not in the paper);
    3. curriculum training, step < frozen_steps: ``objects``, the background model frozen;
    4. curriculum training from there on: ``joint``.

    The background training of the curriculum comes before and counts its own steps.

    Args:
        step: Finished iterations, 0 or more.
        scenario: ``baseline`` or ``curriculum``.
        frozen_steps: Iterations with the background model frozen, those of ``pseudo_labels`` among them; only the
            curriculum has them.
        pseudo_label_steps: Iterations without rendering.
    """
    assert scenario in ("baseline", "curriculum"), f"unknown scenario {scenario!r}"
    if scenario == "curriculum" and step < min(pseudo_label_steps, frozen_steps):
        return "pseudo_labels"
    if scenario == "curriculum" and step < frozen_steps:
        return "objects"
    return "joint"


class Clock:
    """How far a loop has come, by its steps and by the time it may take."""

    def __init__(self, steps: int, *, minutes: float | None, seconds: float = 0.0) -> None:
        """Start the clock.

        Args:
            steps: Steps of the whole loop.
            minutes: Time limit of the whole loop; None: none.
            seconds: Seconds already spent on it, before it was interrupted.
        """
        self.steps = steps
        self.limit = math.inf if minutes is None else minutes * 60
        self.begin = time.monotonic() - seconds

    def seconds(self) -> float:
        """Seconds spent on the loop."""
        return time.monotonic() - self.begin

    def position(self, step: int) -> int:
        """The step at which the schedules stand: that of the counter, or that of the time, whichever is ahead."""
        if self.limit == math.inf:
            return step
        return max(step, int(self.steps * self.seconds() / self.limit) if self.limit > 0 else self.steps)
