"""Settings of training: the background by itself, the objects, pseudo-labels, and variants of the images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from astseg.config.setting import AE_NE, CHOSEN, OFF, REFERENCE, TABLE_1, Settings, check, setting

__all__ = [
    "DECAYS",
    "FROZEN_STORAGES",
    "PRECISIONS",
    "SCENARIOS",
    "AugmentConfig",
    "BackgroundConfig",
    "ObjectsConfig",
    "PseudoLabelConfig",
]

PRECISIONS = ("float32", "bfloat16", "auto")
DECAYS = ("step", "cosine")
SCENARIOS = ("curriculum", "baseline")
FROZEN_STORAGES = ("float16", "uint8")

PAPERS_WAY = "ours; this value is the paper's way"
SOONER = "ours; the same numbers sooner"
PRECISION = "``float32``, ``bfloat16`` (autocast) or ``auto``: bfloat16 on a device that has units for it."
VARIANTS = "ours; counts where augment.copies is more than 1"


@dataclass(frozen=True)
class BackgroundConfig(Settings, part="background"):
    """Training of the background model by itself (phase 1 of the curriculum)."""

    steps: int = setting(500_000, "Optimiser steps.", source=f"{TABLE_1}: data sets with complex backgrounds", low=1)
    batch: int = setting(128, "Images a step.", source=TABLE_1, low=1)
    learning_rate: float = setting(
        2e-3, "AdamW learning rate; a tenth of it for the last 20 % of the steps.", source=TABLE_1, above=0
    )
    beta: float = setting(6.0, "Strength of the bootstrapped weight, exp(-beta * m).", source=AE_NE, low=0)
    ramp: tuple[float, float] = setting(
        (0.0, 0.0),
        "Fractions of the steps at which beta leaves 0 and reaches its value; (0, 0): full from the first step.",
        source=OFF,
        low=0,
        high=1,
    )
    time_fraction: float = setting(
        0.5,
        "Fraction of a time limit that goes to this phase at most.",
        source="ours; for runs with a time limit only",
        above=0,
        below=1,
    )
    precision: str = setting("float32", PRECISION, source=PAPERS_WAY, choices=PRECISIONS)
    cuda_graphs: bool = setting(True, "On a GPU, forward and backward are recorded once and replayed.", source=SOONER)

    def __post_init__(self) -> None:
        """Check every value, and that the ramp rises.

        Raises:
            UserError: A value outside its range.
        """
        super().__post_init__()
        check(self.ramp[0] <= self.ramp[1], f"background.ramp is {self.ramp}, expected 0 <= start <= end <= 1")


@dataclass(frozen=True)
class ObjectsConfig(Settings, part="objects"):
    """Training of the object model. The flag ``--steps`` stretches all schedules together."""

    scenario: str = setting(
        "curriculum",
        "``curriculum`` (CT: background first, then objects, then both) or ``baseline`` (BT: joint from the start, from"
        " fresh weights).",
        source="paper, section 3",
        choices=SCENARIOS,
    )
    steps: int = setting(125_000, "Optimiser steps, phases 2 and 3 together.", source=TABLE_1, low=1)
    frozen_steps: int = setting(
        30_000,
        "Of these, the steps of phase 2, with the background model frozen (curriculum only); as many as ``steps`` or"
        " more: phase 3 never comes.",
        source=f"{TABLE_1}: phase 2",
        low=0,
    )
    batch: int = setting(64, "Images a step.", source=TABLE_1, low=1)
    accumulate: int = setting(
        1,
        "Equal parts of a batch that go through the model one after the other, their gradients averaged: less memory,"
        " the same step.",
        source=PAPERS_WAY,
        low=1,
    )
    clip: float = setting(
        0.0, "Largest norm of a step's gradients, of all trained parameters together; 0: no limit.", source=OFF, low=0
    )
    learning_rate: float = setting(
        4e-5, "Adam learning rate, reached as (step / warmup) ** 2.", source=TABLE_1, above=0
    )
    warmup: int = setting(5_000, "Steps of that warm-up.", source=TABLE_1, low=0)
    decay: str = setting(
        "step",
        "``step`` (a tenth after ``decay_from``) or ``cosine`` (falling all the way to a fiftieth).",
        source=REFERENCE,
        choices=DECAYS,
    )
    decay_from: float = setting(
        0.9, "Fraction of the steps after which a ``step`` decay sets in.", source=REFERENCE, above=0, high=1
    )
    betas: tuple[float, float] = setting((0.90, 0.98), "Adam betas.", source=TABLE_1, low=0, below=1)
    eps: float = setting(
        1e-9,
        "Adam eps; tiny, because objects weigh e^-11 at the start and so do their gradients.",
        source=TABLE_1,
        above=0,
    )
    entropy_weight: float = setting(1e-2, "Weight of the pixel entropy loss.", source=TABLE_1, low=0)
    entropy_ramp: int = setting(
        10_000, "Steps over which that weight rises, as (step / entropy_ramp) ** 2.", source=TABLE_1, low=0
    )
    parsimony_weight: float = setting(
        0.0,
        "Weight of the parsimony loss, which rises with that of the entropy and falls to 0 at the end.",
        source=OFF,
        low=0,
    )
    pseudo_label_steps: int = setting(
        0,
        "The first steps of phase 2, in which pseudo-labels alone teach: encoder and glimpses learn apart from each"
        " other from the foreground components (see :mod:`astseg.discovery`), and no image is rendered.",
        source=OFF,
        low=0,
    )
    pseudo_label_weight: float = setting(
        0.0, "Weight of the pseudo-label loss at the start, in the steps that do render.", source=OFF, low=0
    )
    pseudo_label_decay: int = setting(0, "Steps over which that weight falls to 0.", source=OFF, low=0)
    pruning_margin: float = setting(
        0.0,
        "In rendered steps, slots whose log activation is below the background's by more than this are neither"
        " encoded again nor drawn, and get no gradient from the losses; 0 is the paper: all are drawn.",
        source=OFF,
        low=0,
    )
    flip: bool = setting(False, "Mirror every second image.", source=OFF)
    copy_paste: float = setting(
        0.0,
        "Fraction of the images onto which components of others are pasted, for small collections, in the steps of"
        " phase 2 with pseudo-labels.",
        source=OFF,
        low=0,
        high=1,
    )
    frozen_storage: str = setting(
        "float16",
        "How phase 2 keeps its backgrounds: ``float16``, or ``uint8`` as the reference does.",
        source="ours; the reference stores uint8",
        choices=FROZEN_STORAGES,
    )
    precision: str = setting("float32", PRECISION, source=PAPERS_WAY, choices=PRECISIONS)
    cuda_graphs: bool = setting(
        True,
        "On a GPU, forward and backward are recorded once and replayed, unless a batch is split.",
        source=SOONER,
    )

    def __post_init__(self) -> None:
        """Check every value, and what they ask of each other.

        Raises:
            UserError: A value outside its range.
        """
        super().__post_init__()
        check(
            self.batch % self.accumulate == 0,
            f"objects.batch is {self.batch}, expected a multiple of objects.accumulate ({self.accumulate}), which"
            " splits it",
        )
        check(
            not (self.pseudo_label_weight or self.pseudo_label_steps) or self.scenario == "curriculum",
            "pseudo-labels need a trained background, and the scenario 'baseline' has none:"
            " set objects.pseudo_label_weight and objects.pseudo_label_steps to 0",
        )

    def stretched(self, steps: int) -> ObjectsConfig:
        """The same training in another number of steps: every schedule shrinks or stretches along."""
        check(steps >= 1, f"steps is {steps}, expected at least 1")
        factor = steps / self.steps
        schedules = ("frozen_steps", "warmup", "entropy_ramp", "pseudo_label_steps", "pseudo_label_decay")
        along = {name: round(getattr(self, name) * factor) for name in schedules}
        return dataclasses.replace(self, steps=steps, **along)


@dataclass(frozen=True)
class PseudoLabelConfig(Settings, part="pseudo_labels"):
    """How foreground components teach slots, where ``objects`` asks for it (:mod:`astseg.training.pseudo_labels`)."""

    attention_weight: float = setting(
        0.3, "Weight of minus the log of the attention on a slot's component.", source=CHOSEN, low=0
    )
    position_weight: float = setting(
        1.0, "Weight of the distance from the component's centre, image sides being 2.", source=CHOSEN, low=0
    )
    scale_weight: float = setting(
        0.3, "Weight of the distance of log inverse scales from those of the component's box.", source=CHOSEN, low=0
    )
    activation_weight: float = setting(
        0.3, "Weight of the distance of log activations from the two margins.", source=CHOSEN, low=0
    )
    mask_weight: float = setting(
        1.0, "Weight of the cross entropy of the layer weights against the components.", source=CHOSEN, low=0
    )
    glimpse_weight: float = setting(
        1.0, "Weight of the loss of glimpses that are drawn without slots.", source=CHOSEN, low=0
    )
    colour_weight: float = setting(
        2.0,
        "Weight of the squared colour error of such a glimpse against its mask's cross entropy.",
        source=CHOSEN,
        low=0,
    )
    foreground_weight: float = setting(
        2.0, "Weight of a component's pixel in a cross entropy against one outside of all.", source=CHOSEN, above=0
    )
    active_margin: float = setting(
        4.0, "Log activation of a slot with a component, above the background's, where its mask is full.", source=CHOSEN
    )
    inactive_margin: float = setting(
        2.0, "A slot without a component should have a log activation this far below the background's.", source=CHOSEN
    )
    anchor_weight: float = setting(
        100.0,
        "How much the distance from a slot's anchor counts in the matching, in runs that have steps with"
        " pseudo-labels alone; 1, and less with each step, in others.",
        source=CHOSEN,
        low=0,
    )
    anchor_decay: float = setting(
        0.25,
        "In those others, fraction of ``objects.pseudo_label_decay`` after which anchors no longer count.",
        source=CHOSEN,
        low=0,
        high=1,
    )
    jitter: float = setting(
        0.2,
        "Boxes in which glimpses are learnt are off by up to this fraction of their side, and as much in the log"
        " scale.",
        source=CHOSEN,
        low=0,
    )
    attention_noise: float = setting(
        1.5,
        "Standard deviation of the log of the attention that stands in over a component's cells.",
        source=CHOSEN,
        low=0,
    )
    glimpses: int = setting(
        32, "Components of a batch, at most, whose glimpses are drawn in a step.", source=CHOSEN, low=1
    )
    pasted_components: float = setting(
        0.4, "Fraction of an image's components that copy-paste lays onto another.", source=CHOSEN, low=0, high=1
    )


@dataclass(frozen=True)
class AugmentConfig(Settings, part="augment"):
    """Variants of the training images, for small collections; off unless ``copies`` is above 1."""

    copies: int = setting(1, "How many of each image are learnt from, the image itself among them.", source=OFF, low=1)
    flip: bool = setting(True, "Mirror every second variant, at random.", source=VARIANTS)
    zoom: float = setting(
        0.15, "Largest fraction of the sides that a random crop takes away.", source=VARIANTS, low=0, below=1
    )
    shift: float = setting(
        0.05, "Largest distance that the crop moves, as a fraction of the sides.", source=VARIANTS, low=0, below=1
    )
    light: float = setting(
        0.15, "Largest change of brightness and of contrast, as a fraction.", source=VARIANTS, low=0, below=1
    )
    colour: float = setting(
        0.1,
        "Largest change of saturation, and twice that of each colour channel, as a fraction.",
        source=VARIANTS,
        low=0,
        below=1,
    )
