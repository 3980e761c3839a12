"""``astseg fit`` on pictures of one scene that must be looked at in full: survey, plan, learn, show."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from astseg.autofit.scene_survey import LOOKED_AT, SceneSurvey, scaled_size, scene_from, survey_scene
from astseg.autofit.survey import SIDE
from astseg.cli.ending import print_next, write_examples
from astseg.cli.train import run_info
from astseg.config import Config
from astseg.data import SceneSource, fingerprint, open_source, select
from astseg.data.open import evenly_spaced
from astseg.data.resize import Preprocess, reduced
from astseg.discovery.cutouts import Material, first_regions
from astseg.discovery.scene_file import load_scene, save_scene
from astseg.discovery.scene_model import SceneModel, Sizes
from astseg.errors import UserError
from astseg.inference.scene_segmenter import SceneSegmenter
from astseg.runs.atomic import writing_errors
from astseg.runs.folder import RunFolder
from astseg.training.finder import learn_finder, seconds_a_step
from astseg.training.logging import spelled_time
from astseg.training.session import Session
from astseg.types import SceneArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.cli.arguments import Fit

__all__ = ["SceneLook", "fit_scene", "look_in_full", "plan_scene"]

NARROW = 9.0, 5.0
"""Pixels; where the median object, or that of the narrowest tenth, is narrower at the size at which the network of
layers sees the whole picture, the picture is looked at in full."""

LARGER = 1.25
"""Pictures that are no larger than that size by this factor are seen whole: there is nothing more in them."""

MINUTES = 12.0
"""What the finder is given where no limit is named."""

MEMORY, PIXEL_BYTES = 1.2e9, 4
"""Bytes that pictures and backgrounds at the working scale may take, and what a pixel takes."""

FEWEST, MOST = 20, 300
"""Pictures that are learned from, evenly spaced: more of one scene tell little more."""

SHOWING = 1.3
"""The end takes part of the time that the beginning took: masks of some pictures."""

LEARNING = 0.85
"""Fraction of the rest that is planned for steps; the finder looks at all pictures once meanwhile."""

FEWEST_STEPS = 50
TOLD = 250
"""Steps after which a line is printed."""


@dataclass(frozen=True)
class SceneLook:
    """Pictures that were looked at, and what was seen.

    Attributes:
        full: At their own resolution, H x W x 3.
        seen: What was seen.
        begin: When the look began, by :func:`time.monotonic`.
        empty: Pictures without objects, of that size.
    """

    full: Sequence[NDArray[np.uint8]]
    seen: SceneSurvey
    begin: float
    empty: Sequence[NDArray[np.uint8]] = ()


def look_in_full(command: Fit, source: SceneSource, config: Config) -> SceneLook | None:
    """Look at pictures in full; None where the whole picture can be seen at the size of the model, as it is then.

    Raises:
        UserError: No objects stand out from a background that is named, or pictures without objects are of another
            size.
    """
    named = config.scene.background != "none" or command.empty is not None
    if config.scene.background == "given" and command.empty is None:
        raise UserError("scene.background is 'given', but no picture without objects is named: add --empty PICTURES")
    asked_for_layers = any(name.split(".")[0] == "model" for name in command.given)
    if not named and (source.benchmark is not None or asked_for_layers):
        return None
    begin = time.monotonic()
    indices = select(source, command.split)
    some = [indices[k] for k in evenly_spaced(min(LOOKED_AT, len(indices)), len(indices))]
    full = [one for _, one in _read(source, some)]
    if len(full) < 5 or (len({one.shape for one in full}) > 1 and not named):
        return None
    usual = max({one.shape for one in full}, key=[one.shape for one in full].count)
    full = [one for one in full if one.shape == usual]
    if not named and min(usual[:2]) <= LARGER * SIDE:
        return None
    empty = _empty(command, usual)
    seen = survey_scene(full, config.scene, empty)
    if seen.sizes is None:
        if named:
            raise UserError(f"no objects stand out from a {seen.kind} background in {len(full)} pictures looked at")
        return None
    if not named and not _is_small(seen.sizes, SIDE / min(usual[:2])):
        return None
    return SceneLook(full, seen, begin, empty)


@dataclass(frozen=True)
class ScenePlan:
    """What is to be done.

    Attributes:
        config: Every setting.
        scene: What is known before anything is learned.
        pictures: To learn from, at the working scale.
        material: What stands out in them.
        seen: What was seen.
    """

    config: Config
    scene: SceneModel
    pictures: SceneArrays
    material: Material
    seen: SceneSurvey


def _empty(command: Fit, shape: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    """Pictures without objects.

    Raises:
        UserError: None can be read, or some are of another size.
    """
    if command.empty is None:
        return []
    source = open_source(command.empty)
    empty = [one for _, one in _read(source, evenly_spaced(min(LOOKED_AT, len(source)), len(source)))]
    if not empty or any(one.shape != shape for one in empty):
        sizes = ", ".join(sorted({f"{one.shape[0]} x {one.shape[1]}" for one in empty})) or "none can be read"
        raise UserError(f"pictures in '{command.empty}' are not of {shape[0]} x {shape[1]} as the others are: {sizes}")
    return empty


def _is_small(sizes: Sizes, factor: float) -> bool:
    """Whether too little is left of objects once pictures are reduced by a factor."""
    median, narrowest = NARROW
    return sizes.width * factor < median or sizes.narrow * factor < narrowest


def plan_scene(command: Fit, source: SceneSource, look: SceneLook, console: Console) -> ScenePlan:
    """What to learn from what, and for how long; prints the plan, and writes nothing."""
    given = "scene.working_scale" in command.given
    seen = replace(look.seen, scale=command.settings.scene.working_scale) if given else look.seen
    pictures = _pictures(source, command, look.full[0].shape, seen.scale)
    scene = scene_from(seen, pictures.images[:], command.settings.scene, look.full, look.empty)
    material = first_regions(scene, pictures.images[:])
    pace = seconds_a_step(scene, material)
    minutes = command.minutes or MINUTES
    left = minutes * 60 - (time.monotonic() - look.begin) * SHOWING
    steps = max(FEWEST_STEPS, int(LEARNING * left / pace))
    if command.steps is not None or "scene.steps" in command.given:
        steps = scene.config.steps if command.steps is None else command.steps
    scene = replace(scene, config=replace(scene.config, steps=steps))
    console.print(
        f"\n{command.data}: pictures of {scene.picture_size[0]} x {scene.picture_size[1]}, looked at in full;"
        f" {seen.count:.1f} objects stand out in each"
    )
    assert seen.sizes is not None
    size = " x ".join(map(str, pictures.images.shape[1:3]))
    width = f"the median object is {seen.sizes.width:.0f} pixels wide, {seen.sizes.width * seen.scale:.0f} there"
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    table.add_row("--scene.background", seen.kind, seen.reason)
    table.add_row("--scene.working-scale", f"{seen.scale:g} ({size})", width)
    table.add_row("--scene.steps", f"{steps}", f"{pace:.2f} s each, within {minutes:g} minutes")
    console.print(table)
    return ScenePlan(replace(command.settings, scene=scene.config), scene, pictures, material, seen)


def fit_scene(command: Fit, source: SceneSource, look: SceneLook | None, held: Session, console: Console) -> int:
    """Plan, learn and show; its exit code. A run that was stopped learns anew from the same start.

    Args:
        command: What was asked for.
        source: The pictures.
        look: What was seen of them; None: the run has begun.
        held: The run.
        console: Where everything is printed.

    Raises:
        UserError: Several processes, too few objects, or a folder of another run.
    """
    if held.world.size > 1:
        raise UserError(
            "pictures that are looked at in full are learned from by one process: start it without torchrun"
        )
    begin = time.monotonic() if look is None else look.begin
    if look is None:
        scene, material = _begun(command, source, held.run)
        if material is None:
            console.print(f"{command.out} is trained already")
            return 0
        console.print(f"{command.out} goes on as it was planned ({held.run.path / 'fit.json'})")
    else:
        plan = plan_scene(command, source, look, console)
        scene, material = plan.scene, plan.material
        info = run_info(command, plan.pictures, Preprocess(plan.scene.background.size, "squeeze"))
        save_scene(held.run.path, scene)
        held.begin(plan.config, info, {"fit.json": {"minutes": command.minutes, "scene": asdict(plan.seen)}})
    held.run.log_path.unlink(missing_ok=True)
    write_examples(SceneSegmenter(scene), held.run, source, command)
    spent = spelled_time(time.monotonic() - begin)
    console.print(f"first masks, by the background alone, after {spent}: {held.run.path / 'examples'}")

    def say(step: int, loss: float) -> None:
        entry = {"phase": "finder", "step": step, "loss": loss, "seconds": time.monotonic() - begin}
        with writing_errors(held.run.log_path), held.run.log_path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
        if step % TOLD == 0 or step == scene.config.steps:
            console.print(f"finder {step:>6} of {scene.config.steps}  loss {loss:.4f}")

    learned = learn_finder(scene, material, seed=command.seed, say=say)
    save_scene(held.run.path, learned)
    _show(learned, command, source, held.run, console)
    console.print(f"time                 {spelled_time(time.monotonic() - begin)} since the command began")
    return 0


def _begun(command: Fit, source: SceneSource, run: RunFolder) -> tuple[SceneModel, Material | None]:
    """The scene of a run that has begun, and what its finder is to learn from; None: it has learned."""
    config, info = run.load_config()
    scene = load_scene(run.path, config.scene)
    if scene.finder is not None:
        return scene, None
    pictures = _pictures(source, command, (*scene.picture_size, 3), config.scene.working_scale)
    if fingerprint(pictures) != info.fingerprint or command.seed != info.seed:
        raise UserError(f"'{command.out}' holds a run of other pictures or another seed: choose another folder")
    return scene, first_regions(scene, pictures.images[:])


def _pictures(source: SceneSource, command: Fit, shape: tuple[int, ...], scale: float) -> SceneArrays:
    """Pictures to learn from, at the working scale."""
    indices = select(source, command.split)
    size = scaled_size((shape[0], shape[1]), scale)
    count = min(len(indices), MOST, max(FEWEST, int(MEMORY / (PIXEL_BYTES * size[0] * size[1]))))
    pictures = np.empty((count, *size, 3), np.uint8)
    names: list[str] = []
    for name, one in _read(source, [indices[k] for k in evenly_spaced(count, len(indices))]):
        if one.shape == shape:
            pictures[len(names)] = reduced(one, size)
            names.append(name)
    return SceneArrays(pictures[: len(names)], None, names, f"{command.data} ({source.name})")


def _show(scene: SceneModel, command: Fit, source: SceneSource, run: RunFolder, console: Console) -> None:
    """Masks of some pictures, how many objects there are, and what comes next."""
    counts = write_examples(SceneSegmenter(scene), run, source, command)
    low, middle, high = (int(value) for value in np.percentile(counts, (5, 50, 95)))
    console.print(f"\nobjects              {low} to {high} a picture, mostly {middle}")
    console.print(f"masks of {len(counts)} pictures  {run.path / 'examples'}")
    print_next(command, console)


def _read(source: SceneSource, indices: Sequence[int]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names of pictures that can be read, and they, at their own resolution."""
    for index in indices:
        try:
            yield source.scene_name(index), source.read(index)[0]
        except UserError:
            continue
