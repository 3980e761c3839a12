"""The median image as the background of images from one place, in the light of each; and whether there is one.

Not in the paper, whose background models are trained; the temporal median is a classic of background subtraction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["MedianBackground", "median_background"]

FIXED = 0.03
"""The background is fixed if the typical pixel of the typical image differs from the median by less (mean over RGB)."""

LIT = 0.04
"""It is fixed in changing light if the difference is less than this once a gain of each channel is divided out."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class MedianBackground:
    """What N images have in common.

    Attributes:
        kind: ``fixed``: one background in one light; ``lit``: one background in changing light; ``varied``: neither.
        light: Standard deviation of the log brightness over the images.
        symmetry: Mean absolute difference of the median image and its mirror image, in [0, 1].
        median: H x W x 3, float in [0, 1].
    """

    kind: str
    light: float
    symmetry: float
    median: FloatArray = field(repr=False)

    def reconstruct(self, images: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """The background in the light of each image, and its error.

        Args:
            images: N x H x W x 3.

        Returns:
            N x H x W x 3 in [0, 1], and H x W, the mean absolute difference over RGB in the typical image.
        """
        values = _floats(images)
        backgrounds = np.clip(self.median * _gains(values, self.median)[:, None, None], 0, 1)
        return backgrounds, _typical_difference(values, backgrounds)


def median_background(images: NDArray[np.uint8]) -> MedianBackground:
    """What images of one size, N x H x W x 3, have in common, by their difference from the median image."""
    values = _floats(images)
    median = np.median(values, axis=0).astype(np.float32)
    gains = _gains(values, median)
    if np.median(_typical_difference(values, median)) < FIXED:
        kind = "fixed"
    else:
        kind = "lit" if np.median(_typical_difference(values / gains[:, None, None], median)) < LIT else "varied"
    return MedianBackground(
        kind=kind,
        light=float(np.log(gains.mean(axis=1)).std()),
        symmetry=float(np.abs(median - median[:, ::-1]).mean()),
        median=median,
    )


def _floats(images: NDArray[np.uint8]) -> FloatArray:
    return images.astype(np.float32) / np.float32(255)


def _gains(values: FloatArray, median: FloatArray) -> FloatArray:
    """N x 3: how much brighter than the median image each image is in each channel, by its typical pixel."""
    gains: FloatArray = np.median((values + 0.05) / (median + 0.05), axis=(1, 2))  # black would divide by 0
    return np.maximum(gains, 0.05)


def _typical_difference(values: FloatArray, backgrounds: FloatArray) -> FloatArray:
    """H x W: how far the typical image is off its background, mean over RGB."""
    typical: FloatArray = np.median(np.abs(values - backgrounds).mean(axis=3), axis=0)
    return typical
