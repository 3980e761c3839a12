"""The command line. Arguments are parsed first; torch is loaded only after that, with :mod:`astseg.cli.commands`.

The commands on data sets do without it.

Exit codes: 0 done, 2 a mistake of the user, told in one line, 3 done but some files could not be read, 130 stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from astseg.cli.arguments import CheckData, Prepare, Presets, parse
from astseg.cli.errors import one_line, parsed, unforeseen
from astseg.config.provenance import preset_list, preset_sheet
from astseg.errors import UserError

__all__ = ["main", "run"]


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


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code."""
    try:
        command = parsed(parse, arguments)
        if isinstance(command, Presets):  # at once, without torch
            lines = preset_list() if command.name is None else preset_sheet(command.name)
            print("\n".join(lines))
            return 0
        if isinstance(command, CheckData | Prepare):
            from astseg.cli import data

            return data.run(command)
        from astseg.cli import commands  # loads torch

        return commands.run(command)
    except UserError as error:
        print(f"astseg: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("astseg: stopped; the same command again goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        line = unforeseen(error)
        if line is None:
            raise
        print(f"astseg: {one_line(line)}", file=sys.stderr)
        return 2
