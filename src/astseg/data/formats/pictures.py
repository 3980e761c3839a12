"""One image file to one array: photographs to RGB, mask files to labels."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from astseg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

__all__ = ["PICTURE_SUFFIXES", "check_mask_size", "read_label_numbers", "read_labels", "read_rgb"]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# Pillow stretches grey of 2 and 4 bits to 0..255; a label is the stored number.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}


def read_rgb(path: Path | IO[bytes], name: str, *, upright: bool) -> NDArray[np.uint8]:
    """Read an image as RGB: transparency is dropped, 16-bit grey keeps its upper 8 bits.

    Args:
        path: A PNG, JPEG, WebP, TIFF (first page) or BMP file, or its open bytes.
        name: What error messages call it.
        upright: Turn the image as its EXIF orientation says, as cameras mean it.

    Returns:
        H x W x 3, uint8.

    Raises:
        UserError: The file is no complete image, or one of 32-bit numbers, whose range nobody knows.
    """
    image, _ = _decode(path, name, upright=upright)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"'{name}' holds 32-bit numbers (mode {image.mode}), expected 8 or 16 bits: save it as 8-bit")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def read_labels(path: Path, name: str) -> NDArray[np.uint8]:
    """Read a mask whose stored numbers are the labels: palette indices or grey levels, of any bit depth.

    Returns:
        H x W, uint8.

    Raises:
        UserError: The file is no complete image, is one of colours, or holds labels above 255.
    """
    values = read_label_numbers(path, name)
    if values.max() > 255:
        raise UserError(f"mask '{name}' holds label {values.max()}, expected at most 255: renumber its labels")
    return values.astype(np.uint8)


def read_label_numbers(path: Path | IO[bytes], name: str) -> NDArray[Any]:
    """The stored numbers of a mask, of any size up to 32 bits.

    Returns:
        H x W, integers.

    Raises:
        UserError: The file is no complete image, or is one of colours.
    """
    image, stored = _decode(path, name, upright=False)
    if image.mode not in ("P", "L", "1", "I") and not image.mode.startswith("I;16"):
        raise UserError(f"mask '{name}' holds colours (mode {image.mode}), expected palette indices or grey labels")
    values = np.asarray(image)
    return values.astype(np.uint8) // np.uint8(_GREY_STRETCH.get(stored, 1)) if values.dtype.itemsize == 1 else values


def check_mask_size(labels: NDArray[Any], image: NDArray[Any], name: str) -> None:
    """Make sure that labels H x W are as large as their image H x W x 3; name: what the mask is called in the message.

    Raises:
        UserError: They are not.
    """
    if labels.shape != image.shape[:2]:
        got, expected = "{}x{}".format(*labels.shape), "{}x{}".format(*image.shape)
        raise UserError(f"{name} is {got} but its image is {expected}: write both at one size")


def _decode(path: Path | IO[bytes], name: str, *, upright: bool) -> tuple[Image.Image, str]:
    """A decoded image, and the format of its pixels in the file in Pillow's words, such as ``L;4``."""
    try:
        if isinstance(path, os.PathLike) and not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("it is no file")  # a pipe or a device would be read for ever
        with Image.open(path) as image:
            # The arguments of the first tile, which have no name before Pillow 11.
            stored = str(image.tile[0][3]) if image.tile else image.mode
            image.load()
            if image.mode == "I" and image.format == "PNG":  # Pillow before 11 widens 16-bit grey
                return Image.fromarray(np.asarray(image).astype(np.uint16)), stored
            return (ImageOps.exif_transpose(image) if upright else image), stored
    except Exception as error:  # decoders raise nearly anything at a broken file: OSError, SyntaxError, zlib.error, ...
        reason = (str(error) or type(error).__name__).splitlines()[0].replace(str(path), name)
        raise UserError(f"'{name}' is not a complete picture ({reason}): replace or remove it") from error
