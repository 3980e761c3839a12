"""Files that are there whole or not at all: written to a temporary name, then renamed.

For other programs a rename is whole at any time. For a machine that loses power it is so only if the bytes of the file
were on the disk (fsync) before its new name was; ``durable`` writes see to that, and bring the folder to the disk too.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from astseg.errors import UserError

__all__ = [
    "BrokenFileError",
    "atomic_path",
    "cannot_write",
    "read",
    "sync",
    "write_durably",
    "write_json",
    "write_whole",
    "writing_errors",
]


class BrokenFileError(Exception):
    """A file that is truncated, changed or of another kind; the text says what is wrong, without the file's name."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end; after an exception nothing is left of it.

    Args:
        path: The file; its folder is made.
        durable: Whether it must outlive a power cut.

    Raises:
        UserError: It cannot be made there; what lay there before is untouched. Exceptions of the block stay as they
            are: see :func:`writing_errors`.
    """
    part = path.with_name(path.name + ".part")
    made = [folder for folder in path.parents if not folder.exists()]  # innermost first
    try:
        with writing_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with writing_errors(path):
            if durable:
                sync(part)
            os.replace(part, path)
            if durable:
                sync(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        for folder in made:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turns the OSErrors of the block, in which ``path`` is written, into UserErrors."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` write a file under the temporary name that it is given, then rename it; its folder is made.

    Raises:
        UserError: It cannot be written there; what lay there before is untouched.
    """
    with atomic_path(path) as part, writing_errors(path):
        write(part)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, over power cuts too; its folder is made.

    Raises:
        UserError: It cannot be written there; what lay there before is untouched.
    """
    with atomic_path(path, durable=True) as part, writing_errors(path):
        part.write_bytes(content)


def write_json(file: Path, values: Any) -> None:
    """Write JSON, whole or not at all; the folder is made.

    Raises:
        UserError: The file cannot be written there.
    """
    write_durably(file, (json.dumps(values, indent=2) + "\n").encode())


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that cannot be written."""
    reason = error.strerror or error
    return UserError(f"'{path}' cannot be written ({reason}): choose another folder or free space")


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before anything else happens. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
