"""Mistakes told in one line each, whatever text they come with."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import TypeVar

from astseg.errors import UserError

__all__ = ["one_line", "parsed", "unforeseen"]

T = TypeVar("T")

LONGEST = 1000
"""Characters of a line that somebody still reads."""

TOO_LARGE = ("out of memory", "can't allocate memory", "size calculation overflowed", "overflow when unpacking long")
"""What torch says, in small letters, where there is no memory, or none could be as large."""

WIDE = "4000"
"""Columns of a box that wraps no line of the parser's."""


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


def parsed(parse: Callable[[Sequence[str]], T], arguments: Sequence[str]) -> T:
    """What a parser makes of arguments; the box that it draws around a complaint becomes one line.

    Raises:
        UserError: The parser complained.
        SystemExit: It was asked for help.
    """
    columns = os.environ.get("COLUMNS")
    told = io.StringIO()
    helps = any(argument in ("-h", "--help") for argument in arguments)
    if not helps:
        os.environ["COLUMNS"] = WIDE
    try:
        with redirect_stderr(told):
            return parse(arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_unboxed(told.getvalue())) from None
    finally:
        if columns is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = columns


def _unboxed(box: str) -> str:
    """The sections of a box, one after the other."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        inside = line.strip("│┃| ").strip()
        if inside.startswith(("╭", "╰")):
            continue
        if inside and not inside.strip("─"):
            sections.append([])
        elif inside:
            sections[-1].append(inside)
    told = "; ".join(" ".join(section).rstrip(".") for section in sections if section)
    return re.sub(r"For full helptext, \w+:? ", "help: ", told)


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
