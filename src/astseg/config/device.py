"""The device that a command runs on, and the precision in which that device is fast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from astseg.config import Config
from astseg.errors import UserError

__all__ = [
    "choose_device",
    "default_device",
    "has_fast_bfloat16",
    "resolved",
    "resolved_precision",
    "uses_bfloat16",
]


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU; Apple's devices, on which nothing is tested, only by their name."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """A device by its name; None: :func:`default_device`.

    Raises:
        UserError: A device that is not there.
    """
    if device is None:
        return default_device()
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{device}' cannot be used ({reason}): choose another, such as cpu") from None
    return chosen


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has its own units for products in bfloat16.

    Of CPUs, those with AMX and AMD's with AVX512-BF16 do. All others are slower in bfloat16 than in float32, most of
    them by far (docs/results.md).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    by_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")  # Intel's multiply float32 as quickly without AMX
    return bool(capabilities.get("amx_bf16") or (by_amd and capabilities.get("avx512_bf16")))


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a setting means bfloat16 on a device; precision: ``float32``, ``bfloat16`` or ``auto``."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))


def resolved_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``, for these or ``auto``."""
    return "bfloat16" if uses_bfloat16(precision, device) else "float32"


def resolved(config: Config, device: torch.device, before: Config | None = None) -> Config:
    """Settings without ``auto`` for a precision: that of a run that has begun, else what the device is fast in."""
    for part in ("background", "objects"):
        precision = getattr(config, part).precision
        if precision == "auto" and before is not None:
            precision = getattr(before, part).precision
        precision = resolved_precision(precision, device)
        config = replace(config, **{part: replace(getattr(config, part), precision=precision)})
    return config
