"""Blob guidance: what differs from the background tells the encoder, at first, where to look.

Not in the paper. There the encoder starts blind: objects weigh e^-11, and hours pass before the attention maps have
settled on anything. But once the background is learnt, the connected regions in which an image differs from it are
rough detections that cost nothing. Each is cut where it has a neck (touching objects), the object slots of an image are
matched to its regions by the Hungarian algorithm, and a loss draws attention, position, scale, activation and mask of a
matched slot towards its region and switches off the others. The weight of that loss falls to zero in the course of the
training, so that the final model is shaped by the other losses alone.

Without labels: the regions come from images and the background model only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from astseg.types import SceneOutput

__all__ = ["Blobs", "find_blobs", "guidance_loss"]

NECK = 0.8
"""Two cores of a region are two objects if the way between them narrows below this part of the smaller one."""

THIN = 2.0
"""Nearer than this to their edge everywhere, in pixels, regions are too thin to tell a neck from the pixel grid."""

MARGIN = 1.25
"""A glimpse is drawn this much larger than the region, so that its mask can end inside."""

ON_MARGIN = 2.0
"""A matched slot should outweigh the background by e^2 where its mask is full."""

TERM_WEIGHTS = {"attention": 0.1, "position": 1.0, "scale": 0.3, "activation": 0.3, "mask": 1.0}
"""How the parts of the loss weigh against each other."""

SMALLEST_SHARE = 1e-6
"""Attention on a region counts as at least this much, so that its logarithm is finite."""

WRONG_PIXEL = 1e-3
"""Added to the weight of a pixel's layer, so that no single pixel pulls without end."""


@dataclass(frozen=True)
class Blobs:
    """Regions of N images, at most R each.

    Attributes:
        box: N x R x 4, centre x, centre y in [-1, 1], width and height as fractions of the image side; float32.
        present: N x R, which entries are regions.
        regions: N x H x W, uint8, the number of the region at each pixel, from 1; 0 outside.
    """

    box: Tensor
    present: Tensor
    regions: Tensor

    def to(self, device: torch.device) -> Blobs:
        """The same on another device."""
        return Blobs(self.box.to(device), self.present.to(device), self.regions.to(device))

    def take(self, indices: Tensor, mirrored: Tensor | None = None) -> Blobs:
        """The regions of some images; mirrored: B bool, which of them are seen in a mirror."""
        box, regions = self.box[indices], self.regions[indices]
        if mirrored is not None:
            sign = torch.where(mirrored, -1.0, 1.0)[:, None, None]
            box = torch.cat([box[..., :1] * sign, box[..., 1:]], dim=-1)
            regions = torch.where(mirrored[:, None, None], regions.flip(2), regions)
        return Blobs(box, self.present[indices], regions)

    def cells(self, size: tuple[int, int]) -> Tensor:
        """How much of each cell of an h x w map each region covers, N x R x h x w in [0, 1]."""
        numbers = torch.arange(1, self.present.shape[1] + 1, device=self.regions.device)[:, None, None]
        return functional.adaptive_avg_pool2d((self.regions[:, None] == numbers).float(), size)


def find_blobs(foreground: NDArray[np.bool_], *, limit: int, smallest: float = 0.002) -> Blobs:
    """Regions of foreground masks, cut at their necks, the largest first.

    Args:
        foreground: N x H x W, what differs from the background.
        limit: R, regions kept for each image, at most 255.
        smallest: Regions below this fraction of the image, or below 4 pixels, are noise.
    """
    n, h, w = foreground.shape
    box = torch.zeros(n, limit, 4)
    present = torch.zeros(n, limit, dtype=torch.bool)
    regions = torch.zeros(n, h, w, dtype=torch.uint8)
    for i, mask in enumerate(foreground):
        parts = [part for part in _parts(mask) if part[0] >= max(4.0, smallest * h * w)]
        parts.sort(key=lambda part: -part[0])
        for j, (_, top, left, part) in enumerate(parts[:limit]):
            height, width = part.shape
            box[i, j] = torch.tensor([(2 * left + width) / w - 1, (2 * top + height) / h - 1, width / w, height / h])
            present[i, j] = True
            regions[i, top : top + height, left : left + width][torch.from_numpy(part)] = j + 1
    return Blobs(box, present, regions)


def _parts(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
    """Area, top, left and cropped mask of each region of an H x W mask, in pixels."""
    components, _ = ndimage.label(mask)
    for number, window in enumerate(ndimage.find_objects(components), start=1):
        for part in _cut(components[window] == number):
            rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
            cropped = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            yield int(cropped.sum()), window[0].start + int(rows[0]), window[1].start + int(columns[0]), cropped


def _cut(region: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Cut one connected region where it has a neck: its cores are peaks of the distance to its edge.

    Holes count as filled, so that a ring is one object and not a chain of them.
    """
    filled = ndimage.binary_fill_holes(region)
    distance = ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1]
    smooth = ndimage.gaussian_filter(distance, 1.0) * filled
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size=5)) & (distance > THIN))
    peaks = peaks[np.argsort(-distance[tuple(peaks.T)], kind="stable")]
    cores: list[NDArray[np.intp]] = []
    for peak in peaks:  # the thickest first; a thinner one counts if it has a neck towards every thicker one
        if all(_narrowest(distance, peak, core) < NECK * distance[tuple(peak)] for core in cores):
            cores.append(peak)
    if len(cores) < 2:
        return [region]
    rows, columns = np.indices(region.shape)
    reach = np.stack(
        [np.hypot(rows - core[0], columns - core[1]) - distance[tuple(core)] for core in cores]
    )  # distance of each pixel from the disc of each core
    owner = reach.argmin(axis=0)
    return [part for part in (region & (owner == i) for i in range(len(cores))) if part.any()]


def _narrowest(distance: NDArray[np.float64], start: NDArray[np.intp], end: NDArray[np.intp]) -> float:
    """The smallest distance to the edge on the straight way between two cells."""
    steps = int(np.abs(end - start).max()) + 1
    rows = np.linspace(start[0], end[0], steps).round().astype(int)
    columns = np.linspace(start[1], end[1], steps).round().astype(int)
    return float(distance[rows, columns].min())


def guidance_loss(
    output: SceneOutput,
    blobs: Blobs,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
    anchoring: float = 0.0,
) -> Tensor:
    """Draw matched slots to their regions and switch off the others.

    The parts, weighed by :data:`TERM_WEIGHTS`: minus the logarithm of the attention that falls on the region; distance
    of the position from its centre; distance of the log scale from the one that fits its box; cross entropy of the
    activation, on against off; cross entropy of the layer weights of each pixel against the layer that its region, or
    the background, is matched with. A slot is matched by its attention, its position and, at first, its anchor: a fixed
    place for each slot, spread over the image, which parts the slots before they have learnt anything.

    Args:
        output: What the model says of B images.
        blobs: The regions of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.
        anchoring: How much the anchors count in the matching; 0 or less: nothing.

    Returns:
        A scalar; the first three parts are 0 where no image has a region.
    """
    latents, attention = output.latents, output.attention
    box = blobs.box.to(latents.position)
    centre, side = box[..., :2], box[..., 2:].clamp_min(1e-3)
    if latents.scale.shape[-1] == 1:
        side = side.amax(dim=-1, keepdim=True)
    target = (1 / (MARGIN * side)).clamp(*scale_range).log()  # B x R x S
    cells = blobs.cells((attention.shape[2], attention.shape[3])).to(attention)
    unseen = -(attention.flatten(2) @ cells.flatten(2).mT).clamp_min(SMALLEST_SHARE).log()  # B x K x R
    with torch.no_grad():
        far = unseen + torch.cdist(latents.position, centre)  # B x K x R
        if anchoring > 0:
            far = far + anchoring * torch.cdist(slot_anchors(far.shape[1]).to(centre), centre)
        image, slot, blob = _match(far, blobs.present)
    matched = torch.zeros_like(latents.log_activation)  # B x K
    matched[image, slot] = 1
    advantage = latents.log_activation - background_log_activation.detach()
    own = _own_weight(output.weights, blobs, image, slot, blob)
    terms = {
        "attention": unseen[image, slot, blob].sum() / max(1, len(image)),
        "position": _mean_distance(latents.position[image, slot], centre[image, blob]),
        "scale": _mean_distance(latents.scale[image, slot].log(), target[image, blob]),
        "activation": functional.binary_cross_entropy_with_logits(advantage - ON_MARGIN * matched, matched),
        "mask": -(own + WRONG_PIXEL).log().mean(),
    }
    return torch.stack([TERM_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def _own_weight(weights: Tensor, blobs: Blobs, image: Tensor, slot: Tensor, blob: Tensor) -> Tensor:
    """B x H x W, at each pixel the weight of the layer matched with its region; the background's outside regions."""
    b, h, w = blobs.regions.shape
    layer = torch.zeros(b, blobs.present.shape[1] + 1, dtype=torch.long, device=weights.device)
    layer[image, blob + 1] = slot + 1
    wanted = layer.gather(1, blobs.regions.flatten(1).long()).view(b, 1, h, w)
    return weights.gather(1, wanted).squeeze(1)


def slot_anchors(slots: int) -> Tensor:
    """K x 2, (x, y) in [-1, 1]: places spread evenly over the image, on a sunflower spiral."""
    number = torch.arange(slots) + 0.5
    radius, angle = 0.8 * (number / slots).sqrt(), number * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _mean_distance(values: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference; 0, not NaN, of nothing."""
    return (values - targets).abs().sum() / max(1, values.numel())


def _match(far: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of slots and regions with the smallest sum of distances, for each image: image, slot, region indices."""
    pairs = []
    far = far.nan_to_num()  # a model that has diverged is told by its losses, not by the assignment's refusal
    for i, (cost, count) in enumerate(zip(far.cpu().numpy(), present.sum(dim=1).tolist(), strict=True)):
        slots, blobs = linear_sum_assignment(cost[:, :count])
        pairs.append(np.stack([np.full_like(slots, i), slots, blobs]))
    image, slot, blob = torch.from_numpy(np.concatenate(pairs, axis=1)).to(far.device)
    return image, slot, blob
