"""What the backbones and the glimpse generator share: layers that are torch's own, but quicker on a CPU.

In bfloat16 torch's CPU kernels are slow at two things that small networks on small images spend much of a step on: the
gradient of the weights of a convolution over maps of few cells (all of the time goes into rearranging weights), and
GroupNorm with few channels a group; in any precision, at transposed convolutions to few channels. The layers here go
around these. Their numbers are torch's but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = [
    "Convolution",
    "GroupNorm",
    "Size",
    "TransposedConvolution",
    "convolution3x3",
    "convolve_transposed",
    "quarter",
]

Size = tuple[int, int]
"""(height, width) in pixels or cells."""

FEW_CELLS = 512
"""Over this many cells of a batch's maps, torch's own gradient of the weights is as quick."""

FEW_OUTPUTS = 4
"""Up to so many output channels, over enough cells, doubling the side is quicker as a plain convolution."""

FEW_CHANNELS = 16
"""From this many channels a group on, torch's own GroupNorm is quick in bfloat16."""


def quarter(size: Size) -> Size:
    """A quarter of both sides, rounded up: the map of a backbone of stride 4."""
    return -(-size[0] // 4), -(-size[1] // 4)


def convolution3x3(in_channels: int, out_channels: int) -> Convolution:
    """A convolution that keeps the size, without a bias: a normalisation follows."""
    return Convolution(in_channels, out_channels, 3, padding=1, bias=False)


class Convolution(nn.Conv2d):
    """``nn.Conv2d``, square, neither dilated nor grouped."""

    def forward(self, features: Tensor) -> Tensor:
        """features: B x C x h x w -> B x out_channels x h' x w'."""
        if not _in_half_precision_on_cpu(features):
            return super().forward(features)
        stride, padding = self.stride[0], int(self.padding[0])
        h, w = ((side + 2 * padding - self.kernel_size[0]) // stride + 1 for side in features.shape[-2:])
        if len(features) * h * w > FEW_CELLS:
            return super().forward(features)
        bias = None if self.bias is None else self.bias.bfloat16()
        return _few_cells(features.bfloat16(), self.weight.bfloat16(), bias, stride, padding, False)


class TransposedConvolution(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d``, square, neither dilated nor grouped, without output padding and bias on small maps."""

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        """features: B x C x h x w -> B x out_channels x h' x w'."""
        if output_size is not None:
            return super().forward(features, output_size)
        b, _, h, w = features.shape
        step, padding, more = self.stride[0], int(self.padding[0]), self.output_padding[0]
        if self.bias is None and _in_half_precision_on_cpu(features) and b * h * w <= FEW_CELLS:
            return _few_cells(features.bfloat16(), self.weight.bfloat16(), None, step, padding, True)
        return convolve_transposed(features, self.weight, self.bias, (step,) * 2, (padding,) * 2, (more,) * 2)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, in float32 where bfloat16 is slow."""

    def forward(self, features: Tensor) -> Tensor:
        """features: B x C x h x w -> the same shape."""
        slow = features.dtype == torch.bfloat16 and features.device.type == "cpu"
        if not slow or self.num_channels // self.num_groups >= FEW_CHANNELS:
            return super().forward(features)
        return super().forward(features.float()).to(features.dtype)


def convolve_transposed(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, padding: Size, output_padding: Size
) -> Tensor:
    """``F.conv_transpose2d``; without gradients on a CPU, to few channels, twice as quick.

    Args:
        features: B x C x h x w.
        weight: C x O x n x m.
        bias: O, or None.
        stride: (rows, columns), as the others.
        padding: Cut off on each side.
        output_padding: Added at the end.
    """
    b, _, h, w = features.shape
    outputs, *kernel = weight.shape[1:]
    doubles = stride == (2, 2) and tuple(kernel) in ((4, 4), (5, 5)) and padding == ((kernel[0] - 1) // 2,) * 2
    quicker = outputs <= FEW_OUTPUTS and b * h * w >= 8 * FEW_CELLS
    if not (doubles and quicker) or torch.is_grad_enabled() or features.device.type != "cpu":
        return F.conv_transpose2d(features, weight, bias, stride, padding, output_padding)
    height, width = (
        2 * (side - 1) - 2 * cut + size + more
        for side, cut, size, more in zip((h, w), padding, kernel, output_padding, strict=True)
    )
    # Each output cell 2i + r hangs on the input cells i - 1, i, i + 1, through every second tap of the kernel, and
    # which ones depends on r: four convolutions side by side, whose outputs lie between each other.
    before = 2 - padding[0]
    taps = F.pad(weight, (before, 6 - before - kernel[0]) * 2).view(*weight.shape[:2], 3, 2, 3, 2).flip(2, 4)
    taps = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # 4O x C x 3 x 3
    doubled = F.conv2d(features, taps, None if bias is None else bias.repeat_interleave(4), padding=1)
    return F.pixel_shuffle(doubled, 2)[..., :height, :width]


def _in_half_precision_on_cpu(features: Tensor) -> bool:
    """Whether a convolution of these features is computed in bfloat16 by autocast on a CPU."""
    return (
        features.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _few_cells(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, transposed: bool
) -> Tensor:
    output: Tensor = _FewCells.apply(features, weight, bias, stride, padding, transposed)  # type: ignore[no-untyped-call]
    return output


class _FewCells(torch.autograd.Function):
    """A convolution, or a transposed one, whose weights get their gradient by one matrix product."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding, ctx.transposed = stride, padding, transposed
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(features, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        features, weight = ctx.saved_tensors
        stride, padding = [ctx.stride] * 2, [ctx.padding] * 2
        back: Tensor | None = None
        if ctx.needs_input_grad[0]:
            back = torch.ops.aten.convolution_backward(
                gradient,
                features,
                weight,
                None,
                stride,
                padding,
                [1, 1],
                ctx.transposed,
                [0, 0],
                1,
                [True, False, False],
            )[0]
        # A transposed convolution is the way back of a plain one, whose input then is what here is the output.
        read, written = (gradient, features) if ctx.transposed else (features, gradient)
        weight_gradient = _weight_gradient(read, written, weight.shape[-1], ctx.stride, ctx.padding)
        bias_gradient = gradient.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return back, weight_gradient, bias_gradient, None, None, None


def _weight_gradient(features: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Gradient of a convolution's weights, O x C x kernel x kernel: B x C x H x W in, B x O x h x w out."""
    b, o, h, w = gradient.shape
    padded = F.pad(features, (padding,) * 4).permute(0, 2, 3, 1).contiguous()  # B x H' x W' x C
    image, row, column, _ = padded.stride()
    c = padded.shape[3]
    patches = padded.as_strided(
        (b, h, w, kernel, kernel * c), (image, stride * row, stride * column, row, 1)
    )  # a row of a patch is one piece of memory
    product = gradient.permute(0, 2, 3, 1).reshape(b * h * w, o).mT @ patches.reshape(b * h * w, kernel * kernel * c)
    return product.view(o, kernel, kernel, c).permute(0, 3, 1, 2)
