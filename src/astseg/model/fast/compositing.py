"""Placement and blending as one operation with a hand-written gradient: what training runs at every step.

Source: supplement, Algorithm 2. The same numbers as :func:`astseg.model.renderer.place_glimpses` followed by
:func:`astseg.model.renderer.blend_layers`, which tests compare it with. What differs is what is computed and kept:

- On a CPU an object is drawn only on the rows and columns that its glimpse covers, in groups of windows of similar
  size. Elsewhere whole images are drawn, since reading the windows' places would wait for the device at each step.
- The sums ``sum_k alpha_k M_k L_k`` and ``sum_k alpha_k M_k`` are accumulated object by object, and objects are drawn
  again in the backward pass: nothing of size B x K x 4 x H x W is kept, only the weights, B x L x H x W.

Without it, a step of the preset ``small`` (one thread, 64 x 64, batch 16, K 12) takes 1.34 times as long, one of
SegFormer-B0 (128 x 128, batch 32, K 10) 1.43 times; with whole images instead of windows 1.26 and 1.33 times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from astseg.model.fast.windows import PlacedGlimpses, groups
from astseg.model.ops import SMALLEST_LOG_RATIO, full_precision

__all__ = ["draw_and_blend"]


def draw_and_blend(
    glimpses: Tensor,
    position: Tensor,
    scale: Tensor,
    log_activation: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
    *,
    images: Tensor | None = None,
    windows: bool | None = None,
    drawn: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw each glimpse at its place, settle occlusions and mix the layers into one image (Algorithm 2).

    Computed in float32 at least, whatever the precision of the glimpses, with autocast or without.

    Args:
        glimpses: B x K x 4 x g x g, colours and mask in [0, 1].
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale: one number, or one for x and one for y.
        log_activation: B x K, log alpha of the objects.
        background: B x 3 x H x W.
        background_log_activation: Log alpha of the background: a scalar, or H x W.
        images: B x 3 x H x W in [0, 1], what the colours of the layers are compared with, or None.
        windows: Whether objects are drawn in windows instead of on whole images; None: where shapes may vary
            (:func:`astseg.model.ops.shapes_are_fixed`).
        drawn: B x K, which objects are drawn at all; None: all of them. The others must have masks of zeros, and get
            no gradient.

    Returns:
        Weights, B x L x H x W, that sum to one over the layers (0 = background); the reconstruction, B x 3 x H x W;
        both can be differentiated once. And with images, squared errors of the layers' colours summed over RGB,
        B x L x H x W, without a gradient, undefined where the weight is 0; else None.
    """
    result: tuple[Tensor, Tensor, Tensor | None] = _DrawAndBlend.apply(  # type: ignore[no-untyped-call]
        glimpses,
        position,
        scale.expand(*scale.shape[:2], 2),
        log_activation,
        background,
        background_log_activation,
        images,
        windows,
        drawn,
    )
    return result


class _DrawAndBlend(torch.autograd.Function):
    """See :func:`draw_and_blend`; scale is B x K x 2 here.

    Let v_l = alpha_l M_l, D = sum_l v_l, w_l = v_l / D and R = sum_l w_l L_l. Given the gradients W_l of w_l and G of
    R, the total gradient of w_l is q_l = W_l + G . L_l. With Q = sum_l w_l q_l = sum_l w_l W_l + G . R, the gradient of
    v_l is (q_l - Q) / D and that of L_l is w_l G: each layer needs only sums over the others.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        glimpses: Tensor,
        position: Tensor,
        scale: Tensor,
        log_activation: Tensor,
        background: Tensor,
        background_log_activation: Tensor,
        images: Tensor | None,
        windows: bool | None,
        drawn: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        with full_precision(glimpses.device):
            objects = PlacedGlimpses(glimpses, position, scale, (background.shape[2], background.shape[3]))
            alpha, behind, _ = _activations(log_activation, background_log_activation, objects.dtype)
            weights, reconstruction, total, errors = _blended(
                objects, alpha, behind, background, images, windows, drawn
            )
        ctx.windows, ctx.drawn = windows, drawn
        ctx.save_for_backward(
            glimpses,
            position,
            scale,
            log_activation,
            background,
            background_log_activation,
            weights,
            reconstruction,
            total,
        )
        if errors is not None:
            ctx.mark_non_differentiable(errors)
        return weights, reconstruction, errors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights_gradient: Tensor, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # noqa: D102
        glimpses, position, scale, log_activation, background, background_log, weights, reconstruction, total = (
            ctx.saved_tensors
        )
        b, h, w = total.shape
        with full_precision(glimpses.device):
            objects = PlacedGlimpses(glimpses, position, scale, (h, w))
            objects.expect_gradients(whole=ctx.drawn is None)
            alpha, _, inside = _activations(log_activation, background_log, objects.dtype)
            mean = (gradient * reconstruction).sum(dim=1)  # Q, B x H x W
            for weight, arriving in zip(weights.unbind(1), weights_gradient.unbind(1), strict=True):
                mean.addcmul_(weight, arriving)
            pixels = torch.cat([gradient.transpose(1, 2), mean[:, :, None], total.reciprocal()[:, :, None]], dim=2)
            alpha_gradient = torch.zeros_like(alpha)  # of log alpha
            for group in groups(objects, windows=ctx.windows, some=ctx.drawn):
                drawn, around = objects.draw(group), group.take_from(pixels)  # N x n x 4 x m and N x n x 5 x m
                colours, mask, arriving = drawn[:, :, :3], drawn[:, :, 3], around[:, :, :3]
                total_gradient = (arriving * colours).sum(dim=2).add_(group.take_planes(weights_gradient))
                total_gradient.sub_(around[:, :, 3])  # q - Q
                ratio = around[:, :, 4].mul_(alpha.flatten()[group.objects, None, None])  # alpha / D
                weight = ratio * mask
                alpha_gradient.view(-1)[group.objects] = (weight * total_gradient).sum(dim=(1, 2))
                torch.mul(arriving, weight[:, :, None], out=colours)
                torch.mul(total_gradient, ratio, out=mask)
                objects.backward(group, drawn)
            total_gradient = weights_gradient[:, 0] + (gradient * background).sum(dim=1) - mean
            behind_gradient = total_gradient.mul_(weights[:, 0]).mul_(inside)
            behind_gradient = behind_gradient.sum_to_size(background_log.shape)
            background_gradient = weights[:, :1] * gradient if ctx.needs_input_grad[4] else None
        return (
            objects.glimpse_gradient(),
            objects.position_gradient,
            objects.scale_gradient,
            alpha_gradient,
            background_gradient,
            behind_gradient,
            None,
            None,
            None,
        )


def _blended(
    objects: PlacedGlimpses,
    alpha: Tensor,
    behind: Tensor,
    background: Tensor,
    images: Tensor | None,
    windows: bool | None,
    drawn: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Weights, reconstruction, their denominator D (B x H x W), and the errors of the colours."""
    (b, k), (h, w) = alpha.shape, objects.image_size
    sums = background.new_zeros(b, h, 4, w, dtype=objects.dtype)  # of alpha M L, and of alpha M
    weights = background.new_zeros(b, k + 1, h, w, dtype=objects.dtype)
    rows = errors = None
    if images is not None:
        rows = images.to(objects.dtype).transpose(1, 2).contiguous()  # B x H x 3 x W
        errors = torch.zeros_like(weights)
        errors[:, 0] = (background - images).square().sum(dim=1)
    for group in groups(objects, windows=windows, some=drawn):
        seen = objects.draw(group)  # N x n x 4 x m
        if rows is not None and errors is not None:
            group.put_into(errors, (seen[:, :, :3] - group.take_from(rows)).square_().sum(dim=2))
        visible = seen[:, :, 3].mul_(alpha.flatten()[group.objects, None, None])
        seen[:, :, :3].mul_(visible[:, :, None])
        group.add_to(sums, seen)
        group.put_into(weights, visible)
    weights[:, 0] = behind
    total = sums[:, :, 3] + behind
    weights.div_(total[:, None])
    reconstruction = sums[:, :, :3].transpose(1, 2) / total[:, None]
    reconstruction.addcmul_(weights[:, :1], background.to(objects.dtype))
    return weights, reconstruction, total, errors


def _activations(log_activation: Tensor, background_log: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha of objects, B x K, and background, B x 1 x 1 or B x H x W, divided by the largest of each image.

    The third is 1 where the background's follows its logarithm and 0 where it is clamped to the smallest ratio.
    """
    log_activation, background_log = log_activation.to(dtype), background_log.to(dtype)
    largest = torch.maximum(log_activation.amax(dim=1), background_log.amax())  # B
    ratio = background_log - largest[:, None, None]
    behind = ratio.clamp_min(SMALLEST_LOG_RATIO).exp()
    return (log_activation - largest[:, None]).exp(), behind, (ratio >= SMALLEST_LOG_RATIO).to(dtype)
