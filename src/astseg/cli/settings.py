"""The settings of a training command: a preset, a file laid over it, options laid over both. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astseg.config import Config, override, to_dict
from astseg.config.presets import preset
from astseg.errors import UserError

__all__ = ["chosen_settings", "read_settings", "spelled_settings", "usual_settings"]


def usual_settings(name: str, file: Path | None) -> Config:
    """The settings of a preset with those of a file laid over it: what options are laid over in turn.

    Raises:
        UserError: An unknown preset, or a file that is missing, broken or wrong.
    """
    return chosen_settings(name, file, {})[0]


def chosen_settings(name: str, file: Path | None, options: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """The settings of a preset, a file and options, each laid over those before.

    Args:
        name: The preset.
        file: YAML or JSON.
        options: Values by dotted names such as ``model.slots``.

    Returns:
        The settings, and the sorted dotted names of those that the file or an option gives.

    Raises:
        UserError: An unknown preset, a file that is missing, broken or wrong, or a value outside its range.
    """
    settings = preset(name)
    from_file = {} if file is None else read_settings(file)
    settings = override(settings, from_file)
    nested: dict[str, dict[str, Any]] = {}
    for dotted, value in options.items():
        part, _, setting = dotted.partition(".")
        nested.setdefault(part, {})[setting] = value
    given = {f"{part}.{setting}" for part, values in from_file.items() for setting in values}
    return override(settings, nested), tuple(sorted(given | set(options)))


def spelled_settings(settings: Config, usual: Config) -> list[str]:
    """The options that lead from one configuration to another."""
    words = []
    before = to_dict(usual)
    for part, values in to_dict(settings).items():
        for name, value in values.items():
            if value == before[part][name]:
                continue
            option = f"{part}.{name}".replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--{part}.no-{name}".replace("_", "-"))
            else:
                words += [f"--{option}", *(str(one) for one in (value if isinstance(value, list) else [value]))]
    return words


def read_settings(file: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file.

    Raises:
        UserError: Missing, unreadable or not a table of names and values.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe or a device would be read for ever
            raise OSError(0, "it is no file")
        text = file.read_text()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}): give a YAML or JSON file") from None
    except UnicodeDecodeError:
        raise UserError(f"'{file}' is no text: give a YAML or JSON file") from None
    import yaml

    try:
        values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"'{file}' is broken: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"'{file}' holds {type(values).__name__}, expected names and values such as model: {{slots: 7}}"
        )
    return values
