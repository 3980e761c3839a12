"""A small convolutional backbone for CPUs; ours, not in the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from astseg.model.fast.layers import Convolution, GroupNorm, Size, convolution3x3, quarter

__all__ = ["SmallCNN"]


class _Level(nn.Module):
    """One level of :class:`SmallCNN`: a strided convolution, then a residual 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int) -> None:
        super().__init__()
        self.down = Convolution(in_channels, out_channels, 3, stride=2, padding=1)
        self.residual = convolution3x3(out_channels, out_channels)
        self.norm = GroupNorm(groups, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """features: B x C x h x w -> B x out_channels x ceil(h/2) x ceil(w/2)."""
        features = F.celu(self.down(features))
        return features + F.celu(self.norm(self.residual(features)))


class SmallCNN(nn.Module):
    """A convolutional pyramid quick enough to train on a CPU, at stride 4; not in the paper.

    Strided convolutions down to stride 32 with a residual convolution at each level, then a top-down path of lateral
    1x1 convolutions and nearest-neighbour upsampling. A cell of the deepest level sees 185 pixels, so wherever it lies
    in a 64 x 64 image it sees all of it. GroupNorm: maps do not depend on the batch, its size, or the mode.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        widths: Sequence[int] = (32, 64, 128, 192, 192),
        decoder_width: int = 64,
        groups: int = 8,
    ) -> None:
        """Build the pyramid.

        Args:
            out_channels: K + F channels of the map.
            widths: Channels at strides 2, 4, 8 and so on; at least two.
            decoder_width: Channels of the top-down path.
            groups: Groups of every GroupNorm; divides decoder_width and every width but the first.
        """
        super().__init__()
        # Stride 2 has no residual convolution and the strided ones no norm: they would add a third to the step time.
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.levels = nn.ModuleList(_Level(a, b, groups=groups) for a, b in zip(widths, widths[1:], strict=False))
        self.laterals = nn.ModuleList(nn.Conv2d(width, decoder_width, 1) for width in widths[1:])
        self.merges = nn.ModuleList(
            nn.Sequential(convolution3x3(decoder_width, decoder_width), GroupNorm(groups, decoder_width), nn.CELU())
            for _ in widths[2:]
        )
        self.head = nn.Conv2d(decoder_width, out_channels, 1)

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: a quarter, rounded up."""
        return quarter(size)

    def forward(self, images: Tensor) -> Tensor:
        """images: B x 3 x H x W, float in [0, 1] -> B x out_channels x ceil(H/4) x ceil(W/4)."""
        features = F.celu(self.stem(images))
        laterals = []
        for level, lateral in zip(self.levels, self.laterals, strict=True):
            features = level(features)
            laterals.append(lateral(features))
        merged: Tensor = laterals.pop()
        for merge in self.merges:
            finer = laterals.pop()
            merged = merge(finer + F.interpolate(merged, size=finer.shape[-2:], mode="nearest"))
        maps: Tensor = self.head(merged)
        return maps
