"""What each phase minimises, as a function of a batch: the losses that the step loop takes.

Source: AE-NE for the background; paper, section 3 for the phases of the curriculum. Ours are the phase
``pseudo_labels`` and the pseudo-labels of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from astseg.config import BackgroundConfig, Config, ObjectsConfig
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components
from astseg.model.astseg import AstSeg
from astseg.model.background import BackgroundModel
from astseg.training import schedule
from astseg.training.batches import Batch, Batches, freeze_background
from astseg.training.copy_paste import copy_paste
from astseg.training.cuda_graphs import LocateStep, Recorded, RenderStep
from astseg.training.losses import background_loss
from astseg.training.objectives import loss_weights, object_losses, pseudo_label_losses
from astseg.training.steps import StepLosses

__all__ = ["background_losses", "frozen_losses", "joint_losses", "object_phase"]

Losses = Callable[[Batch, str, int], StepLosses]


def background_losses(model: BackgroundModel, config: BackgroundConfig, beta: Callable[[int], float]) -> Losses:
    """Phase ``background``: those of the background model by itself; beta: from the position of the schedules."""
    forward = Recorded(model, precision=config.precision, graphs=config.cuda_graphs)

    def losses(batch: Batch, phase: str, position: int) -> StepLosses:
        terms = background_loss(batch.images, *forward(batch.images), beta=beta(position))
        return StepLosses(terms["total"], terms)

    return losses


def frozen_losses(model: AstSeg, config: Config, batches: Batches, *, folder: Path) -> Losses:
    """Phases ``pseudo_labels`` and ``objects``: those of the objects over a background that is frozen now.

    Args:
        model: The model; its background model is set to be frozen.
        config: Settings.
        batches: The training images, whose backgrounds are drawn once.
        folder: Where those lie that do not fit in memory.
    """
    background, objects = model.background_model, config.objects
    limit = model.encoder.slots if objects.pseudo_label_weight or objects.pseudo_label_steps else 0
    frozen = freeze_background(
        background, batches, limit=limit, folder=folder, config=config.discovery, storage=objects.frozen_storage
    )
    model.train()
    background.requires_grad_(False)
    # Of a batch in parts, the second would write over what the first has left.
    graphs = objects.cuda_graphs and objects.accumulate == 1
    step = RenderStep(model, pruning_margin=objects.pruning_margin)
    render = Recorded(step, precision=objects.precision, graphs=graphs)
    locate = Recorded(LocateStep(model.encoder), precision=objects.precision, graphs=graphs)

    def losses(batch: Batch, phase: str, position: int) -> StepLosses:
        weights = loss_weights(config, phase, position)
        labelled = phase == "pseudo_labels" or weights["pseudo_labels"]
        images, behind = batch.images, frozen.draw(batch)
        components = frozen.pseudo_labels(batch) if labelled else None
        if objects.copy_paste and components is not None:
            images, components = copy_paste(
                images,
                components,
                share=objects.copy_paste,
                pasted=config.pseudo_labels.pasted_components,
                smallest=config.discovery.smallest_component,
            )
        if phase == "pseudo_labels":
            assert components is not None
            located = LocateStep.output(locate(images))
            terms = pseudo_label_losses(model, located, images, behind, components, config)
            return StepLosses(_weighted(terms, weights), terms)
        output = RenderStep.output(render(images, behind))
        terms = object_losses(model, output, images, config, components=components, position=position)
        return StepLosses(_weighted(terms, weights), terms, output.weights)

    return losses


def joint_losses(model: AstSeg, config: Config) -> Losses:
    """Phase ``joint``: those of the objects, over a background that learns with them.

    Pseudo-labels are the components of the background as it is at that step: they depend on the weights alone, and a
    resumed run has the same.
    """
    objects = config.objects
    model.train()
    model.background_model.requires_grad_(True)
    graphs = objects.cuda_graphs and objects.accumulate == 1
    draw = Recorded(model.background_model, precision=objects.precision, graphs=graphs)
    step = RenderStep(model, pruning_margin=objects.pruning_margin)
    render = Recorded(step, precision=objects.precision, graphs=graphs)

    def losses(batch: Batch, phase: str, position: int) -> StepLosses:
        weights = loss_weights(config, phase, position)
        background, predicted_error = draw(batch.images)
        components: Components | None = None
        if weights["pseudo_labels"]:
            found = find_components(
                batch.images, background, predicted_error, limit=model.encoder.slots, config=config.discovery
            )
            components = found.to(batch.images.device)
        output = RenderStep.output(render(batch.images, background))
        terms = object_losses(model, output, batch.images, config, components=components, position=position)
        return StepLosses(_weighted(terms, weights), terms, output.weights)

    return losses


def _weighted(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def object_phase(position: int, *, config: ObjectsConfig, joint: bool) -> str | None:
    """The phase at a position of the schedules, if it belongs to the joint stage, or to the one before it."""
    phase = schedule.phase(
        position,
        scenario=config.scenario,
        frozen_steps=config.frozen_steps,
        pseudo_label_steps=config.pseudo_label_steps,
    )
    return phase if joint == (phase == "joint") else None
