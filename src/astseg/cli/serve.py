"""``astseg serve``: the page and the HTTP interface."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.settings import spelled_settings
from astseg.config.presets import preset
from astseg.errors import UserError
from astseg.runs.folder import RunFolder

__all__ = ["serve_run"]


def serve_run(command: arguments.Serve, console: Console) -> int:
    """``astseg serve``.

    Raises:
        UserError: The extra is not installed, or see :func:`astseg.serve.server.serve`.
    """
    try:
        from astseg.serve.server import serve
        from astseg.serve.watch import WatchedRuns
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'astseg[serve]'") from None
    runs = WatchedRuns(command.run, below=command.runs, command=going_on)
    serve(command.run, runs=runs, host=command.host, port=command.port, token=command.token, tell=console.print)
    return 0


def going_on(run: RunFolder) -> list[str]:
    """The words of the command that goes on with a run, without ``astseg``.

    Raises:
        UserError: It has no pictures to learn from any more, or is no run.
    """
    config, info = run.load_config()
    if info.data is None or not Path(info.data).exists():
        raise UserError(f"the pictures that '{run.path.name}' learns from are not at {info.data or 'a known place'}")
    words = ["train", info.data, "--out", str(run.path), "--seed", str(info.seed), "--split", info.split]
    words += ["--resize", info.resize, *([] if info.crop is None else ["--crop", str(info.crop)])]
    words += ["--stride", str(info.stride)]
    for name, value in (("--camera", info.camera), ("--frames", info.frames)):
        words += [] if value is None else [name, str(value)]
    return [*words, *spelled_settings(config, preset(arguments.DEFAULT_PRESET))]
