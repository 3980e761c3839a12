"""``astseg fit``: look, plan, train, show. The same command goes on with an interrupted one."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from astseg.autofit import components, pace, survey
from astseg.autofit.budget import Budget, budget
from astseg.autofit.plan import MOST_BROKEN, Row, decide, require_learnable
from astseg.cli.console import progress_bar
from astseg.cli.data import cached_if_large
from astseg.cli.ending import finish
from astseg.config import Config, override, to_dict
from astseg.data import SceneSource, fingerprint, load_scenes, open_source, select
from astseg.errors import UserError
from astseg.inference.pipeline import Pipeline
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.atomic import write_json
from astseg.runs.card import write_card
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter, require_tensorboard, spelled_time
from astseg.training.loop import train
from astseg.training.monitor import TrainingMonitor, few
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from astseg.cli.arguments import Fit

__all__ = ["run_fit"]

PLAN_FILE = "fit.json"


@dataclass(frozen=True)
class Prepared:
    """What is needed to train.

    Attributes:
        config: Settings.
        resize: How pictures come to the size of the model.
        crop: Part that is kept, or None.
        minutes: Time limit of the training, loading not taken off yet; None: none.
        told: What ``fit.json`` holds.
    """

    config: Config
    resize: str
    crop: float | None
    minutes: float | None
    told: dict[str, Any]


def run_fit(command: Fit, console: Console) -> int:
    """``astseg fit``; its exit code.

    Raises:
        UserError: Data from which nothing can be learnt, a folder that holds something else, too few minutes.
    """
    begin = time.monotonic()
    folder = RunFolder(command.out)
    folder.check_new_or_begun()
    if command.tensorboard:
        require_tensorboard()
    source = open_source(command.data, command.reading)
    going_on = folder.is_begun and not command.dry_run
    prepared = _stored(command, folder, console) if going_on else _planned(command, source, console)
    if command.dry_run:
        console.print("nothing was written; without --dry-run this is what happens")
        return 0
    scenes = _load(command, prepared, console)
    minutes = prepared.minutes
    if minutes is not None and not going_on:
        # What loading took is taken off too.
        minutes = max(minutes / 2, minutes - (time.monotonic() - begin - prepared.told["looked"]) / 60)
    info = _info(command, prepared, scenes)
    config = folder.begin(prepared.config, info)
    write_json(folder.path / PLAN_FILE, {**prepared.told, "training_minutes": minutes})
    board = folder.path / "tensorboard" if command.tensorboard else None
    notice = licence_notice(config.model.backbone_weights)
    if notice:
        console.print(notice)
    with Reporter(folder.log_path, console=console, tensorboard=board) as reporter:
        watch = TrainingMonitor(folder, few(scenes), reporter, config.inference, config.discovery)
        model = train(config, scenes, run=folder, seed=command.seed, reporter=reporter, minutes=minutes, watch=watch)
    write_card(folder, config, info)
    finish(
        Pipeline(model, config.inference, discovery=config.discovery),
        scenes,
        folder,
        source,
        command,
        info,
        console=console,
    )
    console.print(f"time                 {spelled_time(time.monotonic() - begin)} since the command began")
    return 0


def _planned(command: Fit, source: SceneSource, console: Console) -> Prepared:
    """Look at the pictures, decide, and say so."""
    begin = time.monotonic()
    with progress_bar(console, "look", None) as advance:
        size = command.settings.model.image_size if "model.image_size" in command.given else None
        indices = select(source, command.split)
        seen = survey.survey(source, indices, resize=command.resize, crop=command.crop, size=size, progress=advance)
    require_learnable(seen)
    base = command.settings
    if base.model.background_width == "auto":
        base = override(base, {"model": {"background_width": "small"}})
    found = components.find(seen, base, seed=command.seed, say=console.print)
    require_learnable(seen, found)
    plan = decide(seen, found, base, given=command.given)
    steps = pace.measure(plan.config, _at_size(seen, plan.config), seed=command.seed)
    times = budget(
        plan,
        steps,
        count=seen.count,
        minutes=command.minutes,
        steps=command.steps,
        spent=time.monotonic() - begin,
        given=command.given,
    )
    rows = [*plan.rows, *times.rows]
    _show(console, str(command.data), _seen_rows(seen, found), rows, times, (*plan.warnings, *times.warnings))
    told = {
        "minutes": command.minutes,
        "looked": time.monotonic() - begin,
        "plan": [dataclasses.asdict(row) for row in rows],
        "data": dict(_seen_rows(seen, found)),
        "warnings": [*plan.warnings, *times.warnings],
        "expected_seconds": round(times.seconds),
        "expected_bytes": times.memory,
    }
    return Prepared(times.config, seen.frame.resize, seen.frame.crop, times.minutes, told)


def _stored(command: Fit, folder: RunFolder, console: Console) -> Prepared:
    """The plan of a run that has begun, with what is given now laid over it: what differs is then refused."""
    config, info = folder.load_config()
    file = folder.path / PLAN_FILE
    try:
        told = json.loads(file.read_text())
        minutes, before = told["training_minutes"], told["minutes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"'{command.out}' holds a run that was not begun by 'astseg fit': choose another folder"
        ) from None
    given = to_dict(command.settings)
    for name in command.given:
        part, setting = name.split(".")
        config = override(config, {part: {setting: given[part][setting]}})
    config = config.with_steps(command.steps)
    if command.minutes is not None:
        minutes = command.minutes if before is None else minutes + command.minutes - before
        told["minutes"] = command.minutes
    state = folder.load_state()
    finished = state is not None and state.phase == "done"
    console.print(f"{command.out} {'is trained already' if finished else f'goes on as it was planned ({file})'}")
    return Prepared(config, info.resize, info.crop, minutes, told)


def _at_size(seen: survey.Survey, config: Config) -> Any:
    """Some of the pictures looked at, at the size of the model."""
    height, width = config.model.image_size
    some = seen.images[: pace.PICTURES]
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in some])


def _load(command: Fit, prepared: Prepared, console: Console) -> SceneArrays:
    """All pictures at the size of the model; what is broken is told and left out.

    Raises:
        UserError: Too many are broken.
    """
    size = prepared.config.model.image_size
    cache = None
    if prepared.config.augment.copies == 1:
        beside = command.out.with_name(command.out.name + "-cache")
        cache = cached_if_large(console, command, size=size, resize=prepared.resize, crop=prepared.crop, out=beside)
    if cache is not None:
        return load_scenes(cache, size=size)
    broken: list[str] = []
    with progress_bar(console, "read", None) as advance:
        scenes = load_scenes(
            command.data,
            size=size,
            selection=command.split,
            crop=prepared.crop,
            resize=prepared.resize,
            reading=command.reading,
            augment=prepared.config.augment,
            seed=command.seed,
            progress=advance,
            broken=broken,
        )
    total = len(scenes) // prepared.config.augment.copies + len(broken)
    if len(broken) > MOST_BROKEN * total:
        raise UserError(f"{len(broken)} of {total} pictures cannot be read; the first: {broken[0]}")
    if broken:
        console.print(f"left out, since they cannot be read: {len(broken)} of {total} pictures")
        for problem in broken[:5]:
            console.print(f"  {problem}")
    return scenes


def _info(command: Fit, prepared: Prepared, scenes: SceneArrays) -> RunInfo:
    return RunInfo(
        preset=command.preset,
        seed=command.seed,
        data=str(command.data),
        split=command.split,
        resize=prepared.resize,
        crop=prepared.crop,
        camera=command.camera,
        stride=command.stride,
        frames=command.frames,
        images=len(scenes),
        fingerprint=fingerprint(scenes),
    )


def _seen_rows(seen: survey.Survey, found: components.Foreground) -> list[tuple[str, str]]:
    """What was seen, in words."""
    scene = seen.background
    sizes = ", ".join(f"{h} x {w}" for (h, w), _ in seen.sizes.most_common(3))
    more = f" and {len(seen.sizes) - 3} other sizes" if len(seen.sizes) > 3 else ""
    kinds = {
        "fixed": f"one, in one light (it varies by {100 * scene.light:.0f} %)",
        "lit": f"one, in changing light (by {100 * scene.light:.0f} %)",
        "varied": "differs from picture to picture",
    }
    if found.is_informative:
        low, middle, high = (int(value) for value in np.percentile(found.counts, (5, 50, 95)))
        how = "a first short background" if found.learnt else "the median picture"
        differing = f"{low} to {high} objects a picture, mostly {middle}, {100 * found.share:.0f} % of the pixels"
        differing += f" (by {how}{': rough' if found.learnt else ''})"
    else:
        differing = "cannot be told before the background is learnt"
    return [
        ("pictures", f"{seen.count:,} ({seen.name}), {seen.sampled} looked at{', grey' if seen.grey else ''}"),
        ("size", f"{sizes}{more} (height x width)"),
        ("background", kinds[scene.kind]),
        ("what differs from it", differing),
    ]


def _show(
    console: Console,
    title: str,
    seen: list[tuple[str, str]],
    rows: list[Row],
    times: Budget,
    warnings: tuple[str, ...],
) -> None:
    """The plan on the screen."""
    console.print(f"\n{title}")
    told = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    for name, value in seen:
        told.add_row(name, value)
    console.print(told, soft_wrap=False)
    console.print("\nThe plan; each of these can be given:")
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(row.option, row.value, row.reason)
    console.print(table, soft_wrap=False)
    console.print(
        f"\nAbout {spelled_time(times.seconds)} in all and {times.memory / 2**30:.1f} GiB of memory,"
        " by a few steps of each phase."
    )
    for warning in warnings:
        console.print(f"Note: {warning}.")
    console.print("")
