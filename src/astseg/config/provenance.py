"""Where every value of a preset is from, setting by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from astseg.config import Config, override, to_dict
from astseg.config.presets import PRESETS, VARIANTS, find_preset
from astseg.config.setting import REFERENCE, TABLE_1

__all__ = ["CONSTANTS", "DEFAULTS", "Value", "explain", "preset_list", "preset_sheet"]

DEFAULTS: dict[str, str] = {
    f"{part}.{name}": setting.source
    for part in to_dict(Config())
    for name, setting in getattr(Config(), part).settings().items()
}
"""Dotted names of all settings, and where their defaults are from."""

CONSTANTS: dict[str, tuple[Any, str]] = {
    "background optimiser": ("AdamW, betas 0.9 0.999, no weight decay", "AE-NE"),
    "background learning rate": ("a tenth for the last 20 % of the steps", "AE-NE"),
    "background code": ("16 numbers", "AE-NE"),
    "background loss": ("smooth L1, beta 3/255; weight exp(-6 m), m from tanh(error / 0.25)", "AE-NE"),
    "objects optimiser": ("Adam, made anew at phase 3", f"{TABLE_1}; {REFERENCE}"),
    "objects warm-up": ("learning rate * (step / warmup) ** 2", REFERENCE),
    "entropy warm-up": ("weight * min(1, step / ramp) ** 2, a step behind the learning rate", REFERENCE),
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
