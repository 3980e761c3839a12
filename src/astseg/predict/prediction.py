"""From the model's output to what a user wants of it: a label map, a list of objects, layers, at the picture's size.

The layers' weights are enlarged smoothly and compared at the picture's own size, so that outlines are smooth instead of
enlarged pixels. Source of what decides a pixel: the supplement's Algorithm 2; boxes and visibility are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from astseg.data.geometry import Placement, place
from astseg.data.tensors import tensor_to_images
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Drawing", "ObjectPrediction", "Prediction", "predictions_from"]


@dataclass(frozen=True, eq=False)
class ObjectPrediction:
    """One object of a picture. Lengths are in pixels of the picture, x to the right and y down.

    Attributes:
        id: Its label in the label map: the number of its slot, from 1 to K. A slot keeps its colour in all pictures.
        position: (x, y) of its centre as the model has it, in pixel indices: (0, 0) is the middle of the first pixel.
        box: (x, y, width, height), the smallest that holds all of its pixels in the label map.
        scale: Inverse scale along x and y: its glimpse covers 1 / scale of the picture's width and height.
        activation: Its log activation less the background's (whose mean is taken where each pixel has its own). Where
            its mask is 1, it hides the background if this is above 0, and of two objects the larger one is in front.
        area: Number of its pixels in the label map, at least 1.
        order: 0 for the front-most object of the picture, then 1, 2, ... by falling activation.
        visibility: Its area divided by the area it would have if it were the only object, in (0, 1].
        appearance: Z numbers, float32, what it looks like (z_what).
    """

    id: int
    position: tuple[float, float]
    box: tuple[int, int, int, int]
    scale: tuple[float, float]
    activation: float
    area: int
    order: int
    visibility: float
    appearance: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Drawing:
    """What the renderer drew of a picture, at the model's size, uint8.

    Attributes:
        background: H x W x 3.
        reconstruction: H x W x 3.
        layers: n x H x W x 4, RGBA, one for each object.
    """

    background: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]
    layers: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one picture, everything at the picture's own size, H x W.

    Attributes:
        labels: H x W, int32: 0 for the background, otherwise the ``id`` of an object.
        objects: The objects that own at least one pixel, front-most first.
        drawing: What :attr:`background`, :attr:`reconstruction` and :attr:`layers` are enlarged from.
        placement: Where the picture lay in what the model saw; what was cropped off is background, and black.
    """

    labels: NDArray[np.int32]
    objects: tuple[ObjectPrediction, ...]
    drawing: Drawing = field(repr=False)
    placement: Placement = field(repr=False)

    @cached_property
    def background(self) -> NDArray[np.uint8]:
        """H x W x 3, uint8: the picture without its objects."""
        return self.placement.restore(self.drawing.background, smooth=True)

    @cached_property
    def reconstruction(self) -> NDArray[np.uint8]:
        """H x W x 3, uint8: the picture as the model draws it."""
        return self.placement.restore(self.drawing.reconstruction, smooth=True)

    @cached_property
    def layers(self) -> NDArray[np.uint8]:
        """N x H x W x 4, uint8 RGBA: each object alone, in the order of ``objects``, hidden parts included.

        Laid over the background, a layer gives the picture of that object as the only one.
        """
        layers = [self.placement.restore(layer, smooth=True) for layer in self.drawing.layers]
        return np.stack(layers) if layers else np.zeros((0, *self.labels.shape, 4), np.uint8)


def predictions_from(
    output: SceneOutput,
    sizes: Sequence[tuple[int, int]],
    *,
    background_activation: float,
    fit: str = "squeeze",
) -> list[Prediction]:
    """Predictions for a batch.

    Args:
        output: The model's output for B images.
        sizes: The pictures' own (height, width), B of them.
        background_activation: Log alpha_0, the mean of it where each pixel has its own.
        fit: How the pictures were brought to the model's size, see :mod:`astseg.data.geometry`.
    """
    _, _, height, width = output.weights.shape
    places = [place(size, (height, width), fit=fit) for size in sizes]
    activation = (output.latents.log_activation - background_activation).float().cpu().numpy()
    layers = _alone(output)
    return [_prediction(output, index, where, activation[index], layers[index]) for index, where in enumerate(places)]


def _alone(output: SceneOutput) -> NDArray[np.uint8]:
    """Each object as the only one: its colours, and its weight against the background alone; B x K x H x W x 4."""
    assert output.layers is not None
    behind, weights = output.weights[:, :1], output.weights[:, 1:]
    # w_k / (w_k + w_0) = alpha_k M_k / (alpha_k M_k + alpha_0): the other objects cancel out.
    opacity = weights / (weights + behind).clamp_min(torch.finfo(weights.dtype).tiny)
    return tensor_to_images(torch.cat([output.layers, opacity[:, :, None]], dim=2))


def _prediction(
    output: SceneOutput,
    index: int,
    where: Placement,
    activation: NDArray[np.float32],
    layers: NDArray[np.uint8],
) -> Prediction:
    """The prediction for image ``index`` of a batch, at its own size.

    Args:
        output: The model's output for the batch.
        index: Which image.
        where: Where the picture lies in it.
        activation: K log activations relative to the background.
        layers: K x h x w x 4, each object alone, at the model's size.
    """
    left, top, right, bottom = where.inner
    labels = where.pasted(_label_map(output.weights[index, :, top:bottom, left:right], where.box_size))
    area = np.bincount(labels.ravel(), minlength=len(activation) + 1)[1:]
    slots = [int(slot) for slot in np.argsort(-activation, kind="stable") if area[slot] > 0]
    position = (output.latents.position[index].float().cpu().numpy() + 1) / 2 * where.frame[::-1]
    factor = (where.box_size[1] / (right - left), where.box_size[0] / (bottom - top))  # picture pixels a frame pixel
    scale = output.latents.scale[index].float().cpu().numpy()
    appearance = output.latents.appearance[index].float().cpu().numpy()
    objects = []
    for order, slot in enumerate(slots):
        mine = labels == slot + 1
        uncovered = where.restore(layers[slot, :, :, 3], smooth=True) >= 128
        objects.append(
            ObjectPrediction(
                id=slot + 1,
                position=(
                    float((position[slot, 0] - left) * factor[0] + where.box[0] - 0.5),
                    float((position[slot, 1] - top) * factor[1] + where.box[1] - 0.5),
                ),
                box=_box(mine),
                scale=(
                    float(scale[slot, 0] * where.picture[1] / (where.frame[1] * factor[0])),
                    float(scale[slot, -1] * where.picture[0] / (where.frame[0] * factor[1])),
                ),
                activation=float(activation[slot]),
                area=int(area[slot]),
                order=order,
                visibility=float(area[slot] / np.count_nonzero(uncovered | mine)),
                appearance=appearance[slot].copy(),
            )
        )
    drawing = Drawing(
        tensor_to_images(output.background[index]), tensor_to_images(output.reconstruction[index]), layers[slots]
    )
    return Prediction(labels, tuple(objects), drawing, where)


def _label_map(weights: Tensor, size: tuple[int, int]) -> NDArray[np.int32]:
    """Weights L x h x w -> the layer that weighs most at each pixel of the picture's own size; ties: the first.

    One layer is enlarged at a time, so that large pictures need no L times their memory.
    """
    weights = weights.float().cpu()
    least = 1 / len(weights)  # the largest of L weights that sum to one is at least this, enlarged or not
    labels = torch.zeros(size, dtype=torch.int32)
    best = _enlarged(weights[0], size)
    for label in range(1, len(weights)):
        if weights[label].max() < least:
            continue
        weight = _enlarged(weights[label], size)
        labels[weight > best] = label
        best = torch.maximum(best, weight)
    return np.asarray(labels.numpy(), np.int32)


def _enlarged(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """One h x w map at another size, smoothly; averaged where it shrinks."""
    return torch.nn.functional.interpolate(
        weight[None, None], size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0]


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the true pixels of a mask that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
