"""What commands show on a terminal while they work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(console: Console, title: str, total: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, nothing elsewhere; gives a function of the number done and the total."""
    if not console.is_terminal:  # where a bar that is off leaves an empty line, before rich 14.3
        yield lambda done, of: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)
