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
from astseg.cli.ending import finish
from astseg.cli.fit_scene import fit_scene, look_in_full, plan_scene
from astseg.cli.loading import load
from astseg.cli.train import run_info
from astseg.config import Config, override, to_dict
from astseg.data import SceneSource, open_source, select
from astseg.data.sample import preprocess_for
from astseg.errors import UserError
from astseg.inference.pipeline import Pipeline
from astseg.runs.distributed import World, init_world
from astseg.runs.folder import RunFolder
from astseg.training.logging import spelled_time
from astseg.training.session import Session, session
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
        resize: How images come to the size of the model.
        crop: Part that is kept, or None.
        minutes: Time limit of the training, loading not taken off yet; None: none.
        plan: What ``fit.json`` holds.
        loading_counts: Whether the time that loading takes is still to be taken off.
    """

    config: Config
    resize: str
    crop: float | None
    minutes: float | None
    plan: dict[str, Any]
    loading_counts: bool

    def minutes_left(self, seconds: float) -> float | None:
        """The time limit of the training, so many seconds after the command began."""
        if self.minutes is None or not self.loading_counts:
            return self.minutes
        loading: float = seconds - self.plan["looked"]
        return max(self.minutes / 2, self.minutes - loading / 60)


def run_fit(command: Fit, console: Console) -> int:
    """``astseg fit``; its exit code.

    Raises:
        UserError: Data from which nothing can be learnt, a folder that holds something else, too few minutes.
    """
    begin = time.monotonic()
    source = open_source(command.data, command.reading)
    begun = RunFolder(command.out)
    if begun.is_begun:
        look, in_full = None, begun.load_config()[0].scene.background != "none"
    else:
        look = look_in_full(command, source, command.settings)
        in_full = look is not None
    if look is not None and command.dry_run:
        plan_scene(command, source, look, console)
        console.print("nothing was written; without --dry-run this is what happens")
        return 0
    if in_full and not command.dry_run:
        with session(command.out, console) as held:
            return fit_scene(command, source, look, held, console)
    if command.dry_run:
        run = RunFolder(command.out)
        run.check_new_or_begun()
        if run.is_begun:
            console.print(f"{command.out} holds a run, which goes on as it was planned ({run.path / PLAN_FILE})")
            return 0
        world = init_world()
        console.quiet = not world.is_main
        world.from_main(lambda: _planned(command, source, console))
        console.print("nothing was written; without --dry-run this is what happens")
        return 0
    with session(command.out, console, tensorboard=command.tensorboard) as held:

        def prepare() -> Prepared:
            return _stored(command, held, console) if held.run.is_begun else _planned(command, source, console)

        prepared = held.world.from_main(prepare)
        scenes = _load(command, prepared, console, held.world)
        minutes = held.world.from_main(lambda: prepared.minutes_left(time.monotonic() - begin))
        size = prepared.config.model.image_size
        preprocess = preprocess_for(source, size, resize=prepared.resize, crop=prepared.crop)
        info = run_info(command, scenes, preprocess)
        config = held.begin(prepared.config, info, {PLAN_FILE: {**prepared.plan, "training_minutes": minutes}})
        model = held.train(config, scenes, info, minutes=minutes)
        if held.world.is_main:
            pipeline = Pipeline(model, config.inference, discovery=config.discovery)
            finish(pipeline, scenes, held.run, source, command, info, console=console)
            console.print(f"time                 {spelled_time(time.monotonic() - begin)} since the command began")
    return 0


def _planned(command: Fit, source: SceneSource, console: Console) -> Prepared:
    """Survey the images, decide, and print the plan."""
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
    plan_file = {
        "minutes": command.minutes,
        "looked": time.monotonic() - begin,
        "plan": [dataclasses.asdict(row) for row in rows],
        "data": dict(_seen_rows(seen, found)),
        "warnings": [*plan.warnings, *times.warnings],
        "expected_seconds": round(times.seconds),
        "expected_bytes": times.memory,
    }
    return Prepared(times.config, seen.frame.resize, seen.frame.crop, times.minutes, plan_file, True)


def _stored(command: Fit, held: Session, console: Console) -> Prepared:
    """The plan of a run that has begun, with what is given now laid over it: what differs is then refused."""
    config, info = held.run.load_config()
    file = held.run.path / PLAN_FILE
    try:
        plan = json.loads(file.read_text())
        minutes, before = plan["training_minutes"], plan["minutes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"'{command.out}' holds a run that was not begun by 'astseg fit': choose another folder"
        ) from None
    given = to_dict(command.settings)
    for name in command.given:
        part, setting = name.split(".")
        if given[part][setting] != "auto":  # settled when the run began
            config = override(config, {part: {setting: given[part][setting]}})
    for name, stored in (("resize", info.resize), ("crop", info.crop)):
        asked = getattr(command, name)
        if asked not in (None, stored):
            raise UserError(
                f"'{command.out}' holds a run that differs in {name} ({stored}, now {asked}): choose another folder"
            )
    config = config.with_steps(command.steps)
    if command.minutes is not None:
        minutes = command.minutes if before is None else minutes + command.minutes - before
        plan["minutes"] = command.minutes
    console.print(f"{command.out} {'is trained already' if held.is_done else f'goes on as it was planned ({file})'}")
    return Prepared(config, info.resize, info.crop, minutes, plan, False)


def _at_size(seen: survey.Survey, config: Config) -> Any:
    """Some of the surveyed images, at the size of the model."""
    height, width = config.model.image_size
    some = seen.images[: pace.PICTURES]
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in some])


def _load(command: Fit, prepared: Prepared, console: Console, world: World) -> SceneArrays:
    """All images at the size of the model; what is broken is printed and left out.

    Raises:
        UserError: Too many are broken.
    """
    config, broken = prepared.config, list[str]()
    scenes = load(console, command, config, crop=prepared.crop, resize=prepared.resize, world=world, broken=broken)
    total = len(scenes) // config.augment.copies + len(broken)
    if len(broken) > MOST_BROKEN * total:
        raise UserError(f"{len(broken)} of {total} pictures cannot be read; the first: {broken[0]}")
    if broken:
        console.print(f"left out, since they cannot be read: {len(broken)} of {total} pictures")
        for problem in broken[:5]:
            console.print(f"  {problem}")
    return scenes


def _seen_rows(seen: survey.Survey, found: components.Foreground) -> list[tuple[str, str]]:
    """The survey, in words."""
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
    """Print the plan."""
    console.print(f"\n{title}")
    survey_table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    for name, value in seen:
        survey_table.add_row(name, value)
    console.print(survey_table, soft_wrap=False)
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
