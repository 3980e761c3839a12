"""``astseg fit`` on pictures of one scene that must be looked at in full: survey, plan, learn, show."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from astseg.autofit.plan import Row
from astseg.autofit.scene_survey import LOOKED_AT, SceneSurvey, scaled_size, scene_from, survey_scene
from astseg.autofit.survey import SIDE
from astseg.config import Config
from astseg.data import SceneSource, select
from astseg.data.formats.png import save_label_png, save_picture
from astseg.data.open import evenly_spaced
from astseg.data.resize import reduced
from astseg.discovery.cutouts import first_regions
from astseg.discovery.scene_file import SCENE_FILE, load_scene, save_scene
from astseg.discovery.scene_model import SceneModel
from astseg.errors import UserError
from astseg.inference.scene_segmenter import SceneSegmenter
from astseg.inference.writers.overlay import overlay
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.finder import learn_finder, seconds_a_step
from astseg.training.logging import spelled_time
from astseg.training.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.cli.arguments import Fit

__all__ = ["SceneLook", "fit_scene", "look_in_full"]

NARROW = 9.0
"""Pixels; where the median object is narrower at the size at which the network of layers sees the whole picture, the
picture is looked at in full."""

MINUTES = 12.0
"""What the finder is given where no limit is named."""

MEMORY = 400e6
"""Bytes of pictures at the working scale that are kept, at most."""

MOST = 300
"""Pictures that are learned from, at most, evenly spaced: more of one scene tell little more."""

SHOWN = 12
"""Pictures whose masks are written."""


@dataclass(frozen=True)
class SceneLook:
    """Pictures that were looked at, and what was seen.

    Attributes:
        full: At their own resolution, H x W x 3.
        seen: What was seen.
        begin: When the look began, by :func:`time.monotonic`.
    """

    full: Sequence[NDArray[np.uint8]]
    seen: SceneSurvey
    begin: float


def look_in_full(command: Fit, source: SceneSource, config: Config) -> SceneLook | None:
    """Look at pictures in full; None where the whole picture can be seen at the size of the model, as it is then.

    Raises:
        UserError: A background that is named does not explain the pictures.
    """
    named = config.scene.background != "none"
    if source.benchmark is not None or any(name.split(".")[0] == "model" for name in command.given):
        return None
    begin = time.monotonic()
    indices = select(source, command.split)
    full = _read(source, [indices[k] for k in evenly_spaced(min(LOOKED_AT, len(indices)), len(indices))])
    if len(full) < 5 or (len({one.shape for one in full}) > 1 and not named):
        return None
    usual = max({one.shape for one in full}, key=[one.shape for one in full].count)
    full = [one for one in full if one.shape == usual]
    seen = survey_scene(full, config.scene)
    if seen.sizes is None:
        if named:
            raise UserError(f"no objects stand out from a {seen.kind} background in {len(full)} pictures looked at")
        return None
    if not named and seen.sizes.width * SIDE / min(usual[:2]) >= NARROW:
        return None
    return SceneLook(full, seen, begin)


def fit_scene(command: Fit, source: SceneSource, look: SceneLook | None, held: Session, console: Console) -> int:
    """Plan, learn and show; its exit code.

    Args:
        command: What was asked for.
        source: The pictures.
        look: What was seen of them; None: the run has begun, and goes on.
        held: The run.
        console: Where everything is printed.

    Raises:
        UserError: Too few objects, or a folder of another run.
    """
    begin = time.monotonic() if look is None else look.begin
    if look is None:
        config, info = held.run.load_config()
        if (held.run.path / SCENE_FILE).exists() and load_scene(held.run.path, config.scene).finder is not None:
            console.print(f"{command.out} is trained already")
            return 0
        raise UserError(f"'{command.out}' was stopped before it had learned: remove it and begin again")
    indices = select(source, command.split)
    config = command.settings
    scale = look.seen.scale if "scene.working_scale" not in command.given else config.scene.working_scale
    seen = replace(look.seen, scale=scale)
    size = scaled_size(look.full[0].shape[:2], scale)
    count = min(len(indices), MOST, max(20, int(MEMORY / (9 * size[0] * size[1]))))
    chosen = [indices[k] for k in evenly_spaced(count, len(indices))]
    pictures = [reduced(one, size) for one in _read(source, chosen) if one.shape == look.full[0].shape]
    scene = scene_from(seen, pictures, config.scene, look.full)
    scene = _planned(command, scene, seen, pictures, begin, console)
    config = replace(config, scene=scene.config)
    info = RunInfo(
        preset=command.preset,
        seed=command.seed,
        data=str(command.data),
        split=command.split,
        resize="squeeze",
        stride=command.stride,
        frames=command.frames,
        images=len(indices),
        fingerprint=_fingerprint(pictures),
    )
    held.begin(config, info, {"fit.json": {"minutes": command.minutes, "scene": dataclasses.asdict(seen)}})
    save_scene(held.run.path, scene)

    def say(phase: str, step: int, loss: float) -> None:
        entry = {"phase": phase, "step": step, "loss": loss, "seconds": time.monotonic() - begin}
        with held.run.log_path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
        if step % 250 == 0 or step == config.scene.steps:
            console.print(f"finder {step:>6} of {config.scene.steps}  loss {loss:.4f}")

    scene = learn_finder(scene, pictures, seed=command.seed, say=say)
    save_scene(held.run.path, scene)
    counts = _examples(SceneSegmenter(scene), held.run, source, indices)
    low, middle, high = (int(value) for value in np.percentile(counts, (5, 50, 95)))
    console.print(f"\nobjects              {low} to {high} a picture, mostly {middle}")
    console.print(f"masks of {len(counts)} pictures  {held.run.path / 'examples'}")
    console.print(
        f"next                 astseg segment {quote(str(command.out))} {quote(str(command.data))} --out masks"
    )
    console.print(f"time                 {spelled_time(time.monotonic() - begin)} since the command began")
    return 0


def _planned(
    command: Fit,
    scene: SceneModel,
    seen: SceneSurvey,
    pictures: Sequence[NDArray[np.uint8]],
    begin: float,
    console: Console,
) -> SceneModel:
    """The scene with the steps that the time allows; prints the plan."""
    config, full = scene.config, scene.picture_size
    material = first_regions(scene, pictures)
    pace = seconds_a_step(scene, material)
    minutes = command.minutes or MINUTES
    left = max(0.5 * minutes * 60, minutes * 60 - (time.monotonic() - begin) * 1.5)
    steps = command.steps or (config.steps if "scene.steps" in command.given else max(50, int(0.85 * left / pace)))
    assert seen.sizes is not None
    size = f"{pictures[0].shape[0]} x {pictures[0].shape[1]}"
    width = f"the median object is {seen.sizes.width:.0f} pixels wide, {seen.sizes.width * seen.scale:.0f} there"
    rows = [
        Row("background", seen.kind, seen.reason, "--scene.background"),
        Row("working scale", f"{seen.scale:g} ({size})", width, "--scene.working-scale"),
        Row("steps", f"{steps}", f"{pace:.2f} s each, within {minutes:g} minutes", "--scene.steps"),
    ]
    console.print(f"\n{command.data}: pictures of {full[0]} x {full[1]}, looked at in full")
    console.print(
        f"  {len(material.cutouts)} objects stand out in {len(pictures)} pictures, {seen.count:.1f} in each\n"
    )
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    for row in rows:
        table.add_row(row.option, row.value, row.reason)
    console.print(table)
    return replace(scene, config=replace(config, steps=steps))


def _read(source: SceneSource, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Pictures that can be read, at their own resolution."""
    pictures = []
    for index in indices:
        try:
            pictures.append(source.read(index)[0])
        except UserError:
            continue
    return pictures


def _fingerprint(pictures: Sequence[NDArray[np.uint8]]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for one in pictures:
        digest.update(np.ascontiguousarray(one).data)
    return digest.hexdigest()[:16]


def _examples(segmenter: SceneSegmenter, run: RunFolder, source: SceneSource, indices: Sequence[int]) -> list[int]:
    """Masks and overlays of some pictures; the number of objects in each."""
    counts = []
    for index in (indices[k] for k in evenly_spaced(min(SHOWN, len(indices)), len(indices))):
        try:
            picture = source.read(index)[0]
        except UserError:
            continue
        prediction = segmenter.predict(picture, layers=False)
        name = str(PurePosixPath(source.scene_name(index)).with_suffix("")).replace("/", "_")
        save_label_png(prediction.labels, run.path / "examples" / f"{name}_masks.png")
        save_picture(overlay(picture, prediction.labels), run.path / "examples" / f"{name}.png")
        counts.append(len(prediction.objects))
    return counts
