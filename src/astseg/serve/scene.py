"""A picture as a scene that can be changed and drawn anew: a background, and objects with place, size and look."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import BaseModel, Field

from astseg.data.arrays import images_to_tensor, tensor_to_images
from astseg.inference.pipeline import Pipeline, inference
from astseg.serve.limits import Refused
from astseg.serve.pictures import data_address, decoded, label_picture, png
from astseg.types import ObjectLatents

if TYPE_CHECKING:
    from astseg.inference.prediction import ObjectPrediction, Prediction

__all__ = ["Drawn", "Scene", "SceneObject", "draw", "scene_of"]

MOST_OBJECTS = 64

Place = Annotated[float, Field(ge=-4, le=4)]
InverseScale = Annotated[float, Field(ge=0.05, le=200)]


class SceneObject(BaseModel):
    """An object, in the model's terms."""

    position: tuple[Place, Place] = Field(description="(x, y) of its centre; the picture goes from -1 to 1, y down")
    scale: tuple[InverseScale, InverseScale] = Field(
        description="inverse scale along x and y: its glimpse covers 1 / scale of the picture's side"
    )
    activation: float = Field(
        ge=-100, le=100, description="log activation less the background's: of two objects the larger is in front"
    )
    appearance: list[float] = Field(max_length=4096, description="what it looks like, Z numbers")


class Scene(BaseModel):
    """A scene that the renderer draws."""

    background: str = Field(description="a PNG of the model's size, as a data: address")
    objects: list[SceneObject] = Field(max_length=MOST_OBJECTS)


class Drawn(BaseModel):
    """A scene as the renderer draws it, as PNGs of the model's size in data: addresses."""

    picture: str
    labels: str = Field(description="grey level of a pixel: 0 background, k the k-th object")


def scene_of(prediction: Prediction) -> Scene:
    """The scene of a picture: of the objects, those with a pixel."""
    objects = [_scene_object(prediction, found) for found in prediction.objects[:MOST_OBJECTS]]
    return Scene(background=data_address(png(prediction.drawing.background)), objects=objects)


def _scene_object(prediction: Prediction, found: ObjectPrediction) -> SceneObject:
    """From pixels of the picture to the model's frame, the other way round than :mod:`astseg.inference.prediction`."""
    where = prediction.placement
    left, top, right, bottom = where.inner
    across, down = where.box_size[1] / (right - left), where.box_size[0] / (bottom - top)
    column = (found.position[0] + 0.5 - where.box[0]) / across + left
    row = (found.position[1] + 0.5 - where.box[1]) / down + top
    x_scale = found.scale[0] * where.frame[1] * across / where.picture[1]
    y_scale = found.scale[1] * where.frame[0] * down / where.picture[0]
    return SceneObject(
        position=(2 * column / where.frame[1] - 1, 2 * row / where.frame[0] - 1),
        scale=(x_scale, y_scale),
        activation=found.activation,
        appearance=found.appearance.tolist(),
    )


def draw(scene: Scene, pipeline: Pipeline) -> Drawn:
    """Draw a scene.

    Raises:
        Refused: A background of another size, or objects of another model (422).
    """
    renderer, device = pipeline.model.renderer, pipeline.device
    background = images_to_tensor(_background(scene.background, pipeline.image_size)[None], device=device)
    size = renderer.generator.appearance_size
    if any(len(one.appearance) != size for one in scene.objects):
        raise Refused(422, f"an object's appearance has not {size} numbers: it is of another model")

    def values(rows: list[list[float]], columns: int) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float32, device=device).reshape(1, len(rows), columns)

    with inference(pipeline.model):
        behind = renderer.background_activation().mean()
        latents = ObjectLatents(
            values([list(one.position) for one in scene.objects], 2),
            values([list(one.scale) for one in scene.objects], 2),
            values([[one.activation] for one in scene.objects], 1)[..., 0] + behind,
            values([one.appearance for one in scene.objects], size),
        )
        if not scene.objects:
            return Drawn(picture=scene.background, labels=data_address(png(np.zeros(pipeline.image_size, np.uint8))))
        rendering = renderer(latents, background, layers=False)
    labels = rendering.weights[0].argmax(dim=0).cpu().numpy()
    picture = tensor_to_images(rendering.reconstruction[0])
    return Drawn(picture=data_address(png(picture)), labels=data_address(label_picture(labels)))


def _background(address: str, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pixels of a background H x W x 3, H x W being ``size``. Raises Refused for anything else."""
    try:
        content = base64.b64decode(address.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "the background is no PNG in a data: address") from None
    pixels = decoded(content, "background", pixels=size[0] * size[1])
    if pixels.shape[:2] != size:
        got, expected = "{} x {}".format(*pixels.shape[1::-1]), "{} x {}".format(*size[::-1])
        raise Refused(422, f"the background has {got} pixels, expected {expected}")
    return pixels
