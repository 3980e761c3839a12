"""The U-Net of the paper, at full resolution.

Source: supplement of AST-Seg (Sauvalle and de La Fortelle, WACV 2023), Table 3; the reference implementation for the
six levels of images of 200 pixels and more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.model.fast.layers import Size, convolution3x3

__all__ = ["UNet", "unet_widths"]


def unet_widths(image_size: Size) -> tuple[int, ...]:
    """Channels at full resolution and after each halving (Table 3): five halvings, six from 200 pixels on a side on."""
    if max(image_size) >= 200:
        return 48, 64, 96, 128, 128, 256, 256
    return 80, 128, 192, 256, 256, 256


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.CELU())


class _DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bloc1 = _normed(nn.Conv2d(in_channels, out_channels, 4, 2, padding=1, bias=False), out_channels)
        self.bloc2 = _normed(convolution3x3(out_channels, out_channels), out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """features: B x C x h x w -> B x out_channels x h//2 x w//2, but a side of 1 stays 1."""
        h, w = features.shape[-2:]
        features = self.bloc1(F.pad(features, (0, int(w == 1), 0, int(h == 1))))
        out: Tensor = features + self.bloc2(features)
        return out


class _UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bloc1 = _normed(convolution3x3(in_channels, in_channels), in_channels)
        self.bloc2 = _normed(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, padding=1, bias=False), out_channels)

    def forward(self, features: Tensor, size: Size) -> Tensor:
        """features: B x C x h x w -> B x out_channels x size, each side 2h, 2h + 1, or 1 where h is 1."""
        features = features + self.bloc1(features)
        h, w = features.shape[-2:]
        upsample, norm, activation = self.bloc2
        features = upsample(features, output_size=(max(size[0], 2 * h), max(size[1], 2 * w)))
        out: Tensor = activation(norm(features[..., : size[0], : size[1]]))
        return out


class UNet(nn.Module):
    """The U-Net of the supplement's Table 3, at full resolution; any size comes back exactly.

    Each level halves the sides, rounding down; a side that has come to 1 stays 1. Submodules carry the reference's
    names, so that its weights load under their own names.

    BatchNorm follows every convolution but the last two, so in train mode an image's maps depend on its batch. The
    deepest maps are small (1 x 1 for 20 x 28 pixels): with B images they give B * h * w values to normalise, which
    leaves little but signs at two values, and is refused at one. Eval mode uses the running statistics at any batch.
    """

    def __init__(self, *, out_channels: int, widths: Sequence[int]) -> None:
        """Build the levels.

        Args:
            out_channels: K + F channels of the map.
            widths: Channels at full resolution, then after each halving; see :func:`unet_widths`.
        """
        super().__init__()
        steps = list(zip(widths, widths[1:], strict=False))
        self.first_feature_map = _normed(convolution3x3(3, widths[0]), widths[0])
        self.downsample_blocks = nn.ModuleList(_DownBlock(shallow, deep) for shallow, deep in steps)
        self.center_block = _normed(convolution3x3(widths[-1], widths[-1]), widths[-1])
        self.upsample_blocks = nn.ModuleList(_UpBlock(2 * deep, shallow) for shallow, deep in steps)
        self.last_skip_layer = _normed(convolution3x3(2 * widths[0], out_channels), out_channels)
        self.last_residual_layer = convolution3x3(out_channels, out_channels)
        self.conv1x1 = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: the same.

        Raises:
            UserError: A side that more than one level could not halve.
        """
        smallest = 2 ** (len(self.downsample_blocks) - 1)
        if min(size) < smallest:
            raise UserError(
                f"image size {size[0]}x{size[1]} is too small for the unet backbone of {len(self.downsample_blocks)}"
                f" levels, expected sides of at least {smallest}: resize the images, or choose another backbone"
            )
        return size

    def forward(self, images: Tensor) -> Tensor:
        """images: B x 3 x H x W, float in [0, 1] -> B x out_channels x H x W.

        Raises:
            UserError: Images too small; training on a single image whose deepest map is 1 x 1.
        """
        height, width = self.output_size((images.shape[-2], images.shape[-1]))
        if self.training and len(images) == 1 and max(height, width) < 2 ** (len(self.downsample_blocks) + 1):
            raise UserError(
                f"a batch of one {height}x{width} image in training leaves the unet backbone's deepest BatchNorm a"
                " single value: use a larger batch, larger images, or another backbone"
            )
        skips = [self.first_feature_map(images)]
        for down in self.downsample_blocks:
            skips.append(down(skips[-1]))
        features = self.center_block(skips[-1])
        for up in reversed(self.upsample_blocks):
            skip = skips.pop()
            features = up(torch.cat((features, skip), dim=1), skips[-1].shape[-2:])
        features = self.last_skip_layer(torch.cat((features, skips[0]), dim=1))
        maps: Tensor = self.conv1x1(features + self.last_residual_layer(features))
        return maps
