"""Files of tensors (safetensors): no pickle, so nothing that a stranger hands over is run as code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from astseg.runs.atomic import BrokenFileError, read, write_durably

__all__ = ["load_tensors", "save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file, whole or not at all; returns its SHA-256.

    Args:
        path: Where to.
        tensors: By name.
        metadata: What its header says besides.

    Raises:
        UserError: The file cannot be written there.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(plain, None if metadata is None else dict(metadata))
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError: No such file.
        BrokenFileError: It cannot be read, or is no safetensors file.
    """
    try:
        return load(read(path))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(" ".join(str(error).split())[:200]) from None
