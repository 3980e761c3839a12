"""The scenes that a command names, at the size of a model."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.data import cached_if_large
from astseg.config import Config
from astseg.data import load_scenes
from astseg.runs.distributed import SINGLE, World
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
    world: World = SINGLE,
    broken: list[str] | None = None,
) -> SceneArrays:
    """The scenes at the size of the model, their labels checked against its slots.

    Args:
        console: Where progress is shown.
        command: It names the scenes.
        config: The settings.
        crop: Part that is kept; None: what the source declares.
        resize: How images come to the size.
        few_labels: Images without a mask are left out, and more objects than slots are something to measure.
        world: The processes that train; the first one prepares the cache of a large data set for all.
        broken: Scenes that cannot be read are left out, and what is wrong with them is added here, and labels are not
            checked; None: they are refused.
    """
    training, size = isinstance(command, arguments.TrainBackground), config.model.image_size
    max_label = None if few_labels or broken is not None else config.model.slots
    if isinstance(command, arguments.TrainBackground) and config.augment.copies == 1:
        beside = command.out.with_name(command.out.name + "-cache")
        prepare = partial(cached_if_large, console, command, size=size, resize=resize, crop=crop, out=beside)
        cache = world.from_main(prepare)
        if cache is not None:
            return load_scenes(cache, size=size, max_label=max_label)
    with progress_bar(console, "read", None) as advance:
        return load_scenes(
            command.data,
            size=size,
            selection=command.split,
            crop=crop,
            resize=resize,
            reading=command.reading,
            augment=config.augment if training else None,
            seed=command.seed if isinstance(command, arguments.TrainBackground) else 0,
            max_label=max_label,
            skip_incomplete=few_labels,
            progress=advance,
            broken=broken,
        )
