"""Pictures as they come over the network, and as they go back."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from astseg.data.formats.pictures import read_rgb
from astseg.errors import UserError
from astseg.serve.limits import Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["data_address", "decoded", "label_picture", "png"]

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Of Pillow's decoders, those of :data:`astseg.data.formats.pictures.PICTURE_SUFFIXES`: no program is ever run."""

_FAST = 1
"""Level of compression: pictures of 1024 pixels in 20 ms, a tenth larger than at the best level."""


def decoded(content: bytes, name: str, *, pixels: int) -> NDArray[np.uint8]:
    """A picture, turned as its EXIF orientation says.

    Args:
        content: A PNG, JPEG, WebP, TIFF or BMP file.
        name: What error messages call it.
        pixels: The most that it may have.

    Returns:
        H x W x 3, uint8.

    Raises:
        Refused: No such file (415), one of more pixels (413), or a broken one (422).
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise Refused(413, f"'{name}' has too many pixels, at most {pixels} are taken: make it smaller") from None
    except Exception:  # decoders raise nearly anything at a broken file
        raise Refused(415, f"'{name}' is no picture: send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    if width * height > pixels:
        words = f"'{name}' has {width} x {height} pixels, at most {pixels} are taken: make it smaller"
        raise Refused(413, words)
    try:
        return read_rgb(io.BytesIO(content), name, upright=True)
    except UserError as error:
        raise Refused(422, str(error)) from None


def png(pixels: NDArray[np.uint8]) -> bytes:
    """H x W, H x W x 3 or H x W x 4 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=_FAST)
    return file.getvalue()


def data_address(content: bytes) -> str:
    """A PNG file as an address that browsers show."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def label_picture(labels: NDArray[Any]) -> bytes:
    """Labels H x W in [0, 65535] as a PNG of grey levels, 8 bits where they fit: the level of a pixel is its label."""
    if labels.max(initial=0) < 256:
        return png(labels.astype(np.uint8))
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(file, format="PNG", compress_level=_FAST)
    return file.getvalue()
