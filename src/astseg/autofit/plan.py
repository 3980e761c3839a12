"""From a survey to the settings of a run, each with its reason; what the user gives comes first.

Ours, not the paper's: its settings are given for each data set. The base is the preset ``small``, which alone learns
within minutes; measurements that the rules rest on are in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from astseg.autofit.components import Foreground
from astseg.autofit.survey import SIDE, Survey
from astseg.config import Config, override, to_dict
from astseg.errors import UserError

__all__ = ["Plan", "Row", "decide", "require_learnable"]

FEWEST = 20
"""Pictures below which nothing is begun."""

FEW = 200
"""Pictures below which a warning is given."""

MOST_BROKEN = 0.05
"""Fraction of the pictures that may be broken; they are left out, with a warning."""

FLATTEST = 16
"""Levels of 255 between the darkest and the brightest pixels below which nothing can be seen."""

SLOTS = (8, 24)
"""Fewest and most slots that are chosen; twice as many as there are objects in a full picture."""

KNOWN = 1.5
"""Slots for each object of the fullest picture of one of the paper's data sets, where objects cannot be counted."""

SYMMETRIC = 0.03
"""A background that differs from its mirror image by less may be mirrored."""

MIRRORED_BELOW = 2_000
"""Pictures below which more are made of them: mirror images, and copy-paste."""

COPY_PASTE = 0.5
"""Fraction of the pictures onto which objects of others are pasted, where there are few."""

BACKGROUND_SHARE = 0.2
"""Fraction of a time limit that goes to the background at most."""

SMALL_OBJECTS = {96: 6.0, 128: 4.0}
"""Short sides that are chosen where the median object is narrower than so many pixels at 64."""


@dataclass(frozen=True)
class Row:
    """A decision.

    Attributes:
        name: What it is about, in words.
        value: What was decided.
        reason: Why.
        option: What to type to have it otherwise.
    """

    name: str
    value: str
    reason: str
    option: str


@dataclass(frozen=True)
class Plan:
    """All decisions but the steps and the time, which need the pace of this machine.

    Attributes:
        config: Settings.
        rows: The decisions.
        warnings: What the user should know before hours pass.
        share: Fraction of a time limit that goes to the background at most.
        background_by_time: Whether the background takes its whole share, however many steps that is.
    """

    config: Config
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    share: float
    background_by_time: bool


def require_learnable(seen: Survey, found: Foreground | None = None) -> None:
    """Refuse data from which nothing can be learnt.

    Args:
        seen: The survey.
        found: The foreground components, once they are known.

    Raises:
        UserError: Too few pictures, all the same, too many broken, nothing to be seen in them, only background.
    """
    if seen.count < FEWEST:
        raise UserError(
            f"{seen.count} pictures are too few, expected {FEWEST} at the very least and some hundreds for good masks:"
            " add pictures of the same kind of scene, or give a video"
        )
    if len(seen.broken) > MOST_BROKEN * seen.sampled:
        raise UserError(
            f"{len(seen.broken)} of {seen.sampled} pictures looked at cannot be read; the first: {seen.broken[0]}"
        )
    if seen.distinct == 1:
        raise UserError(
            f"all {len(seen.images)} pictures looked at are the same one: objects are what differs from picture to"
            " picture, so give pictures in which they move or change"
        )
    low, high = seen.levels
    if high - low < FLATTEST:
        raise UserError(
            f"nearly all pixels lie between levels {low} and {high} of 255, so there is nothing to see: stretch the"
            " brightness first (16-bit files are read by their upper 8 bits)"
        )
    if found is not None and not found.learnt and not found.counts.any():
        raise UserError(
            f"nothing differs from the background in any of {len(seen.images)} pictures looked at: give pictures with"
            " objects in them"
        )


class _Decisions:
    """Settings on their way from the base to the plan."""

    def __init__(self, base: Config, given: Collection[str]) -> None:
        self.config = base
        self.given = given
        self.rows: list[Row] = []

    def set(self, setting: str, value: Any, name: str, reason: str) -> None:
        """Decide a setting, unless the user has."""
        part, field_name = setting.split(".")
        if setting in self.given:
            value, reason = to_dict(self.config)[part][field_name], "as you say"
        else:
            self.config = override(self.config, {part: {field_name: value}})
        switched = "no-" if value is True else ""  # a switch is typed to have it the other way
        option = f"--{part}.{switched}{field_name}".replace("_", "-")
        self.rows.append(Row(name, _spelled(value), reason, option))


def decide(seen: Survey, found: Foreground, base: Config, *, given: Collection[str] = ()) -> Plan:
    """Decide the settings.

    Args:
        seen: The survey.
        found: The foreground components.
        base: Settings to start from, what the user gives among them.
        given: Dotted names of those that the user gives, such as ``model.slots``.
    """
    decisions = _Decisions(base, given)
    warnings = []
    _image_size(decisions, seen, found)
    _slots(decisions, seen, found)
    _scale_range(decisions, found)
    decisions.set("model.backbone", "cnn", "backbone", "learns within minutes, needs no downloaded weights")
    varied = seen.background.kind == "varied"
    width = base.model.background_width if base.model.background_width != "auto" else "small"
    reason = "the widest that learns enough steps in minutes" if varied else "enough for one background"
    decisions.set("model.background_width", width, "background width", reason)
    form = "varying" if varied else "fixed"
    reason = "walls and floors are read from each picture" if varied else "starts as the median picture"
    decisions.set("model.background_form", form, "background form", reason)
    _mirror(decisions, seen)
    batch = base.objects.batch
    decisions.set("objects.batch", batch, "batch", f"of the preset; {base.background.batch} for the background")
    if seen.count < FEW:
        warnings.append(f"{seen.count} pictures are few: some hundreds give better masks")
    if seen.distinct < 0.9 * len(seen.images):
        warnings.append(f"only {seen.distinct} of {len(seen.images)} pictures looked at differ from each other")
    if seen.broken:
        warnings.append(
            f"{len(seen.broken)} of {seen.sampled} pictures looked at cannot be read and are left out; the first:"
            f" {seen.broken[0]}"
        )
    rows = tuple(decisions.rows)
    return Plan(decisions.config, rows, tuple(warnings), share=BACKGROUND_SHARE, background_by_time=varied)


def _image_size(decisions: _Decisions, seen: Survey, found: Foreground) -> None:
    height, width = seen.frame.size
    short, side = min(height, width), SIDE
    pixels = float(np.median(found.sides.mean(axis=1))) * short if found.is_informative else None
    if pixels is not None and not found.learnt:
        side = max([SIDE, *(one for one, below in SMALL_OBJECTS.items() if pixels < below)])
    full = min(min(one) for one in seen.sizes)
    side = min(side, full)
    factor = side / short
    size = [4 * round(length * factor / 4) if factor > 1 else length for length in (height, width)]
    reason = "small and quick"
    if pixels is not None:
        reason = f"objects are about {pixels * side / short:.0f} pixels wide then"
    if seen.frame.resize == "letterbox":
        reason += "; bars instead of cutting"
    elif seen.frame.cut > 0.005:
        why = f"as is usual for {seen.benchmark.name}" if seen.benchmark is not None else "that does not fit in"
        reason += f"; {100 * seen.frame.cut:.0f} % of the pictures is cut off, {why}"
    decisions.set("model.image_size", size, "image size", reason)


def _slots(decisions: _Decisions, seen: Survey, found: Foreground) -> None:
    usual = decisions.config.model.slots
    if (found.learnt or not found.is_informative) and seen.benchmark is not None:
        most, name = seen.benchmark.slots, seen.benchmark.name
        slots, reason = max(usual, round(KNOWN * most)), f"{name} has up to {most} objects, and some more slots help"
        decisions.set("model.slots", slots, "slots for objects", reason)
        return
    if found.learnt or not found.is_informative:
        reason = "usual; objects cannot be counted before the background is learnt"
        decisions.set("model.slots", usual, "slots for objects", reason)
        return
    many = int(np.percentile(found.counts, 98))
    slots = int(np.clip(2 * many, *SLOTS))
    least, most = SLOTS
    if slots in SLOTS and slots != 2 * many:
        reason = f"{least} to {most} are chosen, and a full picture has {many} objects"
    else:
        reason = f"twice the {many} objects of a full picture"
    decisions.set("model.slots", slots, "slots for objects", reason)


def _scale_range(decisions: _Decisions, found: Foreground) -> None:
    """Wider than the published range where objects are larger or smaller than it reaches."""
    model = decisions.config.model
    low, high, margin = model.scale_min, model.scale_max, decisions.config.discovery.glimpse_margin
    why_low = why_high = "as published"
    if found.is_informative and not found.learnt:
        largest = float(np.percentile(found.sides.max(axis=1), 99))
        smallest = float(np.percentile(found.sides.min(axis=1), 1))
        low = round(float(np.clip(0.8 / (margin * largest), 0.8, low)), 2)
        high = round(float(np.clip(1.25 / (margin * smallest), high, 40.0)), 1)
        why_low = f"the largest objects take {100 * largest:.0f} % of a side"
        why_high = f"the smallest take {100 * smallest:.0f} %"
    decisions.set("model.scale_min", low, "smallest inverse scale", why_low)
    decisions.set("model.scale_max", high, "largest inverse scale", why_high)


def _mirror(decisions: _Decisions, seen: Survey) -> None:
    background = seen.background
    if seen.count >= MIRRORED_BELOW:
        flip, reason = False, f"{seen.count} pictures are enough without"
    elif background.kind == "varied" or background.symmetry < SYMMETRIC:
        flip, reason = True, f"{seen.count} pictures are few, and the background looks alike in a mirror"
        if background.kind == "varied":
            reason = f"{seen.count} pictures are few"
    else:
        flip, reason = False, "the background looks different in a mirror"
    decisions.set("objects.flip", flip, "mirror images", reason)
    few = seen.count < MIRRORED_BELOW
    reason = "pictures are few, so objects of one are pasted onto others" if few else "pictures are enough without"
    decisions.set("objects.copy_paste", COPY_PASTE if few else 0.0, "copy-paste", reason)


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(str(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
