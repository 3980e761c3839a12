"""Pseudo-labels: foreground components teach slots where objects are, and glimpses what they show; not in the paper.

The slots of an image are matched with its components by the Hungarian algorithm, as in DETR (Carion et al., ECCV 2020).
Where a slot should look, and whether it should be active, needs no rendered image (:func:`location_losses`); what its
glimpse should show needs no slot, since the crop of a component is its own target (:func:`glimpse_loss`). So both are
learnt apart from each other, at a fraction of the cost of whole images. Once images are rendered,
:func:`pseudo_label_loss` also draws the layers to the components; its weight falls in the course of the training, and
the other losses shape the model more and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from astseg.config import PseudoLabelConfig
from astseg.discovery.components import DEFAULT, Components
from astseg.model.ops import crop_glimpses
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["glimpse_loss", "location_losses", "pseudo_label_loss", "slot_anchors", "term_weights"]

Pairs = tuple[Tensor, Tensor, Tensor]
"""Image, slot and component numbers of the matched pairs, P each."""

SMALLEST_SHARE = 1e-6
"""Attention on a component counts as at least this much, so that its logarithm is finite."""

SMALLEST_WEIGHT = 1e-3
"""Added to the weight of a pixel's layer, so that the gradient of a single pixel is bounded."""


def term_weights(config: PseudoLabelConfig) -> dict[str, float]:
    """The weights of the terms of :func:`pseudo_label_loss` by name."""
    return {
        "attention": config.attention_weight,
        "position": config.position_weight,
        "scale": config.scale_weight,
        "activation": config.activation_weight,
        "mask": config.mask_weight,
    }


def pseudo_label_loss(
    output: SceneOutput,
    components: Components,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
    config: PseudoLabelConfig,
    anchoring: float = 0.0,
    glimpse_margin: float = DEFAULT.glimpse_margin,
) -> Tensor:
    """Draw matched slots and their layers to their components and switch off the others.

    The terms, weighted by :func:`term_weights`: those of :func:`location_losses`, and the cross entropy of the layer
    weights of each pixel against the layer that its component, or the background, is matched with.

    Args:
        output: The model's output for B images.
        components: The components of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.
        config: Weights and margins.
        anchoring: How much the anchors count in the matching; 0 or less: nothing.
        glimpse_margin: Factor by which a glimpse is larger than its component's box.

    Returns:
        A scalar.
    """
    terms, pairs = location_losses(
        output.latents,
        output.attention,
        components,
        background_log_activation=background_log_activation,
        scale_range=scale_range,
        config=config,
        anchoring=anchoring,
        glimpse_margin=glimpse_margin,
    )
    target = _target_weight(output.weights, components, *pairs)
    terms["mask"] = _cross_entropy(target, components.labels > 0, config.foreground_weight)
    weights = term_weights(config)
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def location_losses(
    latents: ObjectLatents,
    attention: Tensor,
    components: Components,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
    config: PseudoLabelConfig,
    anchoring: float = 0.0,
    glimpse_margin: float = DEFAULT.glimpse_margin,
) -> tuple[dict[str, Tensor], Pairs]:
    """How far the slots are from looking at one component each.

    A slot is matched by its attention, its position and, at first, its anchor: a fixed place for each slot, spread over
    the image, which separates the slots before they have learnt anything.

    Args:
        latents: The objects of B images.
        attention: B x K x h x w, each map sums to one.
        components: The components of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.
        config: The margins.
        anchoring: How much the anchors count in the matching; 0 or less: nothing.
        glimpse_margin: Factor by which a glimpse is larger than its component's box.

    Returns:
        Scalars by name, of which the first three are 0 where no image has a component, and the pairs. ``attention``:
        minus the logarithm of the attention on the component. ``position``: distance from its centre. ``scale``:
        distance of the log scale from the one that fits its box. ``activation``: distance from the active margin for
        matched slots, softplus of the excess over the inactive one for the others.
    """
    boxes = components.glimpses(latents.scale.shape[-1], scale_range, margin=glimpse_margin)
    centre, scale = (numbers.to(latents.position) for numbers in boxes)
    cells = components.cells((attention.shape[2], attention.shape[3])).to(attention)
    unseen = -(attention.flatten(2) @ cells.flatten(2).mT).clamp_min(SMALLEST_SHARE).log()  # B x K x R
    with torch.no_grad():
        cost = unseen + torch.cdist(latents.position, centre)  # B x K x R
        if anchoring > 0:
            cost = cost + anchoring * torch.cdist(slot_anchors(cost.shape[1]).to(centre), centre)
        image, slot, number = pairs = _match(cost, components.present)
    matched = torch.zeros_like(latents.log_activation, dtype=torch.bool)  # B x K
    matched[image, slot] = True
    advantage = latents.log_activation - background_log_activation.detach()
    terms = {
        "attention": unseen[image, slot, number].sum() / max(1, len(image)),
        "position": _mean_distance(latents.position[image, slot], centre[image, number]),
        "scale": _mean_distance(latents.scale[image, slot].log(), scale[image, number].log()),
        "activation": torch.where(
            matched,
            (advantage - config.active_margin).abs() / 2,
            functional.softplus(advantage + config.inactive_margin),
        ).mean(),
    }
    return terms, pairs


def glimpse_loss(
    draw: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    images: Tensor,
    backgrounds: Tensor,
    components: Components,
    *,
    side: int,
    cells: tuple[int, int],
    scale_range: tuple[float, float],
    config: PseudoLabelConfig,
    isotropic: bool = False,
    glimpse_margin: float = DEFAULT.glimpse_margin,
) -> Tensor:
    """How badly glimpses show the components: each is cropped, drawn, and compared with its crop.

    The boxes are jittered, as those of slots will be off, and the component, with noise on its cells, stands in for the
    attention. A glimpse is laid over its crop of the background with the weight of an active slot. The terms: cross
    entropy of that weight against the component, and the square of the colour error, summed over RGB, inside it.

    Args:
        draw: Images P x 3 x H x W, attention P x 1 x h x w, positions P x 1 x 2 and scales P x 1 x S -> glimpses of
            what is there, P x 1 x 4 x g x g, RGB and mask.
        images: B x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        components: The components of the images; P of them, ``config.glimpses`` at most, are drawn.
        side: g, the side of a glimpse.
        cells: (h, w) of the attention maps.
        scale_range: Smallest and largest inverse scale.
        config: Weights, margin, jitter and noise.
        isotropic: One scale for both axes.
        glimpse_margin: Factor by which a glimpse is larger than its component's box.

    Returns:
        A scalar; 0 where no image has a component.
    """
    image, number = components.present.nonzero(as_tuple=True)
    if not len(image):
        return images.new_zeros(())
    some = torch.randperm(len(image))[: config.glimpses].to(image.device)
    image, number = image[some], number[some]
    position, scale = _jittered(
        components.box[image, number].to(images), isotropic, scale_range, jitter=config.jitter, margin=glimpse_margin
    )
    component = (components.labels[image] == number[:, None, None] + 1)[:, None].to(images)  # P x 1 x H x W
    layers = torch.cat([images[image], backgrounds[image], component], dim=1)
    crops = crop_glimpses(layers, position, scale, side=side).squeeze(1)  # P x 7 x g x g
    crop, behind, inside = crops[:, :3], crops[:, 3:6], crops[:, 6] > 0.5
    covered = functional.adaptive_avg_pool2d(component, cells)  # P x 1 x h x w
    attention = covered * (config.attention_noise * torch.randn_like(covered)).exp()
    glimpses = draw(layers[:, :3], attention, position, scale).squeeze(1)
    visible = math.exp(config.active_margin) * glimpses[:, 3]
    weight = visible / (1 + visible)  # P x g x g
    target = torch.where(inside, weight, 1 - weight)
    drawn = weight[:, None] * glimpses[:, :3] + (1 - weight[:, None]) * behind
    error = (drawn - crop).abs().sum(dim=1).square() * inside
    return _cross_entropy(target, inside, config.foreground_weight) + config.colour_weight * error.mean()


def _jittered(
    box: Tensor, isotropic: bool, scale_range: tuple[float, float], *, jitter: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Positions P x 1 x 2 and inverse scales P x 1 x S of glimpses a little off the boxes P x 4: one an image."""
    extent = box[:, 2:].amax(dim=1, keepdim=True) if isotropic else box[:, 2:]
    position = box[:, :2] + jitter * extent * (2 * torch.rand_like(box[:, :2]) - 1)
    factor = (jitter * (2 * torch.rand_like(extent) - 1)).exp()
    scale = (factor / (margin * extent.clamp_min(1e-3))).clamp(*scale_range)
    return position[:, None], scale[:, None]


def _cross_entropy(target: Tensor, inside: Tensor, foreground_weight: float) -> Tensor:
    """Mean of minus the log of the weight that each pixel's target layer has; inside components pixels weigh more."""
    weight = torch.where(inside, foreground_weight, 1.0)
    return -((target + SMALLEST_WEIGHT).log() * weight).sum() / weight.sum()


def _target_weight(weights: Tensor, components: Components, image: Tensor, slot: Tensor, number: Tensor) -> Tensor:
    """B x H x W, at each pixel the weight of the layer matched with its component; outside, of the background."""
    b, h, w = components.labels.shape
    layer = torch.zeros(b, components.present.shape[1] + 1, dtype=torch.long, device=weights.device)
    layer[image, number + 1] = slot + 1
    target = layer.gather(1, components.labels.flatten(1).long()).view(b, 1, h, w)
    return weights.gather(1, target).squeeze(1)


def slot_anchors(slots: int) -> Tensor:
    """K x 2, (x, y) in [-1, 1]: places spread evenly over the image, on a sunflower spiral."""
    number = torch.arange(slots) + 0.5
    radius, angle = 0.8 * (number / slots).sqrt(), number * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _mean_distance(values: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference; 0, not NaN, of nothing."""
    return (values - targets).abs().sum() / max(1, values.numel())


def _match(cost: Tensor, present: Tensor) -> Pairs:
    """Pairs of slots and components of the least total cost, for each image: image, slot, component indices."""
    pairs = []
    cost = cost.nan_to_num()  # divergence is reported by the losses, not by the assignment's refusal
    for i, (costs, count) in enumerate(zip(cost.cpu().numpy(), present.sum(dim=1).tolist(), strict=True)):
        slots, numbers = linear_sum_assignment(costs[:, :count])
        pairs.append(np.stack([np.full_like(slots, i), slots, numbers]))
    image, slot, number = torch.from_numpy(np.concatenate(pairs, axis=1)).to(cost.device)
    return image, slot, number
