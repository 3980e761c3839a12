"""What the training of the objects minimises: the paper's two losses, and ours where the configuration asks for them.

Sources: Table 1 and section 3 of the paper for reconstruction and pixel entropy. Ours: parsimony
(:func:`astseg.training.losses.parsimony_loss`) and guidance (:mod:`astseg.discovery`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from astseg.config import ObjectsConfig
from astseg.config.device import uses_bfloat16
from astseg.discovery.components import Components
from astseg.model.astseg import AstSeg
from astseg.training import schedule
from astseg.training.losses import parsimony_loss, pixel_entropy_loss, reconstruction_loss
from astseg.training.pseudo_labels import TERM_WEIGHTS, glimpse_loss, pseudo_label_loss, where_losses
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["pseudo_label_losses", "loss_weights", "object_losses"]

ANCHORED_PART = 0.25
"""Part of the steps with guidance in which the slots' anchors count in the matching, less and less."""

ANCHORED = 100.0
"""So much do the anchors count where there are guided steps: nothing else does. Which slot takes which region then is a
matter of where the regions lie alone, the same in every step, and is learnt in half as many."""


def loss_weights(config: ObjectsConfig, phase: str, position: int) -> dict[str, float]:
    """How much each loss counts in a phase, at a step of the schedules."""
    ramp, steps = config.entropy_ramp, config.steps
    if phase == "pseudo_labels":
        return {**TERM_WEIGHTS, "glimpse": 1.0}
    return {
        "reconstruction": 1.0,
        "pixel_entropy": schedule.entropy_weight(position, weight=config.entropy_weight, ramp=ramp),
        "parsimony": schedule.parsimony_weight(position, weight=config.parsimony_weight, ramp=ramp, steps=steps),
        "pseudo_labels": schedule.pseudo_label_weight(
            position, weight=config.pseudo_label_weight, steps=config.pseudo_label_decay
        ),
    }


def pseudo_label_losses(
    model: AstSeg,
    located: tuple[ObjectLatents, Tensor],
    images: Tensor,
    backgrounds: Tensor,
    components: Components,
    config: ObjectsConfig,
) -> dict[str, Tensor]:
    """The losses of a batch before anything is rendered, unweighted, by name.

    Args:
        model: The model.
        located: What its encoder finds before the second look (:meth:`astseg.model.encoder.Encoder.locate`).
        images: The batch, B x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        components: The regions of the images.
        config: Settings.
    """
    latents, attention = located

    def draw(seen: Tensor, attended: Tensor, where: Tensor, scale: Tensor) -> Tensor:
        lowered = uses_bfloat16(config.precision, images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=lowered):
            return model.glimpses(seen, attended, where, scale)

    losses, _ = where_losses(
        latents,
        attention,
        components,
        background_log_activation=model.renderer.background_log_activation,
        scale_range=model.encoder.scale_range,
        anchoring=ANCHORED,
    )
    if model.encoder.glimpse_encoder is None:
        return losses
    losses["glimpse"] = glimpse_loss(
        draw,
        images,
        backgrounds,
        components,
        side=model.renderer.generator.side,
        cells=(attention.shape[2], attention.shape[3]),
        scale_range=model.encoder.scale_range,
        isotropic=model.encoder.scale_numbers == 1,
    )
    return losses


def object_losses(
    model: AstSeg,
    output: SceneOutput,
    images: Tensor,
    config: ObjectsConfig,
    *,
    components: Components | None,
    position: int,
) -> dict[str, Tensor]:
    """The losses of a batch of rendered images, unweighted, by name.

    Args:
        model: The model.
        output: What it says of the batch.
        images: The batch, B x 3 x H x W in [0, 1].
        config: Settings.
        components: Regions to be guided by, or None.
        position: Where the schedules stand.
    """
    losses = {
        "reconstruction": reconstruction_loss(output.reconstruction, images),
        "pixel_entropy": pixel_entropy_loss(output.weights),
    }
    if config.parsimony_weight:
        losses["parsimony"] = parsimony_loss(output.weights)
    if components is not None:
        anchored = max(1.0, ANCHORED_PART * config.pseudo_label_decay)
        losses["pseudo_labels"] = pseudo_label_loss(
            output,
            components,
            background_log_activation=model.renderer.background_log_activation,
            scale_range=model.encoder.scale_range,
            anchoring=ANCHORED if config.pseudo_label_steps else 1 - position / anchored,
        )
    return losses
