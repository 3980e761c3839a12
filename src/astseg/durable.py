"""Files that outlive a power cut: written beside their place, on the disk before they are renamed, checked when read.

A rename is whole at any time for other programs. For a machine that stops it is so only if the bytes of the file were
on the disk before its new name was, and the name itself is there once the folder is.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from astseg.types import UserError

__all__ = ["BrokenFileError", "cannot_write", "load_tensors", "save_tensors", "sync", "write_durably", "write_json"]

DIGEST = "sha256"
"""Name under which the header of a file of tensors holds the digest of what follows it."""


class BrokenFileError(Exception):
    """A file that is truncated, changed or of another kind; the text says what is wrong, without the file's name."""


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, over power cuts too; its folder is made.

    Raises:
        UserError: It cannot be written there; what lay there before is untouched.
    """
    part = path.with_name(path.name + ".part")
    made = [folder for folder in path.parents if not folder.exists()]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            sync(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        for folder in made:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    """The line for a file or folder that cannot be written."""
    return UserError(f"'{path}' cannot be written ({error.strerror}): choose another folder or free space")


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before anything else happens. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, values: Any) -> None:
    """Write JSON, whole or not at all; the folder is made.

    Raises:
        UserError: The file cannot be written there.
    """
    write_durably(file, (json.dumps(values, indent=2) + "\n").encode())


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


def read(path: Path) -> bytes:
    """The bytes of a file. Raises FileNotFoundError, or BrokenFileError where they cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would be read for ever
            raise BrokenFileError("it is no file")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BrokenFileError(str(error.strerror)) from None


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
