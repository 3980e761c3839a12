"""What the commands do. Loaded only after the arguments are parsed, because it loads torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from astseg import __version__
from astseg.cli import arguments
from astseg.cli.console import progress_bar
from astseg.cli.data import cached_if_large
from astseg.cli.demo import run_demo
from astseg.cli.few_labels import tell_few_labels, whole_scenes
from astseg.cli.fit import run_fit
from astseg.cli.report import health_run, report_run
from astseg.cli.segment import export_labels, segment_input
from astseg.config import Config
from astseg.config.device import default_device, resolved_precision
from astseg.data import fingerprint, load_scenes, open_source, select, source_hash
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
from astseg.model.astseg import build
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.atomic import write_json, write_whole
from astseg.runs.card import write_card
from astseg.runs.distributed import ReadOnlyRunFolder, Team, assembled
from astseg.runs.folder import RunFolder, load_model
from astseg.runs.reference_weights import import_reference
from astseg.training.logging import Reporter, require_tensorboard
from astseg.training.loop import choose_background_width, train
from astseg.training.monitor import TrainingMonitor, few
from astseg.types import SceneArrays

__all__ = ["run"]


def run(command: Any) -> int:
    """Run a parsed command; its exit code.

    Raises:
        UserError: A mistake of the user.
    """
    console = Console(soft_wrap=True, markup=False, highlight=False)
    actions: dict[type, Callable[[Any, Console], int]] = {
        arguments.Scenes: make_scenes,
        arguments.Fit: run_fit,
        arguments.Train: train_run,
        arguments.TrainBackground: train_run,
        arguments.Evaluate: evaluate_run,
        arguments.Segment: segment_input,
        arguments.Export: export_labels,
        arguments.Demo: demo,
        arguments.Health: health_run,
        arguments.Report: report_run,
        arguments.ImportReference: import_weights,
    }
    return actions[type(command)](command, console)


def make_scenes(command: arguments.Scenes, console: Console) -> int:
    """``astseg scenes``."""
    from astseg.data.synthetic.generate import write_scenes

    with progress_bar(console, "scenes", command.count) as advance:
        write_scenes(
            command.out,
            command.family,
            count=command.count,
            size=command.size,
            seed=command.seed,
            processes=command.processes,
            progress=lambda done: advance(done, command.count),
        )
    console.print(f"{command.count} scenes in {command.out}; next: astseg train {command.out} --out runs/first")
    return 0


def train_run(command: arguments.Train | arguments.TrainBackground, console: Console) -> int:
    """``astseg train`` and ``astseg train-background``."""
    whole = isinstance(command, arguments.Train)
    config = command.settings.with_steps(command.steps, part="objects" if whole else "background")
    if not whole and config.objects.scenario == "baseline":
        raise UserError("the scenario 'baseline' learns the background with the objects: use 'astseg train'")
    team = assembled()
    console.quiet = not team.is_first
    folder = (RunFolder if team.is_first else ReadOnlyRunFolder)(command.out, tell=console.print)
    scenes = load(console, command, config, crop=command.crop, resize=command.resize or "crop")
    with folder.lock() if team.is_first else nullcontext():
        return train_in(folder, command, config, scenes, console, team)


def train_in(
    folder: RunFolder,
    command: arguments.Train | arguments.TrainBackground,
    config: Config,
    scenes: SceneArrays,
    console: Console,
    team: Team,
) -> int:
    """Train in a folder that is held for this process."""
    whole = isinstance(command, arguments.Train)
    if config.model.background_width == "auto":
        width = background_width(console, folder, config, scenes, seed=command.seed)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, background_width=width))
    if not folder.is_begun:
        build(config.model)  # what cannot be built is refused before anything is written
    if command.tensorboard:
        require_tensorboard()
    about = {
        "astseg": __version__,
        "preset": command.preset,
        "seed": command.seed,
        "data": str(command.data),
        "split": command.split,
        "crop": command.crop,
        "resize": command.resize or "crop",
        "images": len(scenes),
        "fingerprint": fingerprint(scenes),
    }
    if not team.is_first:
        team.wait()  # until the first process has begun the run
    config = folder.begin(config, about)
    if team.is_first:
        team.wait()
    state = folder.load_state()
    if state is not None and (state.phase == "done" or not (whole or state.phase == "background")):
        if team.is_first and not (folder.path / "README.md").exists():  # it was killed just before
            write_card(folder, config, about)
        console.print(f"{'this run' if whole else 'the background'} is trained already: {command.out}")
        return 0
    notice = licence_notice(config.model.backbone_weights)
    if notice:
        console.print(notice)
    board = folder.path / "tensorboard" if command.tensorboard else None
    log_path, board = (folder.log_path, board) if team.is_first else (None, None)
    with Reporter(log_path, console=console, tensorboard=board) as reporter:
        watch = TrainingMonitor(folder, few(scenes), reporter) if team.is_first else None
        model = train(
            config,
            scenes,
            run=folder,
            seed=command.seed,
            reporter=reporter,
            minutes=command.minutes,
            watch=watch,
            background_only=not whole,
            team=team,
        )
        if watch is not None:
            watch.draw(model, "last")
    if team.is_first:
        write_card(folder, config, about)
    team.wait()
    following = f"astseg evaluate {command.out} DATA" if whole else f"astseg train {spelled(command)}"
    console.print(f"done; look at {folder.panels / 'latest.png'}; next: {following}")
    return 0


def background_width(console: Console, folder: RunFolder, config: Config, scenes: SceneArrays, *, seed: int) -> str:
    """What ``auto`` stands for: the width of the run if it has begun, else what a short run shows."""
    if folder.is_begun:
        return folder.load_config()[0].model.background_width
    console.print("a short run chooses the width of the background model")
    width = choose_background_width(config, scenes, seed=seed)
    console.print(f"the background is {width}")
    return width


def spelled(command: arguments.TrainBackground) -> str:
    """The arguments of the command that goes on where this one ends."""
    options = {"out": command.out, "preset": command.preset, "config": command.config, "split": command.split}
    options |= {"crop": command.crop, "seed": command.seed, "resize": command.resize, "camera": command.camera}
    options |= {"stride": command.stride, "frames": command.frames}
    usual = {field.name: field.default for field in dataclasses.fields(command)}
    words = [f"--{name} {value}" for name, value in options.items() if value != usual[name]]
    settings = arguments.spelled_settings(command.settings, arguments.usual_settings(command.preset, command.config))
    return " ".join([str(command.data), *words, *settings])


def evaluate_run(command: arguments.Evaluate, console: Console) -> int:
    """``astseg evaluate``."""
    for file in (command.json, command.csv, command.table):
        if file is not None and file.is_dir():
            raise UserError(f"'{file}' is a folder, expected a file")
    for run in command.runs if command.proposals else ():
        if not RunFolder(run).load_config()[0].model.glimpse_crop:
            raise UserError(f"run '{run}' has no second look, which proposals need: leave out --proposals")
    team = assembled()
    console.quiet = not team.is_first
    measured = [measure(command, run, console, team) for run in command.runs]
    if not team.is_first:
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


def measure(command: arguments.Evaluate, run: Path, console: Console, team: Team) -> Measured:
    """One run of ``astseg evaluate``, with what its figures mean nothing without."""
    model, config = load_model(run)
    if command.colour_std is not None:
        model.colour_std = command.colour_std
    if command.proposals is not None:
        model.proposals = command.proposals
    device = default_device()
    model.encoder.precision = resolved_precision(command.precision, device)
    _, about = RunFolder(run).load_config()
    source = open_source(command.data, command.reading)
    cropped = isinstance(source, CachedSource)  # when it was prepared
    crop = command.crop if command.crop is not None or cropped else about.get("crop")
    fit = command.resize or about.get("resize", "crop")
    chosen = select(source, command.split)
    few = isinstance(source, MaskedFolderSource | CocoSource)  # labels of some pictures, made by hand
    if few:
        chosen = whole_scenes(console, source, chosen)
    scenes = load(console, command, config, crop=crop, resize=fit, few_labels=few)
    if scenes.labels is None:
        console.print("these scenes have no masks: only figures that need none are given")
    elif few:
        tell_few_labels(console, scenes, slots=config.model.slots)
    split_hash = source_hash(source, chosen)
    with progress_bar(console, f"evaluate {run}", len(scenes)) as advance:
        result = evaluate(
            model,
            scenes,
            batch_size=command.batch_size,
            device=device,
            protocol=command.protocol,
            progress=advance,
            team=team,
        )
    circumstances = {
        "protocol": result.protocol,
        "colour_std": model.colour_std,
        "proposals": model.proposals,
        "precision": model.encoder.precision,
        "data": str(command.data),
        "split": command.split,
        "split_hash": split_hash,
        "count": result.count,
        "resize": fit,
        "size": list(config.model.image_size),
        "crop": source.crop if crop is None else crop,
        "seed": about.get("seed"),
    }
    return Measured(run, result, circumstances, about.get("preset"))


def demo(command: arguments.Demo, console: Console) -> int:
    """``astseg demo``."""
    result = run_demo(command, console)
    console.print(figures(result.mean, title=f"{result.count} scenes"))
    console.print(f"look at {command.out / 'report.html'} and {command.out / 'panels' / 'latest.png'}")
    console.print("your own pictures: astseg fit FOLDER --out runs/own; astseg segment runs/own FOLDER --out masks")
    return 0


def import_weights(command: arguments.ImportReference, console: Console) -> int:
    """``astseg import-reference``."""
    usual = arguments.usual_settings(command.preset, command.config)
    config = import_reference(command.file, command.out, usual, preset=command.preset, background=command.background)
    notice = licence_notice(config.model.backbone_weights)
    if notice:
        console.print(notice)
    differing = arguments.spelled_settings(config, usual)
    told = f"; other than in preset {command.preset}, by the shapes in the file: {' '.join(differing)}"
    console.print(f"{command.out} holds the weights of {command.file}{told if differing else ''}")
    console.print(f"next: astseg evaluate {command.out} DATA")
    return 0


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
