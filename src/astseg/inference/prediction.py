"""From the model's output to what a user wants of it: a label map, a list of objects, layers, at the picture's size.

What pixels belong to is enlarged smoothly and compared at the picture's own size, so that outlines are smooth instead
of enlarged pixels. Source of what decides a pixel: the supplement's Algorithm 2, and :mod:`astseg.inference.mask_posterior`;
boxes and visibility are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from astseg.data.arrays import tensor_to_images
from astseg.data.resize import Placement
from astseg.errors import UserError
from astseg.inference.upsample import Window, enlarged, window_of
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Drawing", "ObjectPrediction", "Prediction", "may_own_pixels", "predictions_from"]


@dataclass(frozen=True, eq=False)
class ObjectPrediction:
    """One object of a picture. Lengths are in pixels of the picture, x to the right and y down.

    Attributes:
        id: Its label in the label map: the number of its slot, from 1 to K. A slot keeps its colour in all pictures.
        position: (x, y) of its centre as the model has it, in pixel indices: (0, 0) is the middle of the first pixel.
        box: (x, y, width, height), the smallest that holds all of its pixels in the label map.
        scale: Inverse scale along x and y: its glimpse covers 1 / scale of the picture's width and height.
        activation: Its log activation less the background's (whose mean is taken where each pixel has its own). Where
            its mask is 1, it hides the background if this is above 0, and of two objects the larger one is in front. At
            least 4 where proposals moved it (:mod:`astseg.inference.proposals`): equal ones say nothing of the order.
        area: Number of its pixels in the label map, at least 1.
        order: 0 for the front-most object of the picture, then 1, 2, ... by falling activation, equal ones by slot.
        visibility: Its area divided by the area it would have if it were the only object, in (0, 1].
        score: How sure its pixels are: the mean share that its layer has in them, in (0, 1].
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
    score: float
    appearance: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Drawing:
    """What the renderer drew of a picture, at the model's size, uint8.

    Attributes:
        background: H x W x 3.
        reconstruction: H x W x 3.
        layers: n x H x W x 4, RGBA, one for each object; None where they were not asked for.
    """

    background: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]
    layers: NDArray[np.uint8] | None


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

        Raises:
            UserError: The prediction was made without layers.
        """
        if self.drawing.layers is None:
            raise UserError("this prediction was made without layers: call predict(..., layers=True)")
        layers = [self.placement.restore(layer, smooth=True) for layer in self.drawing.layers]
        return np.stack(layers) if layers else np.zeros((0, *self.labels.shape, 4), np.uint8)


def predictions_from(
    output: SceneOutput,
    placements: Sequence[Placement],
    *,
    background_activation: float,
) -> Iterator[Prediction]:
    """Predictions for a batch, one at a time.

    Args:
        output: The model's output for B images. Its layers may be missing, as may those of objects that own no pixel.
        placements: Where the pictures lie in what the model saw, B of them.
        background_activation: Log alpha_0, the mean of it where each pixel has its own.
    """
    weights, ownership = output.weights.float().cpu(), output.responsibilities.float().cpu()
    activation = (output.latents.log_activation - background_activation).float().cpu().numpy()
    for index, where in enumerate(placements):
        left, top, right, bottom = where.inner
        shown, owned = (one[index, :, top:bottom, left:right] for one in (weights, ownership))
        labels, masks = _masks(shown, owned, where.box_size, order=np.argsort(-activation[index], kind="stable"))
        slots = [mask.slot for mask in masks]
        objects = tuple(
            _object(output, index, order, mask, where, float(activation[index, mask.slot]))
            for order, mask in enumerate(masks)
        )
        drawing = Drawing(
            tensor_to_images(output.background[index]),
            tensor_to_images(output.reconstruction[index]),
            None if output.layers is None else _alone(output.layers[index, slots], output.weights[index], slots),
        )
        yield Prediction(where.pasted(labels), objects, drawing, where)


def may_own_pixels(weights: Tensor) -> Tensor:
    """Which objects can own a pixel at any size, B x K; weights, or ownership: B x L x H x W.

    The largest of L numbers that sum to one is at least 1 / L, enlarged or not.
    """
    return weights[:, 1:].amax(dim=(2, 3)) >= 1 / weights.shape[1]


@dataclass(frozen=True)
class _Mask:
    """The pixels of one object, in the part of the picture that the model saw."""

    slot: int
    box: tuple[int, int, int, int]
    area: int
    visibility: float
    score: float


def _masks(
    weights: Tensor, ownership: Tensor, size: tuple[int, int], order: NDArray[np.intp]
) -> tuple[NDArray[np.int32], list[_Mask]]:
    """Weights and ownership L x h x w -> labels of the layers that own each pixel of another size (ties: the first).

    One layer is enlarged at a time and only where it is not zero, so that large pictures need no L times their memory.

    Returns:
        Labels of that size; and the objects that own some, slots in the given order.
    """
    everywhere: Window = (slice(None), slice(None))
    labels = torch.zeros(size, dtype=torch.int32)
    best = enlarged(ownership[0], size, everywhere, everywhere)
    windows: dict[int, tuple[Window, Window]] = {}
    for slot in may_own_pixels(ownership[None])[0].nonzero().flatten().tolist():
        inner, outer = windows[slot] = window_of(weights[slot + 1], size)
        share, rival = enlarged(ownership[slot + 1], size, inner, outer), best[outer]
        labels[outer][share > rival] = slot + 1
        torch.maximum(rival, share, out=rival)
    found = [(slot, *windows[slot]) for slot in order.tolist() if slot in windows]
    masks = [_mask(weights, size, labels, best, *each) for each in found]
    return np.asarray(labels.numpy(), np.int32), [mask for mask in masks if mask is not None]


def _mask(
    weights: Tensor, size: tuple[int, int], labels: Tensor, best: Tensor, slot: int, inner: Window, outer: Window
) -> _Mask | None:
    """What there is to say of the pixels of a slot, which all lie in the window ``outer``; None if it has none."""
    mine = (labels[outer] == slot + 1).numpy()
    area = int(np.count_nonzero(mine))
    if not area:
        return None
    uncovered = enlarged(_opacity(weights[slot + 1], weights[0]), size, inner, outer).numpy() >= 0.5
    x, y, width, height = _box(mine)
    return _Mask(
        slot=slot,
        box=(x + outer[1].start, y + outer[0].start, width, height),
        area=area,
        visibility=area / int(np.count_nonzero(uncovered | mine)),
        score=min(1.0, float(best[outer].numpy()[mine].mean())),
    )


def _object(
    output: SceneOutput, index: int, order: int, mask: _Mask, where: Placement, activation: float
) -> ObjectPrediction:
    """Object ``order`` of image ``index`` of a batch, in the picture's own pixels."""
    left, top, right, bottom = where.inner
    latents = output.latents
    position, scale = (one[index, mask.slot].float().cpu().numpy() for one in (latents.position, latents.scale))
    across, down = where.box_size[1] / (right - left), where.box_size[0] / (bottom - top)  # picture over frame pixels
    column, row = (position + 1) / 2 * where.frame[::-1]
    return ObjectPrediction(
        id=mask.slot + 1,
        position=(
            float((column - left) * across + where.box[0] - 0.5),
            float((row - top) * down + where.box[1] - 0.5),
        ),
        box=(mask.box[0] + where.box[0], mask.box[1] + where.box[1], *mask.box[2:]),
        scale=(
            float(scale[0] * where.picture[1] / (where.frame[1] * across)),
            float(scale[-1] * where.picture[0] / (where.frame[0] * down)),
        ),
        activation=activation,
        area=mask.area,
        order=order,
        visibility=mask.visibility,
        score=mask.score,
        appearance=latents.appearance[index, mask.slot].float().cpu().numpy().copy(),
    )


def _opacity(weight: Tensor, behind: Tensor) -> Tensor:
    """The weight of an object against the background alone: alpha_k M_k / (alpha_k M_k + alpha_0).

    That is w_k / (w_k + w_0): the other objects cancel out.
    """
    return weight / (weight + behind).clamp_min(torch.finfo(weight.dtype).tiny)


def _alone(colours: Tensor, weights: Tensor, slots: list[int]) -> NDArray[np.uint8]:
    """Objects as the only ones: colours n x 3 x H x W and weights L x H x W -> n x H x W x 4, RGBA."""
    opacity = _opacity(weights[1:][slots], weights[:1])
    return tensor_to_images(torch.cat([colours, opacity[:, None]], dim=1))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the true pixels of a mask that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
