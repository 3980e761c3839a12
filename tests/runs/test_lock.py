"""One run in a folder at a time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from astseg.errors import UserError
from astseg.runs.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from astseg.runs.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_one_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run"):
        with pytest.raises(
            UserError,
            match=rf"^'.*run' is being trained by process {os.getpid()} on .+: wait for it, stop it, or choose another",
        ):
            FolderLock(tmp_path / "run").__enter__()
        assert (tmp_path / "run" / ".lock").exists()
    with FolderLock(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())  # it made the folder, and nothing came into it


def test_a_folder_that_was_there_or_was_filled_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with FolderLock(tmp_path / "old"), FolderLock(tmp_path / "new"):
        (tmp_path / "new" / "config.json").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "config.json"}


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            FolderLock(tmp_path / "run").__enter__()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with FolderLock(tmp_path / "run"):
        assert f"process {os.getpid()}" in (tmp_path / "run" / ".lock").read_text()


def test_a_file_removed_by_its_former_holder_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, the holder may have let go and removed it."""
    opened, removed = os.open, []

    def open_and_remove(path: Any, *rest: Any, **options: Any) -> int:
        descriptor = opened(path, *rest, **options)
        if not removed:
            removed.append(path)
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    with FolderLock(tmp_path), pytest.raises(UserError, match="is being trained by process"):
        FolderLock(tmp_path).__enter__()
    assert removed


def test_a_folder_that_cannot_be_written(tmp_path: Path, read_only: Any) -> None:
    with read_only(tmp_path), pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        FolderLock(tmp_path / "run").__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \((File exists|Not a directory)\)"):
        FolderLock(tmp_path / "file" / "run").__enter__()
