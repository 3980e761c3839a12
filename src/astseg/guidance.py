"""Blob guidance: what differs from the background tells the encoder, at first, where to look.

Not in the paper. There the encoder starts blind: objects weigh e^-11, and hours pass before the attention maps have
settled on anything. But once the background is learnt, the connected regions in which an image differs from it are
rough detections that cost nothing. Each is cut where it has a neck (touching objects), the object slots of an image are
matched to its regions by the Hungarian algorithm, and a loss draws position, scale and activation of a matched slot
towards its region and switches off the others. The weight of that loss falls to zero early in the training of the
objects, so that the final model is trained by the paper's losses alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from astseg.types import ObjectLatents

__all__ = ["Blobs", "find_blobs", "guidance_loss"]

NECK = 0.7
"""Two cores of a region are two objects if the way between them narrows below this part of the smaller one."""

MARGIN = 1.25
"""A glimpse is drawn this much larger than the region, so that its mask can end inside."""

ON_MARGIN = 2.0
"""A matched slot should outweigh the background by e^2 where its mask is full."""


@dataclass(frozen=True)
class Blobs:
    """Regions of N images, at most R each.

    Attributes:
        box: N x R x 4, centre x, centre y in [-1, 1], width and height as fractions of the image side; float32.
        present: N x R, which entries are regions.
    """

    box: Tensor
    present: Tensor

    def take(self, indices: Tensor, mirrored: Tensor | None = None) -> Blobs:
        """The regions of some images; mirrored: B bool, which of them are seen in a mirror."""
        box = self.box[indices]
        if mirrored is not None:
            sign = torch.where(mirrored, -1.0, 1.0)[:, None]
            box = torch.cat([box[..., :1] * sign[..., None], box[..., 1:]], dim=-1)
        return Blobs(box, self.present[indices])


def find_blobs(foreground: NDArray[np.bool_], *, limit: int, smallest: float = 0.002) -> Blobs:
    """Regions of foreground masks, cut at their necks, the largest first.

    Args:
        foreground: N x H x W, what differs from the background.
        limit: R, regions kept for each image.
        smallest: Regions below this fraction of the image are noise.
    """
    n, h, w = foreground.shape
    box = torch.zeros(n, limit, 4)
    present = torch.zeros(n, limit, dtype=torch.bool)
    for i, mask in enumerate(foreground):
        regions = [part for part in _regions(mask) if part[0] >= max(4.0, smallest * h * w)]
        for j, (_, top, bottom, left, right) in enumerate(sorted(regions, reverse=True)[:limit]):
            box[i, j] = torch.tensor(
                [(left + right) / w - 1, (top + bottom) / h - 1, (right - left) / w, (bottom - top) / h]
            )
            present[i, j] = True
    return Blobs(box, present)


def _regions(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int, int]]:
    """Area, top, bottom, left, right (ends exclusive) of each region of an H x W mask, in pixels."""
    components, _ = ndimage.label(mask)
    found = []
    for number, window in enumerate(ndimage.find_objects(components), start=1):
        top, left = window[0].start, window[1].start
        for part in _cut(components[window] == number):
            rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
            found.append(
                (int(part.sum()), top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1)
            )
    return found


def _cut(region: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Cut one connected region where it has a neck: its cores are peaks of the distance to its edge."""
    distance = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    smooth = ndimage.gaussian_filter(distance, 1.0) * region
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size=5)) & (distance >= 2))
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
    latents: ObjectLatents,
    blobs: Blobs,
    *,
    background_log_activation: Tensor,
    scale_range: tuple[float, float],
) -> dict[str, Tensor]:
    """Draw matched slots to their regions and switch off the others.

    Args:
        latents: The objects of B images.
        blobs: The regions of the same images.
        background_log_activation: Log alpha_0, scalar.
        scale_range: Smallest and largest inverse scale.

    Returns:
        ``guidance_position``, ``guidance_scale`` and ``guidance_activation``, scalars.
    """
    b, k, s = latents.scale.shape
    centre, side = blobs.box[..., :2], blobs.box[..., 2:].clamp_min(1e-3)
    if s == 1:
        side = side.amax(dim=-1, keepdim=True)
    target = (1 / (MARGIN * side)).clamp(*scale_range).log()  # B x R x S
    with torch.no_grad():
        far = torch.cdist(latents.position, centre) + 0.5 * torch.cdist(latents.scale.log(), target)  # B x K x R
        image, slot, blob = _match(far, blobs.present)
    matched = torch.zeros(b, k, device=centre.device)
    matched[image, slot] = 1
    advantage = latents.log_activation - background_log_activation.detach()
    return {
        "guidance_position": functional.l1_loss(latents.position[image, slot], centre[image, blob]),
        "guidance_scale": functional.l1_loss(latents.scale[image, slot].log(), target[image, blob]),
        "guidance_activation": functional.binary_cross_entropy_with_logits(
            advantage - ON_MARGIN * matched, matched
        ),
    }


def _match(far: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of slots and regions with the smallest sum of distances, for each image: image, slot, region indices."""
    pairs = []
    for i, (cost, count) in enumerate(zip(far.cpu().numpy(), present.sum(dim=1).tolist(), strict=True)):
        slots, blobs = linear_sum_assignment(cost[:, :count])
        pairs.append(np.stack([np.full_like(slots, i), slots, blobs]))
    image, slot, blob = torch.from_numpy(np.concatenate(pairs, axis=1)).to(far.device)
    return image, slot, blob
