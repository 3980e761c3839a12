"""What differs from the background, pixel by pixel (AE-NE), and the regions that it falls into."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor

from astseg.discovery.components import Components, label_components
from astseg.discovery.shadows_and_hue import colour_regions

__all__ = ["find_components", "foreground_mask", "nearest_around"]

ERRORS = 7.0
"""A pixel must differ from its background by more than so many times the error that is predicted for it (AE-NE)."""


@torch.no_grad()
def find_components(images: Tensor, background: Tensor, predicted_error: Tensor, *, limit: int) -> Components:
    """The regions of a batch that differ from its background; no gradient.

    Args:
        images: B x 3 x H x W in [0, 1], of any precision and device.
        background: The same without objects.
        predicted_error: B x 1 x H x W in [0, 1], how far the background is expected to be off.
        limit: R, regions kept for each image.

    Returns:
        The regions, on the CPU.
    """
    images, background, predicted_error = (maps.float() for maps in (images, background, predicted_error))
    mask = partial(foreground_mask, images, background, predicted_error)
    # The model expects errors where objects are, too: what is right to begin a region is too strict to fill it.
    sure, likely, fringe = (one.cpu().numpy() for one in (mask(), mask(errors=1.0), mask(strictness=0.5)))
    colours = colour_regions(sure, likely, fringe, images.cpu().numpy(), background.cpu().numpy())
    moved = ~foreground_mask(images, nearest_around(images, background), predicted_error).cpu().numpy()
    return label_components(colours, limit=limit, explained=moved)


def foreground_mask(
    images: Tensor,
    background: Tensor,
    predicted_error: Tensor,
    *,
    strictness: float = 1.0,
    errors: float = ERRORS,
) -> Tensor:
    """Pixels that the background does not explain, without any object model (AE-NE).

    Foreground where ``3 * max(0, l1 - 7 * predicted error) > (96 / 255) * brightness``, l1 the mean over RGB of
    |image - background|, brightness the mean of the image's background. If a side reaches 400 pixels, the mask is then
    cleaned: closed with a 5 x 5 square, opened with a 7 x 7 one.

    Args:
        images: B x 3 x H x W in [0, 1].
        background: B x 3 x H x W in [0, 1].
        predicted_error: B x 1 x H x W in [0, 1].
        strictness: Factor on both 7 and 96; 1 is AE-NE, less lets in what differs only somewhat.
        errors: So many predicted errors are taken off the difference; 7 is AE-NE.

    Returns:
        B x H x W, bool.
    """
    red, green, blue = (images - background).abs().unbind(dim=1)  # .mean(dim=1) takes twice as long
    difference = (red + green + blue) / 3
    brightness = background.mean(dim=(1, 2, 3)).view(-1, 1, 1)
    unexplained = 3 * (difference - strictness * errors * predicted_error.squeeze(1)).clamp_min(0)
    mask = unexplained > strictness * (96 / 255) * brightness
    if max(mask.shape[-2:]) < 400:
        return mask
    closed = _erode(_dilate(mask, side=5), side=5)
    return _dilate(_erode(closed, side=7), side=7)


def nearest_around(images: Tensor, background: Tensor, *, reach: int = 2) -> Tensor:
    """What comes nearest to an image within the range that its background has around each pixel.

    Args:
        images: B x 3 x H x W in [0, 1].
        background: B x 3 x H x W in [0, 1].
        reach: So many pixels around.

    Returns:
        B x 3 x H x W.
    """
    return images.clamp(
        _furthest_around(background, reach, torch.minimum), _furthest_around(background, reach, torch.maximum)
    )


def _furthest_around(maps: Tensor, reach: int, further: Callable[..., Tensor]) -> Tensor:
    """B x C x H x W -> the same, the least or largest of the square around each pixel: rows, then columns (cheaper)."""
    for axis in (2, 3):  # torch.maximum takes a fifth of the time of max_pool2d
        around = maps.clone()
        for step in range(1, min(reach + 1, maps.shape[axis])):
            length = maps.shape[axis] - step
            for to, of in ((0, step), (step, 0)):
                part = around.narrow(axis, to, length)
                further(part, maps.narrow(axis, of, length), out=part)
        maps = around
    return maps


def _dilate(mask: Tensor, *, side: int) -> Tensor:
    """B x H x W bool -> the same, true where any pixel of the square around is; beyond the rim there is nothing."""
    return functional.max_pool2d(mask.float(), side, stride=1, padding=side // 2) > 0


def _erode(mask: Tensor, *, side: int) -> Tensor:
    """B x H x W bool -> the same, true where every pixel of the square around that lies in the image is."""
    return ~_dilate(~mask, side=side)
