"""Run folders of format 1, read as those of format 2: settings, phases and weights had other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["FORMAT", "migrated", "migrated_phase", "migrated_weights"]

FORMAT = 2
"""Version of the run folder. Folders of this and of every lower one are read."""

T = TypeVar("T")

SETTINGS = {
    "model.look": "model.glimpse_crop",
    "model.faint": "objects.pruning_margin",
    "model.colour_noise": "inference.colour_std",
    "model.proposals": "inference.proposals",
    "background.share": "background.time_fraction",
    "objects.guided_steps": "objects.pseudo_label_steps",
    "objects.guidance": "objects.pseudo_label_weight",
    "objects.guidance_steps": "objects.pseudo_label_decay",
    "objects.mix": "objects.copy_paste",
}

VALUES = {"model.background_form": {"template": "fixed", "palette": "varying"}}

PHASES = {"guided": "pseudo_labels"}

WEIGHTS = {"encoder.look.": "encoder.glimpse_encoder."}

PARTS = ("model", "background", "objects", "augment")


def migrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of any format up to this one, as one of this format.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: It is no such file.
    """
    version = values.get("format", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"format is {version!r}, expected a whole number from 1")
    if version >= FORMAT:
        return dict(values)
    parts: dict[str, dict[str, Any]] = {"inference": {}}
    for part in PARTS:
        for name, value in values.get(part, {}).items():
            old = f"{part}.{name}"
            new_part, new_name = SETTINGS.get(old, old).split(".")
            known = VALUES.get(old, {})
            parts.setdefault(new_part, {})[new_name] = known.get(value, value) if isinstance(value, str) else value
    about = {name: value for name, value in values.items() if name not in (*PARTS, "format")}
    info = {
        "preset": about.get("preset", "small"),
        "seed": about.get("seed", 0),
        "data": about.get("data"),
        "split": about.get("split", "all"),
        "resize": about.get("fit", "crop"),
        "crop": about.get("crop"),
        "images": about.get("images", 0),
        "fingerprint": about.get("fingerprint", ""),
        "imported": about.get("imported"),
        "versions": {"astseg": about["astseg"]} if "astseg" in about else {},
    }
    return {"format": FORMAT, "run": info, **parts}


def migrated_phase(phase: str) -> str:
    """The name that a phase has now."""
    return PHASES.get(phase, phase)


def migrated_weights(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors of a model by the names that they have now."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in WEIGHTS.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        renamed[name] = tensor
    return renamed
