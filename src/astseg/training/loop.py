"""Two training loops, each visible from top to bottom: the background model, then the objects.

Sources: AE-NE for the first; supplement, Table 1 and section 3 of the paper for the second, with its two scenarios.
What differs, and only where the configuration says so: the ramp and the template of the background, and the guidance
and the parsimony of the objects (:mod:`astseg.discovery`, :mod:`astseg.training.losses`).

Every step draws its batch and its noise from (seed, step) alone. So a run repeats bit for bit on one machine, and one
that was interrupted goes on as if it had not been. With a limit of minutes the schedules run by the clock where that is
ahead of the steps, so that a run that is cut short by time still ends with its last, slow phase.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.config.device import default_device
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.model.background import BackgroundModel, is_complex
from astseg.runs.distributed import ALONE, Team
from astseg.runs.folder import RunFolder, TrainingState
from astseg.training import schedule
from astseg.training.batches import Batches, FrozenBackground, LiveComponents, freeze_background, split
from astseg.training.clock import Clock
from astseg.training.copy_paste import copy_paste
from astseg.training.cuda_graphs import Locating, Replayed, Scene
from astseg.training.divergence import DivergedError, DivergenceMonitor, roll_back
from astseg.training.logging import Reporter
from astseg.training.losses import background_loss
from astseg.training.objectives import loss_weights, object_losses, pseudo_label_losses
from astseg.training.signals import StopRequest
from astseg.types import SceneArrays

__all__ = ["Watch", "choose_background_width", "train", "train_background", "train_objects"]

Watch = Callable[[nn.Module, str, int, float], None]
"""Called after each step with the model, the phase, the finished steps and the seconds; to draw pictures."""

SAVE_SECONDS = 120.0
"""A run that is killed loses at most this much work."""


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
    team: Team = ALONE,
) -> float:
    """Phase 1: learn the background behind the objects.

    Args:
        model: The background model.
        scenes: The images; labels are not looked at.
        config: Settings.
        run: Where the state goes; if it holds a state of this phase, training goes on from there.
        seed: Seed of the batches.
        reporter: Progress and log.
        flip: Mirror every second image.
        minutes: Time limit.
        whole: The model that is saved, of which this is a part; by default the background model alone.
        watch: Called after each step.
        team: The processes that train together.

    Returns:
        Seconds spent on this phase in all.

    Raises:
        DivergedError: A loss or a gradient is not finite.
    """
    whole = model if whole is None else whole
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    share = (team.rank, team.size)
    batches = Batches(scenes, size=config.batch, seed=seed, flip=flip, device=device, share=share)
    state = run.load_state() or TrainingState("background", 0, 0.0, 0.0, seed)
    if state.step:
        run.restore(whole, optimizer)
    else:
        model.start_from(next(batches.in_order(size=400)))
    clock = Clock(config.steps, minutes=minutes, seconds=state.seconds)
    divergence = DivergenceMonitor(run, reporter, seed=seed)
    saved = clock.seconds()
    model.train()
    forward = Replayed(model, precision=config.precision, graphs=config.cuda_graphs)
    with StopRequest() as interruption:
        for step, position in team.agreed(clock.left(state.step)):
            full_rate = schedule.background_learning_rate(position, rate=config.learning_rate, steps=config.steps)
            rate = full_rate * divergence.factor
            beta = schedule.background_beta(
                position, steps=config.steps, beta=config.beta, ramp_start=config.ramp[0], ramp_end=config.ramp[1]
            )
            set_rate(optimizer, rate)
            images, _, _ = batch = batches.draw(step)
            background, predicted_error = forward(images)
            losses = background_loss(images, background, predicted_error, beta=beta)
            optimizer.zero_grad(set_to_none=True)
            losses["total"].backward()  # type: ignore[no-untyped-call]
            detached = team.shared(model, losses)
            divergence.check("background", step, detached, model, batch)
            optimizer.step()

            seconds = clock.seconds()
            reporter.step("background", step, position, config.steps, detached, seconds=seconds, rate=rate, beta=beta)
            if watch is not None:
                watch(whole, "background", step + 1, seconds)
            interruption.requested, is_due = team.any(interruption.requested, seconds - saved > SAVE_SECONDS)
            if interruption.requested or is_due:
                saved = seconds
                reporter.flush()
                run.save_state(TrainingState("background", step + 1, seconds, seconds, seed), whole, optimizer)
            interruption.obey()
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
    team: Team = ALONE,
) -> float:
    """Phases 2 and 3 of the curriculum, or the whole of the baseline scenario.

    Phase 2 (``objects``) trains encoder and renderer on a frozen background, the first steps by guidance alone where
    the configuration says so (``pseudo_labels``); phase 3 (``joint``) trains both, with a fresh optimiser and no loss of the
    background's own. The baseline is joint from the start, from fresh weights.

    Args:
        model: The model; in the curriculum its background model is trained already.
        scenes: The images; labels are not looked at.
        config: Settings.
        run: Where the state goes; if it holds a state of these phases, training goes on from there.
        seed: Seed of batches and dropout.
        reporter: Progress and log.
        minutes: Time limit.
        watch: Called after each step.
        team: The processes that train together.

    Returns:
        Seconds spent on these phases in all.

    Raises:
        DivergedError: A loss or a gradient is not finite.
    """
    objects, device = config.objects, next(model.parameters()).device
    share = (team.rank, team.size)
    batches = Batches(scenes, size=objects.batch, seed=seed + 1, flip=objects.flip, device=device, share=share)
    state = run.load_state() or TrainingState("objects", 0, 0.0, 0.0, seed)
    if state.step:
        run.restore(model)
    clock = Clock(objects.steps, minutes=minutes, seconds=state.seconds)
    divergence = DivergenceMonitor(run, reporter, seed=seed + 1)
    phase, finished, saved = "", state.step, clock.seconds()
    with StopRequest() as interruption:
        for step, position in team.agreed(clock.left(state.step)):
            now = schedule.phase(
                position,
                scenario=objects.scenario,
                frozen_steps=objects.frozen_steps,
                pseudo_label_steps=objects.pseudo_label_steps,
            )
            if not phase or (now == "joint") != (phase == "joint"):
                parameters = model.parameters() if now == "joint" else model.object_parameters()
                # Made anew at the switch, as in the reference: the moments of the objects are lost.
                optimizer = torch.optim.Adam(
                    parameters, lr=objects.learning_rate, betas=objects.betas, eps=objects.eps, fused=True
                )
                if step == state.step and (state.phase == "joint") == (now == "joint") and step:
                    run.restore(model, optimizer)
                regions = model.encoder.slots if objects.pseudo_label_weight or objects.pseudo_label_steps else 0
                if now == "joint":
                    # Regions of the background as it then is: they hang on the weights alone, whatever came before.
                    live = LiveComponents(model.background_model, batches, regions, config.discovery)
                    frozen = FrozenBackground(None, live if regions else None)
                else:
                    frozen = freeze_background(
                        model.background_model,
                        batches,
                        regions=regions,
                        storage=objects.frozen_storage,
                        config=config.discovery,
                    )
                model.train()
                model.background_model.requires_grad_(now == "joint")
                # Of a batch in parts, the second would write over what the first has left.
                graphs = objects.cuda_graphs and objects.accumulate == 1
                render = Replayed(
                    Scene(model, pruning_margin=objects.pruning_margin), precision=objects.precision, graphs=graphs
                )
                locate = Replayed(Locating(model.encoder), precision=objects.precision, graphs=graphs)
            phase = now

            rate = object_rate(objects, position) * divergence.factor
            set_rate(optimizer, rate)
            batch, weights = batches.draw(step), loss_weights(config, phase, position)
            guided = phase == "pseudo_labels" or weights["pseudo_labels"]
            optimizer.zero_grad(set_to_none=True)
            found: list[dict[str, Tensor]] = []
            layers: list[Tensor] = []
            for images, indices, mirrored in split(batch, objects.accumulate):
                backgrounds = frozen.draw(indices, mirrored)
                components = (
                    frozen.components.take(indices, mirrored) if frozen.components is not None and guided else None
                )
                if objects.copy_paste and phase != "joint" and components is not None:
                    images, components = copy_paste(
                        images,
                        components,
                        share=objects.copy_paste,
                        pasted=config.pseudo_labels.pasted_components,
                        smallest=config.discovery.smallest_component,
                    )
                if phase == "pseudo_labels":
                    assert components is not None
                    located = Locating.output(locate(images))
                    losses = pseudo_label_losses(model, located, images, backgrounds, components, config)
                else:
                    output = Scene.output(render(images) if backgrounds is None else render(images, backgrounds))
                    losses = object_losses(model, output, images, config, components=components, position=position)
                    layers.append(output.weights.detach())
                total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
                (total / objects.accumulate).backward()  # type: ignore[no-untyped-call]
                found.append({name: loss.detach() for name, loss in losses.items()})
            losses = {name: torch.stack([part[name] for part in found]).mean() for name in found[0]}
            if layers:
                divergence.look(phase, step, position / objects.steps, layers)
            detached = team.shared(model, losses)
            divergence.check(phase, step, detached, model, batch)
            if objects.clip:
                # Of what is trained alone: a frozen background may still have the gradients of its own last step.
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], objects.clip)
            optimizer.step()

            seconds, finished = clock.seconds(), step + 1
            reporter.step(phase, step, position, objects.steps, detached, seconds=seconds, rate=rate)
            if watch is not None:
                watch(model, phase, finished, seconds)
            interruption.requested, is_due = team.any(interruption.requested, seconds - saved > SAVE_SECONDS)
            if interruption.requested or is_due:
                saved = seconds
                reporter.flush()
                here = TrainingState(phase, finished, seconds, state.background_seconds, seed)
                run.save_state(here, model, optimizer)
                run.save_weights(model)
            interruption.obey()
    reporter.flush()
    seconds = clock.seconds()
    run.save_weights(model)
    run.save_state(TrainingState("done", finished, seconds, state.background_seconds, seed), model, None)
    return seconds


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
    team: Team = ALONE,
) -> AstSeg:
    """A whole run: phase 1 (curriculum only), then phases 2 and 3; from wherever the run folder stands.

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
        team: The processes that train together.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        UserError: Losses are not finite even at lower rates, the run folder's states are broken, no time is left, or a
            batch cannot be split evenly.
    """
    objects, parts = config.objects, team.size * config.objects.accumulate
    if objects.batch % parts:  # now, not after hours of the background
        raise UserError(
            f"an objects batch of {objects.batch} cannot be split evenly by {team.size} processes with"
            f" {objects.accumulate} parts each: choose a multiple of {parts}"
        )
    while True:
        try:
            return _train_from_state(
                config,
                scenes,
                run=run,
                seed=seed,
                reporter=reporter,
                minutes=minutes,
                device=device or default_device(),
                watch=watch,
                background_only=background_only,
                team=team,
            )
        except DivergedError as error:
            if team.is_first:
                roll_back(run, reporter, error)
            team.wait()


def _train_from_state(
    config: Config,
    scenes: SceneArrays,
    *,
    run: RunFolder,
    seed: int,
    reporter: Reporter,
    minutes: float | None,
    device: torch.device,
    watch: Watch | None,
    background_only: bool,
    team: Team,
) -> AstSeg:
    """A whole run, from where its folder stands to its end or to a step whose numbers are not finite."""
    state = run.load_state() or TrainingState("background", 0, 0.0, 0.0, seed)
    spent = state.seconds + (0.0 if state.phase == "background" else state.background_seconds)
    if minutes is not None and spent >= minutes * 60 and state.phase != "done":
        raise UserError(f"the run has taken {spent / 60:.1f} of its {minutes:g} minutes already: give it more minutes")
    torch.manual_seed(seed)
    # Pretrained weights are needed at the very start only: later the state holds them.
    pretrained = config.model.backbone_weights if state.phase == "background" and not state.step else None
    model = build(replace(config.model, backbone_weights=pretrained)).to(device)
    curriculum = config.objects.scenario == "curriculum"
    if state.phase == "background" and curriculum:
        train_background(
            model.background_model,
            scenes,
            config.background,
            run=run,
            seed=seed,
            reporter=reporter,
            flip=config.objects.flip,
            minutes=None if minutes is None else minutes * (1 if background_only else config.background.time_fraction),
            whole=model,
            watch=watch,
            team=team,
        )
        team.wait()
        state = run.load_state() or state
    elif state.phase != "background":
        run.restore(model)
    if state.phase != "done" and not background_only:
        left = None if minutes is None else max(0.0, minutes - state.background_seconds / 60)
        train_objects(
            model,
            scenes,
            config,
            run=run,
            seed=seed,
            reporter=reporter,
            minutes=left,
            watch=watch,
            team=team,
        )
    elif state.phase != "done":
        run.save_weights(model)
    return model.eval()


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
    # A palette follows the image from the first step on, so it would tell nothing of what varies.
    form = "paper" if config.model.background_form == "paper" else "fixed"
    model = BackgroundModel(config.model.image_size, "simple", form=form).to(device)
    short = replace(config.background, steps=min(steps, config.background.steps))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        train_background(model, scenes, short, run=run, seed=seed, reporter=Reporter())
    batches = Batches(scenes, size=config.background.batch, seed=seed, flip=False, device=device)
    with torch.no_grad():
        drawn = [model(batches.draw(step)[0])[0] for step in range(15)]
    return "complex" if is_complex(drawn) else "simple"


def object_rate(config: ObjectsConfig, position: int) -> float:
    """The learning rate of the objects at a step of the schedules."""
    rate, warmup, steps = config.learning_rate, config.warmup, config.steps
    if config.decay == "cosine":
        return schedule.cosine_rate(position, rate=rate, warmup=warmup, steps=steps)
    return schedule.learning_rate(position, rate=rate, warmup=warmup, steps=steps, decay_at=config.decay_from)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
