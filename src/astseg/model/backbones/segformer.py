"""SegFormer, the paper's backbone: a Mix Transformer and a decode head of linear layers.

Sources: AST-Seg (Sauvalle and de La Fortelle, WACV 2023), section 3; *SegFormer* (Xie et al., NeurIPS 2021), section
3.2. As in the reference implementation, images stay in [0, 1], without ImageNet's mean and standard deviation. What
differs: images too small for the deepest stages are padded inside instead of refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from astseg.model.backbones.mix_transformer import MIX_TRANSFORMERS, MixTransformer, initialise
from astseg.model.backbones.pretrained import body_weights
from astseg.model.fast.layers import Size, quarter
from astseg.model.ops import full_precision

__all__ = ["MIX_TRANSFORMERS", "DecodeHead", "Segformer", "licence_notice"]

SMALLEST_SIDE = 29
"""The first stage shrinks its keys by 8 at stride 4, so a side needs 8 cells: ceil(29 / 4)."""


class Segformer(nn.Module):
    """The paper's backbone, at stride 4.

    The decode head has a BatchNorm, so in train mode the maps of an image depend on its batch; a batch of one works,
    since a map never has fewer than 8 x 8 cells, but its statistics are then those of one image.
    """

    def __init__(
        self,
        size: str,
        *,
        out_channels: int,
        weights: str | None = None,
        classifier_dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        """Build the body and the head.

        Args:
            size: Name of the body in :data:`MIX_TRANSFORMERS`.
            out_channels: K + F channels of the map.
            weights: Weights of the body: a hub id such as ``nvidia/mit-b3``, a folder with ``config.json`` and
                ``model.safetensors``, or None for fresh ones. The decode head is always fresh.
            classifier_dropout: Dropout rate before the last layer.
            drop_path: Rate at which the last block is skipped in training; it grows linearly from 0 at the first.

        Raises:
            UserError: Weights that cannot be had or do not fit the size.
        """
        super().__init__()
        _, widths, decoder_width = MIX_TRANSFORMERS[size]
        body = MixTransformer(size, drop_path=drop_path)
        head = DecodeHead(widths, decoder_width, out_channels=out_channels, dropout=classifier_dropout)
        # The reference's names of modules, so that its weights load under their own names.
        self.complete_model = nn.ModuleDict({"segformer": body, "decode_head": head})
        if weights is not None:
            body.load_state_dict(body_weights(weights, size, body.state_dict()))

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: a quarter, rounded up."""
        return quarter(size)

    def forward(self, images: Tensor) -> Tensor:
        """images: B x 3 x H x W, float in [0, 1] -> B x out_channels x ceil(H/4) x ceil(W/4)."""
        height, width = images.shape[-2:]
        missing = (max(0, SMALLEST_SIDE - width), max(0, SMALLEST_SIDE - height))
        if any(missing):  # repeat the last row and column, which makes no edge that is not in the image
            images = F.pad(images, (0, missing[0], 0, missing[1]), mode="replicate")
        # torch's fused attention is slow on a CPU in bfloat16; with few keys, a 64th of the cells, plain products do.
        slow = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            stages = self.complete_model["segformer"](images)
        h, w = quarter((height, width))
        maps: Tensor = self.complete_model["decode_head"](stages)[..., :h, :w]
        return maps


class DecodeHead(nn.Module):
    """All stages projected to D channels, enlarged and fused by a 1x1 convolution, computed in another order.

    All of that is linear, and enlarging commutes with what happens at one place: so the two matrices of a stage are
    multiplied with each other and applied at the stage's own size, and what is enlarged is summed. In the published
    order the fusion at full size takes half of all products of the smallest SegFormer.
    """

    def __init__(self, widths: Sequence[int], decoder_width: int, *, out_channels: int, dropout: float) -> None:
        """Build the layers.

        Args:
            widths: Channels of the stages, the finest first.
            decoder_width: D.
            out_channels: Channels of the map.
            dropout: Dropout rate before the last layer.
        """
        super().__init__()
        self.linear_projections = nn.ModuleList(
            nn.ModuleDict({"proj": nn.Linear(width, decoder_width)}) for width in widths
        )
        self.linear_fuse = nn.Conv2d(len(widths) * decoder_width, decoder_width, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(decoder_width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(decoder_width, out_channels, 1)
        self.apply(initialise)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """stages: B x C x h x w of each, the finest first -> B x out_channels x h x w, at the size of the finest."""
        fusions = self.linear_fuse.weight.flatten(1).chunk(len(stages), dim=1)[::-1]  # D x D each, coarsest first
        fused: Tensor | None = None
        for maps, projection, fusion in zip(stages, self.linear_projections, fusions, strict=True):
            with full_precision(maps.device):  # what is rounded to half precision is the product, not its factors
                weight, bias = (fusion @ projection.get_parameter(f"proj.{name}") for name in ("weight", "bias"))
            maps = F.conv2d(maps, weight[..., None, None], bias)
            fused = maps if fused is None else fused.add_(F.interpolate(maps, size=fused.shape[-2:], mode="bilinear"))
        out: Tensor = self.classifier(self.dropout(F.relu(self.batch_norm(fused), inplace=True)))
        return out


def licence_notice(weights: str | None) -> str | None:
    """One line on the licence of pretrained backbone weights, to print and to keep beside the model, or None.

    It goes by the name: a folder of NVIDIA's weights under a name of your own is not recognised.

    >>> licence_notice("somebody/segformer-b0") is None
    True
    """
    if weights is None or not re.search(r"nvidia|(?<![a-z])mit-b[0-5](?![0-9])", weights, re.IGNORECASE):
        return None
    return (
        f"backbone weights '{weights}' are NVIDIA's, licensed for research and evaluation only, not for commercial use"
        " (https://github.com/NVlabs/SegFormer/blob/master/LICENSE); models trained from them inherit this"
    )
