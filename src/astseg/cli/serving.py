"""What ``astseg serve`` takes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from astseg.cli.parser import option, positional
from astseg.errors import UserError

__all__ = ["Serve"]


@dataclass(frozen=True)
class Serve:
    """A page in the browser, and HTTP: find objects in pictures, edit scenes, watch trainings. Extra: astseg[serve]."""

    run: Path | None = positional("Run folder of the model. Without it trainings are watched alone.", default=None)
    runs: Path | None = option(
        None, "A folder of run folders: their trainings can be watched, stopped and gone on with."
    )
    host: str = option("127.0.0.1", "Where to listen. Beyond this machine clients must show a token.")
    port: int = option(8765, "Where to listen; 0: any port that is free.")
    token: str | None = option(None, "What clients must show. Default: made up where it listens beyond this machine.")

    def __post_init__(self) -> None:
        """Raise UserError for a value outside its range, or nothing to serve."""
        if self.run is None and self.runs is None:
            raise UserError("nothing to serve: name a run folder, or give --runs with a folder of them")
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}, expected 0 to 65535")
        if self.token is not None and not (self.token.isascii() and self.token.isalnum() and len(self.token) >= 8):
            raise UserError("the token is not made of at least 8 letters and digits: choose another")
