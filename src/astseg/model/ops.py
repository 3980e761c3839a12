"""Arithmetic that several boxes share and that has no weights: precision, pooling by attention, sampling, crops.

Sources: supplement, Algorithms 1 and 2; :mod:`astseg.model.reference` is the plain transcription. Computed otherwise:
pooling is one matrix product (no expanded attention maps), sampling is separable (tent weights for each axis instead of
a sampling grid). Placement and blending are in :mod:`astseg.model.renderer`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "at_least_float32",
    "attention_pool",
    "cell_positions",
    "crop_glimpses",
    "full_precision",
    "index_like",
    "sampling_weights",
    "shapes_are_fixed",
]

SMALLEST_LOG_RATIO = -80.0
"""Log activations are clamped to this below the largest, so that float32 never divides zero by zero."""


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast: matrix products keep the precision of their factors."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def shapes_are_fixed(device: torch.device) -> bool:
    """Whether shapes must not depend on values: on all devices but the CPU.

    Reading a value waits for all work queued on the device, and a recorded CUDA graph cannot depend on one.
    """
    return device.type != "cpu"


def index_like(indices: Tensor, values: Tensor) -> Tensor:
    """Indices B x N into the second dimension of values B x K x ..., as ``gather`` and ``scatter`` want them.

    Returns:
        B x N x ..., the further dimensions being those of values.
    """
    return indices.view(*indices.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])


def cell_positions(height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positions of the cells of a feature map, corner cells at -1 and 1 (Algorithm 1).

    An axis of one cell has it at 0.

    Returns:
        hw x 2, (x, y) of each cell in row-major order.
    """
    x, y = (
        torch.linspace(-1, 1, n, device=device, dtype=dtype) if n > 1 else torch.zeros(1, device=device, dtype=dtype)
        for n in (width, height)
    )
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def attention_pool(logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Soft-argmax: the mean position and the mean feature under each attention map (Algorithm 1).

    Args:
        logits: B x K x h x w attention logits.
        features: B x F x h x w feature map.

    Returns:
        Attention, B x K x h x w, each map sums to one; and pooled values, B x K x (2 + F), ordered x, y, features,
        with x and y in [-1, 1].
    """
    b, k, h, w = logits.shape
    attention = logits.flatten(2).softmax(dim=2)  # B x K x hw
    positions = cell_positions(h, w, device=logits.device, dtype=logits.dtype)  # hw x 2
    values = torch.cat([positions.expand(b, -1, -1), features.flatten(2).mT], dim=2)  # B x hw x (2 + F)
    return attention.view(b, k, h, w), attention @ values


def sampling_weights(position: Tensor, scale: Tensor, *, image_side: int, glimpse_side: int) -> Tensor:
    """Bilinear interpolation along one axis, as a matrix from glimpse pixels to image pixels (Algorithm 2, STN).

    Image coordinate u reads glimpse coordinate ``scale * (u - position)``; both axes have pixel centres at
    ``(2 i + 1) / n - 1``, and outside the glimpse there is zero.

    Args:
        position: ..., in [-1, 1].
        scale: ..., inverse scale.
        image_side: Pixels of the image along the axis.
        glimpse_side: Pixels of the glimpse along the axis.

    Returns:
        ... x image_side x glimpse_side, non-negative.
    """
    pixels = torch.arange(image_side, device=position.device, dtype=position.dtype)
    centres = (2 * pixels + 1) / image_side - 1
    read = scale[..., None] * (centres - position[..., None])  # ... x image_side, glimpse coordinate in [-1, 1]
    read = ((read + 1) * glimpse_side - 1) / 2  # in glimpse pixels
    cells = torch.arange(glimpse_side, device=position.device, dtype=position.dtype)
    return (1 - (read[..., None] - cells).abs()).clamp_min(0)


def crop_glimpses(images: Tensor, position: Tensor, scale: Tensor, *, side: int) -> Tensor:
    """Crop from each image what a glimpse at each position and scale would cover; not in the paper.

    The inverse of :func:`astseg.model.renderer.place_glimpses`: glimpse coordinate v reads image coordinate
    ``position + v / scale``, bilinear, pixel centres on both sides, zero outside the image. Shrinking is not
    antialiased.

    Args:
        images: B x C x H x W.
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale: one number, or one for x and one for y.
        side: g, pixels of a crop.

    Returns:
        B x K x C x g x g.
    """
    (b, c, height, width), k = images.shape, position.shape[1]
    # In the frame of the glimpse, the image lies at -s * position with inverse scale 1 / s.
    columns = sampling_weights(
        -position[..., 0] * scale[..., 0], 1 / scale[..., 0], image_side=side, glimpse_side=width
    )  # B x K x g x W
    rows = sampling_weights(
        -position[..., 1] * scale[..., -1], 1 / scale[..., -1], image_side=side, glimpse_side=height
    )
    rows, columns = rows.to(images.dtype), columns.to(images.dtype)
    # The rows of all crops of an image by one product, which reads the image once.
    low = rows.view(b, k * side, height) @ images.permute(0, 2, 1, 3).reshape(b, height, c * width)
    crops = low.view(b * k, side * c, width) @ columns.view(b * k, side, width).mT
    return crops.view(b, k, side, c, side).transpose(2, 3)
