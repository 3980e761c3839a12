"""``astseg check-data`` and ``astseg prepare``: describe a data set, and cache it in the form that trains fast.

No torch here.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.errors import one_line
from astseg.data import SceneSource, open_source, select
from astseg.data.cache import prepare
from astseg.data.check import Check, check_source
from astseg.data.loading import IN_MEMORY
from astseg.data.open import evenly_spaced
from astseg.data.sources.cached import CachedSource
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["cached_if_large", "check_data", "prepare_data"]

SHOWN = 24
"""Scenes on a contact sheet."""


def check_data(command: arguments.CheckData, console: Console) -> int:
    """``astseg check-data``; 2 where anything is wrong."""
    source = open_source(command.data, command.reading)
    with progress_bar(console, "check", None) as advance:
        check = check_source(source, slots=command.slots, progress=advance)
    if isinstance(source, CachedSource):
        check.problems += source.verify()
    console.print(described(check, str(command.data)))
    for problem in check.problems:
        console.print(f"wrong: {one_line(problem)}")
    if command.pictures and check.read:
        from astseg.data.formats.png import save_picture
        from astseg.diagnostics.contact_sheet import contact_sheet  # loads torch

        save_picture(contact_sheet(shown_scenes(source, check.count)), command.out)
        console.print(f"look at {command.out}")
    if not check.read and not check.problems:
        raise UserError(f"'{command.data}' holds no scenes: check the path")
    if check.problems:
        console.print(f"{len(check.problems)} wrong: replace or remove these files, and check again")
        return 2
    console.print(f"nothing wrong; next: astseg fit {quote(str(command.data))} --out RUN")
    return 0


def prepare_data(command: arguments.Prepare, console: Console) -> int:
    """``astseg prepare``."""
    resize = command.resize or "crop"
    cache = _prepared(console, command, command.out, command.size, resize, command.crop, command.processes)
    height, width = cache.size
    following = f"astseg train {quote(str(command.out))} --out RUN"
    console.print(f"{len(cache)} scenes of {height}x{width} in {command.out}; next: {following}")
    return 0


def cached_if_large(
    console: Console,
    command: arguments.TrainBackground,
    *,
    size: tuple[int, int],
    resize: str,
    crop: float | None,
    out: Path,
) -> Path | None:
    """A cache of what a training command names, where the scenes would fill the memory; None: they would not."""
    source = open_source(command.data, command.reading)
    if isinstance(source, CachedSource):
        return None
    count = len(select(source, command.split))
    if count * size[0] * size[1] * 4 <= IN_MEMORY:
        return None
    console.print(f"{count} scenes are many: preparing them in {out}, once")
    _prepared(console, command, out, size, resize, crop, processes=2)
    return out


def _prepared(
    console: Console,
    command: arguments.Prepare | arguments.TrainBackground,
    out: Path,
    size: tuple[int, int] | None,
    resize: str,
    crop: float | None,
    processes: int,
) -> CachedSource:
    """A cache of the scenes that a command names."""
    with progress_bar(console, "prepare", None) as advance:
        return prepare(
            command.data,
            out,
            size=size,
            selection=command.split,
            resize=resize,
            crop=crop,
            reading=command.reading,
            processes=processes,
            progress=advance,
        )


def described(check: Check, path: str) -> Table:
    """What a data set holds, as a table."""
    table = Table(title=path, show_header=False)
    table.add_row("format", check.name)
    table.add_row("scenes", f"{check.count}" + (f", {check.read} readable" if check.read < check.count else ""))
    sizes = ", ".join(f"{h}x{w} ({count})" for (h, w), count in check.sizes.most_common(6))
    table.add_row("sizes (height x width)", sizes + (", ..." if len(check.sizes) > 6 else ""))
    for split, (count, digest) in check.splits.items():
        table.add_row(f"split {split}", f"{count} scenes, hash {digest}")
    table.add_row("mean of R, G, B", "  ".join(f"{value:.3f}" for value in check.mean))
    table.add_row("standard deviation of R, G, B", "  ".join(f"{value:.3f}" for value in check.std))
    if not check.has_labels:
        table.add_row("masks", "none")
        return table
    objects = "  ".join(f"{count}: {scenes}" for count, scenes in sorted(check.objects.items()))
    table.add_row("scenes by number of objects", objects)
    limit = "" if check.slots is None else f" of {check.slots} slots"
    table.add_row("highest label", f"{check.highest_label}{limit}")
    table.add_row("pixels of objects", f"{100 * check.foreground:.1f} %")
    return table


def shown_scenes(source: SceneSource, count: int) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """Some readable scenes, evenly spread."""
    shown = []
    for index in evenly_spaced(SHOWN, count):
        try:
            shown.append((source.scene_name(index), *source.read(index)))
        except UserError:
            continue
    return shown
