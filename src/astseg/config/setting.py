"""One setting in one place: its default, what it means, where the default is from, and which values it takes.

The docstring of a part of the configuration (which is also the help of the command line), its checks and the sheet of
``astseg presets NAME`` are all derived from the :func:`setting` of each field.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from astseg.errors import UserError

__all__ = ["Setting", "Settings", "check", "nearest", "setting"]

TABLE_1 = "supplement, Table 1"
REFERENCE = "reference implementation"
AE_NE = "AE-NE"
OFF = "ours; off in the paper"
CHOSEN = "ours; chosen on training images of four data sets"


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name that looks most like the given one, as the end of an error message."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(valid)}"


def check(condition: bool, message: str) -> None:
    """Refuse a configuration.

    Raises:
        UserError: The condition does not hold.
    """
    if not condition:
        raise UserError(message)


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its name and type.

    Attributes:
        meaning: What it means, with its unit.
        source: Where the default is from.
        low: Smallest value; of a pair, of both numbers.
        high: Largest value.
        above: It is larger than this.
        below: It is smaller than this.
        choices: Valid names; none: any.
    """

    meaning: str
    source: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Refuse a value.

        Raises:
            UserError: It is none of the choices, not finite, or outside the range.
        """
        if self.choices:
            check(value in self.choices, f"{name} is '{value}': {nearest(str(value), self.choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                wrong = f"{name} is {value}, expected"
                check(math.isfinite(number), f"{wrong} a finite number")
                check(number >= self.low, f"{wrong} at least {self.low}")
                check(number <= self.high, f"{wrong} at most {self.high}")
                check(number > self.above, f"{wrong} more than {self.above}")
                check(number < self.below, f"{wrong} less than {self.below}")


def setting(default: Any, meaning: str, *, source: str, **values: Any) -> Any:
    """The field of a setting; ``values``: which it takes, as in :class:`Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(meaning, source, **values)})


@dataclass(frozen=True)
class Settings:
    """A part of the configuration, whose fields are made by :func:`setting`; its name is ``part``."""

    def __init_subclass__(cls, *, part: str) -> None:
        """Name the part, and write the meanings into its docstring."""
        cls._part = part
        fields = {name: field for name, field in vars(cls).items() if isinstance(field, dataclasses.Field)}
        meanings = [f"    {name}: {field.metadata['setting'].meaning}" for name, field in fields.items()]
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *meanings])

    _part = ""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: A value outside its range.
        """
        for name, known in self.settings().items():
            known.check(f"{self._part}.{name}", getattr(self, name))

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """What is known of each setting, by name."""
        return {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
