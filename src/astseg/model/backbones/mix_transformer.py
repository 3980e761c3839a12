"""Mix Transformer (MiT), the encoder of SegFormer.

Source: *SegFormer* (Xie et al., NeurIPS 2021), section 3.1 and Table 6 for the sizes b0 to b5. Parameters have the
names and the order of the package transformers, so that checkpoints load by name; a test compares both.

Feature maps are B x h x w x C here, the layout in which linear layers and normalisations need no transposition.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["MIX_TRANSFORMERS", "MixTransformer", "MixTransformerSize", "initialise"]


class MixTransformerSize(NamedTuple):
    """Blocks and channels of the four stages, and channels of the decode head that goes with them."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    decoder_width: int


MIX_TRANSFORMERS = {
    "b0": MixTransformerSize((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": MixTransformerSize((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": MixTransformerSize((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": MixTransformerSize((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": MixTransformerSize((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": MixTransformerSize((3, 6, 40, 3), (64, 128, 320, 512), 768),
}

PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))
"""Kernel and stride of the patch embedding of each stage."""

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
"""By how much each stage shrinks both sides of the map that its keys and values come from."""

EXPANSION = 4
"""Hidden width of a Mix-FFN over its width."""


class MixTransformer(nn.Module):
    """Four stages at strides 4, 8, 16 and 32: images to feature maps of four resolutions."""

    def __init__(self, size: str, *, drop_path: float = 0.1) -> None:
        """Build the stages.

        Args:
            size: A name in :data:`MIX_TRANSFORMERS`.
            drop_path: Rate at which the last block is skipped in training; it grows linearly from 0 at the first.
        """
        super().__init__()
        depths, widths, _ = MIX_TRANSFORMERS[size]
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            _Stage(
                channels,
                patch=PATCHES[i],
                heads=HEADS[i],
                reduction=REDUCTIONS[i],
                drop_path=list(itertools.islice(rates, depths[i])),
            )
            for i, channels in enumerate(itertools.pairwise((3, *widths)))
        )
        self.apply(initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: B x 3 x H x W -> B x C x h x w of each stage, channels last in memory, the finest first."""
        maps = images.permute(0, 2, 3, 1)
        stages = []
        for stage in self.stages:
            maps = stage(maps)
            stages.append(maps.permute(0, 3, 1, 2))
        return stages


def initialise(module: nn.Module) -> None:
    """Weights of convolutions and linear layers ~ N(0, 0.02), biases 0, as SegFormer starts."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class _Stage(nn.Module):
    """Overlapping patches of a map as tokens, then transformer blocks."""

    def __init__(
        self,
        channels: tuple[int, int],
        *,
        patch: tuple[int, int],
        heads: int,
        reduction: int,
        drop_path: list[float],
    ) -> None:
        super().__init__()
        kernel, stride = patch
        width = channels[1]
        embedding = {"proj": nn.Conv2d(*channels, kernel, stride, kernel // 2), "layer_norm": nn.LayerNorm(width)}
        self.patch_embeddings = nn.ModuleDict(embedding)
        self.blocks = nn.ModuleList(_Block(width, heads=heads, reduction=reduction, rate=rate) for rate in drop_path)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: B x h x w x C -> B x h' x w' x C'."""
        maps = self.patch_embeddings["layer_norm"](_convolve(self.patch_embeddings["proj"], maps))
        for block in self.blocks:
            maps = block(maps)
        normed: Tensor = self.layer_norm(maps)
        return normed


class _Block(nn.Module):
    """Attention and Mix-FFN, each after a normalisation and added to its input."""

    def __init__(self, width: int, *, heads: int, reduction: int, rate: float) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width)
        self.attention = _EfficientAttention(width, heads=heads, reduction=reduction)
        self.drop_path = DropPath(rate)
        self.layernorm_after = nn.LayerNorm(width)
        self.mlp = _MixFeedForward(width, EXPANSION * width)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: B x h x w x C -> the same shape."""
        maps = maps + self.drop_path(self.attention(self.layernorm_before(maps)))
        out: Tensor = maps + self.drop_path(self.mlp(self.layernorm_after(maps)))
        return out


class _EfficientAttention(nn.Module):
    """Multi-head self-attention whose keys and values come from a map shrunk by a strided convolution."""

    def __init__(self, width: int, *, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.sequence_reduction: nn.ModuleDict | None = None
        if reduction > 1:
            shrink = nn.Conv2d(width, width, reduction, reduction)
            self.sequence_reduction = nn.ModuleDict({"sequence_reduction": shrink, "layer_norm": nn.LayerNorm(width)})

    def forward(self, maps: Tensor) -> Tensor:
        """maps: B x h x w x C -> the same shape."""
        seen = maps
        if self.sequence_reduction is not None:
            seen = _convolve(self.sequence_reduction["sequence_reduction"], seen)
            seen = self.sequence_reduction["layer_norm"](seen)
        projected = self.q_proj(maps), self.k_proj(seen), self.v_proj(seen)
        query, key, value = (x.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected)
        mixed = F.scaled_dot_product_attention(query, key, value)  # B x heads x hw x C / heads
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(maps.shape))
        return out


class _MixFeedForward(nn.Module):
    """Mix-FFN: a depthwise convolution between two linear layers tells cells where they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: B x h x w x C -> the same shape."""
        out: Tensor = self.fc2(F.gelu(_convolve(self.dwconv["dwconv"], self.fc1(maps))))
        return out


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): in training, leaves a residual branch out for some images."""

    def __init__(self, rate: float) -> None:
        """rate: Probability that the branch of an image is left out."""
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """branch: B x ... -> the same shape, with the same expectation."""
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * (kept / (1 - self.rate))


def _convolve(convolution: nn.Module, maps: Tensor) -> Tensor:
    """A convolution of maps B x h x w x C, without moving anything in memory."""
    out: Tensor = convolution(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out
