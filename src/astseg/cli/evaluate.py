"""``astseg evaluate``: metrics of one run or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.few_labels import tell_few_labels, whole_scenes
from astseg.cli.loading import load
from astseg.config.device import default_device
from astseg.data import open_source, select, source_hash
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

__all__ = ["evaluate_run", "figures"]


def evaluate_run(command: arguments.Evaluate, console: Console) -> int:
    """``astseg evaluate``."""
    for file in (command.json, command.csv, command.table):
        if file is not None and file.is_dir():
            raise UserError(f"'{file}' is a folder, expected a file")
    for run in command.runs if command.proposals else ():
        if not RunFolder(run).load_config()[0].model.glimpse_crop:
            raise UserError(f"run '{run}' has no second look, which proposals need: leave out --proposals")
    world = init_world()
    console.quiet = not world.is_main
    measured = [measure(command, run, console, world) for run in command.runs]
    if not world.is_main:
        return 0
    for one in measured:
        write_json(one.run / "metrics.json", summary([one]))
        write_per_image([one], one.run / "per_image.csv")
    if command.json is not None:
        write_json(command.json, summary(measured))
    if command.csv is not None:
        write_per_image(measured, command.csv)
    if command.table is not None:
        published = command.published or published_name([one.preset for one in measured])
        text = comparison_table(measured, published)
        write_whole(command.table, lambda part: part.write_text(text, encoding="utf-8"))
    mean, deviation = over_runs(measured)
    runs = f", {len(measured)} runs" if len(measured) > 1 else ""
    console.print(figures(mean, deviation, title=f"{measured[0].result.count} scenes{runs}"))
    console.print(described(measured[0].circumstances))
    return 0


def measure(command: arguments.Evaluate, run: Path, console: Console, world: World) -> Measured:
    """One run of ``astseg evaluate``, with what its figures mean nothing without."""
    pipeline, config, info = load_pipeline(run, device=default_device(), precision=command.precision)
    asked: dict[str, Any] = {"colour_std": command.colour_std, "proposals": command.proposals}
    given = {name: value for name, value in asked.items() if value is not None}
    pipeline.config = dataclasses.replace(pipeline.config, **given)
    source = open_source(command.data, command.reading)
    trained = Preprocess.of_run(config.model.image_size, info, declared_crop=source.crop).instead(command.resize)
    preprocess = preprocess_for(
        source,
        config.model.image_size,
        resize=trained.resize,
        crop=trained.crop if command.crop is None else command.crop,
    )
    chosen = select(source, command.split)
    few = isinstance(source, MaskedFolderSource | CocoSource)  # labels of some pictures, made by hand
    if few:
        chosen = whole_scenes(console, source, chosen)
    # A prepared data set has been cropped already.
    crop = command.crop if isinstance(source, CachedSource) else preprocess.crop
    scenes = load(console, command, config, crop=crop, resize=preprocess.resize, few_labels=few)
    if scenes.labels is None:
        console.print("these scenes have no masks: only figures that need none are given")
    elif few:
        tell_few_labels(console, scenes, slots=config.model.slots)
    split_hash = source_hash(source, chosen)
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
        "split_hash": split_hash,
        "count": result.count,
        "resize": preprocess.resize,
        "size": list(config.model.image_size),
        "crop": preprocess.crop,
        "seed": info.seed,
    }
    return Measured(run, result, circumstances, info.preset)


def figures(mean: Mapping[str, float], deviation: Mapping[str, float] | None = None, *, title: str) -> Table:
    """The figures as a table, with their deviations where there are several runs."""
    spread = deviation is not None and not all(map(math.isnan, deviation.values()))
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("mean", justify="right")
    if spread:
        table.add_column("deviation", justify="right")
    for name, value in mean.items():
        table.add_row(name, f"{value:.4f}", *([f"{deviation[name]:.4f}"] if deviation and spread else []))
    return table
