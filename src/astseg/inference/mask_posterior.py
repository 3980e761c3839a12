"""Mask posterior: the layer of each pixel, given the layer weights and the colours that the layers draw.

Ours, not the paper's, whose masks are the layers with the largest weights. Those weights are a guess before the image
is compared: outlines are drawn by a small glimpse generator and are a pixel off here and there. But the layers also
predict colours, so Bayes' rule applies: the weight is the prior, a normal distribution around the layer's colour the
likelihood, and the posterior gives each layer its responsibility for the pixel.

Redundant slots are suppressed: if another layer explains most of a slot's pixels almost as well, the slot is removed.
Such are the second of two slots on one object, and slots that draw what the background shows as well.

Where foreground components are known, the pixels of one mostly belong to one object, and those of none to the
background: the mean responsibility within the component counts too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from astseg.config import InferenceConfig
from astseg.discovery.components import Components
from astseg.model.ops import shapes_are_fixed

__all__ = ["mask_posterior", "visible_slots"]

STEEPEST = 60.0
"""Largest logarithm of a likelihood against that of the layer with the largest weight, so that float32 holds it."""


def visible_slots(weights: Tensor, *, smallest: float = InferenceConfig.smallest_slot) -> Tensor:
    """Slots, B x K bool, with the largest weight in more than that fraction of the pixels; weights: B x L x H x W."""
    first = weights.max(dim=1).indices.flatten(1)  # B x HW; argmax takes ten times as long
    area = torch.zeros(weights.shape[:2], device=weights.device)
    area.scatter_add_(1, first, torch.ones_like(first, dtype=area.dtype))
    return area[:, 1:] > smallest * first.shape[1]


def mask_posterior(
    weights: Tensor,
    errors: Tensor,
    visible: Tensor,
    *,
    config: InferenceConfig,
    components: Components | None = None,
) -> Tensor:
    """Posterior of the layers at each pixel.

    Args:
        weights: B x L x H x W, sum to one over the layers, 0 = background.
        errors: B x L x H x W, squared error of each layer's colours, summed over RGB; anything where its weight is 0.
        visible: B x K, slots that may have pixels (:func:`visible_slots`).
        config: Standard deviation of the likelihood, and what makes a slot redundant.
        components: Foreground components, whose pixels mostly belong together; None: they count for nothing.

    Returns:
        B x L x H x W, sums to one over the layers; 0 wherever the weight is.
    """
    nats = errors / (2 * config.colour_std**2)  # minus the log likelihood, up to a constant
    posterior = _posterior(weights, nats, visible)
    redundant = _redundant(posterior, nats, share=config.duplicate_share, most=config.duplicate_nats)
    kept = visible & ~redundant
    if shapes_are_fixed(weights.device):
        posterior = _posterior(weights, nats, kept)
    elif len(again := redundant.any(dim=1).nonzero().squeeze(1)):
        posterior[again] = _posterior(weights[again], nats[again], kept[again])
    if components is None:
        return posterior
    return _within_components(posterior, components, power=config.component_power, floor=config.component_floor)


def _posterior(weights: Tensor, nats: Tensor, visible: Tensor) -> Tensor:
    """Weights times likelihoods, normalised; nats: B x L x H x W, minus the logarithm of the likelihoods."""
    prior = weights * functional.pad(visible, (1, 0), value=True)[:, :, None, None]
    # The reference with which the sum below is never nearly 0.
    posterior = nats.gather(1, prior.max(dim=1, keepdim=True).indices) - nats
    posterior.clamp_max_(STEEPEST).exp_().mul_(prior)
    return posterior.div_(posterior.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(posterior.dtype).tiny))


def _within_components(posterior: Tensor, components: Components, *, power: float, floor: float) -> Tensor:
    """Responsibilities, times the mean responsibility within the pixel's component (or the rest of the image)."""
    b, layers, h, w = posterior.shape
    number = components.labels.long().view(b, 1, h * w)
    numbers = components.present.shape[1] + 1
    area = posterior.new_zeros(b, 1, numbers).scatter_add_(2, number, torch.ones_like(number, dtype=posterior.dtype))
    number = number.expand(-1, layers, -1)
    mean = posterior.new_zeros(b, layers, numbers).scatter_add_(2, number, posterior.flatten(2)) / area.clamp_min(1)
    together = posterior * (mean + floor).pow(power).gather(2, number).view_as(posterior)
    return together.div_(together.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(together.dtype).tiny))


def _redundant(posterior: Tensor, nats: Tensor, *, share: float, most: float) -> Tensor:
    """Redundant slots, B x K: those whose pixels another layer that stays explains almost as well.

    Slots are judged from the one with the fewest pixels on, each against layers that have not been removed before it:
    of several on one object the one with the most pixels stays.
    """
    b, layers = posterior.shape[:2]
    first = posterior.max(dim=1, keepdim=True).indices  # B x 1 x H x W
    second = posterior.scatter(1, first, -1.0).max(dim=1, keepdim=True).indices
    loss = nats.gather(1, second) - nats.gather(1, first)
    pair = (first * layers + second).flatten(1)
    pixels, lost = (
        loss.new_zeros(b, layers * layers).scatter_add_(1, pair, each).view(b, layers, layers)
        for each in (torch.ones_like(loss).flatten(1), loss.flatten(1))
    )  # by layer, and by the layer that would take its place
    area = pixels.sum(dim=2)
    replaceable = (pixels > 0) & (pixels >= share * area[:, :, None]) & (lost < most * pixels)
    replaceable[:, 0] = False  # the background
    removed = torch.zeros_like(area, dtype=torch.bool)
    if not shapes_are_fixed(area.device) and not replaceable.any():
        return removed[:, 1:]
    # Of equal ones, the later slot goes first, so that the flip makes it come first.
    order = area.flip(1).argsort(dim=1, stable=True)
    for layer in (layers - 1 - order).unbind(dim=1):
        row = replaceable.gather(1, layer[:, None, None].expand(-1, 1, layers)).squeeze(1)  # B x L
        goes = (row & ~removed).any(dim=1, keepdim=True)
        removed.scatter_(1, layer[:, None], goes)
    return removed[:, 1:]
