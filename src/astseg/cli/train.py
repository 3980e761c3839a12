"""``astseg train`` and ``astseg train-background``."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.loading import load
from astseg.config import Config
from astseg.data import fingerprint, open_source
from astseg.data.sample import preprocess_for
from astseg.errors import UserError
from astseg.model.astseg import build
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.card import write_card
from astseg.runs.distributed import ReadOnlyRunFolder, Team, assembled
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter, require_tensorboard
from astseg.training.loop import choose_background_width, train
from astseg.training.monitor import TrainingMonitor, few
from astseg.types import SceneArrays

__all__ = ["train_run"]


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
    preprocess = preprocess_for(
        open_source(command.data, command.reading),
        config.model.image_size,
        resize=command.resize,
        crop=command.crop,
    )
    info = RunInfo(
        preset=command.preset,
        seed=command.seed,
        data=str(command.data),
        split=command.split,
        resize=preprocess.resize,
        crop=preprocess.crop,
        camera=command.camera,
        stride=command.stride,
        frames=command.frames,
        images=len(scenes),
        fingerprint=fingerprint(scenes),
    )
    if not team.is_first:
        team.wait()  # until the first process has begun the run
    config = folder.begin(config, info)
    if team.is_first:
        team.wait()
    state = folder.load_state()
    if state is not None and (state.phase == "done" or not (whole or state.phase == "background")):
        if team.is_first and not (folder.path / "README.md").exists():  # it was killed just before
            write_card(folder, config, info)
        console.print(f"{'this run' if whole else 'the background'} is trained already: {command.out}")
        return 0
    notice = licence_notice(config.model.backbone_weights)
    if notice:
        console.print(notice)
    board = folder.path / "tensorboard" if command.tensorboard else None
    log_path, board = (folder.log_path, board) if team.is_first else (None, None)
    with Reporter(log_path, console=console, tensorboard=board) as reporter:
        watch = None
        if team.is_first:
            watch = TrainingMonitor(folder, few(scenes), reporter, config.inference, config.discovery)
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
        write_card(folder, config, info)
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
