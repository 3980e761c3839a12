"""Where every value of a preset is from, setting by setting.

Sources: the supplement of AST-Seg (Sauvalle and de La Fortelle, WACV 2023), its Table 1; AE-NE, the background paper of
the same authors; their public implementation, called the reference, for what both leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from astseg.config import Config, override, to_dict
from astseg.config.presets import PRESETS, REFERENCE, TABLE_1, VARIANTS, find_preset

__all__ = ["CONSTANTS", "DEFAULTS", "Value", "explain", "preset_list", "preset_sheet"]

_OFF = "ours; off in the paper"
_PLAIN = "ours; this value is the paper's way"

DEFAULTS: dict[str, str] = {
    "model.image_size": f"{REFERENCE} (CLEVR, CLEVRTEX)",
    "model.slots": f"{REFERENCE} (CLEVR, CLEVRTEX)",
    "model.appearance": TABLE_1,
    "model.glimpse_width": "supplement, Table 2, has factor 1",
    "model.isotropic": f"{REFERENCE}: two scale numbers but for CLEVR and ShapeStacks",
    "model.scale_min": TABLE_1,
    "model.scale_max": TABLE_1,
    "model.backbone": "supplement, section 3 (MiT-B3)",
    "model.backbone_weights": "ours: the licence of the published ones asks for a choice",
    "model.glimpse_crop": _OFF,
    "model.refinement": "supplement, Algorithm 1",
    "model.transformer_width": TABLE_1,
    "model.transformer_heads": TABLE_1,
    "model.transformer_layers": TABLE_1,
    "model.transformer_feedforward": TABLE_1,
    "model.dropout": f"{REFERENCE} (PyTorch's default)",
    "model.background_log_activation": TABLE_1,
    "model.pixel_activation": f"{REFERENCE}: for videos only",
    "model.background_width": "AE-NE: complex where each image has another background",
    "model.background_form": "AE-NE",
    "model.reference": "ours: accidents of the reference are mended",
    "background.steps": f"{TABLE_1}: data sets with complex backgrounds",
    "background.batch": TABLE_1,
    "background.learning_rate": TABLE_1,
    "background.beta": "AE-NE",
    "background.ramp": _OFF,
    "background.time_fraction": "ours; for runs with a time limit only",
    "background.precision": _PLAIN,
    "background.cuda_graphs": "ours; the same numbers sooner",
    "objects.scenario": "paper, section 3",
    "objects.steps": TABLE_1,
    "objects.frozen_steps": f"{TABLE_1}: phase 2",
    "objects.batch": TABLE_1,
    "objects.accumulate": _PLAIN,
    "objects.clip": _OFF,
    "objects.learning_rate": TABLE_1,
    "objects.warmup": TABLE_1,
    "objects.decay": REFERENCE,
    "objects.decay_from": REFERENCE,
    "objects.betas": TABLE_1,
    "objects.eps": TABLE_1,
    "objects.entropy_weight": TABLE_1,
    "objects.entropy_ramp": TABLE_1,
    "objects.parsimony_weight": _OFF,
    "objects.pseudo_label_steps": _OFF,
    "objects.pseudo_label_weight": _OFF,
    "objects.pseudo_label_decay": _OFF,
    "objects.pruning_margin": _OFF,
    "objects.flip": _OFF,
    "objects.copy_paste": _OFF,
    "inference.colour_std": _OFF,
    "inference.proposals": _OFF,
    **{
        f"inference.{name}": "ours; chosen on training images of four data sets"
        for name in ("proposal_iou", "duplicate_share", "duplicate_nats", "component_power", "component_floor")
    },
    "augment.copies": _OFF,
    "augment.flip": "ours; counts where augment.copies is more than 1",
    "augment.zoom": "ours; counts where augment.copies is more than 1",
    "augment.shift": "ours; counts where augment.copies is more than 1",
    "augment.light": "ours; counts where augment.copies is more than 1",
    "augment.colour": "ours; counts where augment.copies is more than 1",
    "objects.frozen_storage": "ours; the reference stores uint8",
    "objects.precision": _PLAIN,
    "objects.cuda_graphs": "ours; the same numbers sooner",
}
"""Dotted names of all settings, and where their defaults are from."""

CONSTANTS: dict[str, tuple[Any, str]] = {
    "background optimiser": ("AdamW, betas 0.9 0.999, no weight decay", "AE-NE"),
    "background rate": ("a tenth for the last 20 % of the steps", "AE-NE"),
    "background code": ("16 numbers", "AE-NE"),
    "background loss": ("smooth L1, beta 3/255; weight exp(-6 m), m from tanh(error / 0.25)", "AE-NE"),
    "objects optimiser": ("Adam, made anew at phase 3", f"{TABLE_1}; {REFERENCE}"),
    "objects warm-up": ("rate * (step / warmup) ** 2", REFERENCE),
    "entropy warm-up": ("weight * min(1, step / ramp) ** 2, a step behind the rate", REFERENCE),
}
"""What no setting changes."""


@dataclass(frozen=True)
class Value:
    """One value of a preset.

    Attributes:
        name: Dotted name of the setting.
        value: The value.
        source: Where it is from.
    """

    name: str
    value: Any
    source: str


def explain(name: str) -> list[Value]:
    """Every setting of a preset with its value and its source.

    Raises:
        UserError: Unknown preset.
    """
    chosen = find_preset(name)
    stated = {f"{part}.{setting}" for part, values in chosen.values.items() for setting in values}
    config = to_dict(override(Config(), chosen.values))
    lines = []
    for part, values in config.items():
        for setting, value in values.items():
            dotted = f"{part}.{setting}"
            source = chosen.sources.get(dotted, chosen.source) if dotted in stated else DEFAULTS[dotted]
            lines.append(Value(dotted, value, source))
    return lines


def preset_list() -> list[str]:
    """All presets and ablations, a line each."""
    return [
        *_columns([(name, chosen.about) for name, chosen in PRESETS.items()]),
        "",
        "Ablations: an ending on any of the published ones, as in clevrtex-ct-unet",
        *_columns([(f"-{ending}", variant.about) for ending, variant in VARIANTS.items()]),
        "",
        "Every value of one, with its source: astseg presets NAME",
    ]


def preset_sheet(name: str) -> list[str]:
    """Every value of a preset with its source, a line each; then what no setting changes.

    Raises:
        UserError: Unknown preset.
    """
    settings = [(line.name, _spelled(line.value), line.source) for line in explain(name)]
    constants = [(what, str(value), source) for what, (value, source) in CONSTANTS.items()]
    return [
        f"{name}: {find_preset(name).about}",
        "",
        *_columns(settings),
        "",
        "The same in every preset:",
        *_columns(constants),
    ]


def _spelled(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return " ".join(_spelled(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of texts as lines, all columns but the last padded to one width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
