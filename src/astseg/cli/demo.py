"""The main job in one go: make scenes, learn to find their objects, measure it on scenes never seen, show it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from rich.console import Console

from astseg.cli import arguments
from astseg.cli.evaluate import metrics_table
from astseg.cli.report import make_report
from astseg.config.presets import preset
from astseg.data import fingerprint, load_scenes
from astseg.data.formats.png import save_picture
from astseg.data.synthetic.generate import write_scenes
from astseg.diagnostics.visualize import panel
from astseg.errors import UserError
from astseg.evaluation.evaluate import Evaluation, evaluate
from astseg.inference.pipeline import Pipeline
from astseg.runs.atomic import write_json
from astseg.runs.card import write_card
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter, spelled_time
from astseg.training.loop import train
from astseg.training.monitor import TrainingMonitor, few
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


def run_demo(command: Demo, console: Console) -> Evaluation:
    """``astseg demo``; the same command goes on with an interrupted one.

    Raises:
        UserError: A folder that holds something else, a count below 1.
    """
    folder = RunFolder(command.out, tell=console.print)
    with folder.lock():
        return demo_in(folder, command, console)


def demo_in(folder: RunFolder, command: Demo, console: Console) -> Evaluation:
    """The demo in a folder that is held for this process."""
    begin = time.monotonic()
    config = preset(PRESET).with_steps(command.steps)
    folder.check_new_or_begun()
    train_scenes = made_scenes(command, console, "train", command.scenes, command.seed)
    test_scenes = made_scenes(command, console, "test", command.test_scenes, command.seed + TEST_SEED)
    info = RunInfo(
        preset=PRESET,
        seed=command.seed,
        data=str(command.out / "scenes" / "train"),
        crop=1.0,
        images=len(train_scenes),
        fingerprint=fingerprint(train_scenes),
    )
    config = folder.begin(config, info)
    state = folder.load_state()
    finished = state is not None and state.phase == "done" and (folder.path / "metrics.json").is_file()
    if finished:
        console.print(f"this demo is trained already: {command.out}")
    with Reporter(folder.log_path, console=console) as reporter:
        watch = TrainingMonitor(folder, few(test_scenes), reporter, config.inference, config.discovery)
        model = train(
            config,
            train_scenes,
            run=folder,
            seed=command.seed,
            reporter=reporter,
            minutes=command.minutes,
            watch=watch,
        )
    pipeline = Pipeline(model, config.inference, discovery=config.discovery)
    result = evaluate(pipeline, test_scenes)
    if finished:
        return result
    labels = None if test_scenes.labels is None else test_scenes.labels[:8]
    save_picture(panel(test_scenes.images[:8], result.first_output, labels=labels), folder.panels / "latest.png")
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
    write_card(folder, config, info, metrics)
    make_report(pipeline, few(test_scenes, EXAMINED), folder.path)
    write_json(folder.path / "metrics.json", metrics)  # the last one: where it is, all is there
    console.print(f"from scenes to figures in {spelled_time(time.monotonic() - begin)}")
    return result


def made_scenes(command: Demo, console: Console, part: str, count: int, seed: int) -> SceneArrays:
    """The scenes of one part, made if they are not there yet, as any reader would get them from disk.

    Raises:
        UserError: Other scenes lie there.
    """
    path = command.out / "scenes" / part
    wanted = {"family": command.family, "seed": seed, "count": count}
    if not path.exists():
        console.print(f"making {count} {command.family} scenes in {path}")
        write_scenes(path, command.family, count=count, size=SIZE, seed=seed, processes=PROCESSES)
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
    console.print(metrics_table(result.mean, title=f"{result.count} scenes"))
    console.print(f"look at {command.out / 'report.html'} and {command.out / 'panels' / 'latest.png'}")
    console.print("your own pictures: astseg fit FOLDER --out runs/own; astseg segment runs/own FOLDER --out masks")
    return 0
