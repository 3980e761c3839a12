"""Background subtraction (AE-NE), and the foreground components that it leaves.

Source of :func:`foreground_mask`: Sauvalle and de La Fortelle, *Autoencoder-based background reconstruction and
foreground segmentation with background noise estimation* (WACV 2023), here AE-NE. Ours: the low threshold of the
hysteresis, the outline, and that what a shifted background explains counts against thin components.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor

from astseg.config import DiscoveryConfig
from astseg.discovery.components import DEFAULT, Components, label_components
from astseg.discovery.shadows_and_hue import colour_components

__all__ = ["find_components", "foreground_mask", "nearest_around"]

LARGE_SIDE, CLOSING, OPENING = 400, 5, 7
"""From this side on, masks are closed and opened with squares of these sides, all in pixels (AE-NE)."""


@torch.no_grad()
def find_components(
    images: Tensor, background: Tensor, predicted_error: Tensor, *, limit: int, config: DiscoveryConfig = DEFAULT
) -> Components:
    """The foreground components of a batch of images; no gradient.

    Args:
        images: B x 3 x H x W in [0, 1], of any precision and device.
        background: The same without objects.
        predicted_error: B x 1 x H x W in [0, 1], how far the background is expected to be off.
        limit: R, components kept for each image, the largest ones.
        config: The thresholds.

    Returns:
        The components, on the CPU.
    """
    images, background, predicted_error = (maps.float() for maps in (images, background, predicted_error))
    mask = partial(foreground_mask, predicted_error=predicted_error, contrast=config.contrast)
    # Hysteresis: the model expects errors where objects are, too, so what is right to begin a component is too strict
    # to fill it.
    factor = config.outline_factor
    high, low, outline = (
        maps.cpu().numpy()
        for maps in (
            mask(images, background, errors=config.high_errors),
            mask(images, background, errors=config.low_errors),
            mask(images, background, errors=factor * config.high_errors, contrast=factor * config.contrast),
        )
    )
    colours = colour_components(high, low, outline, images.cpu().numpy(), background.cpu().numpy(), config=config)
    shifted = nearest_around(images, background, reach=config.background_shift)
    explained = ~mask(images, shifted, errors=config.high_errors).cpu().numpy()
    return label_components(colours, limit=limit, explained=explained, config=config)


def foreground_mask(
    images: Tensor,
    background: Tensor,
    predicted_error: Tensor,
    *,
    errors: float = DEFAULT.high_errors,
    contrast: float = DEFAULT.contrast,
) -> Tensor:
    """Pixels that the background does not explain (AE-NE).

    Foreground where ``3 * max(0, l1 - errors * predicted error) > contrast * brightness``, l1 the mean over RGB of
    |image - background|, brightness the mean of the image's background. If a side reaches 400 pixels, the mask is then
    closed with a 5 x 5 square and opened with a 7 x 7 one.

    Args:
        images: B x 3 x H x W in [0, 1].
        background: B x 3 x H x W in [0, 1].
        predicted_error: B x 1 x H x W in [0, 1].
        errors: Predicted errors that are taken off the difference.
        contrast: Fraction of the brightness that the rest must exceed.

    Returns:
        B x H x W, bool.
    """
    red, green, blue = (images - background).abs().unbind(dim=1)  # .mean(dim=1) takes twice as long
    difference = (red + green + blue) / 3
    brightness = background.mean(dim=(1, 2, 3)).view(-1, 1, 1)
    mask = 3 * (difference - errors * predicted_error.squeeze(1)).clamp_min(0) > contrast * brightness
    if max(mask.shape[-2:]) < LARGE_SIDE:
        return mask
    closed = _erode(_dilate(mask, side=CLOSING), side=CLOSING)
    return _dilate(_erode(closed, side=OPENING), side=OPENING)


def nearest_around(images: Tensor, background: Tensor, *, reach: int) -> Tensor:
    """What comes nearest to an image within the range that its background has around each pixel.

    Args:
        images: B x 3 x H x W in [0, 1].
        background: B x 3 x H x W in [0, 1].
        reach: Pixels around, in each direction.

    Returns:
        B x 3 x H x W.
    """
    return images.clamp(
        _extreme_around(background, reach, torch.minimum), _extreme_around(background, reach, torch.maximum)
    )


def _extreme_around(maps: Tensor, reach: int, extreme: Callable[..., Tensor]) -> Tensor:
    """B x C x H x W -> the same, the least or largest of the square around each pixel: rows, then columns (cheaper)."""
    for axis in (2, 3):  # torch.maximum takes a fifth of the time of max_pool2d
        around = maps.clone()
        for step in range(1, min(reach + 1, maps.shape[axis])):
            length = maps.shape[axis] - step
            for to, of in ((0, step), (step, 0)):
                part = around.narrow(axis, to, length)
                extreme(part, maps.narrow(axis, of, length), out=part)
        maps = around
    return maps


def _dilate(mask: Tensor, *, side: int) -> Tensor:
    """B x H x W bool -> the same, true where any pixel of the square around is; nothing lies beyond the border."""
    return functional.max_pool2d(mask.float(), side, stride=1, padding=side // 2) > 0


def _erode(mask: Tensor, *, side: int) -> Tensor:
    """B x H x W bool -> the same, true where every pixel of the square around that lies in the image is."""
    return ~_dilate(~mask, side=side)
