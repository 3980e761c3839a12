"""``astseg presets``: named settings with the source of every value. No torch here."""

from __future__ import annotations

from rich.console import Console

from astseg.cli import arguments
from astseg.config.provenance import preset_list, preset_sheet

__all__ = ["show_presets"]


def show_presets(command: arguments.Presets, console: Console) -> int:
    """``astseg presets``."""
    for line in preset_list() if command.name is None else preset_sheet(command.name):
        console.print(line)
    return 0
