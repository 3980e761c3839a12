"""What a run is made of: frozen dataclasses, checked when made, saved as JSON beside every result.

The defaults are the numbers of the supplement's Table 1; a preset (see :mod:`astseg.config.presets`) states what differs.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from astseg.errors import UserError

__all__ = [
    "AugmentConfig",
    "BackgroundConfig",
    "Config",
    "InferenceConfig",
    "ModelConfig",
    "ObjectsConfig",
    "from_dict",
    "nearest",
    "override",
    "to_dict",
]

T = TypeVar("T")

BACKBONES = (*(f"segformer-b{size}" for size in range(6)), "unet", "cnn")
PRECISIONS = ("float32", "bfloat16", "auto")
DECAYS = ("step", "cosine")
SCENARIOS = ("curriculum", "baseline")
REFINEMENTS = ("paper", "residual", "none")
FROZEN_STORAGES = ("float16", "uint8")
BACKGROUND_FORMS = ("paper", "fixed", "varying")
BACKGROUND_WIDTHS = ("small", "simple", "complex", "auto")


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name that looks most like the given one, as the end of an error message."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(valid)}"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_name(setting: str, name: str, valid: Iterable[str]) -> None:
    _check(name in valid, f"{setting} is '{name}': {nearest(name, valid)}")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture.

    Attributes:
        image_size: (H, W) in pixels.
        slots: K, the largest number of objects in an image.
        appearance: Z, size of an object's appearance vector.
        glimpse_width: Factor on the channels of the glimpse generator; 1 is the paper.
        isotropic: One scale number for both axes (CLEVR, ShapeStacks) instead of one for each.
        scale_min: Smallest inverse scale: the largest glimpse covers 1/scale_min of the image side.
        scale_max: Largest inverse scale.
        backbone: ``segformer-b0`` to ``segformer-b5``, ``unet`` or ``cnn``.
        backbone_weights: Hub id or folder of pretrained Segformer weights; none: fresh ones.
        glimpse_crop: Side in pixels, a multiple of 4, of the crop from which a second look at the image reads a slot's
            appearance (see :mod:`astseg.model.glimpse_encoder`); 0 is the paper: the appearance is pooled from the feature map.
        refinement: ``paper`` or ``residual``, the form of the transformer refinement; ``none``: no transformer.
        transformer_width: D.
        transformer_heads: Attention heads.
        transformer_layers: Encoder layers.
        transformer_feedforward: Width of the feed-forward blocks.
        dropout: Dropout rate of the transformer.
        background_log_activation: Log alpha_0 at the start.
        pixel_activation: A learned term for each pixel is added to log alpha_0.
        background_width: ``small``, ``simple``, ``complex`` or ``auto`` (simple or complex, by a short run).
        background_form: ``paper``, ``fixed`` or ``varying`` (see :class:`astseg.model.background.BackgroundModel`).
        reference: Do what the reference implementation does by accident: with isotropic scale the first appearance
            number is the activation too, and all transformer layers start with equal weights.
    """

    image_size: tuple[int, int] = (128, 128)
    slots: int = 10
    appearance: int = 32
    glimpse_width: int = 1
    isotropic: bool = False
    scale_min: float = 1.3
    scale_max: float = 24.0
    backbone: str = "segformer-b3"
    backbone_weights: str | None = None
    glimpse_crop: int = 0
    refinement: str = "paper"
    transformer_width: int = 256
    transformer_heads: int = 8
    transformer_layers: int = 6
    transformer_feedforward: int = 512
    dropout: float = 0.1
    background_log_activation: float = 11.0
    pixel_activation: bool = False
    background_width: str = "complex"
    background_form: str = "paper"
    reference: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        _check(self.slots >= 1, f"slots is {self.slots}, expected at least 1: it is the largest number of objects")
        _check(self.slots <= 255, f"slots is {self.slots}, expected at most 255: labels are stored in 8 bits")
        _check(min(self.image_size) >= 16, f"image_size is {self.image_size}, expected sides of at least 16 pixels")
        _check(self.appearance >= 1, f"appearance is {self.appearance}, expected at least 1")
        _check(self.glimpse_width >= 1, f"glimpse_width is {self.glimpse_width}, expected at least 1")
        _check(
            0 < self.scale_min < self.scale_max,
            f"scale range is {self.scale_min} to {self.scale_max}, expected 0 < scale_min < scale_max",
        )
        _check_name("backbone", self.backbone, BACKBONES)
        _check(
            self.glimpse_crop >= 0 and self.glimpse_crop % 4 == 0,
            f"glimpse_crop is {self.glimpse_crop}, expected 0 or a multiple of 4: pixels of a crop",
        )
        _check_name("refinement", self.refinement, REFINEMENTS)
        _check_name("background_width", self.background_width, BACKGROUND_WIDTHS)
        _check_name("background_form", self.background_form, BACKGROUND_FORMS)
        _check(
            self.transformer_width >= self.transformer_heads >= 1
            and self.transformer_width % self.transformer_heads == 0,
            f"transformer_width is {self.transformer_width}, expected a multiple of transformer_heads"
            f" ({self.transformer_heads}), and both at least 1",
        )
        _check(0 <= self.dropout < 1, f"dropout is {self.dropout}, expected a rate from 0 up to 1")
        _check(self.transformer_layers >= 1, f"transformer_layers is {self.transformer_layers}, expected at least 1")
        _check(
            self.transformer_feedforward >= 1,
            f"transformer_feedforward is {self.transformer_feedforward}, expected at least 1",
        )


@dataclass(frozen=True)
class BackgroundConfig:
    """Training of the background model by itself (phase 1 of the curriculum).

    Attributes:
        steps: Optimiser steps.
        batch: Images a step.
        learning_rate: AdamW rate; a tenth of it for the last 20 % of the steps.
        beta: Strength of the bootstrapped weight, exp(-beta * m).
        ramp: Fractions of the steps at which beta leaves 0 and reaches its value; (0, 0): full from the first step.
        time_fraction: Part of a time limit that goes to this phase at most.
        precision: ``float32``, ``bfloat16`` (autocast) or ``auto``: bfloat16 on a device that is quick in it.
        cuda_graphs: On a GPU, forward and backward are recorded once and replayed (:mod:`astseg.training.cuda_graphs`).
    """

    steps: int = 500_000
    batch: int = 128
    learning_rate: float = 2e-3
    beta: float = 6.0
    ramp: tuple[float, float] = (0.0, 0.0)
    time_fraction: float = 0.5
    precision: str = "float32"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        _check(self.steps >= 1, f"background steps is {self.steps}, expected at least 1")
        _check(self.batch >= 1, f"background batch is {self.batch}, expected at least 1")
        _check(
            0 < self.learning_rate < math.inf, f"background learning_rate is {self.learning_rate}, expected more than 0"
        )
        _check(0 <= self.beta < math.inf, f"background beta is {self.beta}, expected 0 or more")
        start, end = self.ramp
        _check(0 <= start <= end <= 1, f"background ramp is {self.ramp}, expected 0 <= start <= end <= 1")
        _check(
            0 < self.time_fraction < 1,
            f"background time_fraction is {self.time_fraction}, expected a part between 0 and 1",
        )
        _check_name("background precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class ObjectsConfig:
    """Training of the object model.

    Attributes:
        scenario: ``curriculum`` (CT: background first, then objects, then both) or ``baseline`` (BT: joint from the
            start, from fresh weights).
        steps: Optimiser steps, phases 2 and 3 together.
        frozen_steps: Of these, the steps of phase 2, with the background model frozen (curriculum only); as many as
            ``steps`` or more: phase 3 never comes. The flag ``--steps`` stretches all schedules together.
        batch: Images a step.
        accumulate: A step's batch is split into so many equal parts, one after the other, and their gradients are
            averaged: less memory, the same step; 1: not split.
        clip: Largest norm of a step's gradients, of all trained parameters together; longer ones are shortened to it;
            0: no limit.
        learning_rate: Adam rate, reached as (step / warmup) ** 2.
        warmup: Steps of that warm-up.
        decay: ``step`` (a tenth after ``decay_from``) or ``cosine`` (falling all the way to a fiftieth).
        decay_from: Fraction of the steps after which a ``step`` decay sets in.
        betas: Adam betas.
        eps: Adam eps; tiny, because objects weigh e^-11 at the start and so do their gradients.
        entropy_weight: Weight of the pixel entropy loss.
        entropy_ramp: Steps over which that weight rises, as (step / entropy_ramp) ** 2.
        parsimony_weight: Weight of the parsimony loss, which rises with that of the entropy and falls to 0 at the end;
            0 is the paper.
        pseudo_label_steps: The first steps of phase 2 that are guided only: encoder and glimpses learn apart from each other
            from the regions that differ from the background (see :mod:`astseg.discovery`), and no picture is rendered; 0
            is the paper.
        pseudo_label_weight: Weight of the guidance loss at the start, in the steps that do render; 0 is the paper.
        pseudo_label_decay: Steps over which that weight falls to 0.
        pruning_margin: In rendered steps, slots whose log activation is below the background's by more than this are
            neither encoded again nor drawn, and get no gradient from the losses; 0 is the paper: all are drawn.
        flip: Mirror every second image.
        copy_paste: Part of the pictures on which regions of others are laid (:mod:`astseg.training.copy_paste`), for small
            collections, in the guided steps of phase 2; 0 is the paper.
        frozen_storage: How phase 2 keeps its backgrounds: ``float16``, or ``uint8`` as the reference does.
        precision: ``float32``, ``bfloat16`` (autocast) or ``auto``: bfloat16 on a device that is quick in it.
        cuda_graphs: On a GPU, forward and backward are recorded once and replayed (:mod:`astseg.training.cuda_graphs`), unless a
            batch is split.
    """

    scenario: str = "curriculum"
    steps: int = 125_000
    frozen_steps: int = 30_000
    batch: int = 64
    accumulate: int = 1
    clip: float = 0.0
    learning_rate: float = 4e-5
    warmup: int = 5_000
    decay: str = "step"
    decay_from: float = 0.9
    betas: tuple[float, float] = (0.90, 0.98)
    eps: float = 1e-9
    entropy_weight: float = 1e-2
    entropy_ramp: int = 10_000
    parsimony_weight: float = 0.0
    pseudo_label_steps: int = 0
    pseudo_label_weight: float = 0.0
    pseudo_label_decay: int = 0
    pruning_margin: float = 0.0
    flip: bool = False
    copy_paste: float = 0.0
    frozen_storage: str = "float16"
    precision: str = "float32"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        _check_name("scenario", self.scenario, SCENARIOS)
        _check(self.steps >= 1, f"objects steps is {self.steps}, expected at least 1")
        _check(self.frozen_steps >= 0, f"frozen_steps is {self.frozen_steps}, expected 0 or more")
        _check(self.batch >= 1, f"objects batch is {self.batch}, expected at least 1")
        _check(self.accumulate >= 1, f"accumulate is {self.accumulate}, expected at least 1: parts of a batch")
        _check(
            self.batch % self.accumulate == 0,
            f"objects batch is {self.batch}, expected a multiple of accumulate ({self.accumulate}), which splits it",
        )
        _check(0 <= self.clip < math.inf, f"clip is {self.clip}, expected 0 (no limit) or more")
        _check(
            0 < self.learning_rate < math.inf, f"objects learning_rate is {self.learning_rate}, expected more than 0"
        )
        _check(self.warmup >= 0, f"warmup is {self.warmup}, expected 0 or more")
        _check_name("decay", self.decay, DECAYS)
        _check(0 < self.decay_from <= 1, f"decay_from is {self.decay_from}, expected a fraction above 0, up to 1")
        _check(
            min(self.betas) >= 0 and max(self.betas) < 1, f"betas is {self.betas}, expected two rates from 0 up to 1"
        )
        _check(0 < self.eps < math.inf, f"eps is {self.eps}, expected more than 0")
        _check(0 <= self.entropy_weight < math.inf, f"entropy_weight is {self.entropy_weight}, expected 0 or more")
        _check(self.entropy_ramp >= 0, f"entropy_ramp is {self.entropy_ramp}, expected 0 or more")
        _check(
            0 <= self.parsimony_weight < math.inf, f"parsimony_weight is {self.parsimony_weight}, expected 0 or more"
        )
        _check(
            0 <= self.pseudo_label_weight < math.inf,
            f"pseudo_label_weight is {self.pseudo_label_weight}, expected 0 or more",
        )
        _check(self.pseudo_label_decay >= 0, f"pseudo_label_decay is {self.pseudo_label_decay}, expected 0 or more")
        _check(self.pseudo_label_steps >= 0, f"pseudo_label_steps is {self.pseudo_label_steps}, expected 0 or more")
        _check(
            not (self.pseudo_label_weight or self.pseudo_label_steps) or self.scenario == "curriculum",
            "guidance needs a trained background, and the scenario 'baseline' has none:"
            " set pseudo_label_weight and pseudo_label_steps to 0",
        )
        _check(
            self.pruning_margin >= 0, f"pruning_margin is {self.pruning_margin}, expected 0 (none is pruned) or more"
        )
        _check(0 <= self.copy_paste <= 1, f"copy_paste is {self.copy_paste}, expected a part from 0 to 1")
        _check_name("frozen_storage", self.frozen_storage, FROZEN_STORAGES)
        _check_name("objects precision", self.precision, PRECISIONS)

    def stretched(self, steps: int) -> ObjectsConfig:
        """The same training in another number of steps: every schedule shrinks or stretches along."""
        _check(steps >= 1, f"steps is {steps}, expected at least 1")
        factor = steps / self.steps
        return dataclasses.replace(
            self,
            steps=steps,
            **{
                name: round(getattr(self, name) * factor)
                for name in ("frozen_steps", "warmup", "entropy_ramp", "pseudo_label_steps", "pseudo_label_decay")
            },
        )


@dataclass(frozen=True)
class InferenceConfig:
    """From the network's output to masks (:mod:`astseg.inference.pipeline`); the defaults are the paper's way.

    Attributes:
        colour_std: Standard deviation of the colour likelihood by which pixels are assigned to layers, in [0, 1]
            (:mod:`astseg.inference.mask_posterior`); 0 is the paper: the layer weights alone.
        proposals: Slots move to the foreground components of the image (:mod:`astseg.inference.proposals`); needs a
            glimpse encoder. Off in the paper.
        proposal_iou: A slot and a component mean the same object if the IoU of their boxes is this large.
        duplicate_share: A slot may be redundant if one other layer would get this share of its pixels without it.
        duplicate_nats: It is if that layer explains them worse by less than so many nats a pixel.
        component_power: The mean responsibility of a layer within a component counts with this power.
        component_floor: Added to that mean, so that what few pixels of a component belong to can still have them.
    """

    colour_std: float = 0.0
    proposals: bool = False
    proposal_iou: float = 0.5
    duplicate_share: float = 0.7
    duplicate_nats: float = 0.5
    component_power: float = 0.5
    component_floor: float = 0.02

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        _check(0 <= self.colour_std < math.inf, f"colour_std is {self.colour_std}, expected 0 (off) or more")
        for name in ("proposal_iou", "duplicate_share", "component_floor"):
            value = getattr(self, name)
            _check(0 < value <= 1, f"{name} is {value}, expected a share above 0, up to 1")
        for name in ("duplicate_nats", "component_power"):
            value = getattr(self, name)
            _check(0 <= value < math.inf, f"{name} is {value}, expected 0 or more")


@dataclass(frozen=True)
class AugmentConfig:
    """Variants of the training images, for small collections; off unless ``copies`` is above 1.

    Attributes:
        copies: How many of each image are learnt from, the image itself among them.
        flip: Mirror every second variant, at random.
        zoom: Largest part of the sides that a random crop takes away.
        shift: Largest distance that the crop moves, as a part of the sides.
        light: Largest change of brightness and of contrast, as a part.
        colour: Largest change of saturation, and twice that of each colour channel, as a part.
    """

    copies: int = 1
    flip: bool = True
    zoom: float = 0.15
    shift: float = 0.05
    light: float = 0.15
    colour: float = 0.1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        _check(self.copies >= 1, f"augment copies is {self.copies}, expected at least 1")
        for name in ("zoom", "shift", "light", "colour"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"augment {name} is {value}, expected a part from 0 up to 1")


@dataclass(frozen=True)
class Config:
    """Everything that, with the data and the seed, decides a run.

    Attributes:
        model: The architecture.
        background: Training of the background model.
        objects: Training of the object model.
        inference: From the network's output to masks.
        augment: Variants of the training images.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Check what parts ask of each other.

        Raises:
            UserError: Proposals without a glimpse encoder.
        """
        _check(
            not self.inference.proposals or self.model.glimpse_crop > 0,
            "inference.proposals is on, but model.glimpse_crop is 0: only a glimpse encoder sees what lies where the"
            " attention is not; set proposals to false, too (--inference.no-proposals)",
        )

    def with_steps(self, steps: int | None, *, part: str = "objects") -> Config:
        """The same run with other steps of one part, its schedules stretched along; None changes nothing."""
        if steps is None:
            return self
        if part == "background":
            return dataclasses.replace(self, background=dataclasses.replace(self.background, steps=steps))
        return dataclasses.replace(self, objects=self.objects.stretched(steps))


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values, for JSON and YAML; tuples become lists."""
    plain = dataclasses.asdict(config)
    return {
        part: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        for part, values in plain.items()
    }


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that :func:`to_dict` gave.

    Raises:
        UserError: Unknown names, values of another type or outside their range.
    """
    return override(Config(), values)


def override(config: T, values: Mapping[str, Any], *, path: str = "") -> T:
    """A copy of a configuration (or a part of one) with some values replaced.

    Args:
        config: The dataclass to start from.
        values: Nested names and values; only what differs.
        path: Dotted name of this part, for messages.

    Raises:
        UserError: Unknown names (the nearest valid one is named), values of another type or outside their range.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{path or 'the configuration'} is {reprlib.repr(values)}, expected names and values")
    hints = typing.get_type_hints(type(config))
    replaced: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in hints:
            raise UserError(f"'{full}' is not a setting: {nearest(str(name), hints)}")
        current = getattr(config, name)
        replaced[name] = (
            override(current, value, path=full)
            if dataclasses.is_dataclass(current)
            else _converted(value, hints[name], full)
        )
    return dataclasses.replace(config, **replaced)  # type: ignore[type-var]


def _converted(value: Any, hint: Any, name: str) -> Any:
    """The value as the type of its field; JSON has no tuples, and YAML reads ``1e-4`` as text."""
    wrong = UserError(f"'{name}' is {reprlib.repr(value)}, expected {_spelled(hint)}")
    if isinstance(hint, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
        return None if value is None else _converted(value, choices[0], name)
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if isinstance(value, int) and parts == (int, int) and not isinstance(value, bool):
            return (value, value)  # one number for both sides
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise wrong
        return tuple(_converted(part, kind, name) for part, kind in zip(value, parts, strict=True))
    if hint is float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise wrong from None
        if isinstance(value, bool) or not math.isfinite(number):
            raise wrong
        return number
    if type(value) is not hint:
        raise wrong
    return value


def _spelled(hint: Any) -> str:
    """A type as a person would say it."""
    if typing.get_origin(hint) is tuple:
        return f"a list of {len(typing.get_args(hint))} numbers"
    plain = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}
    return plain.get(hint, str(hint))
