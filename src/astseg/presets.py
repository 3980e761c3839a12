"""Named settings. Each states only what differs from the defaults of :mod:`astseg.config`, and where that is from.

The defaults themselves are the supplement's Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from astseg.config import Config, nearest, override
from astseg.types import UserError

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """What a preset changes.

    Attributes:
        about: One line for people.
        source: Where the numbers are from.
        values: Nested names and values, laid over the defaults.
    """

    about: str
    source: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)


_FIXED = {"background_width": "simple", "isotropic": True}
_PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "clevr": ("CLEVR, 128x128", {**_FIXED}, {"steps": 2_500}),
    "clevrtex": ("CLEVRTEX, 128x128", {}, {}),
    "shapestacks": ("ShapeStacks, 64x64", {"image_size": (64, 64), "slots": 6, "isotropic": True}, {}),
    "objects-room": ("ObjectsRoom, 64x64", {"image_size": (64, 64), "slots": 3}, {}),
}


def _published() -> dict[str, Preset]:
    """The four data sets of the paper, each in both training scenarios."""
    presets = {}
    for name, (about, model, background) in _PUBLISHED.items():
        model = {**model, "backbone_weights": "nvidia/mit-b3"}
        for short, scenario in (("bt", "baseline"), ("ct", "curriculum")):
            presets[f"{name}-{short}"] = Preset(
                f"{about}, {scenario} training, as published; wants a GPU",
                "supplement, Table 1; paper, sections 3 and 4; reference implementation for K and the scale mode",
                {"model": model, "background": background, "objects": {"scenario": scenario}},
            )
    return presets


PRESETS: dict[str, Preset] = {
    "small": Preset(
        "64x64 on a CPU: a small CNN, a second look, guided by what differs from the background; learns within minutes",
        "ours, measured in docs/results.md",
        {
            "model": {
                "image_size": (64, 64),
                "slots": 12,
                "glimpse_width": 2,
                "backbone": "cnn",
                "look": 16,
                "refinement": "residual",
                "transformer_width": 128,
                "transformer_layers": 3,
                "transformer_feedforward": 256,
                "dropout": 0.0,
                "background_width": "small",
                "background_form": "template",
            },
            "background": {
                "steps": 500,
                "batch": 32,
                "ramp": (0.5, 0.8),
                "precision": "bfloat16",
            },
            "objects": {
                "steps": 8_000,
                "frozen_steps": 7_300,
                "batch": 16,
                "learning_rate": 1.5e-3,
                "warmup": 200,
                "decay": "cosine",
                "entropy_ramp": 2_000,
                "parsimony_weight": 0.5,
                "guided_steps": 4_000,
                "guidance": 0.5,
                "guidance_steps": 14_000,
                "precision": "bfloat16",
            },
        },
    ),
    **_published(),
}


def preset(name: str) -> Config:
    """The configuration of a preset.

    Raises:
        UserError: Unknown name; the nearest valid one is named.
    """
    if name not in PRESETS:
        raise UserError(f"'{name}' is not a preset: {nearest(name, PRESETS)}")
    return override(Config(), PRESETS[name].values)
