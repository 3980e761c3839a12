"""What the machine is, as far as it matters here: where to run, and in which precision it is quick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from astseg.config import Config

__all__ = ["default_device", "uses_bfloat16", "has_fast_bfloat16", "resolved", "resolved_precision"]


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has units of its own for products in bfloat16.

    Of CPUs those with AMX have, and AMD's with AVX512-BF16. All others are slower in bfloat16 than in float32, most of
    them by far, because what they lack is done with detours (docs/results.md).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    by_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")  # Intel's multiply float32 as quickly without AMX
    return bool(capabilities.get("amx_bf16") or (by_amd and capabilities.get("avx512_bf16")))


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a setting means bfloat16 on a device; precision: ``float32``, ``bfloat16`` or ``auto``."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))


def resolved_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``, for these or ``auto``."""
    return "bfloat16" if uses_bfloat16(precision, device) else "float32"


def resolved(config: Config, device: torch.device, before: Config | None = None) -> Config:
    """Settings without ``auto`` for a precision: that of a run that has begun, or else what the device is quick in."""
    for part in ("background", "objects"):
        precision = getattr(config, part).precision
        if precision == "auto" and before is not None:
            precision = getattr(before, part).precision
        precision = resolved_precision(precision, device)
        config = replace(config, **{part: replace(getattr(config, part), precision=precision)})
    return config
