"""Loss terms as pure functions of tensors.

Sources: AST-Seg (Sauvalle and de La Fortelle, WACV 2023, "Unsupervised Multi-object Segmentation Using Attention and
Soft-argmax") for the reconstruction and the pixel entropy loss; AE-NE (same authors, WACV 2023, "Autoencoder-based
background reconstruction and foreground segmentation with background noise estimation") for the background loss. The
authors compute the background loss on values from 0 to 255; here everything is in [0, 1], and the constants are divided
by 255, which gives the same number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

__all__ = ["background_loss", "background_pixel_weight", "parsimony_loss", "pixel_entropy_loss", "reconstruction_loss"]

ERROR_SCALE = 3 / 255
"""Below this difference of a colour channel (3 grey levels) the smooth L1 loss is quadratic."""

FOREGROUND_ERROR = 0.25
"""Background error, summed over RGB, at which a pixel counts as tanh(1), three quarters, foreground."""

SMALLEST_WEIGHT = 1e-20
"""Added to layer weights in the logarithm, so that w log w is 0 at 0 and its gradient there finite."""


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean over images and pixels of (sum over RGB of |reconstruction - image|) squared.

    Args:
        reconstruction: B x 3 x H x W in [0, 1].
        images: B x 3 x H x W in [0, 1].

    Returns:
        A scalar.
    """
    return (reconstruction - images).abs().sum(dim=1).square().mean()


def pixel_entropy_loss(weights: Tensor) -> Tensor:
    """Mean over images and pixels of (sum over layers of w log w) squared: pushes each pixel to one layer.

    Computed in float32 at least, whatever the precision of the weights.

    Args:
        weights: B x L x H x W, layer weights that sum to one over L, 0 = background.

    Returns:
        A scalar.
    """
    precise = weights.to(torch.promote_types(weights.dtype, torch.float32))
    negative_entropy = (precise * (precise + SMALLEST_WEIGHT).log()).sum(dim=1)  # B x H x W
    return negative_entropy.square().mean()


def parsimony_loss(weights: Tensor) -> Tensor:
    """Mean over images of the sum over objects of the square root of their visible area; not in the paper.

    The square root makes one slot on an object cheaper than two that share it, and its gradient is largest for the
    smaller of the two, so redundant slots are given up, and with them the faintest parts of shadows. Areas are in
    pixels; one is added before the root (and its root subtracted) so that the gradient stays finite, and the sum is
    divided by the number of pixels, as the other losses are.

    Args:
        weights: B x L x H x W, layer weights that sum to one over L, 0 = background.

    Returns:
        A scalar.
    """
    b, _, h, w = weights.shape
    area = weights[:, 1:].sum(dim=(2, 3))  # B x K
    return ((area + 1).sqrt() - 1).sum() / (b * h * w)


def background_loss(
    images: Tensor, background: Tensor, predicted_error: Tensor, *, beta: float = 6.0
) -> dict[str, Tensor]:
    """Robust reconstruction of the background: pixels that look like foreground are weighted down (AE-NE).

    With e the error of a pixel (smooth L1, summed over RGB), the loss is the mean over images and pixels of
    ``(e + smooth_l1(predicted error, e / 3)) * weight``; no gradient goes through e in the second term or
    through the weight.

    Args:
        images: B x 3 x H x W in [0, 1].
        background: B x 3 x H x W in [0, 1].
        predicted_error: B x 1 x H x W in [0, 1], the model's guess of the mean error over RGB.
        beta: How strongly foreground pixels are weighted down; 0 weights all pixels equally.

    Returns:
        Scalars: ``total`` (= ``reconstruction`` + ``predicted_error``, the one to minimise), its two parts, and
        ``weight``, the mean weight of a pixel, in [exp(-beta), 1], without gradient.
    """
    error = functional.smooth_l1_loss(background, images, beta=ERROR_SCALE, reduction="none").sum(dim=1)
    weight = background_pixel_weight(error, beta=beta)
    error_of_error = functional.smooth_l1_loss(
        predicted_error.squeeze(1), error.detach() / 3, beta=ERROR_SCALE, reduction="none"
    )
    reconstruction = (error * weight).mean()
    prediction = (error_of_error * weight).mean()
    return {
        "total": reconstruction + prediction,
        "reconstruction": reconstruction,
        "predicted_error": prediction,
        "weight": weight.mean(),
    }


def background_pixel_weight(error: Tensor, *, beta: float) -> Tensor:
    """How much each pixel counts: ``exp(-beta * m)``, m = tanh(error / 0.25) averaged over a box.

    The box is ``2 * (W // 75) + 1`` pixels wide and high, from the width alone as the authors have it; at the edges the
    mean is taken over the pixels that exist.

    Args:
        error: B x H x W, error of the background summed over RGB, at least 0.
        beta: 0 or more.

    Returns:
        B x H x W in [exp(-beta), 1], without gradient.
    """
    radius = error.shape[-1] // 75
    foreground = torch.tanh(error.detach() / FOREGROUND_ERROR)
    if radius > 0:
        foreground = _box_average(foreground, radius=radius)
    return torch.exp(-beta * foreground)


def _box_average(maps: Tensor, *, radius: int) -> Tensor:
    """B x H x W -> B x H x W, mean over the (2 radius + 1)-wide box, rows then columns (cheaper than the box)."""
    side = 2 * radius + 1
    rows = functional.avg_pool2d(maps.unsqueeze(1), (side, 1), 1, (radius, 0), count_include_pad=False)
    columns = functional.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)
    return columns.squeeze(1)
