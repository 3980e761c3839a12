"""A command line from dataclasses, by :mod:`argparse`: each field is an option. No torch here.

Options that are not given leave no trace in what argparse returns, so that what was given is known. The fields of a
nested dataclass are dotted options, such as ``--model.slots``.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

from astseg.errors import UserError

__all__ = ["Parser", "option", "positional", "required"]

RENAMED = {"--fit": "--resize", "--colour-noise": "--colour-std"}
"""Options by their old names, which scripts may still have."""

EXPECTED = {int: "a whole number", float: "a number", bool: "True or False"}


def option(default: Any, text: str) -> Any:
    """A field that is an option, with its help."""
    return dataclasses.field(default=default, metadata={"help": text})


def required(text: str) -> Any:
    """A field that is an option and must be given, with its help."""
    return dataclasses.field(metadata={"help": text})


def positional(text: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field that is given by its place, with its help."""
    return dataclasses.field(default=default, metadata={"help": text, "positional": True})


class Parser(argparse.ArgumentParser):
    """Options from the fields of a dataclass; mistakes raise :class:`UserError`."""

    def __init__(self, kind: type, *, prog: str, nested: Any = None) -> None:
        """Read the fields: those made here, and those of the settings, with their meanings.

        Args:
            kind: A dataclass.
            prog: The words before the arguments.
            nested: What the help shows as the values of its nested dataclass.
        """
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=_cleaned(kind), formatter_class=formatter, allow_abbrev=False)
        usage = [prog, "[options]"]
        self.names = {"--", "--help"}
        for field, hint in _fields(kind):
            if "positional" in field.metadata:
                usage.append(self._add_positional(field, hint))
            elif "help" in field.metadata:
                self._add_option(self, field.name, hint, field.default, field.metadata["help"])
            elif dataclasses.is_dataclass(hint):
                for part, part_hint in _fields(hint):
                    group = self.add_argument_group(part.name, _cleaned(part_hint).partition("\n")[0])
                    for one, one_hint in _fields(part_hint):
                        default = getattr(getattr(nested, part.name), one.name)
                        text = _plain(one.metadata["setting"].meaning)
                        self._add_option(group, f"{part.name}.{one.name}", one_hint, default, text)
        self.usage = " ".join(usage)

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """What words give, by the names of the fields; defaults are left out.

        Raises:
            UserError: A mistake in them.
            SystemExit: A request for help, which has been printed.
        """
        words = _spelled(words)
        for word in words[: words.index("--") if "--" in words else None]:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self.names:
                close = difflib.get_close_matches(name, self.names, n=1)
                hint = f": did you mean {close[0]}?" if close else ""
                self.error(f"{name} is now {RENAMED[name]}" if name in RENAMED else f"unknown option {name}{hint}")
        given = vars(self.parse_intermixed_args(words))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(f"{message} (help: {self.prog} --help)")

    def _add_positional(self, field: dataclasses.Field[Any], hint: Any) -> str:
        """Add a positional; what stands for it in the line of usage."""
        how = _reading(hint)
        how["metavar"] = field.name.upper().removesuffix("S")
        is_optional = field.default is not dataclasses.MISSING
        if is_optional:
            how |= {"nargs": "?", "default": field.default}
        elif "nargs" in how:
            how["nargs"] = "+"
        self.add_argument(field.name, help=field.metadata["help"], **how)
        return f"[{how['metavar']}]" if is_optional else how["metavar"] + " ..." * ("nargs" in how)

    def _add_option(self, group: Any, name: str, hint: Any, default: Any, text: str) -> None:
        """Add an option."""
        text = text.replace("%", "%%")
        is_required = default is dataclasses.MISSING
        if not is_required and default is not None:
            text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        part, dot, last = name.replace("_", "-").rpartition(".")
        how = _reading(hint)
        flags = [f"--{part}{dot}{last}", *([f"--{part}{dot}no-{last}"] if how.get("action") is Switch else [])]
        self.names.update(flags)
        group.add_argument(*flags, dest=name, default=argparse.SUPPRESS, required=is_required, help=text, **how)


class Switch(argparse.Action):
    """An option without a value, and a second name that turns it off: ``--part.name`` and ``--part.no-name``."""

    def __init__(self, **settings: Any) -> None:
        """Take no value."""
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store which of the two names was given."""
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def _fields(kind: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass, with their types."""
    hints = typing.get_type_hints(kind)
    return ((field, hints[field.name]) for field in dataclasses.fields(kind))


def _cleaned(kind: Any) -> str:
    """The docstring of a class without its markup."""
    return _plain(inspect.cleandoc(kind.__doc__ or ""))


def _plain(text: str) -> str:
    """A text of a docstring without its markup."""
    return re.sub(r":\w+:(?=`)|`+", "", text)


def _spelled(words: Sequence[str]) -> list[str]:
    """The words with hyphens in option names, and slices such as ``-50:``, which look like options, tied to theirs."""
    spelled: list[str] = []
    end = list(words).index("--") if "--" in words else len(words)
    for word in words[:end]:
        if re.match(r"-\d*:", word) and spelled and spelled[-1].startswith("--"):
            spelled[-1] += f"={word}"
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            spelled.append(name.replace("_", "-") + equals + value)
        else:
            spelled.append(word)
    return [*spelled, *words[end:]]


def _reading(hint: Any, *, or_none: bool = False) -> dict[str, Any]:
    """How argparse reads a value of a type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _reading(parts[0], or_none=True)
    if origin is Literal:
        return {"choices": parts}
    if origin is tuple:
        return {**_reading(parts[0]), "nargs": "*" if parts[-1] is ... else len(parts)}
    if hint is bool and not or_none:
        return {"action": Switch}

    def read(text: str) -> Any:
        if or_none and text == "None":
            return None
        try:
            return {"True": True, "False": False}[text] if hint is bool else hint(text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"got '{text}', expected {EXPECTED[hint]}") from None

    return {"type": read, "metavar": hint.__name__.upper()}
