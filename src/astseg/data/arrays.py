"""The border between files and model: uint8 channels-last arrays outside, float channels-first tensors inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["images_to_tensor", "tensor_to_images"]


def images_to_tensor(images: NDArray[np.uint8] | Tensor, *, device: torch.device | str | None = None) -> Tensor:
    """Images as the model takes them.

    Args:
        images: N x H x W x 3, uint8, an array or a tensor.
        device: Where the result goes, by way of its bytes; None: where a tensor is already, or the CPU.

    Returns:
        N x 3 x H x W, float32 in [0, 1].

    >>> images_to_tensor(np.full((2, 5, 7, 3), 255, np.uint8)).shape
    torch.Size([2, 3, 5, 7])
    """
    if not isinstance(images, Tensor):
        # PyTorch wants memory it may write to and strides that only grow.
        images = torch.from_numpy(images if images.flags.writeable and images.flags.c_contiguous else images.copy())
    assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[3] == 3, (images.dtype, images.shape)
    # In place: the pages of a second tensor come fresh from the kernel, which takes twenty times the division.
    return images.to(device).permute(0, 3, 1, 2).float().div_(255)


def tensor_to_images(images: Tensor) -> NDArray[np.uint8]:
    """Pictures as files hold them: the reverse of :func:`images_to_tensor`, for any number of channels.

    Args:
        images: ... x C x H x W, float; values outside [0, 1] are clamped.

    Returns:
        ... x H x W x C, uint8, rounded.
    """
    array: NDArray[np.uint8] = (images.detach() * 255).round().clamp(0, 255).byte().movedim(-3, -1).cpu().numpy()
    return np.ascontiguousarray(array)
