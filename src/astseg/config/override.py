"""Configurations as plain nested values, for JSON, YAML and presets: there and back, names and types checked."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from astseg.config.schema import Config
from astseg.config.setting import nearest
from astseg.errors import UserError

__all__ = ["from_dict", "override", "to_dict"]

T = TypeVar("T")

EXPECTED = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values, for JSON and YAML; tuples become lists."""
    return {
        part: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        for part, values in dataclasses.asdict(config).items()
    }


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that :func:`to_dict` gave; what is missing has its default.

    Raises:
        UserError: Unknown names, values of another type or outside their range.
    """
    return override(Config(), values)


def override(config: T, values: Mapping[str, Any], *, path: str = "") -> T:
    """A copy of a configuration (or a part of one) with some values replaced.

    Args:
        config: The dataclass to start from.
        values: Nested names and values; only what differs.
        path: Dotted name of this part, for messages.

    Raises:
        UserError: Unknown names (the nearest valid one is named), values of another type or outside their range.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{path or 'the configuration'} is {reprlib.repr(values)}, expected names and values")
    hints = typing.get_type_hints(type(config))
    replaced: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in hints:
            raise UserError(f"'{full}' is not a setting: {nearest(str(name), hints)}")
        current = getattr(config, name)
        is_part = dataclasses.is_dataclass(current)
        replaced[name] = override(current, value, path=full) if is_part else _converted(value, hints[name], full)
    return dataclasses.replace(config, **replaced)  # type: ignore[type-var]


def _converted(value: Any, hint: Any, name: str) -> Any:
    """The value as the type of its field; JSON has no tuples, and YAML reads ``1e-4`` as text."""
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):  # a type or None
        return None if value is None else _converted(value, parts[0], name)
    if typing.get_origin(hint) is tuple:
        if type(value) is int and parts == (int, int):
            return (value, value)  # one number for both sides
        if isinstance(value, list | tuple) and len(value) == len(parts):
            return tuple(_converted(one, kind, name) for one, kind in zip(value, parts, strict=True))
    elif hint is float and not isinstance(value, bool):
        try:
            if math.isfinite(number := float(value)):
                return number
        except (TypeError, ValueError, OverflowError):
            pass
    elif type(value) is hint:
        return value
    expected = EXPECTED.get(hint, f"a list of {len(parts)} numbers")
    raise UserError(f"'{name}' is {reprlib.repr(value)}, expected {expected}")
