"""Images that people look at: panels as in the supplement's Figures 1 to 6.

Colours are stable: label 0 is black and label k, the k-th slot, has the same colour in every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from astseg.data.arrays import tensor_to_images
from astseg.data.formats.png import PALETTE, colour_labels
from astseg.evaluation.metrics import contingency, intersection_over_union
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["match_colours", "panel", "shortened"]

_MISSED = np.array([[205] * 3, [150] * 3, [230] * 3, [120] * 3, [178] * 3], np.uint8)
"""Greys of the true objects that no slot has found."""

_INK, _PAPER = (40, 40, 40), (255, 255, 255)
_GAP = 4
_COMFORTABLE, _LARGEST = 128, 192
"""Sides in pixels that scenes of a panel are enlarged toward, and above which they are reduced."""


def panel(
    images: NDArray[np.uint8] | Tensor,
    output: SceneOutput,
    *,
    labels: NDArray[np.uint8] | None = None,
    scale: float | None = None,
    names: Sequence[str] | None = None,
    limit: int = 8,
) -> Image.Image:
    """One image of what the model sees: a column for each scene, a row for each view of it.

    The rows are: input, ground truth (where labels are known; in the colours of the slots that match it best, grey
    where none does), reconstruction, segmentation, background, attention. The last shows all attention maps at once,
    each in its slot's colour and stretched to its own largest value; those of slots without pixels are dimmed.

    Args:
        images: B x H x W x 3 uint8, or B x 3 x H x W float in [0, 1].
        output: The model's output for these images, or for more of them.
        labels: B x H x W, 0 = background.
        scale: Enlargement of the scenes; None: so that they are comfortable to look at.
        names: Headings of the columns.
        limit: The most scenes that are drawn, the first ones.
    """
    if isinstance(images, Tensor):
        images = tensor_to_images(images) if images.is_floating_point() else images.cpu().numpy()
    n = min(len(images), len(output.weights), limit)
    images = images[:n]
    predicted = output.responsibilities[:n].argmax(dim=1).cpu().numpy()  # n x H x W
    height, width = predicted.shape[1:]
    cell = _cell_size(height, width, scale)
    rows: list[tuple[str, NDArray[np.uint8], Image.Resampling]] = [("input", images, Image.Resampling.BICUBIC)]
    if labels is not None:
        truth = np.stack([match_colours(*pair)[pair[0]] for pair in zip(labels[:n], predicted, strict=True)])
        rows.append(("ground truth", truth, Image.Resampling.NEAREST))
    rows += [
        ("reconstruction", tensor_to_images(output.reconstruction[:n]), Image.Resampling.BICUBIC),
        ("segmentation", colour_labels(predicted), Image.Resampling.NEAREST),
        ("background", tensor_to_images(output.background[:n]), Image.Resampling.BICUBIC),
        ("attention", _attention_images(images, output.attention[:n], predicted, cell), Image.Resampling.BICUBIC),
    ]
    return _sheet(rows, cell, names[:n] if names else None)


def match_colours(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours for true objects, so that ground truth and prediction read together.

    Args:
        labels: H x W true labels, 0 = background.
        predicted: H x W predicted labels, 0 = background.

    Returns:
        256 x 3: black for 0, for a true object the colour of the predicted one it is matched with (Hungarian method on
        the IoU of objects), a grey where it shares no pixel with its match.
    """
    true, found = (torch.from_numpy(np.ascontiguousarray(one)).long()[None] for one in (labels, predicted))
    table = contingency(true, found, true_count=256, predicted_count=256)
    iou = intersection_over_union(table)[0, 1:, 1:].numpy()
    colours = np.vstack([PALETTE[:1], np.resize(_MISSED, (255, 3))])
    for object_index, slot in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[object_index, slot] > 0:
            colours[object_index + 1] = PALETTE[slot + 1]
    return colours


def _cell_size(height: int, width: int, scale: float | None) -> tuple[int, int]:
    """(height, width) of a scene in a panel; enlarged by whole factors so that label edges stay straight."""
    side = max(height, width)
    if scale is None:
        scale = _COMFORTABLE / side if side > _LARGEST else max(1, round(_COMFORTABLE / side))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _attention_images(
    images: NDArray[np.uint8], attention: Tensor, predicted: NDArray[Any], cell: tuple[int, int]
) -> NDArray[np.uint8]:
    """Attention maps B x K x h x w in slot colours over a dark grey version of the images: B x cell x 3, uint8."""
    b, k, _, _ = attention.shape
    maps = attention.detach().float()
    maps = maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    maps = torch.nn.functional.interpolate(maps, cell, mode="bilinear", align_corners=False)
    strength = np.clip(maps.cpu().numpy(), 0, 1)  # B x K x cell
    used = np.array([np.isin(np.arange(1, k + 1), labels) for labels in predicted])  # B x K
    strength = strength * np.where(used, 1.0, 0.3).reshape(b, k, 1, 1)
    grey = np.stack([_resized(image, cell, Image.Resampling.BICUBIC) for image in images]).mean(axis=3, keepdims=True)
    colours = np.einsum("bkhw,kc->bhwc", strength, PALETTE[1 : k + 1].astype(float))
    total = strength.sum(axis=1)[..., None]
    colours = colours / np.maximum(total, 1e-12)  # mean colour where several slots attend
    opacity = np.minimum(total, 1)
    drawn = (1 - opacity) * 0.4 * grey + opacity * colours
    return np.asarray(drawn.round(), np.uint8)


def _sheet(
    rows: list[tuple[str, NDArray[np.uint8], Image.Resampling]], cell: tuple[int, int], names: Sequence[str] | None
) -> Image.Image:
    """Titled rows of images, B x H x W x 3 each, on white paper."""
    height, width = cell
    font = ImageFont.load_default(size=14)
    left = max(round(font.getlength(title)) for title, _, _ in rows) + 3 * _GAP
    top = 18 + _GAP if names else _GAP
    columns = len(rows[0][1])
    size = (left + columns * (width + _GAP), top + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names or ()):
        text = shortened(name, font, width)
        draw.text((left + column * (width + _GAP) + width // 2, top // 2), text, fill=_INK, font=font, anchor="mm")
    for row, (title, images, resampling) in enumerate(rows):
        y = top + row * (height + _GAP)
        draw.text((left - 2 * _GAP, y + height // 2), title, fill=_INK, font=font, anchor="rm")
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(_resized(image, cell, resampling)), (left + column * (width + _GAP), y))
    return sheet


def _resized(image: NDArray[np.uint8], cell: tuple[int, int], resampling: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((cell[1], cell[0]), resampling))


def shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text, as long as it fits into a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
