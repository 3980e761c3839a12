"""Which losses count in which phase: the paper's two, and ours where the configuration asks for them.

Sources: section 3 and Table 1 of the supplement for reconstruction and pixel entropy. Ours: parsimony
(:func:`astseg.training.losses.parsimony_loss`) and pseudo-labels (:mod:`astseg.training.pseudo_labels`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from astseg.config import Config
from astseg.config.device import uses_bfloat16
from astseg.discovery.components import Components
from astseg.model.astseg import AstSeg
from astseg.training import schedule
from astseg.training.losses import parsimony_loss, pixel_entropy_loss, reconstruction_loss
from astseg.training.pseudo_labels import glimpse_loss, location_losses, pseudo_label_loss, term_weights
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["loss_weights", "object_losses", "pseudo_label_losses"]


def loss_weights(config: Config, phase: str, position: int) -> dict[str, float]:
    """The weight of each loss in a phase, at a step of the schedules."""
    objects = config.objects
    if phase == "pseudo_labels":
        return {**term_weights(config.pseudo_labels), "glimpse": config.pseudo_labels.glimpse_weight}
    ramp, steps, decay = objects.entropy_ramp, objects.steps, objects.pseudo_label_decay
    return {
        "reconstruction": 1.0,
        "pixel_entropy": schedule.entropy_weight(position, weight=objects.entropy_weight, ramp=ramp),
        "parsimony": schedule.parsimony_weight(position, weight=objects.parsimony_weight, ramp=ramp, steps=steps),
        "pseudo_labels": schedule.pseudo_label_weight(position, weight=objects.pseudo_label_weight, steps=decay),
    }


def pseudo_label_losses(
    model: AstSeg,
    located: tuple[ObjectLatents, Tensor],
    images: Tensor,
    backgrounds: Tensor,
    components: Components,
    config: Config,
) -> dict[str, Tensor]:
    """The losses of a batch of which nothing is rendered, unweighted, by name.

    Args:
        model: The model.
        located: Latents and attention before the glimpse encoder (:meth:`astseg.model.encoder.Encoder.locate`).
        images: The batch, B x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        components: The components of the images.
        config: Settings.
    """
    latents, attention = located
    losses, _ = location_losses(
        latents,
        attention,
        components,
        background_log_activation=model.renderer.background_log_activation,
        scale_range=model.encoder.scale_range,
        config=config.pseudo_labels,
        anchoring=config.pseudo_labels.anchor_weight,
        glimpse_margin=config.discovery.glimpse_margin,
    )
    if model.encoder.glimpse_encoder is None:
        return losses

    def draw(seen: Tensor, attended: Tensor, where: Tensor, scale: Tensor) -> Tensor:
        lowered = uses_bfloat16(config.objects.precision, images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=lowered):
            return model.glimpses(seen, attended, where, scale)

    losses["glimpse"] = glimpse_loss(
        draw,
        images,
        backgrounds,
        components,
        side=model.renderer.generator.side,
        cells=(attention.shape[2], attention.shape[3]),
        scale_range=model.encoder.scale_range,
        config=config.pseudo_labels,
        isotropic=model.encoder.scale_numbers == 1,
        glimpse_margin=config.discovery.glimpse_margin,
    )
    return losses


def object_losses(
    model: AstSeg,
    output: SceneOutput,
    images: Tensor,
    config: Config,
    *,
    components: Components | None,
    position: int,
) -> dict[str, Tensor]:
    """The losses of a batch of rendered images, unweighted, by name.

    Args:
        model: The model.
        output: Its output for the batch.
        images: The batch, B x 3 x H x W in [0, 1].
        config: Settings.
        components: The components of the images where these are pseudo-labels, or None.
        position: The step of the schedules.
    """
    losses = {
        "reconstruction": reconstruction_loss(output.reconstruction, images),
        "pixel_entropy": pixel_entropy_loss(output.weights),
    }
    if config.objects.parsimony_weight:
        losses["parsimony"] = parsimony_loss(output.weights)
    if components is not None:
        # After steps with pseudo-labels alone the matching stays by anchors; else it is by anchors only at first.
        alone, weight = config.objects.pseudo_label_steps > 0, config.pseudo_labels.anchor_weight
        until = max(1.0, config.pseudo_labels.anchor_decay * config.objects.pseudo_label_decay)
        losses["pseudo_labels"] = pseudo_label_loss(
            output,
            components,
            background_log_activation=model.renderer.background_log_activation,
            scale_range=model.encoder.scale_range,
            config=config.pseudo_labels,
            anchoring=weight if alone else 1 - position / until,
            glimpse_margin=config.discovery.glimpse_margin,
        )
    return losses
