"""TODO."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from astseg.data.arrays import images_to_tensor
from astseg.types import SceneOutput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.model.astseg import AstSeg

__all__ = ["at_once", "inference", "scene_outputs"]

PIXELS_AT_ONCE = 100_000
"""Pixels of the images that a thread of a CPU passes at once: more, and what the layers hand on leaves its caches."""


def at_once(model: AstSeg, most: int) -> int:
    """Images a forward pass without gradients, ``most`` at most: on a CPU, equal parts of them that fit its caches."""
    if _device(model).type != "cpu":
        return most
    height, width = model.renderer.image_size
    room = max(1, PIXELS_AT_ONCE * torch.get_num_threads() // (height * width))
    return math.ceil(most / math.ceil(most / room))


def scene_outputs(model: AstSeg, images: NDArray[np.uint8] | Tensor) -> SceneOutput:
    """The model's output for a few images, in one pass, in evaluation mode, on the model's device.

    Args:
        model: The model; its modes and the random state stay as they are.
        images: B x H x W x 3 uint8, or B x 3 x H x W float in [0, 1].
    """
    if not (isinstance(images, Tensor) and images.is_floating_point()):
        images = images_to_tensor(images)
    with inference(model):
        output: SceneOutput = model(images.to(_device(model)))
        return output


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True  # not train(), which would reach down to modules that are frozen


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
