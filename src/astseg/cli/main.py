"""The command line. Arguments are parsed first; torch is loaded only after that, by the commands that need it.

Exit codes: 0 done, 2 a mistake of the user, reported in one line, 3 done but some files could not be read, 130 stopped.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from astseg.cli.arguments import COMMANDS, parse
from astseg.cli.errors import one_line, unforeseen
from astseg.errors import UserError

__all__ = ["main", "run"]

GOES_ON = ("demo", "fit", "prepare", "train", "train-background")
"""Commands that, stopped and given again, go on where they were."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # The threads that processes talk by outlive the command. Torn down with the interpreter, they now and then
        # abort a process that has done its work, and torchrun takes that for a failed run.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    try:
        return execute(parse(words), COMMANDS[words[0]][1])
    except UserError as error:
        print(f"astseg: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        after = "; the same command again goes on from here" if words[0] in GOES_ON else ""
        print(f"astseg: stopped{after}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        line = unforeseen(error)
        if line is None:
            raise
        print(f"astseg: {one_line(line)}", file=sys.stderr)
        return 2


def execute(command: Any, action: str) -> int:
    """Import the function that runs a command, and with it torch where it needs it, and call it."""
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    code: int = pkgutil.resolve_name(action)(command, console)
    return code
