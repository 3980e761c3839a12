"""``astseg train`` and ``astseg train-background``."""

from __future__ import annotations

import dataclasses
import shlex

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.loading import load
from astseg.config import Config
from astseg.data import fingerprint, open_source
from astseg.data.resize import Preprocess
from astseg.data.sample import preprocess_for
from astseg.errors import UserError
from astseg.runs.info import RunInfo
from astseg.training.loop import choose_background_width
from astseg.training.session import Session, session
from astseg.types import SceneArrays

__all__ = ["run_info", "train_run"]


def train_run(command: arguments.Train | arguments.TrainBackground, console: Console) -> int:
    """``astseg train`` and ``astseg train-background``."""
    whole = isinstance(command, arguments.Train)
    config = command.settings.with_steps(command.steps, part="objects" if whole else "background")
    if not whole and config.objects.scenario == "baseline":
        raise UserError("the scenario 'baseline' learns the background with the objects: use 'astseg train'")
    with session(command.out, console, tensorboard=command.tensorboard) as held:
        scenes = load(console, command, config, crop=command.crop, resize=command.resize or "crop", world=held.world)
        if config.model.background_width == "auto":
            width = held.world.from_main(lambda: background_width(held, config, scenes, seed=command.seed))
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, background_width=width))
        source = open_source(command.data, command.reading)
        preprocess = preprocess_for(source, config.model.image_size, resize=command.resize, crop=command.crop)
        info = run_info(command, scenes, preprocess)
        config = held.begin(config, info)
        state = held.run.load_state()
        if state is not None and (state.phase == "done" or not (whole or state.phase == "background")):
            held.write_card(config, info, only_if_missing=True)
            console.print(f"{'this run' if whole else 'the background'} is trained already: {command.out}")
            return 0
        held.train(config, scenes, info, minutes=command.minutes, background_only=not whole)
        following = (
            f"astseg evaluate {shlex.quote(str(command.out))} DATA" if whole else f"astseg train {spelled(command)}"
        )
        console.print(f"done; look at {held.run.panels / 'latest.png'}; next: {following}")
    return 0


def run_info(command: arguments.TrainBackground, scenes: SceneArrays, preprocess: Preprocess) -> RunInfo:
    """The metadata of the run that a command begins."""
    return RunInfo(
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


def background_width(held: Session, config: Config, scenes: SceneArrays, *, seed: int) -> str:
    """What ``auto`` stands for: the width of the run if it has begun, else what a short run shows."""
    if held.run.is_begun:
        return held.run.load_config()[0].model.background_width
    held.console.print("a short run chooses the width of the background model")
    width = choose_background_width(config, scenes, seed=seed)
    held.console.print(f"the background is {width}")
    return width


def spelled(command: arguments.TrainBackground) -> str:
    """The arguments of the command that goes on where this one ends, quoted for a shell."""
    options = {"out": command.out, "preset": command.preset, "config": command.config, "split": command.split}
    options |= {"crop": command.crop, "seed": command.seed, "resize": command.resize, "camera": command.camera}
    options |= {"stride": command.stride, "frames": command.frames}
    usual = {field.name: field.default for field in dataclasses.fields(command)}
    words = [word for name, value in options.items() if value != usual[name] for word in (f"--{name}", str(value))]
    settings = arguments.spelled_settings(command.settings, arguments.usual_settings(command.preset, command.config))
    return shlex.join([str(command.data), *words, *settings])
