"""What ``POST /segment`` answers with."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, Field

from astseg.data.formats.png import colour_labels
from astseg.inference.writers.read_ahead import Picture
from astseg.inference.writers.tables import Tables
from astseg.serve.pictures import data_address, label_picture, png
from astseg.serve.scene import Scene, scene_of

if TYPE_CHECKING:
    from astseg.inference.prediction import Prediction

__all__ = ["FoundObject", "Part", "SegmentedPicture", "SegmentedPictures", "answer_of", "table_of"]

Part: TypeAlias = Literal["labels", "background", "reconstruction", "layers", "attention", "scene"]


class FoundObject(BaseModel):
    """An object of a picture; lengths are in its pixels, x to the right and y down."""

    id: int = Field(description="its number in the labels; a slot of the model keeps its number in all pictures")
    box: tuple[int, int, int, int] = Field(description="x, y, width, height")
    position: tuple[float, float] = Field(description="x and y of its centre, as the model has it")
    area: int = Field(description="number of its pixels")
    order: int = Field(description="0 for the front-most")
    visibility: float = Field(description="share of it that nothing hides, in (0, 1]")
    colour: str = Field(description="what it is drawn in, #rrggbb")
    score: float = Field(description="how sure its pixels are, in (0, 1]")


class SegmentedPicture(BaseModel):
    """A picture with its objects, front-most first; pictures are PNGs of its size in data: addresses."""

    name: str
    width: int
    height: int
    objects: list[FoundObject]
    labels: str | None = Field(None, description="grey level of a pixel: 0 background, else the id of an object")
    background: str | None = Field(None, description="the picture without its objects")
    reconstruction: str | None = Field(None, description="the picture as the model draws it")
    layers: list[str] | None = Field(None, description="each object alone, hidden parts too, with transparency")
    attention: list[str] | None = Field(None, description="where the encoder looked for each object, grey")
    scene: Scene | None = Field(None, description="what POST /render draws")


class SegmentedPictures(BaseModel):
    """The pictures of a request, in its order."""

    pictures: list[SegmentedPicture]


def answer_of(name: str, prediction: Prediction, parts: Collection[Part]) -> SegmentedPicture:
    """One picture with the parts that are wanted."""
    height, width = prediction.labels.shape
    objects = [
        FoundObject(
            id=found.id,
            box=found.box,
            position=found.position,
            area=found.area,
            order=found.order,
            visibility=found.visibility,
            colour="#" + bytes(colour_labels(np.array(found.id))).hex(),
            score=found.score,
        )
        for found in prediction.objects
    ]
    answer = SegmentedPicture(name=name, width=width, height=height, objects=objects)  # type: ignore[call-arg]
    if "labels" in parts:
        answer.labels = data_address(label_picture(prediction.labels))
    if "background" in parts:
        answer.background = data_address(png(prediction.background))
    if "reconstruction" in parts:
        answer.reconstruction = data_address(png(prediction.reconstruction))
    if "layers" in parts:
        answer.layers = [data_address(png(layer)) for layer in prediction.layers]
    if "attention" in parts:
        answer.attention = [data_address(png(one)) for one in prediction.attention]
    if "scene" in parts:
        answer.scene = scene_of(prediction)
    return answer


def table_of(
    names: Sequence[str], predictions: Sequence[Prediction], table: Literal["coco", "csv"], *, appearance_size: int
) -> str:
    """The objects of all pictures as ``astseg segment`` writes them: ``coco.json`` or ``objects.csv``.

    Raises:
        UserError: Nothing can be written to the folder of temporary files.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Tables(folder, appearance_size=appearance_size) as tables:
            for number, (one, prediction) in enumerate(zip(names, predictions, strict=True), start=1):
                objects = [(found.id, found) for found in prediction.objects]
                # Of the image itself the tables have nothing.
                picture = Picture(number - 1, one, f"{number}", np.zeros((0, 0, 3), np.uint8))
                tables.add(picture, prediction.labels, objects)
        return (folder / ("coco.json" if table == "coco" else "objects.csv")).read_text(encoding="utf-8")
