"""The step loop that all phases share: batch, losses, backward, all-reduce, check, clip, step, log, checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from astseg.runs.distributed import SINGLE, World
from astseg.runs.folder import RunFolder, TrainingState
from astseg.training.batches import Batch, Batches
from astseg.training.divergence import DivergenceMonitor
from astseg.training.logging import Reporter
from astseg.training.schedule import Clock
from astseg.training.signals import StopRequest

__all__ = ["Job", "Stage", "StepLosses", "Watch", "run_stage"]

Watch = Callable[[nn.Module, str, int, float], None]
"""Called after each step with the model, the phase, the finished steps and the seconds."""

SAVE_SECONDS = 120.0
"""A run that is killed loses at most this much work."""


@dataclass(frozen=True)
class Job:
    """What all phases of a run share: folder, log, seed, who watches, and the processes that train together."""

    run: RunFolder
    reporter: Reporter
    seed: int
    watch: Watch | None = None
    world: World = SINGLE


class StepLosses(NamedTuple):
    """The losses of (a part of) a batch.

    Attributes:
        total: What is minimised, a scalar.
        terms: What is logged, scalars by name.
        weights: Layer weights B x L x H x W of rendered images, else None.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """Phases that share an optimiser.

    Attributes:
        model: The model that is saved.
        optimizer: Its parameters are those that are trained.
        phase: From the position of the schedules to the name of the phase; None: the stage is over.
        learning_rate: From the position to the learning rate.
        losses: Those of a batch, in a phase, at a position.
        settings: From the position to what else the log should hold.
        accumulate: Parts of a batch whose gradients are averaged.
        clip: Largest norm of the gradients; 0: no limit.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    phase: Callable[[int], str | None]
    learning_rate: Callable[[int], float]
    losses: Callable[[Batch, str, int], StepLosses]
    settings: Callable[[int], dict[str, float]] = lambda position: {}
    accumulate: int = 1
    clip: float = 0.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def backward(self, batch: Batch, phase: str, position: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Accumulate the gradients of a batch; its mean losses, detached, and its layer weights part by part."""
        self.optimizer.zero_grad(set_to_none=True)
        found, weights = [], []
        for part in batch.split(self.accumulate):
            losses = self.losses(part, phase, position)
            (losses.total / self.accumulate).backward()  # type: ignore[no-untyped-call]
            found.append({name: loss.detach() for name, loss in losses.terms.items()})
            weights += [] if losses.weights is None else [losses.weights.detach()]
        return {name: torch.stack([part[name] for part in found]).mean() for name in found[0]}, weights


def run_stage(stage: Stage, batches: Batches, clock: Clock, state: TrainingState, job: Job) -> TrainingState:
    """Optimiser steps until the stage or the loop is over.

    Args:
        stage: What is trained, and how.
        batches: The training images.
        clock: That of the loop.
        state: Where the loop stands.
        job: What the phases of a run share.

    Returns:
        Where the loop stands now.

    Raises:
        DivergedError: A loss or a gradient is not finite.
        KeyboardInterrupt: The run was asked to stop, and its state is saved.
    """
    run, reporter, parameters = job.run, job.reporter, stage.parameters
    divergence = DivergenceMonitor(run, reporter, seed=job.seed, rank=job.world.rank)
    step, saved = state.step, clock.seconds()
    stage.model.zero_grad(set_to_none=True)  # those of an earlier stage would count as this one's
    with StopRequest() as stop:
        (position,) = map(int, job.world.maximum(clock.position(step)))
        while position < clock.steps and (phase := stage.phase(position)):
            rate = stage.learning_rate(position) * divergence.factor
            for group in stage.optimizer.param_groups:
                group["lr"] = rate
            batch = batches.draw(step)
            losses, weights = stage.backward(batch, phase, position)
            losses = job.world.average(parameters, losses)
            divergence.check(phase, step, losses, stage.model, batch)
            divergence.check_collapse(phase, step, position / clock.steps, weights)
            if stage.clip:
                nn.utils.clip_grad_norm_(parameters, stage.clip)
            stage.optimizer.step()

            step, seconds = step + 1, clock.seconds()
            spent = seconds if phase == "background" else state.background_seconds
            state = TrainingState(phase, step, seconds, spent, job.seed)
            settings = {"rate": rate, **stage.settings(position)}
            reporter.step(phase, step - 1, position, clock.steps, losses, seconds=seconds, **settings)
            if job.watch is not None:
                job.watch(stage.model, phase, step, seconds)
            due = seconds - saved > SAVE_SECONDS
            stopping, saving, position = map(int, job.world.maximum(stop.requested, due, clock.position(step)))
            if stopping or saving:
                saved = seconds
                reporter.flush()
                run.save_state(state, stage.model, stage.optimizer)
                if phase != "background":
                    run.save_weights(stage.model)
            stop.requested = bool(stopping)
            stop.obey()
    return state
