"""The scenes that a command names, at the size of a model."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.data import cached_if_large
from astseg.config import Config
from astseg.data import load_scenes
from astseg.types import SceneArrays

__all__ = ["load"]


def load(
    console: Console,
    command: arguments.TrainBackground | arguments.Evaluate,
    config: Config,
    *,
    crop: Any,
    resize: str,
    few_labels: bool = False,
) -> SceneArrays:
    """The scenes at the size of the model, their labels checked against its slots.

    With few labels, pictures without a mask are left out, and more objects than slots are something to measure.
    """
    training = isinstance(command, arguments.TrainBackground)
    if isinstance(command, arguments.TrainBackground) and config.augment.copies == 1:
        size = config.model.image_size
        beside = command.out.with_name(command.out.name + "-cache")
        cache = cached_if_large(console, command, size=size, resize=resize, crop=crop, out=beside)
        if cache is not None:
            return load_scenes(cache, size=size, max_label=config.model.slots)
    with progress_bar(console, "read", None) as advance:
        return load_scenes(
            command.data,
            size=config.model.image_size,
            selection=command.split,
            crop=crop,
            resize=resize,
            reading=command.reading,
            augment=config.augment if training else None,
            seed=command.seed if isinstance(command, arguments.TrainBackground) else 0,
            max_label=None if few_labels else config.model.slots,
            skip_incomplete=few_labels,
            progress=advance,
        )
