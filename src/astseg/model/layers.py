"""What the backbones share."""

from __future__ import annotations

from torch import nn

__all__ = ["Size", "convolution3x3", "quarter"]

Size = tuple[int, int]
"""(height, width) in pixels or cells."""


def quarter(size: Size) -> Size:
    """A quarter of both sides, rounded up: the map of a backbone of stride 4."""
    return -(-size[0] // 4), -(-size[1] // 4)


def convolution3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A convolution that keeps the size, without a bias: a normalisation follows."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
