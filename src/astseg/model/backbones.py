"""Backbones: image -> attention logits and feature map, the first line of Algorithm 1.

Sources: *Unsupervised Multi-object Segmentation Using Attention and Soft-argmax* (Sauvalle and de La Fortelle, WACV
2023), section 3 and its supplement's Table 3; *SegFormer* (Xie et al., NeurIPS 2021), Table 6 for the sizes b0 to b5.
What differs: images too small for the deepest layers are padded inside instead of refused, and :class:`SmallCNN`, for
CPUs, is ours. As in the reference, images stay in [0, 1], without ImageNet's mean and deviation.

Every backbone takes B x 3 x H x W, float in [0, 1], gives B x C x h x w with C = K + F (the first K channels are the
attention logits), and tells h and w beforehand: ``output_size((H, W))``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from astseg.config import nearest
from astseg.types import UserError

__all__ = [
    "BACKBONES",
    "MIX_TRANSFORMERS",
    "Backbone",
    "Segformer",
    "SmallCNN",
    "UNet",
    "build_backbone",
    "licence_notice",
    "unet_widths",
]

Size = tuple[int, int]
"""(height, width) in pixels or cells."""


def _quarter(size: Size) -> Size:
    """A quarter of both sides, rounded up: the map of a backbone of stride 4."""
    return -(-size[0] // 4), -(-size[1] // 4)


# Segformer -----------------------------------------------------------------------------------------------------------


class MixTransformer(NamedTuple):
    """A size of Segformer: blocks and channels of its four stages, channels of its decode head."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    decoder_width: int


MIX_TRANSFORMERS = {
    "b0": MixTransformer((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": MixTransformer((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": MixTransformer((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": MixTransformer((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": MixTransformer((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": MixTransformer((3, 6, 40, 3), (64, 128, 320, 512), 768),
}

SEGFORMER_SMALLEST_SIDE = 29
"""The first stage shrinks its keys by 8 at stride 4, so a side needs 8 cells: ceil(29 / 4)."""


class Segformer(nn.Module):
    """The paper's backbone: a Mix Transformer body and a multi-layer-perceptron decode head, at stride 4.

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
            weights: Weights of the body: a hub id such as ``nvidia/mit-b3``, a folder that transformers saved, or None
                for fresh ones. The decode head is always fresh.
            classifier_dropout: Dropout rate before the last layer.
            drop_path: Rate at which the last block is skipped in training; it grows linearly from 0 at the first.

        Raises:
            UserError: Weights that cannot be had or do not fit the size.
        """
        super().__init__()
        transformers = _transformers()
        shape = MIX_TRANSFORMERS[size]
        # The reference's name for this module, so that its weights load under their own names.
        self.complete_model = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(
                depths=shape.depths,
                hidden_sizes=shape.widths,
                decoder_hidden_size=shape.decoder_width,
                num_labels=out_channels,
                classifier_dropout_prob=classifier_dropout,
                drop_path_rate=drop_path,
            )
        )
        if weights is not None:
            self.complete_model.segformer.load_state_dict(_pretrained_body(weights, size))

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: a quarter, rounded up."""
        return _quarter(size)

    def forward(self, images: Tensor) -> Tensor:
        """images: B x 3 x H x W, float in [0, 1] -> B x out_channels x ceil(H/4) x ceil(W/4)."""
        height, width = images.shape[-2:]
        missing = (max(0, SEGFORMER_SMALLEST_SIDE - width), max(0, SEGFORMER_SMALLEST_SIDE - height))
        if any(missing):  # repeat the last row and column, which makes no edge that is not in the image
            images = F.pad(images, (0, missing[0], 0, missing[1]), mode="replicate")
        maps: Tensor = self.complete_model(pixel_values=images).logits
        h, w = _quarter((height, width))
        return maps[..., :h, :w]


def _transformers() -> Any:
    """The package transformers, imported no earlier than needed: it takes seconds."""
    import transformers

    return transformers


def _pretrained_body(weights: str, size: str) -> dict[str, Tensor]:
    """The body's tensors in a transformers checkpoint, whichever head it was saved with.

    Raises:
        UserError: A folder or hub id that cannot be read, is no Segformer, is incomplete, or is of another size.
    """
    logging = _transformers().utils.logging
    if not Path(weights).exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise UserError(
            f"backbone weights '{weights}': no such folder: give a folder or a hub id such as nvidia/mit-b3"
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it reports every classifier weight that is left out
    try:
        _check_size(weights, size)
        body, report = _transformers().SegformerModel.from_pretrained(weights, output_loading_info=True)
    except UserError:
        raise
    except Exception as error:  # transformers, the hub, safetensors and pickle each raise their own kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"backbone weights '{weights}' cannot be loaded ({reason}): check the name, the connection and, for gated"
            " weights, `hf auth login`; or give a folder that holds config.json and model.safetensors"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        raise UserError(
            f"backbone weights '{weights}' lack {len(report['missing_keys'])} tensors of a Segformer body"
            f" ('{min(report['missing_keys'])}' first): give a complete checkpoint"
        )
    tensors: dict[str, Tensor] = body.state_dict()
    return tensors


def _check_size(weights: str, size: str) -> None:
    """Compare a checkpoint's configuration with the size asked for, before its weights are read or downloaded."""
    config = _transformers().AutoConfig.from_pretrained(weights)
    if config.model_type != "segformer":
        raise UserError(f"backbone weights '{weights}' are of a '{config.model_type}' model, expected a 'segformer'")
    found = (tuple(config.depths), tuple(config.hidden_sizes))
    if found == MIX_TRANSFORMERS[size][:2]:
        return
    names = [name for name, shape in MIX_TRANSFORMERS.items() if shape[:2] == found]
    if not names:
        raise UserError(
            f"backbone weights '{weights}' have depths {found[0]} and widths {found[1]}, which is none of b0 to b5:"
            f" give weights of size {size}"
        )
    raise UserError(
        f"backbone weights '{weights}' are of size {names[0]}, but the backbone is segformer-{size}: name"
        f" segformer-{names[0]}, or weights of size {size}"
    )


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


# U-Net ---------------------------------------------------------------------------------------------------------------


def unet_widths(image_size: Size) -> tuple[int, ...]:
    """Channels at full resolution and after each halving (Table 3): five halvings, six from 200 pixels on a side on."""
    if max(image_size) >= 200:
        return 48, 64, 96, 128, 128, 256, 256
    return 80, 128, 192, 256, 256, 256


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.CELU())


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class _DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bloc1 = _normed(nn.Conv2d(in_channels, out_channels, 4, 2, padding=1, bias=False), out_channels)
        self.bloc2 = _normed(_conv3x3(out_channels, out_channels), out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """features: B x C x h x w -> B x out_channels x h//2 x w//2, but a side of 1 stays 1."""
        h, w = features.shape[-2:]
        features = self.bloc1(F.pad(features, (0, int(w == 1), 0, int(h == 1))))
        out: Tensor = features + self.bloc2(features)
        return out


class _UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bloc1 = _normed(_conv3x3(in_channels, in_channels), in_channels)
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
        self.first_feature_map = _normed(_conv3x3(3, widths[0]), widths[0])
        self.downsample_blocks = nn.ModuleList(_DownBlock(shallow, deep) for shallow, deep in steps)
        self.center_block = _normed(_conv3x3(widths[-1], widths[-1]), widths[-1])
        self.upsample_blocks = nn.ModuleList(_UpBlock(2 * deep, shallow) for shallow, deep in steps)
        self.last_skip_layer = _normed(_conv3x3(2 * widths[0], out_channels), out_channels)
        self.last_residual_layer = _conv3x3(out_channels, out_channels)
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


# Small convolutional network -----------------------------------------------------------------------------------------


class _Level(nn.Module):
    """One level of :class:`SmallCNN`: a strided convolution, then a residual 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.residual = _conv3x3(out_channels, out_channels)
        self.norm = nn.GroupNorm(groups, out_channels)

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
            nn.Sequential(_conv3x3(decoder_width, decoder_width), nn.GroupNorm(groups, decoder_width), nn.CELU())
            for _ in widths[2:]
        )
        self.head = nn.Conv2d(decoder_width, out_channels, 1)

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: a quarter, rounded up."""
        return _quarter(size)

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


# Choice --------------------------------------------------------------------------------------------------------------

Backbone = Segformer | UNet | SmallCNN

BACKBONES = (*(f"segformer-{size}" for size in MIX_TRANSFORMERS), "unet", "cnn")


def build_backbone(name: str, *, out_channels: int, image_size: Size, weights: str | None = None) -> Backbone:
    """The backbone of a name.

    Args:
        name: One of :data:`BACKBONES`.
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
