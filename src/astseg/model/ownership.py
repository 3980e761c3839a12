"""What each pixel of a picture belongs to: the layer that is in front there, and shows what is seen there.

Ours, not the paper's, whose masks are the layers with the largest weights. Those weights are a guess before the picture
is looked at: outlines are drawn by a small glimpse generator and are a pixel off here and there. But the layers also
say which colours to expect, and Bayes' rule puts both together: the weight is the prior, a normal distribution around
the layer's colour the likelihood, and what a pixel belongs to the posterior.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SMALLEST", "owned", "ownership"]

SMALLEST = 0.002
"""Objects that would own less of the picture than this, by their weights, own nothing; the same as for regions."""

STEEPEST = 60.0
"""Largest logarithm of a likelihood against that of the layer with the largest weight, so that float32 holds it."""


def owned(weights: Tensor) -> Tensor:
    """Which layers own more than a speck by their weights, B x K; weights: B x L x H x W."""
    first = weights.max(dim=1).indices.flatten(1)  # B x HW; argmax takes ten times as long
    area = torch.zeros(weights.shape[:2], device=weights.device)
    area.scatter_add_(1, first, torch.ones_like(first, dtype=area.dtype))
    return area[:, 1:] > SMALLEST * first.shape[1]


def ownership(weights: Tensor, behind: Tensor, errors: Tensor, objects: Tensor, *, noise: float) -> Tensor:
    """Posterior of the layers at each pixel.

    Args:
        weights: B x L x H x W, sum to one over the layers, 0 = background.
        behind: B x H x W, squared error of the background's colours, summed over RGB.
        errors: B x K x H x W, the same of each object's colours; anything where its weight is 0.
        objects: B x K, which objects may own pixels (:func:`owned`).
        noise: Deviation of a colour from that of its layer, for each of RGB, above 0.

    Returns:
        B x L x H x W, sums to one over the layers; 0 wherever the weight is.
    """
    prior = weights * functional.pad(objects, (1, 0), value=True)[:, :, None, None]
    off = torch.cat([behind[:, None], errors], dim=1)
    # The reference with which the sum below is never nearly 0.
    off -= off.gather(1, prior.max(dim=1, keepdim=True).indices)
    posterior = off.mul_(-1 / (2 * noise**2)).clamp_max_(STEEPEST).exp_().mul_(prior)
    return posterior.div_(posterior.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(posterior.dtype).tiny))
