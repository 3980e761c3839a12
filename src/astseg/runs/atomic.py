"""Files that outlive a power cut: written beside their place, on the disk before they are renamed, checked when read.

A rename is whole at any time for other programs. For a machine that stops it is so only if the bytes of the file were
on the disk before its new name was, and the name itself is there once the folder is.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from astseg.errors import UserError

__all__ = ["BrokenFileError", "cannot_write", "read", "sync", "write_durably", "write_json", "write_whole"]


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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place and renamed, so that what lies there is whole; its folder is made.

    Raises:
        UserError: The file cannot be written there.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): choose another folder or free space"
        ) from error


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
