"""What the metrics of health mean, in plain words: what is wrong and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astseg.diagnostics.health.metrics import Health

__all__ = ["Finding", "early_warning", "judge"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: Short name.
        wrong: Whether it is a fault, or good to know.
        words: What is the case.
        remedy: What to try, or nothing.
    """

    name: str
    wrong: bool
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        """Both in a line."""
        return f"{self.words}: {self.remedy}" if self.remedy else self.words


def early_warning(phase: str, metrics: Sequence[Mapping[str, float]]) -> str | None:
    """What is going wrong while a model learns, or None.

    Args:
        phase: The phase that is running.
        metrics: Of the images drawn so far in the phases that render, the last one last: ``slots_used`` and
            ``foreground``.
    """
    last = metrics[-2:]
    if phase not in ("objects", "joint") or len(last) < 2:
        return None
    if all(one.get("slots_used", 1.0) < 0.05 for one in last):
        return "no slot shows anything yet: if that stays, give the background fewer or the objects more steps"
    if all(one.get("foreground", 0.0) > 0.6 for one in last):
        return "slots take over the background: if that stays, begin again with more --background.steps"
    return None


def judge(health: Health) -> list[Finding]:
    """What the metrics mean, faults first; at least one line."""
    found = [*_nothing_learnt(health), *_background(health), *_slots(health), *_masks(health), *_encoder(health)]
    if not any(one.wrong for one in found):
        found.insert(0, Finding("fine", False, "nothing is visibly wrong; look at the pictures all the same"))
    return sorted(found, key=lambda one: not one.wrong)


def _faults(*rules: tuple[bool, str, str, str]) -> list[Finding]:
    """Of rules (whether it applies, name, words, remedy), those that apply."""
    return [Finding(name, True, words, remedy) for applies, name, words, remedy in rules if applies]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _nothing_learnt(health: Health) -> list[Finding]:
    if health.empty < 0.5:
        return []
    words = f"no object is found in {_percent(health.empty)} of the pictures"
    if health.unexplained > 0.02:
        words += f", and {_percent(health.unexplained)} of the pixels are not explained"
        return [Finding("nothing learnt", True, words, "the training was too short; begin again with more --minutes")]
    remedy = "right if they are empty, else begin again with more --minutes"
    return [Finding("empty", health.empty > 0.95, words, remedy)]


def _background(health: Health) -> list[Finding]:
    slots = ", ".join(str(slot) for slot in health.still)
    still = f"slots {slots} are" if len(health.still) > 1 else f"slot {slots} is"
    return _faults(
        (
            health.background_error > 10,
            "background",
            f"the background is off by {health.background_error:.0f} of 255 levels",
            "begin again with more time (--minutes, --background.steps) or width (--model.background-width simple)",
        ),
        (
            health.foreground > 0.5,
            "foreground",
            f"{_percent(health.foreground)} of the pixels are taken for objects",
            "the background is learnt too little; begin again with more --background.steps",
        ),
        (
            health.absorbed > 0.3,
            "absorbed",
            f"the background has taken over {_percent(health.absorbed)} of what differs from picture to picture",
            "objects that seldom move become background; take pictures further apart in time, or fewer"
            " --background.steps",
        ),
        (
            bool(health.still),
            "still",
            f"{still} in nearly every picture at one place",
            "a part of the background; begin again with more --background.steps",
        ),
    )


def _slots(health: Health) -> list[Finding]:
    more = max(health.slots + 2, round(1.5 * health.slots))
    return _faults(
        (
            health.full > 0.1,
            "full",
            f"K is full in {_percent(health.full)} of the pictures",
            f"try --model.slots {more}",
        ),
        (
            health.doubled > 0.2,
            "doubled",
            f"two slots share one object in {_percent(health.doubled)} of the pictures",
            "begin again with more --minutes, or raise --objects.parsimony-weight",
        ),
    )


def _masks(health: Health) -> list[Finding]:
    if health.empty >= 0.5:
        return []
    return _faults(
        (
            max(health.shifted, health.flipped) < 0.5,
            "unstable",
            f"masks change when a picture is shifted or mirrored (mIoU {health.shifted:.2f}, {health.flipped:.2f})",
            "the training was too short; begin again with more --minutes",
        ),
        (
            health.entropy > 0.2,
            "undecided",
            f"pixels are torn between layers (entropy {health.entropy:.2f})",
            "begin again with more --minutes, or raise --objects.entropy-weight",
        ),
        (
            health.unexplained > 0.02,
            "unexplained",
            f"{_percent(health.unexplained)} of the pixels are explained by neither background nor objects",
            "objects are missed or drawn badly; begin again with more --minutes",
        ),
    )


def _encoder(health: Health) -> list[Finding]:
    if not health.missed > 0.5:  # nor where it is no number
        return []
    words = f"the encoder missed {_percent(health.missed)} of the objects; they were found because they differ from"
    remedy = "good enough where objects stand apart; if they touch or hide each other, give --minutes or"
    return [Finding("missed", False, f"{words} the background", f"{remedy} --objects.steps more")]
