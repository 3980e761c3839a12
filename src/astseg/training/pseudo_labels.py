"""What draws the slots of a model to the regions of an image, and teaches its glimpses to draw them; not in the paper.

The slots of an image are matched with its regions by the Hungarian algorithm. Where a slot should look, and whether it
should be on, needs no picture (:func:`where_losses`); what its glimpse should show needs no slot, since the crop of a
region is its own answer (:func:`glimpse_loss`). So both are learnt from each other apart, at a fraction of the price of
whole pictures. Once pictures are rendered, :func:`pseudo_label_loss` also draws the layers to the regions; its weight falls
in the course of the training, and more and more the other losses shape the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from astseg.discovery.components import MARGIN, ON_MARGIN, Components
from astseg.model.ops import crop_glimpses
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["glimpse_loss", "pseudo_label_loss", "slot_anchors", "where_losses"]

Pairs = tuple[Tensor, Tensor, Tensor]
"""Image, slot and region numbers of the matched pairs, P each."""

OFF_MARGIN = 2.0
"""The background should outweigh a slot without a region by e^2."""

TERM_WEIGHTS = {"attention": 0.3, "position": 1.0, "scale": 0.3, "activation": 0.3, "mask": 1.0}
"""How the parts of the loss weigh against each other."""

SMALLEST_SHARE = 1e-6
"""Attention on a region counts as at least this much, so that its logarithm is finite."""

WRONG_PIXEL = 1e-3
"""Added to the weight of a pixel's layer, so that no single pixel pulls without end."""

INSIDE = 2.0
"""How a pixel of a region weighs against one outside: better a pixel too many on an outline than one too few."""

JITTER = 0.2
"""Frames in which glimpses are learnt are off by up to this part of the region's side, and as much in the log scale."""

UNEVEN = 1.5
"""Deviation of the log of the attention that stands in on the cells of a region."""

GLIMPSES = 32
"""As many regions of a batch are cropped and drawn; positions need more steps than glimpses do."""

COLOUR_WEIGHT = 2.0
"""How the colours of a glimpse weigh against its mask."""


def pseudo_label_loss(
    output: SceneOutput,
    components: Components,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
    anchoring: float = 0.0,
) -> Tensor:
    """Draw matched slots and their layers to their regions and switch off the others.

    The parts, weighed by :data:`TERM_WEIGHTS`: those of :func:`where_losses`, and the cross entropy of the layer
    weights of each pixel against the layer that its region, or the background, is matched with.

    Args:
        output: What the model says of B images.
        components: The regions of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.
        anchoring: How much the anchors count in the matching; 0 or less: nothing.

    Returns:
        A scalar.
    """
    terms, pairs = where_losses(
        output.latents,
        output.attention,
        components,
        background_log_activation=background_log_activation,
        scale_range=scale_range,
        anchoring=anchoring,
    )
    own = _own_weight(output.weights, components, *pairs)
    terms["mask"] = _cross_entropy(own, components.regions > 0)
    return weighed(terms)


def where_losses(
    latents: ObjectLatents,
    attention: Tensor,
    components: Components,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
    anchoring: float = 0.0,
) -> tuple[dict[str, Tensor], Pairs]:
    """How far the slots are from looking at one region each.

    A slot is matched by its attention, its position and, at first, its anchor: a fixed place for each slot, spread over
    the image, which parts the slots before they have learnt anything.

    Args:
        latents: The objects of B images.
        attention: B x K x h x w, each map sums to one.
        components: The regions of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.
        anchoring: How much the anchors count in the matching; 0 or less: nothing.

    Returns:
        Scalars by name, of which the first three are 0 where no image has a region, and the pairs. ``attention``: minus
        the logarithm of the attention that falls on the region. ``position``: distance from its centre. ``scale``:
        distance of the log scale from the one that fits its box. ``activation``: distance from :data:`ON_MARGIN` for
        matched slots, softplus of the excess over :data:`OFF_MARGIN` for the others.
    """
    frames = components.frames(latents.scale.shape[-1], scale_range)
    centre, target = (numbers.to(latents.position) for numbers in frames)
    cells = components.cells((attention.shape[2], attention.shape[3])).to(attention)
    unseen = -(attention.flatten(2) @ cells.flatten(2).mT).clamp_min(SMALLEST_SHARE).log()  # B x K x R
    with torch.no_grad():
        far = unseen + torch.cdist(latents.position, centre)  # B x K x R
        if anchoring > 0:
            far = far + anchoring * torch.cdist(slot_anchors(far.shape[1]).to(centre), centre)
        image, slot, blob = pairs = _match(far, components.present)
    matched = torch.zeros_like(latents.log_activation, dtype=torch.bool)  # B x K
    matched[image, slot] = True
    advantage = latents.log_activation - background_log_activation.detach()
    terms = {
        "attention": unseen[image, slot, blob].sum() / max(1, len(image)),
        "position": _mean_distance(latents.position[image, slot], centre[image, blob]),
        "scale": _mean_distance(latents.scale[image, slot].log(), target[image, blob].log()),
        "activation": torch.where(
            matched, (advantage - ON_MARGIN).abs() / 2, functional.softplus(advantage + OFF_MARGIN)
        ).mean(),
    }
    return terms, pairs


def weighed(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the parts, weighed by :data:`TERM_WEIGHTS`."""
    return torch.stack([TERM_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def glimpse_loss(
    draw: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    images: Tensor,
    backgrounds: Tensor,
    components: Components,
    *,
    side: int,
    cells: tuple[int, int],
    scale_range: tuple[float, float],
    isotropic: bool = False,
) -> Tensor:
    """How badly glimpses show the regions: each is cropped, drawn, and compared with its crop.

    The frames are a little off at random, as those of slots will be, and the region, more here and less
    there, stands in for the attention. Over its crop of the background a glimpse is laid
    with the weight of a slot that is on (:data:`ON_MARGIN`). The parts: cross entropy of that weight against the
    region, and the square of the colour error, summed over RGB, inside the region.

    Args:
        draw: Images P x 3 x H x W, attention P x 1 x h x w, positions P x 1 x 2 and scales P x 1 x S -> glimpses of
            what is there, P x 1 x 4 x g x g, RGB and mask.
        images: B x 3 x H x W in [0, 1].
        backgrounds: The same without objects.
        components: The regions of the images; P of them, :data:`GLIMPSES` at most, are looked at.
        side: g, the side of a glimpse.
        cells: (h, w) of the attention maps.
        scale_range: Smallest and largest inverse scale.
        isotropic: One scale for both axes.

    Returns:
        A scalar; 0 where no image has a region.
    """
    image, blob = components.present.nonzero(as_tuple=True)
    if not len(image):
        return images.new_zeros(())
    some = torch.randperm(len(image))[:GLIMPSES].to(image.device)
    image, blob = image[some], blob[some]
    box = components.box[image, blob].to(images)  # P x 4
    extent = box[:, 2:].amax(dim=1, keepdim=True) if isotropic else box[:, 2:]
    position = box[:, :2] + JITTER * extent * (2 * torch.rand_like(box[:, :2]) - 1)
    spread = (JITTER * (2 * torch.rand_like(extent) - 1)).exp()
    scale = (spread / (MARGIN * extent.clamp_min(1e-3))).clamp(*scale_range)
    region = (components.regions[image] == blob[:, None, None] + 1)[:, None].to(images)  # P x 1 x H x W
    seen = torch.cat([images[image], backgrounds[image], region], dim=1)
    position, scale = position[:, None], scale[:, None]  # P x 1 x 2, P x 1 x S: one frame an image
    crops = crop_glimpses(seen, position, scale, side=side).squeeze(1)  # P x 7 x g x g
    crop, behind, inside = crops[:, :3], crops[:, 3:6], crops[:, 6] > 0.5
    covered = functional.adaptive_avg_pool2d(region, cells)  # P x 1 x h x w
    attended = covered * (UNEVEN * torch.randn_like(covered)).exp()
    glimpses = draw(seen[:, :3], attended, position, scale).squeeze(1)
    visible = math.exp(ON_MARGIN) * glimpses[:, 3]
    weight = visible / (1 + visible)  # P x g x g
    own = torch.where(inside, weight, 1 - weight)
    drawn = weight[:, None] * glimpses[:, :3] + (1 - weight[:, None]) * behind
    error = (drawn - crop).abs().sum(dim=1).square() * inside
    return _cross_entropy(own, inside) + COLOUR_WEIGHT * error.mean()


def _cross_entropy(own: Tensor, inside: Tensor) -> Tensor:
    """Mean of minus the log of the weight that each pixel's own layer has; inside regions pixels weigh more."""
    weight = torch.where(inside, INSIDE, 1.0)
    return -((own + WRONG_PIXEL).log() * weight).sum() / weight.sum()


def _own_weight(weights: Tensor, components: Components, image: Tensor, slot: Tensor, blob: Tensor) -> Tensor:
    """B x H x W, at each pixel the weight of the layer matched with its region; the background's outside regions."""
    b, h, w = components.regions.shape
    layer = torch.zeros(b, components.present.shape[1] + 1, dtype=torch.long, device=weights.device)
    layer[image, blob + 1] = slot + 1
    wanted = layer.gather(1, components.regions.flatten(1).long()).view(b, 1, h, w)
    return weights.gather(1, wanted).squeeze(1)


def slot_anchors(slots: int) -> Tensor:
    """K x 2, (x, y) in [-1, 1]: places spread evenly over the image, on a sunflower spiral."""
    number = torch.arange(slots) + 0.5
    radius, angle = 0.8 * (number / slots).sqrt(), number * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _mean_distance(values: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference; 0, not NaN, of nothing."""
    return (values - targets).abs().sum() / max(1, values.numel())


def _match(far: Tensor, present: Tensor) -> Pairs:
    """Pairs of slots and regions with the smallest sum of distances, for each image: image, slot, region indices."""
    pairs = []
    far = far.nan_to_num()  # a model that has diverged is told by its losses, not by the assignment's refusal
    for i, (cost, count) in enumerate(zip(far.cpu().numpy(), present.sum(dim=1).tolist(), strict=True)):
        slots, components = linear_sum_assignment(cost[:, :count])
        pairs.append(np.stack([np.full_like(slots, i), slots, components]))
    image, slot, blob = torch.from_numpy(np.concatenate(pairs, axis=1)).to(far.device)
    return image, slot, blob
