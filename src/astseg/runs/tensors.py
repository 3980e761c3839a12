"""Files of tensors (safetensors), with a SHA-256 that is checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from astseg.runs.atomic import BrokenFileError, read, write_durably


__all__ = ["header", "load_tensors", "save_tensors"]

DIGEST = "sha256"
"""Name under which the header of a file of tensors holds the digest of what follows it."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file.

    Args:
        path: Where to.
        tensors: By name.
        about: What its header says, beside the SHA-256 of its tensors. None: nothing, where a manifest has it.

    Returns:
        SHA-256 of the whole file.

    Raises:
        UserError: The file cannot be written there.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(plain)
    if about is not None:
        content = save(plain, {**about, DIGEST: _digest(content)})
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, *, expected: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: The file.
        expected: SHA-256 of the whole file, where a manifest says it. Without it, the digest in the header is held
            against the tensors; files of other programs have none.

    Raises:
        FileNotFoundError: No such file.
        BrokenFileError: It cannot be read, is no safetensors file, or is not what was written.
    """
    content = read(path)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise BrokenFileError("its SHA-256 is not that of the manifest: it was cut off or changed after it was written")
    try:
        tensors = load(content)
        digest = _split(content)[0].get("__metadata__", {}).get(DIGEST)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(" ".join(str(error).split())[:200]) from None
    if expected is None and digest is not None and digest != _digest(content):
        raise BrokenFileError("its SHA-256 is not that of its header: it was changed after it was written")
    return tensors


def header(file: Path) -> dict[str, str]:
    """What the header of a safetensors file says besides its tensors.

    Raises:
        FileNotFoundError: No such file.
        BrokenFileError: It is no safetensors file.
    """
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, IsADirectoryError, PermissionError) as error:
        raise BrokenFileError(str(error)) from None


def _digest(content: bytes) -> str:
    """SHA-256 of the names, types, shapes and bytes of a safetensors file's tensors."""
    tensors, payload = _split(content)
    tensors.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode())
    digest.update(payload)
    return digest.hexdigest()


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload: eight bytes say how long the header is, JSON follows, then the bytes of the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), memoryview(content)[end:]
