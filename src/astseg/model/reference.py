"""The paper in 80 lines: Algorithms 1 and 2 and the losses, transcribed plainly, to compare the package with.

Source: supplement of AST-Seg. Written as the algorithms are stated: attention maps expanded over the features, glimpses
placed by a sampling grid, all layers concatenated, weights as exp(activation) * mask over their sum. The modules with
weights (backbone, transformer, generator) are those of a model of the package, so that both can be compared number by
number; SegFormer's decode head is computed in the published order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from astseg.model.astseg import AstSeg
from astseg.model.backbones.segformer import Segformer
from astseg.model.encoder import split_latents
from astseg.model.ops import at_least_float32

__all__ = ["plain_decode", "plain_losses", "plain_maps", "plain_scene"]


def plain_scene(model: AstSeg, images: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Layer weights L x B x 1 x H x W and reconstruction B x 3 x H x W, by Algorithms 1 and 2.

    Args:
        model: The model whose weights are used, without a glimpse encoder.
        images: B x 3 x H x W.
        background: B x 3 x H x W.
    """
    encoder, renderer = model.encoder, model.renderer
    b, _, height, width = images.shape
    k = encoder.slots
    maps = at_least_float32(plain_maps(encoder.backbone, images))
    h, w = maps.shape[-2:]
    attention = maps[:, :k].flatten(2).softmax(2).view(b, k, 1, h, w)
    x, y = (torch.linspace(-1, 1, n, device=maps.device, dtype=maps.dtype) for n in (w, h))
    grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)])
    features = torch.cat([grid.expand(b, 2, h, w), maps[:, k:]], dim=1)  # B x (2 + F) x h x w
    pooled = (attention * features[:, None]).sum(dim=(3, 4))  # B x K x (2 + F)
    with torch.autocast(images.device.type, enabled=False):
        raw = encoder.refinement(pooled)
    latents = split_latents(raw, scale_numbers=encoder.scale_numbers, scale_range=encoder.scale_range)

    glimpses = renderer.generator(latents.appearance.flatten(0, 1))  # BK x 4 x g x g
    position, scale = latents.position.flatten(0, 1), latents.scale.expand(b, k, 2).flatten(0, 1)
    zero = torch.zeros_like(position[:, 0])
    theta = torch.stack(
        [
            torch.stack([scale[:, 0], zero, -position[:, 0] * scale[:, 0]], dim=-1),
            torch.stack([zero, scale[:, 1], -position[:, 1] * scale[:, 1]], dim=-1),
        ],
        dim=1,
    )
    sampling = F.affine_grid(theta, [b * k, 4, height, width], align_corners=False)
    placed = F.grid_sample(at_least_float32(glimpses), sampling, align_corners=False)
    placed = placed.view(b, k, 4, height, width).transpose(0, 1)
    layers = torch.cat([background[None], placed[:, :, :3]])  # L x B x 3 x H x W
    masks = torch.cat([torch.ones_like(placed[:1, :, 3:]), placed[:, :, 3:]])  # L x B x 1 x H x W
    activation = torch.cat([renderer.background_log_activation.expand(1, b), latents.log_activation.T]).exp()
    visible = activation[:, :, None, None, None] * masks
    weights = visible / visible.sum(dim=0, keepdim=True)
    return weights, (weights * layers).sum(dim=0)


def plain_losses(weights: Tensor, reconstruction: Tensor, images: Tensor, *, entropy_weight: float) -> Tensor:
    """The paper's loss: reconstruction and weighted pixel entropy."""
    error = (reconstruction - images).abs().sum(dim=1).square().mean()
    entropy = (weights * (weights + 1e-20).log()).sum(dim=0).square().mean()
    return error + entropy_weight * entropy


def plain_maps(backbone: Any, images: Tensor) -> Tensor:
    """The maps of a backbone, B x (K + F) x h x w; SegFormer's by :func:`plain_decode`, without its padding."""
    if not isinstance(backbone, Segformer):
        maps: Tensor = backbone(images)
        return maps
    parts = backbone.complete_model
    return plain_decode(parts["decode_head"], parts["segformer"](images))


def plain_decode(head: Any, stages: Sequence[Tensor]) -> Tensor:
    """SegFormer's decode head as published: project each stage, enlarge, concatenate, fuse.

    Args:
        head: A :class:`astseg.model.backbones.segformer.DecodeHead`.
        stages: B x C x h x w of each stage, the finest first.
    """
    projected = [
        F.conv2d(maps, projection["proj"].weight[..., None, None], projection["proj"].bias)
        for maps, projection in zip(stages, head.linear_projections, strict=True)
    ]
    size = stages[0].shape[-2:]
    enlarged = [F.interpolate(maps, size=size, mode="bilinear") for maps in reversed(projected)]
    fused = F.relu(head.batch_norm(head.linear_fuse(torch.cat(enlarged, dim=1))))
    maps: Tensor = head.classifier(head.dropout(fused))
    return maps
