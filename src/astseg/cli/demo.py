"""The main job in one go: make scenes, learn to find their objects, measure it on scenes never seen, show it."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.evaluate import metrics_table
from astseg.cli.report import make_report
from astseg.config.presets import preset
from astseg.data import fingerprint, load_scenes
from astseg.data.synthetic.generate import write_scenes
from astseg.errors import UserError
from astseg.evaluation.evaluate import Evaluation, evaluate
from astseg.inference.pipeline import Pipeline
from astseg.runs.atomic import write_json
from astseg.runs.card import write_card
from astseg.runs.info import RunInfo
from astseg.training.logging import spelled_time
from astseg.training.monitor import few
from astseg.training.session import session
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from astseg.cli.arguments import Demo

__all__ = ["demo", "run_demo"]

PRESET = "small"
SIZE = 64
PROCESSES = 2

EXAMINED = 200
"""Scenes that the report looks at."""

TEST_SEED = 1_000_000
"""Added to the seed of the scenes that are measured, so that none of them was ever learnt from."""


def run_demo(command: Demo, console: Console) -> Evaluation | None:
    """``astseg demo``; the same command goes on with an interrupted one.

    Returns:
        The metrics; None on all ranks but the first.

    Raises:
        UserError: A folder that holds something else, a count below 1.
    """
    begin = time.monotonic()
    config = preset(PRESET).with_steps(command.steps)
    with session(command.out, console) as held:
        train_part = "train", command.scenes, command.seed
        test_part = "test", command.test_scenes, command.seed + TEST_SEED
        for part in (train_part, test_part):
            held.world.from_main(partial(make_scenes, command, console, *part))
        train_scenes, test_scenes = (load_part(command, *part) for part in (train_part, test_part))
        info = RunInfo(
            preset=PRESET,
            seed=command.seed,
            data=str(command.out / "scenes" / "train"),
            crop=1.0,
            images=len(train_scenes),
            fingerprint=fingerprint(train_scenes),
        )
        config = held.begin(config, info)
        finished = held.is_done and (held.run.path / "metrics.json").is_file()
        if finished:
            console.print(f"this demo is trained already: {command.out}")
        model = held.train(config, train_scenes, info, minutes=command.minutes, shown=test_scenes)
        if not held.world.is_main:
            return None
        pipeline = Pipeline(model, config.inference, discovery=config.discovery)
        result = evaluate(pipeline, test_scenes)
        if not finished:
            metrics = {
                **result.summary(),
                "seconds": round(time.monotonic() - begin, 1),
                "seed": command.seed,
                "family": command.family,
                "protocol": result.protocol,
                "colour_std": config.inference.colour_std,
                "proposals": config.inference.proposals,
                "train_scenes": len(train_scenes),
            }
            write_card(held.run, config, info, metrics)
            make_report(pipeline, few(test_scenes, EXAMINED), held.run.path)
            write_json(held.run.path / "metrics.json", metrics)  # the last one: where it is, all is there
            console.print(f"from scenes to metrics in {spelled_time(time.monotonic() - begin)}")
        return result


def make_scenes(command: Demo, console: Console, part: str, count: int, seed: int) -> None:
    """Make the scenes of one part if they are not there yet."""
    path = command.out / "scenes" / part
    if not path.exists():
        console.print(f"making {count} {command.family} scenes in {path}")
        write_scenes(path, command.family, count=count, size=SIZE, seed=seed, processes=PROCESSES)


def load_part(command: Demo, part: str, count: int, seed: int) -> SceneArrays:
    """The scenes of one part, as any reader would get them from disk.

    Raises:
        UserError: Other scenes lie there.
    """
    path = command.out / "scenes" / part
    wanted = {"family": command.family, "seed": seed, "count": count}
    try:
        made = json.loads((path / "scenes.json").read_text())
        different = [f"{name} ({made[name]}, now {value})" for name, value in wanted.items() if made[name] != value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' holds no whole scenes ({error}): choose another folder with --out") from None
    if different:
        raise UserError(f"'{path}' holds other scenes: {', '.join(different)}; choose another folder with --out")
    return load_scenes(path, size=SIZE)


def demo(command: arguments.Demo, console: Console) -> int:
    """``astseg demo``."""
    result = run_demo(command, console)
    if result is None:
        return 0
    console.print(metrics_table(result.mean, title=f"{result.count} scenes"))
    console.print(f"look at {command.out / 'report.html'} and {command.out / 'panels' / 'latest.png'}")
    console.print("your own pictures: astseg fit FOLDER --out runs/own; astseg segment runs/own FOLDER --out masks")
    return 0
