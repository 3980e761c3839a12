"""Runs while they train, and after: curves, the latest panel, health in words; stop and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from astseg.diagnostics.health import early_warning
from astseg.diagnostics.report.material import charts_of, read_log
from astseg.errors import UserError
from astseg.runs.folder import RunFolder
from astseg.runs.lock import holder
from astseg.serve.limits import Refused

__all__ = ["RunSummary", "RunView", "WatchedRuns"]


class RunSummary(BaseModel):
    """A run in a line."""

    name: str
    training: bool = Field(description="whether a process of this machine trains it")
    finished: bool = Field(description="whether it is trained to its end")
    phase: str | None = Field(description="of its last line in the log")
    step: int
    message: str = Field(description="why a training that was begun here ended badly, a line")


class Curve(BaseModel):
    """A chart; its colours come from the page."""

    title: str
    svg: str


class RunView(RunSummary):
    """A run with everything that is shown of it."""

    health: list[str]
    curves: list[Curve]
    panel: str | None


class _Begun:
    """A training that was begun here."""

    def __init__(self, words: list[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        null = subprocess.DEVNULL
        command = [sys.executable, "-m", "astseg", *words]
        self._process = subprocess.Popen(command, stdin=null, stdout=null, stderr=self._errors, start_new_session=True)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def message(self) -> str:
        if self._process.poll() in (None, 0, 130):  # 130: it was stopped
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return lines[-1] if lines else f"it ended with code {self._process.returncode}"


class WatchedRuns:
    """Run folders by name; no other folder is ever read."""

    def __init__(
        self,
        run: Path | None = None,
        *,
        below: Path | None = None,
        command: Callable[[RunFolder], list[str]] | None = None,
    ) -> None:
        """Choose what is shown.

        Args:
            run: A run folder, or None.
            below: A folder; all run folders directly in it are shown, those that come later too. None: no others.
            command: The words that go on with a training; None: it cannot be done from here.

        Raises:
            UserError: ``below`` is no folder.
        """
        if below is not None and not below.is_dir():
            raise UserError(f"'{below}' is not there or no folder, expected one that holds run folders")
        self._run_folder, self._below, self._command = run, below, command
        self._begun: dict[str, _Begun] = {}
        self._beginning = threading.Lock()

    def list(self) -> list[RunSummary]:
        """All runs, by name."""
        return [self._summary(name, RunFolder(folder)) for name, folder in sorted(self._all().items())]

    def view(self, name: str) -> RunView:
        """Everything about a run.

        Raises:
            Refused: There is no such run (404).
        """
        run = self._run(name)
        entries = read_log(run)
        panel = run.panels / "latest.png"
        return RunView(
            **self._summary(name, run, entries).model_dump(),
            health=_health(run, entries),
            curves=[Curve(title=title, svg=svg) for title, svg in charts_of(entries)],
            panel=str(panel.stat().st_mtime_ns) if panel.is_file() else None,
        )

    def panel(self, name: str) -> Path:
        """The file of the latest panel.

        Raises:
            Refused: There is no such run, or no panel yet (404).
        """
        panel = self._run(name).panels / "latest.png"
        if not panel.is_file() or not panel.resolve().is_relative_to(panel.parent.parent.resolve()):
            raise Refused(404, f"the run '{name}' has drawn nothing yet")
        return panel

    def stop(self, name: str) -> RunSummary:
        """Ask the process that trains a run to stop as Ctrl-C does.

        Raises:
            Refused: There is no such run (404), or no process of this machine trains it (409).
        """
        run = self._run(name)
        process = holder(run.path)
        if process is None:
            raise Refused(409, f"no process of this machine trains '{name}'")
        os.kill(process, signal.SIGTERM)
        return self._summary(name, run)

    def go_on(self, name: str) -> RunSummary:
        """Go on with a training in a process of its own, which outlives the server.

        Raises:
            Refused: There is no such run (404), it is being trained, or it cannot go on (409).
        """
        run = self._run(name)
        with self._beginning:  # of two who ask at once, one begins
            if self._is_training(name, run):
                raise Refused(409, f"'{name}' is being trained already")
            try:
                words = [] if self._command is None else self._command(run)
            except UserError as error:
                raise Refused(409, str(error)) from None
            if not words:
                raise Refused(409, "this server begins no trainings")
            self._begun[name] = _Begun(words)
        return self._summary(name, run)

    def _is_training(self, name: str, run: RunFolder) -> bool:
        begun = self._begun.get(name)
        return holder(run.path) is not None or (begun is not None and begun.is_running)

    def _summary(self, name: str, run: RunFolder, entries: Sequence[Mapping[str, Any]] | None = None) -> RunSummary:
        entries = read_log(run) if entries is None else entries
        steps = [one for one in entries if "picture" not in one]
        last = steps[-1] if steps else {}
        begun = self._begun.get(name)
        return RunSummary(
            name=name,
            training=self._is_training(name, run),
            finished=_is_finished(run),
            phase=last.get("phase"),
            step=int(last.get("step", 0)),
            message=begun.message if begun is not None else "",
        )

    def _run(self, name: str) -> RunFolder:
        folder = self._all().get(name)
        if folder is None:
            raise Refused(404, f"there is no run '{name}'")
        return RunFolder(folder)

    def _all(self) -> dict[str, Path]:
        found = [] if self._below is None else [*filter(_is_run, self._below.iterdir())]
        if self._run_folder is not None:
            found.append(self._run_folder)
        return {one.resolve().name: one for one in found}


def _is_run(folder: Path) -> bool:
    """Whether a run lies in a folder, which is no link to elsewhere."""
    return (folder / "config.json").is_file() and not folder.is_symlink()


def _is_finished(run: RunFolder) -> bool:
    """Whether a run is trained to its end; a state that is being written just now says nothing."""
    try:
        state = json.loads((run.path / "training_state" / "state.json").read_text())
        return bool(state["phase"] == "done")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _health(run: RunFolder, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What ``astseg health`` said of a run, or what its log says while it learns."""
    try:
        findings = json.loads((run.path / "health.json").read_text())["findings"]
        return [str(one) for one in findings]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    phase = entries[-1]["phase"] if entries else ""
    warning = early_warning(phase, [one for one in entries if "picture" in one and one["phase"] == phase])
    return [] if warning is None else [warning]
