"""Named settings. Each states only what differs from the defaults of :mod:`astseg.config`, and where that is from.

The defaults themselves are the supplement's Table 1; where each of them is from stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from astseg.config import Config, nearest, override
from astseg.config.setting import REFERENCE, TABLE_1
from astseg.errors import UserError

__all__ = ["PRESETS", "VARIANTS", "Preset", "find_preset", "preset", "preset_names", "variants_of"]

Values = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """What a preset changes.

    Attributes:
        about: One line for people.
        source: Where the numbers are from.
        values: Nested names and values, laid over the defaults.
        sources: Dotted names of the values that are from elsewhere, and where from.
    """

    about: str
    source: str
    values: Values = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


VIDEO = "reference implementation, real videos"

_FIXED = {"background_width": "simple", "isotropic": True}
_PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "clevr": ("CLEVR, 128x128", {**_FIXED}, {"steps": 2_500}),
    "clevrtex": ("CLEVRTEX, 128x128", {}, {}),
    "shapestacks": ("ShapeStacks, 64x64", {"image_size": (64, 64), "slots": 6, "isotropic": True}, {}),
    "objects-room": ("ObjectsRoom, 64x64", {"image_size": (64, 64), "slots": 3}, {}),
}
_PUBLISHED_SOURCES = {
    "model.backbone_weights": "supplement, section 3",
    "model.background_width": "AE-NE: simple for a fixed background",
    "background.steps": f"{TABLE_1}: data sets with fixed backgrounds",
    "objects.scenario": "paper, section 3",
}


def _published() -> dict[str, Preset]:
    """The four data sets of the paper, each in both training scenarios."""
    presets = {}
    for name, (about, model, background) in _PUBLISHED.items():
        model = {**model, "backbone_weights": "nvidia/mit-b3"}
        for short, scenario in (("bt", "baseline"), ("ct", "curriculum")):
            presets[f"{name}-{short}"] = Preset(
                f"{about}, {scenario} training, as published; wants a GPU",
                REFERENCE,  # image size, K and the scale mode
                {"model": model, "background": background, "objects": {"scenario": scenario}},
                _PUBLISHED_SOURCES,
            )
    return presets


_VIDEO = Preset(
    "real videos, 200x320, at most 16 objects (the authors use 16 to 24, and as many appearance numbers); wants a GPU",
    VIDEO,
    {
        "model": {
            "image_size": (200, 320),
            "slots": 16,
            "appearance": 16,
            "scale_max": 40.0,
            "pixel_activation": True,
            "backbone_weights": "nvidia/mit-b3",
            "background_width": "auto",
        },
        "background": {"steps": 24_000},
        "objects": {
            "steps": 500_000,
            "frozen_steps": 60_000,
            "batch": 24,
            "learning_rate": 1e-5,
            "warmup": 20_000,
            "entropy_ramp": 20_000,
        },
    },
    {
        "model.backbone_weights": "supplement, section 3 (of the data sets of images)",
        "model.background_width": "AE-NE: by a short run",
        "background.steps": "AE-NE: moving camera, and at least 20 passes (10,000 for a fixed camera)",
    },
)

_ABLATION = "ours, after the paper's ablation study"
VARIANTS: dict[str, Preset] = {
    "unet": Preset(
        "U-Net instead of Segformer",
        "supplement, Table 3",
        {"model": {"backbone": "unet", "backbone_weights": None}},
    ),
    **{
        f"b{size}": Preset(
            f"Segformer MiT-B{size}" + (" (the published one)" if size == 3 else ""),
            _ABLATION,
            {"model": {"backbone": f"segformer-b{size}", "backbone_weights": f"nvidia/mit-b{size}"}},
        )
        for size in range(6)
    },
    "fresh": Preset("fresh backbone weights", _ABLATION, {"model": {"backbone_weights": None}}),
    "no-transformer": Preset("no transformer refinement", _ABLATION, {"model": {"refinement": "none"}}),
    "no-entropy": Preset("no pixel entropy loss", _ABLATION, {"objects": {"entropy_weight": 0.0}}),
    "frozen": Preset("background frozen to the end: no phase 3", _ABLATION, {"objects": {"frozen_steps": 125_000}}),
}
"""Ablations, by the ending of their names: ``clevrtex-ct-unet`` is ``clevrtex-ct`` with ``unet`` laid over it."""

PRESETS: dict[str, Preset] = {
    "small": Preset(
        "64x64 on a CPU: a small CNN, a glimpse encoder, pseudo-labels by background subtraction; learns in minutes",
        "ours, measured in docs/results.md",
        {
            "model": {
                "image_size": (64, 64),
                "slots": 12,
                "glimpse_width": 2,
                "backbone": "cnn",
                "glimpse_crop": 16,
                "refinement": "residual",
                "transformer_width": 128,
                "transformer_layers": 3,
                "transformer_feedforward": 256,
                "dropout": 0.0,
                "background_width": "small",
                "background_form": "fixed",
            },
            "background": {
                "steps": 800,
                "batch": 32,
                "ramp": (0.5, 0.8),
                "precision": "auto",
            },
            "objects": {
                "steps": 4_000,
                "frozen_steps": 3_800,
                "batch": 16,
                "learning_rate": 1.5e-3,
                "warmup": 200,
                "decay": "cosine",
                "entropy_ramp": 1_000,
                "parsimony_weight": 0.5,
                "pseudo_label_steps": 2_000,
                "pseudo_label_weight": 0.5,
                "pseudo_label_decay": 7_000,
                "pruning_margin": 5.0,
                "precision": "auto",
            },
            "inference": {
                "colour_std": 0.15,
                "proposals": True,
            },
        },
    ),
    **_published(),
    "video": _VIDEO,
}


def variants_of(name: str) -> list[str]:
    """Endings that a preset may have: those of :data:`VARIANTS`, for the published ones. BT has nothing to freeze."""
    if not name.endswith(("-bt", "-ct")) or name not in PRESETS:
        return []
    return [ending for ending in VARIANTS if not (ending == "frozen" and name.endswith("-bt"))]


def preset_names() -> list[str]:
    """Every name that :func:`preset` takes: the presets, then their ablations."""
    return [*PRESETS, *(f"{name}-{ending}" for name in PRESETS for ending in variants_of(name))]


def find_preset(name: str) -> Preset:
    """A preset, with the ablation laid over it where its name has one.

    Raises:
        UserError: Unknown name; the nearest valid one is named.
    """
    if name in PRESETS:
        return PRESETS[name]
    for base, chosen in PRESETS.items():
        ending = name.removeprefix(f"{base}-")
        if ending != name and ending in variants_of(base):
            return _laid_over(chosen, VARIANTS[ending])
    raise UserError(f"'{name}' is not a preset: {nearest(name, preset_names() if '-' in name else PRESETS)}")


def _laid_over(base: Preset, variant: Preset) -> Preset:
    """One preset of two."""
    parts = {**base.values, **variant.values}
    values = {part: {**base.values.get(part, {}), **variant.values.get(part, {})} for part in parts}
    changed = {f"{part}.{name}": variant.source for part, names in variant.values.items() for name in names}
    return Preset(f"{base.about}; ablation: {variant.about}", base.source, values, {**base.sources, **changed})


def preset(name: str) -> Config:
    """The configuration of a preset.

    Raises:
        UserError: Unknown name; the nearest valid one is named.
    """
    return override(Config(), find_preset(name).values)
