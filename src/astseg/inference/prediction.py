"""From the model's output to what a user wants of it: a label map, a list of objects, layers, at the image's own size.

The responsibilities of the layers for each pixel are upsampled smoothly and compared at the image's own size, so that
outlines are smooth instead of enlarged pixels; where the image is much larger than what the model saw, its own pixels
decide about outlines then (:mod:`astseg.inference.outlines`). Source of the responsibilities: the supplement's
Algorithm 2, and :mod:`astseg.inference.mask_posterior`; boxes and visibility are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from astseg.data.arrays import tensor_to_images
from astseg.data.resize import Placement
from astseg.errors import UserError
from astseg.inference.outlines import refine
from astseg.inference.upsample import Window, enlarged, window_of
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Drawing", "ObjectPrediction", "Prediction", "may_own_pixels", "predictions_from"]


REFINED_FROM = 1.5
"""Pixels of the image along one that the model saw, the mean of both, from which on it decides about outlines."""


@dataclass(frozen=True, eq=False)
class ObjectPrediction:
    """One object of an image. Lengths are in pixels of the image, x to the right and y down.

    Attributes:
        id: Its label in the label map: the number of its slot, from 1 to K. A slot keeps its colour in all images.
        position: (x, y) of its centre as the model has it, in pixel indices: (0, 0) is the middle of the first pixel.
        box: (x, y, width, height), the smallest that holds all of its pixels in the label map.
        scale: Inverse scale along x and y: its glimpse covers 1 / scale of the image's width and height.
        activation: Its log activation less the background's (whose mean is taken where each pixel has its own). Where
            its mask is 1, it hides the background if this is above 0, and of two objects the larger one is in front. At
            least 4 where proposals moved it (:mod:`astseg.inference.proposals`): equal ones say nothing of the order.
        area: Number of its pixels in the label map, at least 1.
        order: 0 for the front-most object of the image, then 1, 2, ... by falling activation, equal ones by slot.
        visibility: Its area divided by the area it would have if it were the only object, as drawn, in (0, 1].
        score: How sure its pixels are: the mean responsibility of its layer for them, as drawn, in (0, 1].
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
    """What the renderer drew of an image, at the model's size, uint8.

    Attributes:
        background: H x W x 3.
        reconstruction: H x W x 3.
        layers: n x H x W x 4, RGBA, one for each object; None where they were not asked for.
        attention: n x h x w, float32, where the encoder looked for each object: its map sums to one; None where no
            encoder looks.
    """

    background: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]
    layers: NDArray[np.uint8] | None
    attention: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one image, everything at the image's own size, H x W.

    Attributes:
        labels: H x W, int32: 0 for the background, otherwise the ``id`` of an object.
        objects: The objects with at least one pixel in the label map, front-most first.
        drawing: What :attr:`background`, :attr:`reconstruction` and :attr:`layers` are upsampled from.
        placement: Where the image lay in what the model saw; what was cropped off is background, and black.
    """

    labels: NDArray[np.int32]
    objects: tuple[ObjectPrediction, ...]
    drawing: Drawing = field(repr=False)
    placement: Placement = field(repr=False)

    @cached_property
    def background(self) -> NDArray[np.uint8]:
        """H x W x 3, uint8: the image without its objects."""
        return self.placement.restore(self.drawing.background, smooth=True)

    @cached_property
    def reconstruction(self) -> NDArray[np.uint8]:
        """H x W x 3, uint8: the image as the model draws it."""
        return self.placement.restore(self.drawing.reconstruction, smooth=True)

    @cached_property
    def layers(self) -> NDArray[np.uint8]:
        """N x H x W x 4, uint8 RGBA: each object alone, in the order of ``objects``, hidden parts included.

        Laid over the background, a layer gives the image with that object as the only one.

        Raises:
            UserError: The prediction was made without layers.
        """
        if self.drawing.layers is None:
            raise UserError("this prediction was made without layers: call predict(..., layers=True)")
        layers = [self.placement.restore(layer, smooth=True) for layer in self.drawing.layers]
        return np.stack(layers) if layers else np.zeros((0, *self.labels.shape, 4), np.uint8)

    @cached_property
    def attention(self) -> NDArray[np.uint8]:
        """N x H x W, uint8: where the encoder looked for each object, in the order of ``objects``; 255 is its peak.

        Raises:
            UserError: The objects were found without an encoder.
        """
        if self.drawing.attention is None:
            raise UserError("this prediction is of a scene, whose objects are found without attention")
        maps = np.zeros((len(self.drawing.attention), *self.labels.shape), np.uint8)
        for index, one in enumerate(self.drawing.attention):
            grey = Image.fromarray((one * (255 / one.max())).round().astype(np.uint8))
            framed = grey.resize(self.placement.frame[::-1], Image.Resampling.BILINEAR)
            maps[index] = self.placement.restore(np.asarray(framed), smooth=True)
        return maps


def predictions_from(
    output: SceneOutput,
    placements: Sequence[Placement],
    *,
    background_activation: float,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
) -> Iterator[Prediction]:
    """Predictions for a batch, one at a time.

    Args:
        output: The model's output for B images. Its layers may be missing, as may those of objects without any pixel.
        placements: Where the images lie in what the model saw, B of them.
        background_activation: Log alpha_0, the mean of it where each pixel has its own.
        pictures: The images themselves, H x W x 3 each, for outlines as sharp as theirs; None: outlines as drawn.
    """
    weights, responsibilities = output.weights.float().cpu(), output.responsibilities.float().cpu()
    activation = (output.latents.log_activation - background_activation).float().cpu().numpy()
    for index, where in enumerate(placements):
        left, top, right, bottom = where.inner
        inside = (index, slice(None), slice(top, bottom), slice(left, right))
        order = np.argsort(-activation[index], kind="stable")
        labels, masks = _masks(weights[inside], responsibilities[inside], where.box_size, order)
        background = tensor_to_images(output.background[index])
        if pictures is not None:
            labels, masks = _sharpened(labels, masks, where, pictures[index], background)
        slots = [mask.slot for mask in masks]
        objects = tuple(
            _object(output, index, place, mask, where, float(activation[index, mask.slot]))
            for place, mask in enumerate(masks)
        )
        drawing = Drawing(
            background,
            tensor_to_images(output.reconstruction[index]),
            None if output.layers is None else _alone(output.layers[index, slots], output.weights[index], slots),
            output.attention[index, slots].float().cpu().numpy(),
        )
        yield Prediction(where.pasted(labels), objects, drawing, where)


def may_own_pixels(weights: Tensor) -> Tensor:
    """Which objects can have a pixel at any size, B x K, by layer weights or responsibilities B x L x H x W.

    The largest of L numbers that sum to one is at least 1 / L, upsampled or not.
    """
    return weights[:, 1:].amax(dim=(2, 3)) >= 1 / weights.shape[1]


@dataclass(frozen=True)
class _Mask:
    """The pixels of one object, in the part of the image that the model saw."""

    slot: int
    box: tuple[int, int, int, int]
    area: int
    visibility: float
    score: float


def _masks(
    weights: Tensor, responsibilities: Tensor, size: tuple[int, int], order: NDArray[np.intp]
) -> tuple[NDArray[np.int32], list[_Mask]]:
    """Weights and responsibilities L x h x w -> the label of each pixel of another size (ties: the first layer).

    One layer is upsampled at a time and only where it is not zero, so that large images need no L times their memory.

    Returns:
        Labels of that size; and the objects with some of them, slots in the given order.
    """
    everywhere: Window = (slice(None), slice(None))
    labels = torch.zeros(size, dtype=torch.int32)
    best = enlarged(responsibilities[0], size, everywhere, everywhere)
    windows: dict[int, tuple[Window, Window]] = {}
    for slot in may_own_pixels(responsibilities[None])[0].nonzero().flatten().tolist():
        inner, outer = windows[slot] = window_of(weights[slot + 1], size)
        own, rival = enlarged(responsibilities[slot + 1], size, inner, outer), best[outer]
        labels[outer][own > rival] = slot + 1
        torch.maximum(rival, own, out=rival)
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


def _sharpened(
    labels: NDArray[np.int32],
    masks: list[_Mask],
    where: Placement,
    picture: NDArray[np.uint8],
    background: NDArray[np.uint8],
) -> tuple[NDArray[np.int32], list[_Mask]]:
    """The same objects with outlines by the picture's own pixels, if it is much larger than what the model saw.

    The background is the one drawn, h x w x 3.
    """
    if where.enlargement < REFINED_FROM or not masks:
        return labels, masks
    left, top, right, bottom = where.box
    x, y, x_end, y_end = where.inner
    sharp = refine(
        picture[top:bottom, left:right],
        labels,
        scale=1 / where.enlargement,
        background=np.ascontiguousarray(background[y:y_end, x:x_end]),
    )
    areas, windows = np.bincount(sharp.ravel()), ndimage.find_objects(sharp)
    boxes = [windows[mask.slot] for mask in masks]
    return sharp, [
        replace(
            mask,
            box=(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
            area=int(areas[mask.slot + 1]),
        )
        for mask, (rows, columns) in zip(masks, boxes, strict=True)
    ]


def _object(
    output: SceneOutput, index: int, order: int, mask: _Mask, where: Placement, activation: float
) -> ObjectPrediction:
    """Object ``order`` of image ``index`` of a batch, in the image's own pixels."""
    left, top, right, bottom = where.inner
    latents = output.latents
    position, scale = (one[index, mask.slot].float().cpu().numpy() for one in (latents.position, latents.scale))
    across, down = where.box_size[1] / (right - left), where.box_size[0] / (bottom - top)  # image over frame pixels
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
