"""``astseg scenes``: made-up scenes with their masks."""

from __future__ import annotations

from shlex import quote

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar

__all__ = ["make_scenes"]


def make_scenes(command: arguments.Scenes, console: Console) -> int:
    """``astseg scenes``."""
    from astseg.data.synthetic.generate import write_scenes

    with progress_bar(console, "scenes", command.count) as advance:
        write_scenes(
            command.out,
            command.family,
            count=command.count,
            size=command.size,
            seed=command.seed,
            processes=command.processes,
            progress=lambda done: advance(done, command.count),
        )
    following = f"astseg train {quote(str(command.out))} --out runs/first"
    console.print(f"{command.count} scenes in {command.out}; next: {following}")
    return 0
