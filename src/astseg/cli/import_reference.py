"""``astseg import-reference``: weights of the authors' program as a run folder."""

from __future__ import annotations

from shlex import quote

from rich.console import Console

from astseg.cli import arguments
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.reference_weights import import_reference

__all__ = ["import_weights"]


def import_weights(command: arguments.ImportReference, console: Console) -> int:
    """``astseg import-reference``."""
    usual = arguments.usual_settings(command.preset, command.config)
    config = import_reference(command.file, command.out, usual, preset=command.preset, background=command.background)
    notice = licence_notice(config.model.backbone_weights)
    if notice:
        console.print(notice)
    differing = arguments.spelled_settings(config, usual)
    note = f"; other than in preset {command.preset}, by the shapes in the file: {' '.join(differing)}"
    console.print(f"{command.out} holds the weights of {command.file}{note if differing else ''}")
    console.print(f"next: astseg evaluate {quote(str(command.out))} DATA")
    return 0
