"""Pictures that people look at: panels as in the supplement's Figures 1 to 6, overlays, label files.

Colours are stable: label 0 is black and label k, the k-th slot, has the same colour in every picture.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from astseg.data.tensors import tensor_to_images
from astseg.metrics import contingency, intersection_over_union
from astseg.types import SceneOutput, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PALETTE",
    "colour_labels",
    "match_colours",
    "overlay",
    "panel",
    "save_label_png",
    "save_picture",
    "write_whole",
]

# Far from each other, from black, from white and from grey, in a colour space that follows the eye (OKLab).
_COLOURS = """
e6463c 3c82f0 46be50 fabe28 a050dc 28c8c8 fa8228 f078be 1e693c 2d00ff 87ff00 873c5a ffc3ff ff00ff 967800 2d5a96
a5a5ff b4f0b4 e10096 1e9687 7800c3 b4a54b 009600 b46996 a50096 b40000 ffa5a5 4bf0ff 00f096 874b00 a5d200 d269ff
693cff 00b4ff 005ae1 784ba5 ff96ff c3785a 00e100 c300ff 8778c3 4b96c3 87d296 ff6978 c3005a ff3cc3 a55a4b 9678ff
ff0069 e1e11e 5a7800 c31ec3 2d78b4 69964b 9600ff 4b3cc3 69b487 b487d2 d25ac3 a54ba5 4bd2ff ff69f0 3cffd2 e1a569
"""


def _palette() -> NDArray[np.uint8]:
    colours = [tuple(bytes.fromhex(colour)) for colour in _COLOURS.split()]
    palette = np.array([(0, 0, 0), *(colours[index % len(colours)] for index in range(255))], np.uint8)
    palette.flags.writeable = False
    return palette


PALETTE = _palette()
"""256 x 3, uint8: the colour of each label. 0 is black; the 64 colours after it repeat."""

_MISSED = np.array([[205] * 3, [150] * 3, [230] * 3, [120] * 3, [178] * 3], np.uint8)
"""Greys of the true objects that no slot has found."""

_COMPRESSION = {"compress_level": 6}
_FAST_COMPRESSION = {"compress_level": 1, "compress_type": zlib.Z_RLE}

_INK, _PAPER = (40, 40, 40), (255, 255, 255)
_GAP = 4
_COMFORTABLE, _LARGEST = 128, 192
"""Sides in pixels that scenes of a panel are enlarged toward, and above which they are reduced."""


def colour_labels(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Label maps as pictures: ... integers, 0 or more -> ... x 3, uint8; the colours repeat, black does not."""
    coloured: NDArray[np.uint8] = PALETTE[np.where(labels > 255, (labels.astype(np.int64) - 1) % 64 + 1, labels)]
    return coloured


# Panels --------------------------------------------------------------------------------------------------------------


def panel(
    images: NDArray[np.uint8] | Tensor,
    output: SceneOutput,
    *,
    labels: NDArray[np.uint8] | None = None,
    scale: float | None = None,
    names: Sequence[str] | None = None,
    limit: int = 8,
) -> Image.Image:
    """One picture of what the model sees: a column for each scene, a row for each view of it.

    The rows are: input, ground truth (where labels are known; in the colours of the slots that match it best, grey
    where none does), reconstruction, segmentation, background, attention. The last shows all attention maps at once,
    each in its slot's colour and stretched to its own largest value; those of slots that own no pixel are dimmed.

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
    predicted = output.ownership[:n].argmax(dim=1).cpu().numpy()  # n x H x W
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
        ("attention", _attention_pictures(images, output.attention[:n], predicted, cell), Image.Resampling.BICUBIC),
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


def _attention_pictures(
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
    colours = colours / np.maximum(total, 1e-12)  # mean colour where several slots look
    opacity = np.minimum(total, 1)
    pictures = (1 - opacity) * 0.4 * grey + opacity * colours
    return np.asarray(pictures.round(), np.uint8)


def _sheet(
    rows: list[tuple[str, NDArray[np.uint8], Image.Resampling]], cell: tuple[int, int], names: Sequence[str] | None
) -> Image.Image:
    """Titled rows of pictures, B x H x W x 3 each, on white paper."""
    height, width = cell
    font = ImageFont.load_default(size=14)
    left = max(round(font.getlength(title)) for title, _, _ in rows) + 3 * _GAP
    top = 18 + _GAP if names else _GAP
    columns = len(rows[0][1])
    size = (left + columns * (width + _GAP), top + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names or ()):
        text = _shortened(name, font, width)
        draw.text((left + column * (width + _GAP) + width // 2, top // 2), text, fill=_INK, font=font, anchor="mm")
    for row, (title, pictures, resampling) in enumerate(rows):
        y = top + row * (height + _GAP)
        draw.text((left - 2 * _GAP, y + height // 2), title, fill=_INK, font=font, anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(_resized(picture, cell, resampling)), (left + column * (width + _GAP), y))
    return sheet


def _resized(picture: NDArray[np.uint8], cell: tuple[int, int], resampling: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((cell[1], cell[0]), resampling))


def _shortened(text: str, font: Any, width: int) -> str:
    """The end of a text, as long as it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


# One picture ---------------------------------------------------------------------------------------------------------


def overlay(image: NDArray[np.uint8], labels: NDArray[Any], *, smallest: int = 256) -> Image.Image:
    """Outlines, a tint and the number of each object on a picture.

    Args:
        image: H x W x 3, uint8.
        labels: H x W integers, 0 = background.
        smallest: Pictures with a longer side below it are enlarged by a whole factor, so that the numbers fit.

    Returns:
        The picture, its size a multiple of the image's.
    """
    height, width = labels.shape
    factor = max(1, -(-smallest // max(height, width)))
    picture = _resized(image, (height * factor, width * factor), Image.Resampling.BICUBIC)
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.int32)  # the filters are faster on bytes
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    thickness = max(1, round(max(labels.shape) / 160))
    window = 2 * thickness + 1
    inner = ndimage.minimum_filter(labels, window, mode="nearest") == ndimage.maximum_filter(
        labels, window, mode="nearest"
    )
    mixed_pixels = picture.copy()
    outline, tint = (labels > 0) & ~inner, (labels > 0) & inner
    mixed_pixels[outline] = colour_labels(labels[outline])
    mixed_pixels[tint] = (0.75 * picture[tint] + 0.25 * colour_labels(labels[tint])).round().astype(np.uint8)
    mixed = Image.fromarray(mixed_pixels)
    draw = ImageDraw.Draw(mixed)
    size = max(12, round(max(labels.shape) / 24))
    font = ImageFont.load_default(size=size)
    for label, place in enumerate(ndimage.find_objects(labels.astype(np.int64)), start=1):
        if place is not None:
            y, x = _inside(labels[place] == label)
            centre = (x + place[1].start, y + place[0].start)
            draw.text(
                centre,
                str(label),
                fill=_PAPER,
                font=font,
                anchor="mm",
                stroke_width=max(1, size // 9),
                stroke_fill=_INK,
            )
    return mixed


def _inside(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(row, column) of the pixel of a mask that is nearest to its centre of mass."""
    rows, columns = np.nonzero(mask)
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return int(rows[nearest]), int(columns[nearest])


# Files ---------------------------------------------------------------------------------------------------------------


def save_label_png(labels: NDArray[Any], path: Path) -> None:
    """Write a label map as a palette PNG: the index of a pixel is its label, shown in the colours of this module.

    A map with a label above 255, which only long videos have, becomes a PNG of 16-bit grey: the value is the label.

    Args:
        labels: H x W integers in [0, 65535].
        path: The file; its folder is made.

    Raises:
        UserError: Labels that do not fit.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels for '{path}' are {labels.dtype} {labels.shape}, expected H x W integers")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 65535):
        raise UserError(f"labels for '{path}' are {labels.min()} to {labels.max()}, expected 0 to 65535: renumber them")
    if labels.size and labels.max() > 255:
        save_picture(Image.fromarray(labels.astype(np.uint16)), path)
        return
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(PALETTE.tobytes())
    save_picture(picture, path)


def save_picture(picture: Image.Image, path: Path, *, fast: bool = False) -> None:
    """Write a PNG, whole or not at all; its folder is made. Fast: in a quarter of the time, a twentieth larger."""
    options = _FAST_COMPRESSION if fast else _COMPRESSION
    write_whole(path, lambda part: picture.save(part, format="PNG", **options))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place and renamed, so that what lies there is whole; its folder is made.

    Raises:
        UserError: The file cannot be written there.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): choose another folder or free space"
        ) from error
