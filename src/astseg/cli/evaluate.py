"""``astseg evaluate``: metrics of one run or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.errors import one_line
from astseg.config import InferenceConfig
from astseg.config.device import default_device
from astseg.data import SceneSource, load_scenes, open_source, select, source_hash
from astseg.data.resize import Preprocess
from astseg.data.sample import preprocess_for
from astseg.data.sources.cached import CachedSource
from astseg.data.sources.own_masks import CocoSource, MaskedFolderSource
from astseg.errors import UserError
from astseg.evaluation.comparison import (
    Measured,
    comparison_table,
    described,
    over_runs,
    published_name,
    summary,
    write_per_image,
)
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import load_pipeline
from astseg.runs.atomic import write_json, write_whole
from astseg.runs.distributed import World, init_world
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.types import SceneArrays

__all__ = ["evaluate_run", "metrics_table"]


def evaluate_run(command: arguments.Evaluate, console: Console) -> int:
    """``astseg evaluate``."""
    for file in (command.json, command.csv, command.table):
        if file is not None and file.is_dir():
            raise UserError(f"'{file}' is a folder, expected a file")
    for run in command.runs if command.proposals else ():
        if not RunFolder(run).load_config()[0].model.glimpse_crop:
            raise UserError(f"run '{run}' has no glimpse encoder, which proposals need: leave out --proposals")
    world = init_world()
    console.quiet = not world.is_main
    measured = [_measure(command, run, console, world) for run in command.runs]
    if not world.is_main:
        return 0
    _write(command, measured)
    mean, spread = over_runs(measured)
    runs = f", {len(measured)} runs" if len(measured) > 1 else ""
    console.print(metrics_table(mean, spread, title=f"{measured[0].result.count} scenes{runs}"))
    console.print(described(measured[0].circumstances))
    files = [command.json, command.csv, command.table]
    written = [command.runs[0] / "metrics.json", *(file for file in files if file is not None)]
    console.print(f"written: {', '.join(map(str, written))}; next: astseg report {quote(str(command.runs[0]))}")
    return 0


def metrics_table(mean: Mapping[str, float], spread: Mapping[str, float] | None = None, *, title: str) -> Table:
    """Metrics as a table, with their standard deviations where there are several runs."""
    if spread is not None and all(map(math.isnan, spread.values())):
        spread = None
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("mean", justify="right")
    if spread is not None:
        table.add_column("standard deviation", justify="right")
    for name, value in mean.items():
        table.add_row(name, f"{value:.4f}", *([] if spread is None else [f"{spread[name]:.4f}"]))
    return table


def _write(command: arguments.Evaluate, measured: list[Measured]) -> None:
    """Write the files of each run, and those that were asked for."""
    for one in measured:
        write_json(one.run / "metrics.json", summary([one]))
        write_per_image([one], one.run / "per_image.csv")
    if command.json is not None:
        write_json(command.json, summary(measured))
    if command.csv is not None:
        write_per_image(measured, command.csv)
    if command.table is not None:
        text = comparison_table(measured, command.published or published_name([one.preset for one in measured]))
        write_whole(command.table, lambda part: part.write_text(text, encoding="utf-8"))


def _measure(command: arguments.Evaluate, run: Path, console: Console, world: World) -> Measured:
    """The metrics of one run, with what they mean nothing without."""
    pipeline, config, info = load_pipeline(run, device=default_device(), precision=command.precision)
    pipeline.config = _inference(command, pipeline.config)
    source = open_source(command.data, command.reading)
    preprocess = _preprocess(command, source, config.model.image_size, info)
    scenes, indices = _scenes(command, source, preprocess, slots=config.model.slots, console=console)
    with progress_bar(console, f"evaluate {run}", len(scenes)) as advance:
        result = evaluate(
            pipeline,
            scenes,
            batch_size=command.batch_size,
            protocol=command.protocol,
            progress=advance,
            world=world,
        )
    circumstances = {
        "protocol": result.protocol,
        "colour_std": pipeline.config.colour_std,
        "proposals": pipeline.config.proposals,
        "precision": pipeline.precision,
        "data": str(command.data),
        "split": command.split,
        "split_hash": source_hash(source, indices),
        **dataclasses.asdict(command.reading),
        "count": result.count,
        "resize": preprocess.resize,
        "size": list(config.model.image_size),
        "crop": preprocess.crop,
        "seed": info.seed,
    }
    return Measured(run, result, circumstances, info.preset)


def _inference(command: arguments.Evaluate, config: InferenceConfig) -> InferenceConfig:
    """The settings of a run's inference, but for what the command gives."""
    asked: dict[str, Any] = {"colour_std": command.colour_std, "proposals": command.proposals}
    return dataclasses.replace(config, **{name: value for name, value in asked.items() if value is not None})


def _preprocess(command: arguments.Evaluate, source: SceneSource, size: tuple[int, int], info: RunInfo) -> Preprocess:
    """How the scenes come to the model's size: as they were prepared, else as the command says, else as in training."""
    trained = Preprocess.of_run(size, info, declared_crop=source.crop).instead(command.resize)
    crop = trained.crop if command.crop is None else command.crop
    return preprocess_for(source, size, resize=trained.resize, crop=crop)


def _scenes(
    command: arguments.Evaluate, source: SceneSource, preprocess: Preprocess, *, slots: int, console: Console
) -> tuple[SceneArrays, list[int]]:
    """The scenes at the size of the model, and their indices in the source.

    Where a person labelled some images of many, those without a mask are left out, and more objects than slots are
    something to measure; in other data, that is an error.
    """
    indices = select(source, command.split)
    is_annotated = isinstance(source, MaskedFolderSource | CocoSource)
    if is_annotated:
        indices = _complete(source, indices, console)
    with progress_bar(console, "read", None) as advance:
        scenes = load_scenes(
            command.data,
            size=preprocess.size,
            selection=command.split,
            crop=command.crop if isinstance(source, CachedSource) else preprocess.crop,  # it has been cropped already
            resize=preprocess.resize,
            reading=command.reading,
            max_label=None if is_annotated else slots,
            skip_incomplete=is_annotated,
            progress=advance,
        )
    if scenes.labels is None:
        console.print("these scenes have no masks: only metrics that need none are given")
    elif is_annotated:
        counts = np.array([np.count_nonzero(np.unique(labels)) for labels in np.asarray(scenes.labels)])
        if (counts > slots).any():
            console.print(f"{(counts > slots).sum()} of {len(counts)} images have more objects than {slots} slots")
        if (counts == 0).any():
            console.print(f"{(counts == 0).sum()} of {len(counts)} images have no object in their masks and count so")
    return scenes, indices


def _complete(source: SceneSource, indices: list[int], console: Console) -> list[int]:
    """The scenes that have both image and mask; how many others there are is printed.

    Raises:
        UserError: There is none.
    """
    problems = {index: problem for index in indices if (problem := source.problem(index)) is not None}
    first = next(iter(problems.values()), "")
    if len(problems) == len(indices):
        raise UserError(
            f"none of {len(indices)} images can be measured ({first}): put images and masks where docs/datasets.md says"
        )
    if problems:
        console.print(f"{len(problems)} of {len(indices)} are left out: {one_line(first)}, ...")
    return [index for index in indices if index not in problems]
