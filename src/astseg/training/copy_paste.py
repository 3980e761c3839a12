"""Pictures mixed from others, for small collections: regions of one, laid on another.

Ours, not the paper's; the idea is that of copy-paste augmentation (Ghiasi et al., CVPR 2021, "Simple Copy-Paste is a
Strong Data Augmentation Method for Instance Segmentation"), with regions that no one has labelled. Objects stay where
they were in their own picture, so that their size still fits the place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from astseg.discovery.components import Components, smallest_area

__all__ = ["copy_paste"]

LAID = 0.4
"""Part of the regions of a picture that are laid on another."""


def copy_paste(images: Tensor, components: Components, *, share: float) -> tuple[Tensor, Components]:
    """Lay regions of each picture of a batch on the one after it.

    Args:
        images: B x 3 x H x W in [0, 1].
        components: The regions of the images; R of them at most.
        share: Part of the pictures that get some, in [0, 1], drawn at random.

    Returns:
        Images B x 3 x H x W, and their regions: the largest R, numbered from the largest on, without what is hidden but
        for a few pixels.
    """
    b, limit = components.present.shape
    given, numbers = images.roll(1, 0), components.regions.roll(1, 0).long()  # B x H x W
    came = _chosen(share, b, 1, images.device) & _chosen(LAID, b, limit, images.device)
    laid = torch.cat([torch.zeros_like(came[:, :1]), came], dim=1).gather(1, numbers.flatten(1)).view(numbers.shape)
    # With what is mixed into the outline.
    around = functional.max_pool2d(laid.float()[:, None], 3, stride=1, padding=1) > 0
    both = torch.where(laid, numbers + limit, components.regions.long())  # 0 to 2R
    return torch.where(around, given, images), _numbered(both, limit, components.box.dtype)


def _chosen(chance: float, b: int, limit: int, device: torch.device) -> Tensor:
    """B x R, bool, at random; drawn where the other numbers of a step are, and the same on every device."""
    return (torch.rand(b, limit) < chance).to(device)


def _numbered(numbers: Tensor, limit: int, dtype: torch.dtype) -> Components:
    """The largest of 2R regions, from a map of their numbers, B x H x W, 0 where there is none."""
    b, h, w = numbers.shape
    flat = numbers.flatten(1)
    area = torch.zeros(b, 2 * limit + 1, dtype=torch.long, device=numbers.device)
    area.scatter_add_(1, flat, torch.ones_like(flat))
    area, old = area[:, 1:].sort(dim=1, descending=True, stable=True)  # B x 2R; old from 0
    area, old = area[:, :limit], old[:, :limit]
    present = area >= smallest_area(h, w)
    new = torch.zeros(b, 2 * limit + 1, dtype=torch.long, device=numbers.device)
    order = torch.arange(1, limit + 1, device=numbers.device).expand(b, limit)
    new.scatter_(1, old + 1, order * present)
    regions = new.gather(1, flat).view(b, h, w)
    masks = regions[:, None] == order[:, :, None, None]  # B x R x H x W
    top, bottom = _ends(masks.any(dim=3))
    left, right = _ends(masks.any(dim=2))
    box = torch.stack([(left + right) / w - 1, (top + bottom) / h - 1, (right - left) / w, (bottom - top) / h], dim=-1)
    return Components((box * present[..., None]).to(dtype), present, regions.to(torch.uint8))


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """First true of B x R x lines, and one after the last true."""
    first = lines.int().argmax(dim=-1)
    return first, lines.shape[-1] - lines.flip(-1).int().argmax(dim=-1)
