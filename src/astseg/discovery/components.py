"""Foreground components: which pixels, in which boxes, the largest first; cut at the necks of their distance transform.

Ours, not the paper's. That peaks of the distance transform mark objects that touch is the idea of distance-transform
watersheds; here a pair of peaks counts only if there is a neck between them, and pixels go to the nearest disc.
"""

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

from astseg.config import DiscoveryConfig

__all__ = ["DEFAULT", "FEWEST_PIXELS", "Components", "label_components"]

DEFAULT = DiscoveryConfig()

FEWEST_PIXELS = 4
"""Fewer pixels have no shape, however small the image is."""

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

GAUSSIAN = np.exp(-0.5 * np.arange(-4, 5) ** 2)
"""Smooths distances by a pixel; ndimage.gaussian_filter would compute it anew for each component."""
GAUSSIAN /= GAUSSIAN.sum()


@dataclass(frozen=True)
class Components:
    """Foreground components of N images, at most R each.

    Attributes:
        box: N x R x 4, centre x, centre y in [-1, 1], width and height as fractions of the image side; float32.
        present: N x R, which entries are components.
        labels: N x H x W, uint8, the number of the component at each pixel, from 1; 0 outside.
    """

    box: Tensor
    present: Tensor
    labels: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Components]) -> Components:
        """The components of several batches of images, one after the other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def to(self, device: torch.device) -> Components:
        """The same on another device."""
        return Components(self.box.to(device), self.present.to(device), self.labels.to(device))

    def take(self, indices: Tensor, mirrored: Tensor | None = None) -> Components:
        """The components of some images; mirrored: B bool, which of them are seen in a mirror."""
        box, labels = self.box[indices], self.labels[indices]
        if mirrored is not None:
            sign = torch.where(mirrored, -1.0, 1.0)[:, None, None]
            box = torch.cat([box[..., :1] * sign, box[..., 1:]], dim=-1)
            labels = torch.where(mirrored[:, None, None], labels.flip(2), labels)
        return Components(box, self.present[indices], labels)

    def glimpses(
        self, scale_numbers: int, scale_range: tuple[float, float], *, margin: float = DEFAULT.glimpse_margin
    ) -> tuple[Tensor, Tensor]:
        """The glimpses that cover the components.

        Args:
            scale_numbers: S, 1 or 2.
            scale_range: Smallest and largest inverse scale.
            margin: Factor by which a glimpse is larger than the box.

        Returns:
            Positions N x R x 2, (x, y) in [-1, 1], and inverse scales N x R x S.
        """
        side = self.box[..., 2:].clamp_min(1e-3)
        if scale_numbers == 1:
            side = side.amax(dim=-1, keepdim=True)
        return self.box[..., :2], (1 / (margin * side)).clamp(*scale_range)

    def cells(self, size: tuple[int, int]) -> Tensor:
        """How much of each cell of an h x w map each component covers, N x R x h x w in [0, 1]."""
        numbers = torch.arange(1, self.present.shape[1] + 1, device=self.labels.device)[:, None, None]
        return functional.adaptive_avg_pool2d((self.labels[:, None] == numbers).float(), size)


def label_components(
    foreground: Mask | Labels, *, limit: int, explained: Mask | None = None, config: DiscoveryConfig = DEFAULT
) -> Components:
    """The components of foreground masks, cut at their necks, the largest first.

    Args:
        foreground: N x H x W, bool, its connected components to be labelled; or the number of the component at each
            pixel, 0 outside (:func:`astseg.discovery.shadows_and_hue.colour_components`).
        limit: R, components kept for each image, at most 255.
        explained: N x H x W, pixels that the background explains once it is shifted a little. Thin components of these
            are no objects, but lines that it drew a pixel off, such as that between a wall and the floor.
        config: The thresholds.
    """
    n, h, w = foreground.shape
    box = np.zeros((n, limit, 4), np.float32)
    present = np.zeros((n, limit), np.bool_)
    labels = np.zeros((n, h, w), np.uint8)
    smallest = max(FEWEST_PIXELS, config.smallest_component * h * w)
    for i, mask in enumerate(foreground):
        parts = [part for part in _parts(mask, config) if part.area >= smallest]
        if explained is not None:
            parts = [part for part in parts if part.depth >= config.line or not _is_explained(part, explained[i])]
        parts.sort(key=lambda part: -part.area)
        for j, (_, top, left, part, _) in enumerate(parts[:limit]):
            height, width = part.shape
            box[i, j] = (2 * left + width) / w - 1, (2 * top + height) / h - 1, width / w, height / h
            present[i, j] = True
            labels[i, top : top + height, left : left + width][part] = j + 1
    return Components(torch.from_numpy(box), torch.from_numpy(present), torch.from_numpy(labels))


class _Part(NamedTuple):
    """One component: its pixels, where its box begins, its mask within the box, and its largest depth."""

    area: int
    top: int
    left: int
    mask: Mask
    depth: float


def _parts(mask: Mask | Labels, config: DiscoveryConfig) -> Iterator[_Part]:
    """The components of an H x W mask or map of labels, those with necks cut."""
    labels = ndimage.label(mask)[0] if mask.dtype == bool else mask
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:  # a number that no pixel has
            continue
        top, left = window[0].start, window[1].start
        component = labels[window] == number
        depth = _depth(component)
        parts = _cut(component, depth, neck=config.neck, thin=config.thin)
        if len(parts) == 1:  # whole, so it fills its window
            yield _Part(int(np.count_nonzero(component)), top, left, component, float(depth.max()))
            continue
        for part in parts:
            rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
            cropped = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            area, deepest = int(np.count_nonzero(cropped)), float(_depth(cropped).max())
            yield _Part(area, top + int(rows[0]), left + int(columns[0]), cropped, deepest)


def _is_explained(part: _Part, explained: Mask) -> bool:
    """Whether most pixels of a component are explained."""
    height, width = part.mask.shape
    within = part.mask & explained[part.top : part.top + height, part.left : part.left + width]
    return bool(2 * np.count_nonzero(within) > part.area)


def _depth(component: Mask) -> NDArray[np.float64]:
    """Distance transform of a component, holes filled, so that a ring is one object and no chain."""
    padded = np.zeros((component.shape[0] + 2, component.shape[1] + 2), np.bool_)
    padded[1:-1, 1:-1] = component
    if _may_have_holes(padded) and _may_have_holes(padded.T):
        padded = ndimage.label(~padded)[0] != 1  # the first component is what lies around
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(padded)
    return depth[1:-1, 1:-1]


def _may_have_holes(padded: Mask) -> bool:
    """Whether any row of a component is in two: a hole lies between pixels of its row. A cheap test."""
    begins = padded[:, 1:] > padded[:, :-1]
    return bool(np.count_nonzero(begins) > np.count_nonzero(padded.any(axis=1)))


def _cut(component: Mask, depth: NDArray[np.float64], *, neck: float, thin: float) -> list[Mask]:
    """Cut a connected component at its necks: its cores are peaks of the distance transform."""
    thick = depth > thin
    if not thick.any():
        return [component]
    smooth = ndimage.correlate1d(ndimage.correlate1d(depth, GAUSSIAN, axis=0), GAUSSIAN, axis=1) * (depth > 0)
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size=5)) & thick)
    if len(peaks) < 2:
        return [component]
    peaks = peaks[np.argsort(-depth[tuple(peaks.T)], kind="stable")]
    cores: list[NDArray[np.intp]] = []
    for peak in peaks:  # the deepest first; a shallower one counts if it has a neck towards every deeper one
        if all(_least_between(depth, peak, core) < neck * depth[tuple(peak)] for core in cores):
            cores.append(peak)
    if len(cores) < 2:
        return [component]
    rows, columns = np.indices(component.shape)
    # Distance of each pixel from the disc of each core.
    distance = np.stack([np.hypot(rows - core[0], columns - core[1]) - depth[tuple(core)] for core in cores])
    nearest = distance.argmin(axis=0)
    return [part for part in (component & (nearest == i) for i in range(len(cores))) if part.any()]


def _least_between(depth: NDArray[np.float64], start: NDArray[np.intp], end: NDArray[np.intp]) -> float:
    """The least depth on the straight line between two pixels."""
    line = end - start
    steps = np.abs(line).max()
    rows, columns = np.rint(np.arange(steps + 1) * (line / steps)[:, None] + start[:, None]).astype(int)
    return float(depth[rows, columns].min())
