"""Errors as one line each, whatever text they come with."""

from __future__ import annotations

import os

__all__ = ["one_line", "unforeseen"]

LONGEST = 1000
"""Characters of a line that somebody still reads."""

TOO_LARGE = ("out of memory", "can't allocate memory", "size calculation overflowed", "overflow when unpacking long")
"""What torch says, in small letters, where there is no memory, or none could be as large."""


def one_line(text: str) -> str:
    r"""A text as one line that any screen shows: what cannot be printed is escaped, and the middle of a page left out.

    >>> one_line("a\nb\x1b[31m é 図")
    'a\\nb\\x1b[31m é 図'
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def unforeseen(error: Exception) -> str | None:
    """The line for an error of the machine rather than of the program; None for any other.

    Args:
        error: What ended a command.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in TOO_LARGE):
        return "out of memory: take a smaller batch, smaller pictures or fewer slots, or a machine with more of it"
    if isinstance(error, OSError) and error.strerror:
        file = f"'{os.fspath(error.filename)!s}': " if error.filename is not None else ""
        return f"{file}{error.strerror}: check that it exists, that you may use it, and that the disk is not full"
    return None
