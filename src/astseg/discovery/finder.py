"""The finder: a small network that tells, for every pixel, whether it belongs to an object, and to which.

It sees a picture, its background and how they differ, and gives the logit of *object*, the way to the object's centre
and the object's size. Pixels whose votes for a centre meet are one object (:mod:`astseg.discovery.votes`). It is fully
convolutional: pictures of any size, in tiles where they are large.

Ours, not in the paper. It learns from pictures alone, by cutting out what differs from the background and pasting it
where it is known to be (:mod:`astseg.discovery.cutouts`). Votes for centres are an old idea (Hough forests, Gall and
Lempitsky, CVPR 2009; Panoptic-DeepLab, Cheng et al., CVPR 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.discovery.scene_background import SceneBackground

__all__ = ["CHANNELS", "STRIDE", "Finder", "finder_input"]

CHANNELS = 9
"""Of the input: picture, background, difference; three each."""

STRIDE = 16
"""Sides of inputs are multiples of this."""


class Finder(nn.Module):
    """A U-Net.

    Attributes:
        reach: Pixels; the unit of the way to the centre, about the size of the median object.
    """

    def __init__(self, *, width: int = 16, reach: float = 16.0) -> None:
        """Build it.

        Args:
            width: Channels at full resolution; deeper levels have 2, 3, 4 and 4 times as many.
            reach: Unit of the way to the centre, in pixels.
        """
        super().__init__()
        widths = [2 * width, 3 * width, 4 * width, 4 * width]
        self.reach = reach
        self.stem = nn.Conv2d(CHANNELS, width, 3, padding=1)
        self.enter = nn.Conv2d(width, width, 2, stride=2)
        self.down = nn.ModuleList(_block(i, o) for i, o in zip([width, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(
            _block(below + same, same) for below, same in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0] + width, 4, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """B x 9 x H x W (:func:`finder_input`), sides multiples of 16, to B x 4 x H x W.

        The channels: logit of *object*; way to its centre (x, y) in units of ``reach``; logarithm of the square root of
        its area over ``reach``.
        """
        fine = functional.relu(self.stem(inputs))
        maps, levels = self.enter(fine), []
        for depth, block in enumerate(self.down):
            maps = block(functional.avg_pool2d(maps, 2) if depth else maps)
            levels.append(maps)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            maps = block(torch.cat([_enlarged(maps, level), level], dim=1))
        output: Tensor = self.head(torch.cat([_enlarged(maps, fine), fine], dim=1))
        return output


def finder_input(
    picture: NDArray[np.uint8], background: NDArray[np.float32], scene: SceneBackground, window: tuple[slice, slice]
) -> NDArray[np.float32]:
    """What the finder sees of a window of a picture: h x w x 9.

    Levels are relative to the scene's, and differences to what is expected of each pixel, so that dark pictures and
    noisy ones look alike.

    Args:
        picture: h x w x 3, the window.
        background: h x w x 3 in [0, 1], the window.
        scene: The whole background.
        window: Where it is cut from.
    """
    values = picture.astype(np.float32) / np.float32(255)
    middle, spread = scene.levels
    off = (values - background) / scene.noise_in(window)
    seen = [(values - middle) / spread, (background - middle) / spread, np.arcsinh(off / 4)]
    return np.concatenate(seen, axis=2, dtype=np.float32)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, size=like.shape[-2:], mode="bilinear")
