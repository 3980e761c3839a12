"""Proposals: slots move to the foreground components of an image.

Ours, not in the paper. The encoder overfits: on new images it misses some objects and mislocalises others. Where an
image differs from its own background is known for every image, though, and the glimpse encoder reads any box. So
a slot that means the object of a component moves there, a component that the encoder missed gets an inactive slot, and
of two slots on one component one is switched off. What has no component, such as an object half hidden by another of
its colour, stays where the encoder saw it. Components show visible parts: hidden ones beyond their box are not drawn.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from astseg.config import DiscoveryConfig, InferenceConfig
from astseg.discovery.components import Components
from astseg.model.ops import index_like
from astseg.types import ObjectLatents

__all__ = ["assign_proposals", "box_overlap"]

ABSENT = 20.0
"""The background outweighs a slot that is switched off by e^20: it is pruned."""


def assign_proposals(
    latents: ObjectLatents,
    attention: Tensor,
    components: Components,
    *,
    behind: Tensor,
    scale_range: tuple[float, float],
    iou: float,
    active_margin: float = InferenceConfig.proposal_margin,
    glimpse_margin: float = DiscoveryConfig.glimpse_margin,
) -> tuple[ObjectLatents, Tensor, Tensor]:
    """Move slots to the components of their images.

    Args:
        latents: The slots of B images, as the encoder gives them.
        attention: B x K x h x w.
        components: R at most of each image, the largest first, on the same device.
        behind: Log alpha_0, scalar, without a term of the pixels; slots that do not exceed it are inactive.
        scale_range: Smallest and largest inverse scale.
        iou: Boxes of a slot and of a component mean the same object from this IoU on.
        active_margin: How far a slot with a component exceeds the background's log activation at least.
        glimpse_margin: Factor by which a glimpse is larger than its component's box.

    Returns:
        Latents, attention, and which slots were given a component that the encoder had missed, B x K. A slot with a
        component has its box, its cells as attention, and exceeds the background by ``active_margin`` at least; the
        others are as they were, or switched off. Where components are more than slots, the smallest go without.
    """
    boxes = components.glimpses(latents.scale.shape[-1], scale_range, margin=glimpse_margin)
    position, scale = (numbers.to(latents.position) for numbers in boxes)
    on = latents.log_activation > behind  # B x K
    overlap = box_overlap(latents.position, latents.scale, position, scale)  # B x K x R
    overlap = overlap * (on[:, :, None] & components.present[:, None])
    slots, number = overlap.shape[1:]
    nearest = functional.one_hot(overlap.argmax(dim=2), number).bool()
    claimed = nearest & (overlap >= iou)
    first = functional.one_hot((overlap * claimed).argmax(dim=1), slots).mT.bool() & claimed  # one slot a component
    free = ~on | (claimed & ~first).any(dim=2)
    left = components.present & ~claimed.any(dim=1)  # B x R
    # The first component that is left gets the first slot that is free, and so on.
    turn = free.cumsum(dim=1)[:, :, None] == left.cumsum(dim=1)[:, None]
    given = turn & free[:, :, None] & left[:, None]
    taken = first | given
    moved, component = taken.any(dim=2), taken.float().argmax(dim=2)  # B x K
    kept = torch.where(free, behind - ABSENT, latents.log_activation)
    placed = replace(
        latents,
        position=torch.where(moved[..., None], _of(position, component), latents.position),
        scale=torch.where(moved[..., None], _of(scale, component), latents.scale),
        log_activation=torch.where(moved, kept.clamp_min(behind + active_margin), kept),
    )
    cells = components.cells((attention.shape[2], attention.shape[3])).to(attention)
    cells = cells / cells.sum(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)
    return placed, torch.where(moved[..., None, None], _of(cells, component), attention), given.any(dim=2)


def box_overlap(position: Tensor, scale: Tensor, other_position: Tensor, other_scale: Tensor) -> Tensor:
    """Intersection over union of what the glimpses of two sets cover.

    Args:
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale.
        other_position: B x R x 2.
        other_scale: B x R x S.

    Returns:
        B x K x R in [0, 1].
    """
    half, other_half = (1 / numbers.expand(*numbers.shape[:2], 2) for numbers in (scale, other_scale))
    start = torch.maximum((position - half)[:, :, None], (other_position - other_half)[:, None])
    end = torch.minimum((position + half)[:, :, None], (other_position + other_half)[:, None])
    common = (end - start).clamp_min(0).prod(dim=-1)
    areas = (2 * half).prod(dim=-1)[:, :, None] + (2 * other_half).prod(dim=-1)[:, None]
    return common / (areas - common)


def _of(numbers: Tensor, component: Tensor) -> Tensor:
    """Numbers of the components B x R x ..., for each slot those of its component (B x K): B x K x ..."""
    return numbers.gather(1, index_like(component, numbers))
