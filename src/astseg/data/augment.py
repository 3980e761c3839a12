"""Variants of an image for small collections: mirrored, cropped and shifted, in another light.

Ours, not the paper's. Crops are taken from the image as it lies in its file, so that nothing gets blurred twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.config import AugmentConfig
    from astseg.data.resize import Placement

__all__ = ["variant"]


def variant(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8] | None,
    where: Placement,
    config: AugmentConfig,
    generator: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """One variant of an image, in its frame; the mask goes along.

    Args:
        image: H x W x 3, the whole image.
        labels: H x W, or None.
        where: Where the image would lie in the frame.
        config: How much may change.
        generator: Where chance comes from.

    Returns:
        Image h x w x 3 and labels h x w or None, uint8.
    """
    if config.flip and generator.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        labels = None if labels is None else np.ascontiguousarray(labels[:, ::-1])
    moved = replace(where, box=_moved(where, config, generator))
    framed = moved.image(image).copy()
    left, top, right, bottom = where.inner
    framed[top:bottom, left:right] = _lit(framed[top:bottom, left:right], config, generator)
    return framed, None if labels is None else moved.labels(labels)


def _moved(where: Placement, config: AugmentConfig, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A smaller box near the one that is kept, inside the image."""
    (height, width), (h, w) = where.picture, where.box_size
    factor = 1 - config.zoom * generator.random()
    new_h, new_w = max(1, round(h * factor)), max(1, round(w * factor))
    shift = generator.uniform(-config.shift, config.shift, 2)
    top = where.box[1] + (h - new_h) / 2 + shift[0] * h
    left = where.box[0] + (w - new_w) / 2 + shift[1] * w
    top, left = int(np.clip(round(top), 0, height - new_h)), int(np.clip(round(left), 0, width - new_w))
    return left, top, left + new_w, top + new_h


def _lit(image: NDArray[np.uint8], config: AugmentConfig, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The image in another light: brightness, contrast, saturation and the tint of the lamp."""
    brightness, contrast = 1 + config.light * generator.uniform(-1, 1, 2)
    saturation = 1 + config.colour * generator.uniform(-1, 1)
    tint = 1 + config.colour / 2 * generator.uniform(-1, 1, 3)
    values = image.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    values = grey + saturation * (values - grey)
    middle = values.mean()
    values = brightness * tint.astype(np.float32) * (middle + contrast * (values - middle))
    lit: NDArray[np.uint8] = values.round().clip(0, 255).astype(np.uint8)
    return lit
