"""A contact sheet: some scenes of a source, each with its masks, as they lie in the files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from astseg.data.formats.png import colour_labels
from astseg.data.resize import place
from astseg.diagnostics.visualize import shortened

__all__ = ["contact_sheet"]

CELL = 144
_GAP, _TEXT = 6, 16
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def contact_sheet(
    scenes: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8] | None]], *, columns: int = 6
) -> Image.Image:
    """Images in rows, their masks below them in colours, their names above them.

    Args:
        scenes: Name, image H x W x 3 and labels H x W or None, of any sizes; at least one.
        columns: Images in a row.
    """
    columns = min(columns, len(scenes))
    lines = 2 if any(labels is not None for _, _, labels in scenes) else 1
    height = _TEXT + lines * (CELL + _GAP)
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (_GAP + columns * (CELL + _GAP), _GAP + rows * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, (name, image, labels) in enumerate(scenes):
        left, top = _GAP + number % columns * (CELL + _GAP), _GAP + number // columns * height
        draw.text((left, top), shortened(name, font, CELL), fill=_INK, font=font)
        where = place((image.shape[0], image.shape[1]), (CELL, CELL), resize="letterbox")
        x, y, right, bottom = where.inner
        views = [where.image(image)] + ([colour_labels(where.labels(labels))] if labels is not None else [])
        for line, view in enumerate(views):
            shown = Image.fromarray(view[y:bottom, x:right])
            sheet.paste(shown, (left + x, top + _TEXT + line * (CELL + _GAP) + y))
    return sheet
