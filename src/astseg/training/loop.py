"""The training, visible from top to bottom: the background model, then the objects, then both.

Sources: AE-NE for the background; supplement, Table 1 and section 3 of the paper for the objects, with its two
scenarios. What differs, and only where the configuration says so: the ramp and the template of the background, and the
pseudo-labels and the parsimony of the objects (:mod:`astseg.discovery`, :mod:`astseg.training.losses`).

Every step draws its batch and its noise from (seed, loop, step) alone. So a run repeats bit for bit on one machine,
and one that was interrupted goes on as if it had not been. With a limit of minutes the schedules run by the clock where
that is ahead of the steps, so that a run that is cut short by time still ends with its last, slow phase.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.config.device import default_device
from astseg.data.open import evenly_spaced
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.model.background import BackgroundModel, is_complex
from astseg.runs.distributed import SINGLE, World
from astseg.runs.folder import RunFolder, TrainingState
from astseg.training import schedule
from astseg.training.batches import Batches
from astseg.training.divergence import DivergedError, roll_back
from astseg.training.logging import Reporter
from astseg.training.phases import background_losses, frozen_losses, joint_losses, object_phase
from astseg.training.schedule import Clock
from astseg.training.steps import Job, Stage, Watch, run_stage
from astseg.types import SceneArrays

__all__ = ["Watch", "choose_background_width", "train", "train_background", "train_objects"]

TEMPLATE_IMAGES = 400
"""Images from which the template of the background starts."""


def train(
    config: Config,
    scenes: SceneArrays,
    *,
    run: RunFolder,
    seed: int,
    reporter: Reporter,
    minutes: float | None = None,
    device: torch.device | None = None,
    watch: Watch | None = None,
    background_only: bool = False,
    world: World = SINGLE,
) -> AstSeg:
    """A whole run: phase 1 (curriculum only), then phases 2 and 3; from where the run folder stands.

    Args:
        config: Settings; ``background_width`` is not ``auto`` any more.
        scenes: The training images.
        run: The run folder.
        seed: Seed of weights, batches and dropout.
        reporter: Progress and log.
        minutes: Time limit of the whole.
        device: Where to train; None: a GPU where there is one.
        watch: Called after each step.
        background_only: Stop after phase 1 of the curriculum.
        world: The processes that train together.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        UserError: Losses are not finite even at lower learning rates, the run folder's states are broken, no time is
            left, or a batch cannot be divided evenly.
    """
    job = Job(run, reporter, seed, watch, world)
    objects, parts = config.objects, job.world.size * config.objects.accumulate
    if objects.batch % parts:  # now, not after hours of the background
        raise UserError(
            f"an objects batch of {objects.batch} cannot be divided evenly among {job.world.size} processes with"
            f" {objects.accumulate} parts each: choose a multiple of {parts}"
        )
    device = device or default_device()
    while True:
        try:
            return _train_from_state(config, scenes, job, minutes, device, background_only)
        except DivergedError as error:
            if job.world.is_main:
                roll_back(run, reporter, error)
            job.world.barrier()


def _train_from_state(
    config: Config,
    scenes: SceneArrays,
    job: Job,
    minutes: float | None,
    device: torch.device,
    background_only: bool,
) -> AstSeg:
    """A whole run, from where its folder stands to its end or to a step whose numbers are not finite."""
    run, seed = job.run, job.seed
    state = run.load_state() or TrainingState("background", 0, 0.0, 0.0, seed)
    spent = state.seconds + (0.0 if state.phase == "background" else state.background_seconds)
    if minutes is not None and spent >= minutes * 60 and state.phase != "done":
        raise UserError(f"the run has taken {spent / 60:.1f} of its {minutes:g} minutes already: give it more minutes")
    torch.manual_seed(seed)
    # Pretrained weights are needed at the very start only: later the state holds them.
    pretrained = config.model.backbone_weights if state.phase == "background" and not state.step else None
    model = build(replace(config.model, backbone_weights=pretrained)).to(device)
    shared: dict[str, Any] = {
        "run": run, "seed": seed, "reporter": job.reporter, "watch": job.watch, "world": job.world
    }  # fmt: skip
    if state.phase == "background" and config.objects.scenario == "curriculum":
        part = 1 if background_only else config.background.time_fraction
        train_background(
            model.background_model,
            scenes,
            config.background,
            flip=config.objects.flip,
            minutes=None if minutes is None else minutes * part,
            whole=model,
            **shared,
        )
        job.world.barrier()
        state = run.load_state() or state
    elif state.phase != "background":
        run.restore(model)
    if state.phase != "done" and not background_only:
        left = None if minutes is None else max(0.0, minutes - state.background_seconds / 60)
        train_objects(model, scenes, config, minutes=left, **shared)
    elif state.phase != "done":
        run.save_weights(model)
    return model.eval()


def train_background(
    model: BackgroundModel,
    scenes: SceneArrays,
    config: BackgroundConfig,
    *,
    run: RunFolder,
    seed: int,
    reporter: Reporter,
    flip: bool = False,
    minutes: float | None = None,
    whole: nn.Module | None = None,
    watch: Watch | None = None,
    world: World = SINGLE,
) -> float:
    """Phase 1: learn the background behind the objects, from where the run stands.

    Args, where not those of :func:`train`:
        model: The background model.
        config: Settings.
        flip: Mirror every second image.
        whole: The model that is saved, of which this is a part; None: the background model alone.

    Returns:
        Seconds spent on this phase in all.

    Raises:
        DivergedError: A loss or a gradient is not finite.
    """
    job = Job(run, reporter, seed, watch, world)
    whole, device = whole or model, next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    batches = Batches(
        scenes, size=config.batch, seed=seed, flip=flip, device=device, loop="background", world=job.world
    )
    state = run.load_state() or TrainingState("background", 0, 0.0, 0.0, seed)
    if state.step:
        run.restore(whole, optimizer)
    else:
        model.start_from(batches.take(evenly_spaced(TEMPLATE_IMAGES, batches.shape[0])))
    clock = Clock(config.steps, minutes=minutes, seconds=state.seconds)
    model.train()

    def beta(position: int) -> float:
        start, end = config.ramp
        return schedule.background_beta(position, steps=config.steps, beta=config.beta, ramp_start=start, ramp_end=end)

    stage = Stage(
        whole,
        optimizer,
        phase=lambda position: "background",
        learning_rate=partial(schedule.background_learning_rate, rate=config.learning_rate, steps=config.steps),
        losses=background_losses(model, config, beta),
        settings=lambda position: {"beta": beta(position)},
    )
    run_stage(stage, batches, clock, state, job)
    reporter.flush()
    seconds = clock.seconds()
    run.save_state(TrainingState("objects", 0, 0.0, seconds, seed), whole, None)
    return seconds


def train_objects(
    model: AstSeg,
    scenes: SceneArrays,
    config: Config,
    *,
    run: RunFolder,
    seed: int,
    reporter: Reporter,
    minutes: float | None = None,
    watch: Watch | None = None,
    world: World = SINGLE,
) -> float:
    """Phases 2 and 3 of the curriculum, or the whole of the baseline scenario, from where the run stands.

    Phase 2 (``objects``) trains encoder and renderer on a frozen background, the first steps by pseudo-labels alone
    where the configuration says so (``pseudo_labels``); phase 3 (``joint``) trains all, with a fresh optimiser and no
    loss of the background's own. The baseline is joint from the start, from fresh weights.

    Args, where not those of :func:`train`:
        model: The model; in the curriculum its background model is trained already.
        config: Settings.

    Returns:
        Seconds spent on these phases in all.

    Raises:
        DivergedError: A loss or a gradient is not finite.
    """
    job = Job(run, reporter, seed, watch, world)
    device, objects = next(model.parameters()).device, config.objects
    batches = Batches(scenes, size=objects.batch, seed=seed, flip=objects.flip, device=device, world=job.world)
    state = run.load_state() or TrainingState("objects", 0, 0.0, 0.0, seed)
    if state.step:
        run.restore(model)
    clock = Clock(objects.steps, minutes=minutes, seconds=state.seconds)
    saved = state
    for joint in (False, True):
        phase = partial(object_phase, config=objects, joint=joint)
        (position,) = job.world.maximum(clock.position(state.step))
        if position >= clock.steps or phase(int(position)) is None:
            continue
        optimizer = _object_optimizer(model, objects, joint=joint)
        if state.step and state == saved and joint == (state.phase == "joint"):
            run.restore(model, optimizer)
        losses = joint_losses(model, config) if joint else frozen_losses(model, config, batches, folder=run.path)
        stage = Stage(
            model,
            optimizer,
            phase=phase,
            learning_rate=partial(schedule.object_learning_rate, config=objects),
            losses=losses,
            accumulate=objects.accumulate,
            clip=objects.clip,
        )
        state = run_stage(stage, batches, clock, state, job)
    reporter.flush()
    seconds = clock.seconds()
    run.save_weights(model)
    run.save_state(TrainingState("done", state.step, seconds, state.background_seconds, seed), model, None)
    return seconds


def _object_optimizer(model: AstSeg, config: ObjectsConfig, *, joint: bool) -> torch.optim.Optimizer:
    """Adam over what a stage trains; made anew for the joint phase, as in the reference: its moments are lost."""
    parameters = list(model.parameters()) if joint else model.object_parameters()
    return torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def choose_background_width(
    config: Config, scenes: SceneArrays, *, seed: int, device: torch.device | None = None, steps: int = 200
) -> str:
    """``simple`` or ``complex``, by how much the backgrounds of a short run vary (AE-NE).

    Args:
        config: Settings of the run.
        scenes: The training images.
        seed: Seed of the short run.
        device: Where to train.
        steps: Steps of the short run.
    """
    device = device or default_device()
    torch.manual_seed(seed)
    # A mixture of colours follows the image from the first step on, so it would not show what varies.
    form = "paper" if config.model.background_form == "paper" else "fixed"
    model = BackgroundModel(config.model.image_size, "simple", form=form).to(device)
    short = replace(config.background, steps=min(steps, config.background.steps))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        train_background(model, scenes, short, run=run, seed=seed, reporter=Reporter())
    batches = Batches(scenes, size=config.background.batch, seed=seed, flip=False, device=device, loop="background")
    with torch.no_grad():
        drawn = [model(batches.draw(step).images)[0] for step in range(15)]
    return "complex" if is_complex(drawn) else "simple"
