"""What a user may hand over as an image: a path, a Pillow picture, an array, a tensor, or many of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from astseg.data.formats.pictures import read_rgb
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Input", "image_from", "separate"]

Input = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | torch.Tensor
"""One image, see :func:`image_from`."""


def separate(inputs: Input | Iterable[Input]) -> tuple[Iterable[Input], bool]:
    """Tell one image from many.

    Args:
        inputs: One image, an array B x H x W x C, a tensor B x C x H x W, or any iterable of images.

    Returns:
        The images, and whether it was a single one.

    Raises:
        UserError: Something that is neither.
    """
    if isinstance(inputs, str | os.PathLike | Image.Image):
        return [inputs], True
    if isinstance(inputs, np.ndarray | torch.Tensor):
        return (inputs, False) if inputs.ndim == 4 else ([inputs], True)
    if not isinstance(inputs, Iterable):
        raise UserError(
            f"got {type(inputs).__name__}, expected a path, a Pillow image, an array, a tensor or a list of them"
        )
    return inputs, False


def image_from(value: Input, name: str) -> NDArray[np.uint8]:
    """Any image as 8-bit RGB; transparency is dropped, grey is repeated.

    Args:
        value: A path to a picture (turned as its EXIF orientation says); a Pillow image (as it stands); an array H x W
            or H x W x C; or a tensor H x W or C x H x W. C is 1, 3 or 4. Arrays and tensors hold uint8, or floats in
            [0, 1], which are rounded to 8 bits.
        name: What error messages call it.

    Returns:
        H x W x 3, uint8.

    Raises:
        UserError: Anything else: unreadable, empty, not finite, out of range, another type or number of channels.
    """
    if isinstance(value, str | os.PathLike):
        return _from_path(Path(value).expanduser())
    if isinstance(value, Image.Image):
        return _from_picture(value, name)
    if isinstance(value, torch.Tensor):
        return _from_tensor(value, name)
    if isinstance(value, np.ndarray):
        return _from_array(value, name, expected="H x W x 3")
    raise UserError(f"{name} is {type(value).__name__}, expected a path, a Pillow image, an array or a tensor")


def _from_path(path: Path) -> NDArray[np.uint8]:
    if path.is_dir():
        raise UserError(f"'{path}' is a folder, expected a picture: pass a list of its files, or use segment_folder")
    if not path.is_file():
        raise UserError(f"'{path}' does not exist, expected a picture file: check the path")
    return read_rgb(path, str(path), upright=True)


def _from_picture(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    try:
        picture.load()  # an opened file is decoded only now
    except Exception as error:  # decoders raise nearly anything at a broken file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} is not a complete picture ({reason}): replace it") from error
    if picture.mode in ("I", "F"):
        raise UserError(f"{name} holds 32-bit numbers (mode {picture.mode}), expected 8 bits: convert it to RGB first")
    if picture.mode.startswith("I;16"):
        return _from_array((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8), name, expected="H x W")
    return _from_array(np.asarray(picture.convert("RGB")), name, expected="H x W x 3")


def _from_tensor(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    tensor = tensor.detach().cpu()
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        hint = ": permute(2, 0, 1) it" if tensor.shape[2] in (1, 3, 4) else ""
        raise UserError(f"{name} is a tensor {_size(tensor.shape)}, expected 3 x H x W{hint}")
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    return _from_array(array if array.ndim != 3 else np.moveaxis(array, 0, 2), name, expected="3 x H x W")


def _from_array(array: NDArray[Any], name: str, *, expected: str) -> NDArray[np.uint8]:
    """H x W or H x W x C to H x W x 3; ``expected`` is the layout that error messages name."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = ": transpose(1, 2, 0) it" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise UserError(f"{name} is an array {_size(array.shape)}, expected {expected}{hint}")
    if not array.size:
        raise UserError(f"{name} is empty ({_size(array.shape)}), expected at least one pixel: check how it was read")
    array = array[:, :, :3] if array.shape[2] == 4 else array
    if np.issubdtype(array.dtype, np.floating):
        array = _rounded(array, name)
    elif array.dtype != np.uint8:
        raise UserError(f"{name} holds {array.dtype}, expected uint8 or floats in [0, 1]: convert it")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _rounded(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Floats in [0, 1] to 8 bits."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name} holds values that are not finite, expected floats in [0, 1]: clean it first")
    if low < 0 or high > 1:
        raise UserError(f"{name} holds floats from {low:g} to {high:g}, expected [0, 1]: divide by 255 or pass uint8")
    return (array * 255).round().astype(np.uint8)


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(side) for side in shape)
