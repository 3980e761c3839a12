"""One run in a folder at a time: a second one would mix its states and its log with those of the first."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from astseg.errors import UserError
from astseg.runs.atomic import cannot_write

__all__ = ["LOCK_NAME", "FolderLock", "holder"]

LOCK_NAME = ".lock"

UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of file systems without locks: there a run goes on without one."""


def holder(folder: Path) -> int | None:
    """The number of the process of this machine that holds a folder; None where none does."""
    try:
        with (folder / LOCK_NAME).open("rb") as file:
            words = file.read(300).decode(errors="replace").split(" ")
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # free: what stands there is of a process that was killed
    except BlockingIOError:
        is_here = len(words) == 4 and words[0] == "process" and words[3] == socket.gethostname()
        return int(words[1]) if is_here and words[1].isdecimal() else None
    except OSError:
        pass
    return None


class FolderLock:
    """Holds a folder for this process. The system releases it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Nothing is held yet."""
        self.folder = folder
        self.descriptor = -1
        self.made = False

    def __enter__(self) -> FolderLock:
        """Take the folder, which is made where it does not exist.

        Raises:
            UserError: Another process holds it, or it cannot be written.
        """
        try:
            self.made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._acquired():
                pass
            os.truncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError as error:
            self._release()
            raise cannot_write(self.folder, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the folder, and remove it if it was made here and nothing came into it."""
        (self.folder / LOCK_NAME).unlink(missing_ok=True)
        self._release()
        if self.made and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _acquired(self) -> bool:
        """Try once; False if the file was removed by its former holder meanwhile."""
        file = self.folder / LOCK_NAME
        self._release()
        self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 200, 0).decode(errors="replace") or "another process"
            self._release()
            raise UserError(
                f"'{self.folder}' is being trained by {holder}: wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(file))
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
