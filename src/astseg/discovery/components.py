"""Components: the regions of each image that guide the training and propose objects, cut at necks, the largest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from astseg.model.ops import SPECK

__all__ = ["ON_MARGIN", "Components", "label_components", "smallest_area"]

ON_MARGIN = 4.0
"""A matched slot should outweigh the background by e^4 where its mask is full."""

NECK = 0.8
"""Two cores of a region are two objects if the way between them narrows below this part of the smaller one."""

MARGIN = 1.25
"""A glimpse is drawn this much larger than the region, so that its mask can end inside."""

THIN = 2.0
"""Nearer than this to their edge everywhere, in pixels, regions are too thin to tell a neck from the pixel grid."""

SLIVER = 2.5
"""Nearer than this to their edge everywhere, in pixels, regions may be lines that the background draws a bit off."""

BELL = np.exp(-0.5 * np.arange(-4, 5) ** 2)
"""What smooths the distances; ndimage.gaussian_filter would weigh it anew for each region."""
BELL /= BELL.sum()


@dataclass(frozen=True)
class Components:
    """Regions of N images, at most R each.

    Attributes:
        box: N x R x 4, centre x, centre y in [-1, 1], width and height as fractions of the image side; float32.
        present: N x R, which entries are regions.
        regions: N x H x W, uint8, the number of the region at each pixel, from 1; 0 outside.
    """

    box: Tensor
    present: Tensor
    regions: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Components]) -> Components:
        """The regions of several batches of images, one after the other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def to(self, device: torch.device) -> Components:
        """The same on another device."""
        return Components(self.box.to(device), self.present.to(device), self.regions.to(device))

    def take(self, indices: Tensor, mirrored: Tensor | None = None) -> Components:
        """The regions of some images; mirrored: B bool, which of them are seen in a mirror."""
        box, regions = self.box[indices], self.regions[indices]
        if mirrored is not None:
            sign = torch.where(mirrored, -1.0, 1.0)[:, None, None]
            box = torch.cat([box[..., :1] * sign, box[..., 1:]], dim=-1)
            regions = torch.where(mirrored[:, None, None], regions.flip(2), regions)
        return Components(box, self.present[indices], regions)

    def frames(self, scale_numbers: int, scale_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Where the glimpses lie that cover the regions, with a margin around.

        Args:
            scale_numbers: S, 1 or 2.
            scale_range: Smallest and largest inverse scale.

        Returns:
            Positions N x R x 2, (x, y) in [-1, 1], and inverse scales N x R x S.
        """
        side = self.box[..., 2:].clamp_min(1e-3)
        if scale_numbers == 1:
            side = side.amax(dim=-1, keepdim=True)
        return self.box[..., :2], (1 / (MARGIN * side)).clamp(*scale_range)

    def cells(self, size: tuple[int, int]) -> Tensor:
        """How much of each cell of an h x w map each region covers, N x R x h x w in [0, 1]."""
        numbers = torch.arange(1, self.present.shape[1] + 1, device=self.regions.device)[:, None, None]
        return functional.adaptive_avg_pool2d((self.regions[:, None] == numbers).float(), size)


def label_components(
    foreground: NDArray[np.bool_] | NDArray[np.int32],
    *,
    limit: int,
    smallest: float = SPECK,
    explained: NDArray[np.bool_] | None = None,
) -> Components:
    """Regions of foreground masks, cut at their necks, the largest first.

    Args:
        foreground: N x H x W, what differs from the background: bool, its connected parts being the regions, or the
            number of the region at each pixel, 0 outside (:func:`astseg.discovery.shadows_and_hue.colour_regions`).
        limit: R, regions kept for each image, at most 255.
        smallest: Regions below this fraction of the image, or below 4 pixels, are noise.
        explained: N x H x W, pixels that the background explains once it is moved a little. Thin regions of these are
            no objects, but lines that the background drew a pixel off, such as that between a wall and the floor.
    """
    n, h, w = foreground.shape
    box = np.zeros((n, limit, 4), np.float32)
    present = np.zeros((n, limit), np.bool_)
    regions = np.zeros((n, h, w), np.uint8)
    for i, mask in enumerate(foreground):
        parts = [part for part in _parts(mask) if part.area >= smallest_area(h, w, smallest)]
        if explained is not None:
            parts = [part for part in parts if not _is_line(part, explained[i])]
        parts.sort(key=lambda part: -part.area)
        for j, (_, top, left, part, _) in enumerate(parts[:limit]):
            height, width = part.shape
            box[i, j] = (2 * left + width) / w - 1, (2 * top + height) / h - 1, width / w, height / h
            present[i, j] = True
            regions[i, top : top + height, left : left + width][part] = j + 1
    return Components(torch.from_numpy(box), torch.from_numpy(present), torch.from_numpy(regions))


def smallest_area(height: int, width: int, smallest: float = SPECK) -> float:
    """Regions of fewer pixels than this are noise."""
    return max(4.0, smallest * height * width)


class _Part(NamedTuple):
    """One region: its pixels, where they begin, its cropped mask, and how far it reaches from its edge."""

    area: int
    top: int
    left: int
    mask: NDArray[np.bool_]
    thickness: float


def _parts(mask: NDArray[np.bool_] | NDArray[np.int32]) -> Iterator[_Part]:
    """The regions of an H x W mask or map of regions, those with necks cut."""
    components = ndimage.label(mask)[0] if mask.dtype == bool else mask
    for number, window in enumerate(ndimage.find_objects(components), start=1):
        if window is None:  # a number that no pixel has
            continue
        top, left = window[0].start, window[1].start
        region = components[window] == number
        depth = _depth(region)
        parts = _cut(region, depth)
        if len(parts) == 1:  # whole, so it fills its window
            yield _Part(int(np.count_nonzero(region)), top, left, region, float(depth.max()))
            continue
        for part in parts:
            rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
            cropped = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            area, thickness = int(np.count_nonzero(cropped)), float(_depth(cropped).max())
            yield _Part(area, top + int(rows[0]), left + int(columns[0]), cropped, thickness)


def _is_line(part: _Part, explained: NDArray[np.bool_]) -> bool:
    """Whether a region is thin, and explained for the most."""
    if part.thickness >= SLIVER:
        return False
    height, width = part.mask.shape
    within = part.mask & explained[part.top : part.top + height, part.left : part.left + width]
    return bool(2 * np.count_nonzero(within) > part.area)


def _depth(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each pixel from the edge of a region, holes filled, so that a ring is one object and no chain."""
    framed = np.zeros((region.shape[0] + 2, region.shape[1] + 2), np.bool_)
    framed[1:-1, 1:-1] = region
    if _may_have_holes(framed) and _may_have_holes(framed.T):
        framed = ndimage.label(~framed)[0] != 1  # the first part is what lies around
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(framed)
    return depth[1:-1, 1:-1]


def _may_have_holes(framed: NDArray[np.bool_]) -> bool:
    """Whether any row of a region is in two: a hole lies between pixels of the region in its row. Cheap to ask."""
    begins = framed[:, 1:] > framed[:, :-1]
    return bool(np.count_nonzero(begins) > np.count_nonzero(framed.any(axis=1)))


def _cut(region: NDArray[np.bool_], distance: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Cut one connected region where it has a neck: its cores are peaks of the distance to its edge."""
    thick = distance > THIN
    if not thick.any():
        return [region]
    smooth = ndimage.correlate1d(ndimage.correlate1d(distance, BELL, axis=0), BELL, axis=1) * (distance > 0)
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size=5)) & thick)
    if len(peaks) < 2:
        return [region]
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
    way = end - start
    steps = np.abs(way).max()
    rows, columns = np.rint(np.arange(steps + 1) * (way / steps)[:, None] + start[:, None]).astype(int)
    return float(distance[rows, columns].min())
