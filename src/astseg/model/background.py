"""Background model: an autoencoder that reconstructs the scene without its objects.

Source: AE-NE (Sauvalle and de La Fortelle, WACV 2023, "Autoencoder-based background reconstruction and foreground
segmentation with background noise estimation"), used by AST-Seg as the background of each scene.

What differs from the authors' program:

- Images, background and predicted error are in [0, 1] here, 0 to 255 there. The encoder multiplies its input by 255,
  because the positional channels beside it are not scaled (a faithful oddity: equal weights give equal outputs).
- One layer plan serves both halves. The authors' decoder tests the height where it should test the width, so that where
  the sides differ, so may its depth (64 x 128) or a kernel (128 x 64); ours always mirrors the encoder.
- Image sizes that need fewer than 5 or more than 7 layers work, and so does the width ``small``.
- The forms ``fixed`` and ``varying`` of :class:`BackgroundModel` are ours; ``paper`` is the default.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.model.background_colours import COLOURS, ColourMixture, View
from astseg.model.fast.layers import convolve_transposed

__all__ = [
    "BackgroundModel",
    "LayerPlan",
    "background_variation",
    "channel_tables",
    "is_complex",
    "layer_plan",
]

CODE_SIZE = 16
SMALLEST_SIDE = 8
TEMPLATE_RANGE = (0.02, 0.98)
"""Medians are clamped to this range: nearer to black and white the sigmoid is saturated."""
TEMPLATE_ERROR = -4.0
"""Logit of the predicted error that the template starts from: about 5 grey levels."""
LARGE_IMAGE = 200
"""From this side on, the layers shrink their input by 3 instead of 2."""

# Channels from the image to the code, by number of layers: encoder, then decoder (which runs them backwards).
PUBLISHED_CHANNELS: dict[str, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "simple": {
        5: ((3, 64, 160, 160, 32, 16), (4, 144, 256, 256, 32, 16)),
        6: ((3, 64, 160, 320, 160, 32, 16), (4, 144, 256, 512, 256, 32, 16)),
        7: ((3, 64, 160, 320, 160, 160, 32, 16), (4, 144, 256, 512, 256, 256, 32, 16)),
    },
    "complex": {
        5: ((3, 64, 160, 160, 16, 16), (4, 144, 640, 640, 16, 16)),
        6: ((3, 64, 160, 320, 160, 16, 16), (4, 144, 640, 1280, 640, 16, 16)),
        7: ((3, 64, 320, 640, 640, 320, 16, 16), (4, 144, 640, 1280, 640, 320, 16, 16)),
    },
}


@dataclass(frozen=True)
class LayerPlan:
    """One layer of the encoder, and read backwards the layer of the decoder that mirrors it.

    Every pair is (rows, columns).

    Attributes:
        large: Size on the side of the image: input of the encoder's layer, output of the decoder's.
        small: Size on the side of the code.
        kernel: Kernel size.
        stride: Stride.
        padding: Padding on each side.
        output_padding: What the transposed convolution must add to give ``large`` back exactly.
    """

    large: tuple[int, int]
    small: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]


def layer_plan(image_size: tuple[int, int]) -> tuple[LayerPlan, ...]:
    """Layers that lead from an image down to 1 x 1, each side on its own.

    A side that has reached 1 has kernel 1 until the other has too. The stride of both is 3 if either side reaches 200.

    Args:
        image_size: (height, width), each at least 8.

    Returns:
        The layers from the image to the code.

    Raises:
        UserError: If a side is under 8.

    >>> [layer.small for layer in layer_plan((20, 28))]
    [(10, 14), (5, 7), (2, 4), (1, 2), (1, 1)]
    """
    if min(image_size) < SMALLEST_SIDE:
        raise UserError(
            f"image size {image_size[0]}x{image_size[1]} is too small for the background model: "
            f"give images of at least {SMALLEST_SIDE} pixels on each side"
        )
    stride = 3 if max(image_size) >= LARGE_IMAGE else 2
    layers = []
    rows, columns = image_size
    while max(rows, columns) > 1:
        sides = [_side_step(side, stride) for side in (rows, columns)]
        small, kernel, strides, padding, output_padding = ((row, column) for row, column in zip(*sides, strict=True))
        layers.append(LayerPlan((rows, columns), small, kernel, strides, padding, output_padding))
        rows, columns = small
    return tuple(layers)


def _side_step(side: int, stride: int) -> tuple[int, int, int, int, int]:
    """One side of one layer: smaller side, kernel, stride, padding, output padding of the way back."""
    if side > 5:
        kernel, step, padding = 5, stride, 2
    elif side > 3 and stride == 2:
        kernel, step, padding = 4, 2, 1
    else:
        return 1, side, 1, 0, 0
    smaller = (side + 2 * padding - kernel) // step + 1
    return smaller, kernel, step, padding, side - ((smaller - 1) * step - 2 * padding + kernel)


def channel_tables(width: str, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels from the image to the code, encoder then decoder, ``depth + 1`` numbers each.

    ``simple`` and ``complex`` are the authors' tables for 5, 6 and 7 layers. Fewer layers leave out the innermost wide
    ones of the five, more repeat the innermost wide one of the seven. ``small``, for work without a GPU, is about a
    quarter of ``simple``, in multiples of 16, which CPUs convolve fastest.

    Raises:
        UserError: If the width is none of the three.
    """
    if width not in ("small", "simple", "complex"):
        raise UserError(f"background width {width!r} is unknown: choose small, simple or complex")
    tables = PUBLISHED_CHANNELS["complex" if width == "complex" else "simple"]
    encoder, decoder = (_stretch(table, depth) for table in tables[min(max(depth, 5), 7)])
    if width == "small":
        encoder, decoder = (
            (table[0], *(max(16, channels // 64 * 16) for channels in table[1:-1]), table[-1])
            for table in (encoder, decoder)
        )
    return encoder, decoder


def _stretch(table: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Shorten or lengthen a table of channels to ``depth + 1`` numbers, between its wide layers and the last two."""
    wide, narrow = table[:-2], table[-2:]
    return (*wide[: depth - 1], *wide[-1:] * (depth - 1 - len(wide)), *narrow)


def positional_channels(size: tuple[int, int]) -> Tensor:
    """1 x 2 x rows x columns: row then column position in [-0.5, 0.5], 1 along a side of one pixel."""
    rows, columns = (torch.linspace(-0.5, 0.5, side) if side > 1 else torch.ones(1) for side in size)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).unsqueeze(0)


class _PositionedConvolution(nn.Module):
    """Convolution over the features with two positional channels behind them, without a bias.

    The positional channels are the same for every image, so their part of the sum is computed once and added to all
    images: the same numbers as concatenating, without copying the features.
    """

    position: Tensor

    def __init__(self, plan: LayerPlan, channels: tuple[int, int], *, transposed: bool) -> None:
        super().__init__()
        self.plan = plan
        self.transposed = transposed
        inputs, outputs = channels[0] + 2, channels[1]
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        self.weight = nn.Parameter(torch.empty(*shape, *plan.kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.register_buffer(
            "position", positional_channels(plan.small if transposed else plan.large), persistent=False
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features B x C x rows x columns -> B x C' x rows' x columns'."""
        on_features, on_position = torch.split(self.weight, [features.shape[1], 2], dim=0 if self.transposed else 1)
        return self._convolve(features, on_features).add_(self._convolve(self.position, on_position))

    def _convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        plan = self.plan
        if self.transposed:
            return convolve_transposed(features, weight, None, plan.stride, plan.padding, plan.output_padding)
        return functional.conv2d(features, weight, None, plan.stride, plan.padding)


def _block(plan: LayerPlan, channels: tuple[int, int], *, transposed: bool) -> nn.Sequential:
    """Convolution, group normalisation, CELU."""
    return nn.Sequential(
        _PositionedConvolution(plan, channels, transposed=transposed),
        nn.GroupNorm(max(1, channels[1] // 16), channels[1]),
        nn.CELU(),
    )


class BackgroundModel(nn.Module):
    """Autoencoder of the background: image -> 16 numbers -> background and predicted error (AE-NE).

    Three forms. ``paper``: as published. ``fixed``, to learn in a minute what a mostly static scene looks like:

    - Images enter centred on 0 instead of as 0 to 255. In front of a GroupNorm without biases the published range
      makes the code almost blind to brightness, because a brighter image is then, up to its scale, the same image.
    - A learned template of one number for each pixel and channel is added before the last sigmoid. It starts from the
      median of some images (:meth:`start_from`), so that the decoder only learns what differs from it.

    ``varying`` adds, for scenes that differ: the template is added to a background mixed of a few colours that are
    pooled from the image (:mod:`astseg.model.background_colours`), and starts from the median of what they leave.
    """

    def __init__(self, image_size: tuple[int, int], width: str = "simple", *, form: str = "paper") -> None:
        """Build the two halves from one layer plan.

        Args:
            image_size: (height, width), each at least 8.
            width: Channel table: ``simple`` (one background for all images), ``complex`` (a new one in each image) or
                ``small`` (for work without a GPU).
            form: ``paper``, ``fixed`` or ``varying``.

        Raises:
            UserError: If the images are too small or the width is unknown.
        """
        super().__init__()
        assert form in ("paper", "fixed", "varying"), form
        plans = layer_plan(image_size)
        encoder_channels, decoder_channels = channel_tables(width, len(plans))
        self.palette = ColourMixture(image_size, CODE_SIZE) if form == "varying" else None
        if self.palette is not None:  # its maps enter; a logit for each colour and the shading come out
            encoder_channels = (encoder_channels[0] + COLOURS, *encoder_channels[1:])
            decoder_channels = (decoder_channels[0] + COLOURS + 1, *decoder_channels[1:])
        self.encoder = nn.Sequential(
            *(
                _block(plan, channels, transposed=False)
                for plan, channels in zip(plans, itertools.pairwise(encoder_channels), strict=True)
            )
        )
        upwards = zip(reversed(plans), itertools.pairwise(reversed(decoder_channels)), strict=True)
        blocks = [_block(plan, channels, transposed=True) for plan, channels in upwards]
        self.decoder = nn.Sequential(*blocks[:-1], blocks[-1][0])
        self.template = None if form == "paper" else nn.Parameter(torch.zeros(4, *image_size))

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Initialise colour mixture, template and a small predicted error from images; the form ``paper`` has none.

        Args:
            images: N x 3 x H x W in [0, 1]; some hundred are enough.
        """
        if self.template is None:
            return
        self.template[3:] = TEMPLATE_ERROR
        if self.palette is None:
            median = images.contiguous().median(dim=0).values.clamp(*TEMPLATE_RANGE)
            self.template[:3] = median.logit()
            return
        self.palette.start_from(images)
        nothing = images.new_zeros(())
        mixed = self.palette.mix(self.palette.pool(images), images.new_zeros(1, CODE_SIZE), nothing, nothing)
        left = images.clamp(*TEMPLATE_RANGE).logit() - mixed.logit()
        self.template[:3] = left.contiguous().median(dim=0).values

    def encode(self, images: Tensor) -> Tensor:
        """Images B x 3 x H x W in [0, 1] -> codes B x 16."""
        return self._encode(images, None if self.palette is None else self.palette.pool(images))

    def _encode(self, images: Tensor, view: View | None) -> Tensor:
        scaled = images * 255 if self.template is None else (images - 0.5) * 4
        if view is not None:
            scaled = torch.cat([scaled, 4 * view.nearness - 2], dim=1)
        code: Tensor = self.encoder(scaled)
        return code.flatten(1)

    def decode(self, code: Tensor, view: View | None = None) -> tuple[Tensor, Tensor]:
        """Codes B x 16 -> background B x 3 x H x W and predicted error B x 1 x H x W, both in [0, 1].

        The predicted error is that of the background at each pixel, mean over RGB. With a colour mixture,
        ``view`` is what it pooled from the images.
        """
        logits: Tensor = self.decoder(code[:, :, None, None])
        # Near 1, bfloat16 has steps of a grey level, as large as the errors that the loss is about.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.palette is not None:
            assert view is not None, "a colour mixture needs its view of the images"
            logits, shading, shares = torch.split(logits, [4, 1, COLOURS], dim=1)
            mixed = self.palette.mix(view, code, shares, shading).logit()
            logits = logits + functional.pad(mixed, (0, 0, 0, 0, 0, 1))
        if self.template is not None:
            logits = logits + self.template
        outputs = torch.sigmoid(logits)
        return outputs[:, :3], outputs[:, 3:]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images B x 3 x H x W -> background B x 3 x H x W and predicted error B x 1 x H x W, all in [0, 1]."""
        view = None if self.palette is None else self.palette.pool(images)
        return self.decode(self._encode(images, view), view)


def background_variation(reconstructions: Tensor | Sequence[Tensor]) -> float:
    """How much the backgrounds of several images differ from their per-pixel median, in [0, 1] (AE-NE).

    Args:
        reconstructions: N x 3 x H x W in [0, 1], backgrounds of N images, or their batches.

    Returns:
        Mean over images and pixels of tanh(|reconstruction - median| summed over RGB / 0.25).
    """
    stack = reconstructions if isinstance(reconstructions, Tensor) else torch.cat(list(reconstructions))
    # Without the copy, torch returns wrong medians of expanded tensors.
    median = stack.contiguous().median(dim=0).values
    return float(torch.tanh((stack - median).abs().sum(dim=1) / 0.25).mean())


def is_complex(reconstructions: Tensor | Sequence[Tensor], *, threshold: float = 0.24) -> bool:
    """Whether the backgrounds of a data set, as a short run draws them, vary enough to need ``complex`` (AE-NE).

    Args:
        reconstructions: N x 3 x H x W in [0, 1], backgrounds of N images (AE-NE: up to 15 batches), or their batches.
        threshold: Variation above which the backgrounds count as complex.
    """
    return background_variation(reconstructions) > threshold
