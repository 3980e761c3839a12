"""PNG files: label maps whose colours are the same everywhere, and images.

Label 0 is black and label k, the k-th slot, has the same colour in every image.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from astseg.errors import UserError
from astseg.runs.atomic import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PALETTE", "colour_labels", "save_label_png", "save_picture"]

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

_COMPRESSION = {"compress_level": 6}
_FAST_COMPRESSION = {"compress_level": 1, "compress_type": zlib.Z_RLE}


def colour_labels(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Label maps as images: ... integers, 0 or more -> ... x 3, uint8; the colours repeat, black does not."""
    coloured: NDArray[np.uint8] = PALETTE[np.where(labels > 255, (labels.astype(np.int64) - 1) % 64 + 1, labels)]
    return coloured


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
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(PALETTE.tobytes())
    save_picture(image, path)


def save_picture(image: Image.Image, path: Path, *, fast: bool = False) -> None:
    """Write a PNG, whole or not at all; its folder is made. Fast: in a quarter of the time, a twentieth larger."""
    options = _FAST_COMPRESSION if fast else _COMPRESSION
    write_whole(path, lambda part: image.save(part, format="PNG", **options))
