"""What each pixel of a picture belongs to: the layer that is in front there, and shows what is seen there.

Ours, not the paper's, whose masks are the layers with the largest weights. Those weights are a guess before the picture
is looked at: outlines are drawn by a small glimpse generator and are a pixel off here and there. But the layers also
say which colours to expect, and Bayes' rule puts both together: the weight is the prior, a normal distribution around
the layer's colour the likelihood, and what a pixel belongs to the posterior.

An object that nobody would miss owns nothing: another layer shows nearly the same in most of its pixels. Such are the
second of two slots on one object, and slots that draw what the background shows as well.

Where the regions that differ from the background are known, their pixels have a say in each other's: what lies in one
region mostly is one object, and what lies in none mostly is background.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from astseg.discovery.components import Components
from astseg.model.ops import SPECK, shapes_are_fixed

__all__ = ["mask_posterior", "visible_slots"]

MOST = 0.7
"""An object may be needless if one other layer would own this part of its pixels without it."""

SAME = 0.5
"""It is if that layer explains these pixels worse by less than so many nats each."""

TOGETHER = 0.5
"""The mean share of a layer in a region counts with this power: 1 would be another opinion as good as the pixel's."""

DISSENT = 0.02
"""Added to that mean, so that what only few pixels of a region belong to can still have them."""

STEEPEST = 60.0
"""Largest logarithm of a likelihood against that of the layer with the largest weight, so that float32 holds it."""


def visible_slots(weights: Tensor) -> Tensor:
    """Which objects own more than a speck by their weights, B x K; weights: B x L x H x W."""
    first = weights.max(dim=1).indices.flatten(1)  # B x HW; argmax takes ten times as long
    area = torch.zeros(weights.shape[:2], device=weights.device)
    area.scatter_add_(1, first, torch.ones_like(first, dtype=area.dtype))
    return area[:, 1:] > SPECK * first.shape[1]


def mask_posterior(
    weights: Tensor, errors: Tensor, objects: Tensor, *, noise: float, regions: Components | None = None
) -> Tensor:
    """Posterior of the layers at each pixel.

    Args:
        weights: B x L x H x W, sum to one over the layers, 0 = background.
        errors: B x L x H x W, squared error of each layer's colours, summed over RGB; anything where its weight is 0.
        objects: B x K, which objects may own pixels (:func:`owned`).
        noise: Deviation of a colour from that of its layer, for each of RGB, above 0.
        regions: What differs from the background, whose pixels mostly belong together; None: they count for nothing.

    Returns:
        B x L x H x W, sums to one over the layers; 0 wherever the weight is.
    """
    off = errors / (2 * noise**2)  # nats
    posterior = _posterior(weights, off, objects)
    needless = _needless(posterior, off)
    objects = objects & ~needless
    if shapes_are_fixed(weights.device):
        posterior = _posterior(weights, off, objects)
    elif len(again := needless.any(dim=1).nonzero().squeeze(1)):
        posterior[again] = _posterior(weights[again], off[again], objects[again])
    return posterior if regions is None else _agreed(posterior, regions)


def _posterior(weights: Tensor, off: Tensor, objects: Tensor) -> Tensor:
    """Weights times likelihoods, shared out; off: B x L x H x W, minus the logarithm of the likelihoods."""
    prior = weights * functional.pad(objects, (1, 0), value=True)[:, :, None, None]
    # The reference with which the sum below is never nearly 0.
    posterior = off.gather(1, prior.max(dim=1, keepdim=True).indices) - off
    posterior.clamp_max_(STEEPEST).exp_().mul_(prior)
    return posterior.div_(posterior.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(posterior.dtype).tiny))


def _agreed(posterior: Tensor, regions: Components) -> Tensor:
    """Shares of the pixels, times what all pixels of their region, or of the rest of the image, say on the average."""
    b, layers, h, w = posterior.shape
    number = regions.regions.long().view(b, 1, h * w)
    numbers = regions.present.shape[1] + 1
    area = posterior.new_zeros(b, 1, numbers).scatter_add_(2, number, torch.ones_like(number, dtype=posterior.dtype))
    number = number.expand(-1, layers, -1)
    shares = posterior.new_zeros(b, layers, numbers).scatter_add_(2, number, posterior.flatten(2)) / area.clamp_min(1)
    agreed = posterior * (shares + DISSENT).pow(TOGETHER).gather(2, number).view_as(posterior)
    return agreed.div_(agreed.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(agreed.dtype).tiny))


def _needless(posterior: Tensor, off: Tensor) -> Tensor:
    """Objects that nobody would miss, B x K; of two that could stand in for each other, the one with fewer pixels."""
    b, layers = posterior.shape[:2]
    owner = posterior.max(dim=1, keepdim=True).indices  # B x 1 x H x W
    heir = posterior.scatter(1, owner, -1.0).max(dim=1, keepdim=True).indices
    loss = off.gather(1, heir) - off.gather(1, owner)
    pair = (owner * layers + heir).flatten(1)
    pixels, lost = (
        loss.new_zeros(b, layers * layers).scatter_add_(1, pair, each).view(b, layers, layers)
        for each in (torch.ones_like(loss).flatten(1), loss.flatten(1))
    )  # by owner and heir
    area = pixels.sum(dim=2)
    needless = (pixels > 0) & (pixels >= MOST * area[:, :, None]) & (lost < SAME * pixels)
    needless[:, 0] = False  # the background
    number = torch.arange(layers, device=area.device)
    later = number[:, None] > number
    smaller = (area[:, :, None] < area[:, None]) | ((area[:, :, None] == area[:, None]) & later)
    return (needless & (smaller | ~needless.mT)).any(dim=2)[:, 1:]
