"""Steps of each phase, from the pace of this machine and the minutes there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from astseg.autofit.pace import Pace, phase_steps
from astseg.autofit.plan import Plan, Row
from astseg.config import Config
from astseg.config.device import default_device, resolved
from astseg.errors import UserError
from astseg.training.logging import spelled_time

__all__ = ["Budget", "budget"]

ROOM = 2.0
"""With a time limit, the factor on the steps that fit: the clock ends the run, even if steps get faster."""

ENDING_SHARE, ENDING_LEAST = 0.03, 6.0
"""Fraction of a time limit, and least seconds, that masks, health and report take at the end."""

VARIED_STEPS = 1_500
"""Background steps without a time limit where every picture has a background of its own."""

FEW_STEPS = 1_500
"""Steps of the objects below which the masks have hardly begun."""


@dataclass(frozen=True)
class Budget:
    """Steps and time.

    Attributes:
        config: Settings with the steps of all phases.
        rows: What was decided.
        warnings: What the user should know.
        minutes: Time limit of the training, what comes before and after it taken off; None: none.
        seconds: Expected time of the whole.
        memory: Bytes expected at the most.
    """

    config: Config
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    minutes: float | None
    seconds: float
    memory: int


def budget(
    plan: Plan,
    pace: Pace,
    *,
    count: int,
    minutes: float | None,
    steps: int | None,
    spent: float,
    given: Collection[str] = (),
) -> Budget:
    """Divide the time.

    Args:
        plan: What has been decided.
        pace: What a step takes.
        count: Pictures to learn from.
        minutes: Time limit of the whole command, or None.
        steps: Steps of the objects, or None.
        spent: Seconds that have been spent on looking and planning.
        given: Dotted names of settings that the user gives.

    Raises:
        UserError: Too few minutes for any training.
    """
    config, warnings = resolved(plan.config, default_device()), []
    left = None
    if minutes is not None:
        left = minutes * 60 - spent - max(ENDING_LEAST, ENDING_SHARE * minutes * 60)
        if left <= 0.3 * minutes * 60:
            raise UserError(
                f"{minutes:g} minutes are too few: looking at the pictures took {spelled_time(spent)} of them"
            )
    config, why_background = _background(plan, config, pace, left, given)
    config, why_objects = _objects(config, pace, left, steps, given)
    by_clock = left is not None and steps is None and "objects.steps" not in given
    if by_clock and config.objects.steps < ROOM * FEW_STEPS:
        enough = (FEW_STEPS * pace.objects(config) / config.objects.steps + pace.background(config) + spent) / 60
        warnings.append(
            f"so few steps that masks have hardly begun: give {max(enough, 1.2 * (minutes or 0)):.0f} minutes"
        )
    total = spent + (left if left is not None else pace.background(config) + pace.objects(config))
    total += max(ENDING_LEAST, ENDING_SHARE * total)
    background = config.background.steps
    if left is not None and pace.background(config):
        background = min(background, round(config.background.time_fraction * left / pace.seconds["background"]))
    room = ROOM if by_clock else 1.0
    named = ", ".join(f"{round(number / room):,} {phase}" for phase, number in phase_steps(config).items() if number)
    rows = (
        Row("background steps", f"{background:,}", why_background, "--background.steps"),
        Row("object steps", f"{round(config.objects.steps / room):,}", f"{why_objects}: {named}", "--steps"),
        _precision(plan.config.objects.precision, config, given),
    )
    memory = pace.memory(config, count)
    return Budget(config, rows, tuple(warnings), None if left is None else left / 60, total, memory)


def _precision(asked: str, config: Config, given: Collection[str]) -> Row:
    """In which precision the objects are trained."""
    reason = "this machine has units for it"
    if config.objects.precision == "float32":
        reason = "this machine has no units for bfloat16"
    if asked != "auto":
        reason = "as you say" if "objects.precision" in given else "of the preset"
    return Row("precision", config.objects.precision, reason, "--objects.precision")


def _background(
    plan: Plan, config: Config, pace: Pace, left: float | None, given: Collection[str]
) -> tuple[Config, str]:
    """The configuration with the steps of the background, and why."""
    second = pace.seconds.get("background")
    if second is None:
        return config, "it learns with the objects"
    share = config.background.time_fraction if "background.time_fraction" in given else plan.share
    steps, reason = config.background.steps, "as you say"
    if "background.steps" not in given:
        reason = f"one background is learnt quickly; {1000 * second:.0f} ms each"
        if plan.background_by_time:
            steps = VARIED_STEPS if left is None else max(steps, round(ROOM * share * left / second))
            reason = f"every picture has its own; {1000 * second:.0f} ms each"
            if left is not None:
                reason = f"{100 * share:.0f} % of the time, {1000 * second:.0f} ms each; every picture has its own"
    return replace(config, background=replace(config.background, steps=steps, time_fraction=share)), reason


def _objects(
    config: Config, pace: Pace, left: float | None, steps: int | None, given: Collection[str]
) -> tuple[Config, str]:
    """The configuration with the steps of the objects, all schedules stretched along, and why."""
    each = 1000 * pace.objects(config) / config.objects.steps
    if steps is not None:
        return config.with_steps(steps), f"as you say; {each:.0f} ms each"
    if "objects.steps" in given:
        return config, f"as you say; {each:.0f} ms each"
    if left is None:
        return config, f"of the preset; {each:.0f} ms each"
    background = min(pace.background(config), config.background.time_fraction * left)
    return config.with_steps(
        max(1, round(ROOM * (left - background) * 1000 / each))
    ), f"what time is left, {each:.0f} ms each"
