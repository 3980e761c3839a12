"""Arithmetic of the method without weights: pooling by attention, placing glimpses, blending layers.

Sources: supplement, Algorithms 1 and 2; :mod:`astseg.model.reference` is the plain transcription. Computed otherwise:
pooling is one matrix product (no expanded attention maps), placement is separable (two matrix products with tent
weights instead of a sampling grid), and blending never builds the concatenated layers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "at_least_float32",
    "attention_pool",
    "blend_layers",
    "cell_positions",
    "crop_glimpses",
    "full_precision",
    "index_like",
    "place_glimpses",
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


def place_glimpses(glimpses: Tensor, position: Tensor, scale: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Draw each glimpse at its position and scale on an empty image (Algorithm 2, STN).

    Args:
        glimpses: B x K x C x g x g.
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale: one number, or one for x and one for y.
        image_size: (H, W).

    Returns:
        B x K x C x H x W, zero outside each glimpse.
    """
    b, k, c, g, _ = glimpses.shape
    height, width = image_size
    columns = sampling_weights(position[..., 0], scale[..., 0], image_side=width, glimpse_side=g)
    rows = sampling_weights(position[..., 1], scale[..., -1], image_side=height, glimpse_side=g)
    rows, columns = rows.to(glimpses.dtype), columns.to(glimpses.dtype)
    wide = glimpses.reshape(b * k, c * g, g) @ columns.reshape(b * k, width, g).mT  # BK x Cg x W
    wide = wide.view(b * k, c, g, width)
    placed = rows.reshape(b * k, 1, height, g) @ wide  # BK x C x H x W
    return placed.view(b, k, c, height, width)


def crop_glimpses(images: Tensor, position: Tensor, scale: Tensor, *, side: int) -> Tensor:
    """Crop from each image what a glimpse at each position and scale would cover; not in the paper.

    The inverse of :func:`place_glimpses`: glimpse coordinate v reads image coordinate ``position + v / scale``,
    bilinear, pixel centres on both sides, zero outside the image. Shrinking is not antialiased.

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


def blend_layers(
    layers: Tensor, masks: Tensor, log_activation: Tensor, background: Tensor, background_log_activation: Tensor
) -> tuple[Tensor, Tensor]:
    """Settle occlusions and mix the layers into one image (Algorithm 2).

    ``w_k = alpha_k M_k / sum_i alpha_i M_i`` with ``M_0 = 1``; the largest activation of each image is divided out
    first, so that no exponential overflows.

    Args:
        layers: B x K x 3 x H x W colours of the objects.
        masks: B x K x H x W in [0, 1].
        log_activation: B x K, log alpha of the objects.
        background: B x 3 x H x W.
        background_log_activation: Log alpha of the background: a scalar, or H x W.

    Returns:
        Weights, B x L x H x W, that sum to one over the layers (0 = background); and the reconstruction,
        B x 3 x H x W.
    """
    b, _, h, w = masks.shape
    background_log = background_log_activation.expand(b, 1, h, w)
    largest = torch.maximum(background_log.amax(dim=(1, 2, 3)), log_activation.amax(dim=1)).detach()  # B
    visible = (log_activation - largest[:, None]).exp()[..., None, None] * masks  # B x K x H x W
    behind = (background_log - largest[:, None, None, None]).clamp_min(SMALLEST_LOG_RATIO).exp()  # B x 1 x H x W
    weights = torch.cat([behind, visible], dim=1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    objects = torch.einsum("bkhw,bkchw->bchw", weights[:, 1:], layers)
    return weights, weights[:, :1] * background + objects
