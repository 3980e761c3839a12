"""What a scene looks like without objects, for pictures of one place or on a plain ground, and how far it may be off.

Two kinds of background that need no network, at any size of picture:

``fixed``: one camera. A template, the temporal median, in the light of each picture: its brightness over the
template's, one gain a channel for each block of the picture, so that lamps, clouds and exposure are taken out and
objects, which are smaller than a block, are not.

``smooth``: microscopes, plates, belts. Each picture's own slowly varying field, which is found although objects lie on
it by leaving out, again and again, what differs from it.

``given``: as ``fixed``, the template from pictures without objects.

Ours, not in the paper, whose background is learned by an autoencoder (AE-NE, Sauvalle and de La Fortelle, WACV 2023);
what is taken from there is that the expected error of every pixel decides what counts as an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SceneBackground", "fixed_background", "resized", "smooth_background"]

SIGNS = {"darker": -1.0, "brighter": 1.0}

OFFSET = 0.05
"""Added to both levels before they are divided: black would divide by 0."""

NOISE_FLOOR = 1 / 255
"""Least expected error: files are rounded to 8 bits, and often compressed."""

QUANTILE, NORMAL_QUANTILE = 0.35, 0.454
"""Quantile of absolute errors by which noise is measured, and what it is of a normal distribution of deviation 1."""

UNEVEN = 3.0
"""Largest expected error of a given background, in median ones."""

PLAIN_QUANTILES = (QUANTILE, NORMAL_QUANTILE), (0.8, 1.282)
"""Of a plain ground both are looked at, since there is nothing but noise, and one number holds for all of it."""

PLAIN_FLOOR = 0.2 / 255
"""Least expected error on a plain ground: smoothing takes most of the rounding out."""

WHOLE = slice(None), slice(None)

SMOOTHED = 1.0
"""Standard deviation, in pixels, of the Gaussian that differences are smoothed by before noise is measured."""

CELLS = 8
"""Cells along a block of the coarse grid on which the field of a picture is estimated."""

ROUNDS = 3
"""Times that the field of a picture is estimated, each without what differed from the last."""

OUTLIER = 4.0
"""Differences of more than so many deviations are no part of the field."""


@dataclass(frozen=True)
class SceneBackground:
    """The background of pictures of one size.

    Attributes:
        kind: ``fixed``, ``given`` or ``smooth``.
        template: H x W x 3 in [0, 1]; of a smooth background, 1 x 1 x 3, its typical level.
        noise: H x W, or 1 x 1, the expected error: standard deviation of smoothed differences, mean over RGB, in
            [0, 1].
        block: Side in pixels of the blocks within which light, or the field, hardly varies.
        levels: Middle and spread of the pictures' levels.
    """

    kind: str
    template: NDArray[np.float32]
    noise: NDArray[np.float32]
    block: float
    levels: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.template.shape[0], self.template.shape[1]

    def noise_in(self, window: tuple[slice, slice]) -> NDArray[np.float32]:
        """The expected error in a window, to be broadcast over its pixels and channels: h x w x 1 or 1 x 1 x 1."""
        return (self.noise if self.kind == "smooth" else self.noise[window])[..., None]

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The background in the light of a picture, H x W x 3 in [0, 1]; picture: H x W x 3 of this size."""
        return self.drawn(self.light_of(picture), picture.shape[:2])

    def light_of(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A coarse map of a picture's light, h x w x 3: gains of a fixed background, levels of a smooth one."""
        values = _floats(picture)
        return _field(values, self.block) if self.kind == "smooth" else _gains(values, self.template, self.block)

    def drawn(
        self, light: NDArray[np.float32], size: tuple[int, ...], window: tuple[slice, slice] = WHOLE
    ) -> NDArray[np.float32]:
        """The background of a window of a picture, h x w x 3 in [0, 1].

        Args:
            light: Of that picture (:meth:`light_of`).
            size: (H, W) of the picture.
            window: Rows and columns; all of them where none are named.
        """
        values = _between(light, size, window, onward=self.kind != "smooth")
        return values if self.kind == "smooth" else self.template[window] * values

    def drawn_from(
        self, template: NDArray[np.uint8] | None, light: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """The background of a picture at another size (H, W): H x W x 3, about [0, 1].

        Args:
            template: H x W x 3, of a fixed background at that size; None: its own, enlarged.
            light: Of the picture (:meth:`light_of`).
            size: (H, W).
        """
        values = _between(light, size, WHOLE, onward=self.kind != "smooth")
        if self.kind == "smooth":
            return values
        return values * (resized(self.template, size) if template is None else _floats(template))

    def difference(self, picture: NDArray[np.uint8], background: NDArray[np.float32]) -> NDArray[np.float32]:
        """How many expected errors each pixel is off: H x W x 3, signed, smoothed.

        Args:
            picture: H x W x 3.
            background: H x W x 3, of this picture (:meth:`of`).
        """
        off = _smoothed(_floats(picture) - background)
        return off / self.noise[..., None]

    def size_of_difference(
        self, picture: NDArray[np.uint8], background: NDArray[np.float32], *, objects: str = "any"
    ) -> NDArray[np.float32]:
        """The largest difference of the channels, H x W; for ``darker`` or ``brighter`` objects, of that sign."""
        off = self.difference(picture, background)
        largest: NDArray[np.float32] = (np.abs(off) if objects == "any" else off * SIGNS[objects]).max(axis=2)
        return largest


def fixed_background(
    pictures: Sequence[NDArray[np.uint8]], *, block: float, empty: Sequence[NDArray[np.uint8]] = ()
) -> SceneBackground:
    """The background of a camera that does not move.

    Args:
        pictures: N of H x W x 3, in which objects come and go.
        block: Side in pixels of the blocks whose light is measured: some times an object's width.
        empty: Pictures without objects, if there are any: the template is theirs.
    """
    shown = [_floats(one) for one in (empty or pictures)]
    template = np.median(np.stack(shown), axis=0).astype(np.float32)
    # Once more with the light of each taken out: flicker and dusk blur the first median.
    template = np.median(np.stack([one / _gain(one, template, block) for one in shown]), axis=0).astype(np.float32)
    noise = _noise([_smoothed(one - template * _gain(one, template, block)) for one in map(_floats, pictures)])
    template = np.clip(template, 0, 1)
    if empty:  # what is never absent differs from it in every picture, and is no noise
        noise = np.minimum(noise, UNEVEN * np.median(noise))
    return SceneBackground("given" if empty else "fixed", template, noise, block, _levels(pictures, template, noise))


def smooth_background(pictures: Sequence[NDArray[np.uint8]], *, block: float) -> SceneBackground:
    """The background of pictures on a plain ground, each with its own slowly varying light.

    Args:
        pictures: N of H x W x 3.
        block: Side in pixels within which the ground hardly varies; some times an object's width.
    """
    levels, deviations = [], []
    for values in map(_floats, pictures):
        field = _field(values, block)
        levels.append(field.mean(axis=(0, 1)))
        off = np.abs(_smoothed(values - _between(field, values.shape[:2], WHOLE, onward=False))).mean(axis=2)
        deviations.append(max(np.quantile(off, part) / normal for part, normal in PLAIN_QUANTILES))
    noise = np.full((1, 1), max(float(np.median(deviations)), PLAIN_FLOOR), np.float32)
    template = np.median(levels, axis=0).astype(np.float32)[None, None]
    return SceneBackground("smooth", template, noise, block, _levels(pictures, template, noise))


def resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """H x W x C to another size, bilinear, antialiased where smaller."""
    tensor = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
    small = functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(small[0].numpy().transpose(1, 2, 0))


def _levels(
    pictures: Sequence[NDArray[np.uint8]], template: NDArray[np.float32], noise: NDArray[np.float32]
) -> tuple[float, float]:
    """Middle of the template's levels, and spread of those of the pictures; no less than what noise makes of them."""
    low, high = np.percentile([np.percentile(one[::4, ::4], (1, 99)) for one in pictures], (10, 90)) / 255
    return float(np.median(template)), float(max(high - low, 20 * np.median(noise)))


def _floats(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    return picture.astype(np.float32) / np.float32(255)


def _smoothed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each channel by itself."""
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(values, (SMOOTHED, SMOOTHED, 0), truncate=3)
    return smooth


def _blocks(values: NDArray[np.float32], block: float) -> NDArray[np.float32]:
    """The median of each block: H x W x C -> h x w x C."""
    height, width = values.shape[:2]
    rows, columns = (max(1, round(side / block)) for side in (height, width))
    tall, wide = height // rows, width // columns
    cut = values[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide, -1)
    step = max(1, round(min(tall, wide) / 16))  # some hundred pixels of each are enough
    medians: NDArray[np.float32] = np.median(cut[:, ::step, :, ::step], axis=(1, 3))
    return medians


def _gain(values: NDArray[np.float32], template: NDArray[np.float32], block: float) -> NDArray[np.float32]:
    """How much brighter a picture is than the template, H x W x 3; slowly varying."""
    return _between(_gains(values, template, block), values.shape[:2], WHOLE, onward=True)


def _gains(values: NDArray[np.float32], template: NDArray[np.float32], block: float) -> NDArray[np.float32]:
    """The same for each block, h x w x 3."""
    ratio = _blocks((values + OFFSET) / (template + OFFSET), block)
    # An object as large as a block is no light.
    gains: NDArray[np.float32] = ndimage.median_filter(ratio, size=(3, 3, 1), mode="nearest").astype(np.float32)
    return gains


def _between(
    grid: NDArray[np.float32], size: tuple[int, ...], window: tuple[slice, slice], *, onward: bool
) -> NDArray[np.float32]:
    """Values of blocks, h x w x C, at the pixels of a window of (H, W): linear between their middles.

    ``onward``: beyond the outermost middles they go on as they came; otherwise they stay.
    """
    rows, columns = (
        _linear(length, blocks, part, onward=onward)
        for length, blocks, part in zip(size, grid.shape, window, strict=False)
    )
    across = np.einsum("xw,hwc->hxc", columns, grid, optimize=True)
    values: NDArray[np.float32] = np.einsum("yh,hxc->yxc", rows, across, optimize=True)
    return values


def _linear(length: int, blocks: int, part: slice, *, onward: bool) -> NDArray[np.float32]:
    """Weights of ``blocks`` values at some of ``length`` pixels, pixels x blocks."""
    pixels = np.arange(length)[part]
    weights = np.zeros((len(pixels), blocks), np.float32)
    if blocks == 1:
        return weights + 1
    place = (pixels + 0.5) * blocks / length - 0.5
    if not onward:
        place = place.clip(0, blocks - 1)
    first = np.floor(place).astype(int).clip(0, blocks - 2)
    rest = (place - first).astype(np.float32)
    number = np.arange(len(pixels))
    weights[number, first], weights[number, first + 1] = 1 - rest, rest
    return weights


def _field(values: NDArray[np.float32], block: float) -> NDArray[np.float32]:
    """The slowly varying ground of a picture on a coarse grid, h x w x 3: a robust fit."""
    height, width = values.shape[:2]
    step = max(1.0, block / CELLS)
    small = resized(values, (max(8, round(height / step)), max(8, round(width / step))))
    sigma = CELLS / 2
    field: NDArray[np.float32] = ndimage.median_filter(small, size=(2 * CELLS + 1, 2 * CELLS + 1, 1), mode="nearest")
    for _ in range(ROUNDS):
        off = small - field
        deviation = np.maximum(_deviation(off, axis=(0, 1)), NOISE_FLOOR / 2)
        weight = (np.abs(off) < OUTLIER * deviation).all(axis=2, keepdims=True).astype(np.float32)
        weight = ndimage.minimum_filter(weight, size=(3, 3, 1)) + 1e-3  # and their rims
        blur = [ndimage.gaussian_filter(one, (sigma, sigma, 0)) for one in (small * weight, weight)]
        field = np.asarray(blur[0] / blur[1], np.float32)
    return field


def _deviation(values: NDArray[np.float32], axis: int | tuple[int, ...]) -> NDArray[np.float32]:
    """Standard deviation by the median absolute one, about zero."""
    return np.asarray(1.4826 * np.median(np.abs(values), axis=axis), np.float32)


def _noise(differences: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Expected error of each pixel by what most pictures differ by; that of its surroundings, if theirs is larger."""
    errors = np.abs(np.stack(differences)).mean(axis=3)
    # A lower quantile than the median, so that what passes a pixel in less than half of the pictures is no noise.
    noise = np.quantile(errors, QUANTILE, axis=0).astype(np.float32) / NORMAL_QUANTILE
    noise = np.maximum(noise, np.median(noise))  # few pictures tell little of a single pixel
    largest: NDArray[np.float32] = np.maximum(ndimage.maximum_filter(noise, size=3), NOISE_FLOOR)
    return largest
