"""Files of tensors (safetensors): no pickle, so nothing that a stranger hands over is run as code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from astseg.runs.atomic import BrokenFileError, read, write_durably

__all__ = ["load_tensors", "save_tensors"]


CHECKSUM = "tensors_sha256"
"""Where the header of a file holds the checksum of its tensors; files of other programs have none."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, checksum: bool = False
) -> str:
    """Write a safetensors file, whole or not at all; returns its SHA-256.

    Args:
        path: Where to.
        tensors: By name.
        metadata: What its header says besides.
        checksum: Whether the header holds a checksum of the tensors, where no manifest has one of the file.

    Raises:
        UserError: The file cannot be written there.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {**(metadata or {}), **({CHECKSUM: _checksum(plain)} if checksum else {})}
    content = save(plain, header or None)
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError: No such file.
        BrokenFileError: It cannot be read, is no safetensors file, or holds other tensors than were written.
    """
    content = read(path)
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        expected = header.get("__metadata__", {}).get(CHECKSUM)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(" ".join(str(error).split())[:200]) from None
    if expected is not None and expected != _checksum(tensors):
        raise BrokenFileError("truncated or changed after it was written")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
