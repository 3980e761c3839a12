"""What was found, drawn on the image: outlines, a tint and the number of each object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from astseg.data.formats.png import colour_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["overlay"]

_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def overlay(image: NDArray[np.uint8], labels: NDArray[Any], *, smallest: int = 256) -> Image.Image:
    """Outlines, a tint and the number of each object on an image.

    Args:
        image: H x W x 3, uint8.
        labels: H x W integers, 0 = background.
        smallest: Images with a longer side below it are enlarged by a whole factor, so that the numbers fit.

    Returns:
        An image, its size a multiple of that of ``image``.
    """
    height, width = labels.shape
    factor = max(1, -(-smallest // max(height, width)))
    size = (width * factor, height * factor)
    enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.int32)  # the filters are faster on bytes
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    thickness = max(1, round(max(labels.shape) / 160))
    window = 2 * thickness + 1
    inner = ndimage.minimum_filter(labels, window, mode="nearest") == ndimage.maximum_filter(
        labels, window, mode="nearest"
    )
    mixed_pixels = enlarged.copy()
    outline, tint = (labels > 0) & ~inner, (labels > 0) & inner
    mixed_pixels[outline] = colour_labels(labels[outline])
    mixed_pixels[tint] = (0.75 * enlarged[tint] + 0.25 * colour_labels(labels[tint])).round().astype(np.uint8)
    mixed = Image.fromarray(mixed_pixels)
    draw = ImageDraw.Draw(mixed)
    height_of_text = max(12, round(max(labels.shape) / 24))
    font = ImageFont.load_default(size=height_of_text)
    for label, place in enumerate(ndimage.find_objects(labels.astype(np.int64)), start=1):
        if place is not None:
            y, x = _inside(labels[place] == label)
            centre = (x + place[1].start, y + place[0].start)
            stroke = max(1, height_of_text // 9)
            draw.text(centre, str(label), _PAPER, font, "mm", stroke_width=stroke, stroke_fill=_INK)
    return mixed


def _inside(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(row, column) of the pixel of a mask that is nearest to its centre of mass."""
    rows, columns = np.nonzero(mask)
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return int(rows[nearest]), int(columns[nearest])
