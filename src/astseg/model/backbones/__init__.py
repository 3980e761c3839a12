"""Backbones: image -> attention logits and feature map, the first line of Algorithm 1.

Every backbone takes B x 3 x H x W, float in [0, 1], gives B x C x h x w with C = K + F (the first K channels are the
attention logits), and tells h and w beforehand: ``output_size((H, W))``.
"""

from __future__ import annotations

from astseg.config import BACKBONES, nearest
from astseg.errors import UserError
from astseg.model.backbones.segformer import Segformer
from astseg.model.backbones.small_cnn import SmallCNN
from astseg.model.backbones.unet import UNet, unet_widths
from astseg.model.fast.layers import Size

__all__ = ["Backbone", "build_backbone"]

Backbone = Segformer | UNet | SmallCNN


def build_backbone(name: str, *, out_channels: int, image_size: Size, weights: str | None = None) -> Backbone:
    """The backbone of a name.

    Args:
        name: One of :data:`astseg.config.BACKBONES`.
        out_channels: K + F channels of the map.
        image_size: (H, W) of the images it is for. It settles the U-Net's levels; the weights fit other sizes too.
        weights: Pretrained weights, see :class:`Segformer`; the others have none.

    Raises:
        UserError: An unknown name, weights that cannot be had, an image too small.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone is '{name}': {nearest(name, BACKBONES)}")
    if name.startswith("segformer-"):
        return Segformer(name.removeprefix("segformer-"), out_channels=out_channels, weights=weights)
    if weights is not None:
        raise UserError(f"backbone weights '{weights}' are given, but backbone {name} has none: leave them out")
    if name == "cnn":
        return SmallCNN(out_channels=out_channels)
    unet = UNet(out_channels=out_channels, widths=unet_widths(image_size))
    unet.output_size(image_size)
    return unet
