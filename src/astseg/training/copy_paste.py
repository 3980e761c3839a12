"""Copy-paste augmentation for small collections: components of one image, pasted onto another.

After Ghiasi et al., *Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation* (CVPR 2021);
ours is that the components come from background subtraction, not from labels. Objects stay where they were in their
own image, so that their size still fits the place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from astseg.discovery.components import DEFAULT, FEWEST_PIXELS, Components

__all__ = ["copy_paste"]


def copy_paste(
    images: Tensor,
    components: Components,
    *,
    share: float,
    pasted: float,
    smallest: float = DEFAULT.smallest_component,
) -> tuple[Tensor, Components]:
    """Paste components of each image of a batch onto the one after it.

    Args:
        images: B x 3 x H x W in [0, 1].
        components: The components of the images; R of them at most.
        share: Fraction of the images that receive some, in [0, 1], drawn at random.
        pasted: Fraction of the components of the image before that these receive, drawn at random.
        smallest: Components that are hidden but for this fraction of the image, or 4 pixels, are dropped.

    Returns:
        Images B x 3 x H x W, and their components: the largest R, numbered from the largest on.
    """
    b, limit = components.present.shape
    source, numbers = images.roll(1, 0), components.labels.roll(1, 0).long()  # B x H x W
    chosen = _chosen(share, b, 1, images.device) & _chosen(pasted, b, limit, images.device)
    mask = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], dim=1).gather(1, numbers.flatten(1)).view(numbers.shape)
    # With the mixed pixels of the outline.
    around = functional.max_pool2d(mask.float()[:, None], 3, stride=1, padding=1) > 0
    both = torch.where(mask, numbers + limit, components.labels.long())  # 0 to 2R
    return torch.where(around, source, images), _numbered(both, limit, components.box.dtype, smallest)


def _chosen(chance: float, b: int, limit: int, device: torch.device) -> Tensor:
    """B x R, bool, at random; drawn where the other numbers of a step are, and the same on every device."""
    return (torch.rand(b, limit) < chance).to(device)


def _numbered(numbers: Tensor, limit: int, dtype: torch.dtype, smallest: float) -> Components:
    """The largest of 2R components, from a map of their numbers, B x H x W, 0 where there is none."""
    b, h, w = numbers.shape
    flat = numbers.flatten(1)
    area = torch.zeros(b, 2 * limit + 1, dtype=torch.long, device=numbers.device)
    area.scatter_add_(1, flat, torch.ones_like(flat))
    area, old = area[:, 1:].sort(dim=1, descending=True, stable=True)  # B x 2R; old from 0
    area, old = area[:, :limit], old[:, :limit]
    present = area >= max(FEWEST_PIXELS, smallest * h * w)
    new = torch.zeros(b, 2 * limit + 1, dtype=torch.long, device=numbers.device)
    order = torch.arange(1, limit + 1, device=numbers.device).expand(b, limit)
    new.scatter_(1, old + 1, order * present)
    labels = new.gather(1, flat).view(b, h, w)
    masks = labels[:, None] == order[:, :, None, None]  # B x R x H x W
    top, bottom = _ends(masks.any(dim=3))
    left, right = _ends(masks.any(dim=2))
    box = torch.stack([(left + right) / w - 1, (top + bottom) / h - 1, (right - left) / w, (bottom - top) / h], dim=-1)
    return Components((box * present[..., None]).to(dtype), present, labels.to(torch.uint8))


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """First true of B x R x lines, and one after the last true."""
    first = lines.int().argmax(dim=-1)
    return first, lines.shape[-1] - lines.flip(-1).int().argmax(dim=-1)
