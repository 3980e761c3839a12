"""Pictures of a known scene to predictions: background, finder, outlines at the picture's own size.

The working scale, the background and the finder are the run's (:mod:`astseg.discovery.scene_model`). Pictures of any
size are looked at in tiles, those without anything that differs from the background are passed over, and the number of
objects has no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from astseg.data.resize import Preprocess, place, reduced
from astseg.errors import UserError
from astseg.inference.prediction import Drawing, ObjectPrediction, Prediction
from astseg.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.discovery.scene_model import SceneModel

__all__ = ["SceneSegmenter"]


class SceneSegmenter(Segmenter):
    """A scene that takes pictures of it.

    Attributes:
        scene: What is known of it.
    """

    def __init__(self, scene: SceneModel) -> None:
        """Take a scene whose finder has learned."""
        self.scene = scene
        self.preprocess = Preprocess(scene.working_size(scene.picture_size), "squeeze")

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w) at which pictures of the usual size are looked at."""
        return self.preprocess.size

    @property
    def precision(self) -> str:
        """Of the finder."""
        return "bfloat16"

    @property
    def appearance_size(self) -> int:
        """Mean and standard deviation of three channels."""
        return 6

    def predictions(
        self,
        images: Iterable[NDArray[np.uint8]],
        *,
        batch_size: int = 32,
        resize: str | None = None,
        layers: bool = True,
    ) -> Iterator[Prediction]:
        """Segment pictures one after the other.

        Args:
            images: H x W x 3 each, uint8; of a fixed background, of its proportions.
            batch_size: Has no meaning here: a picture is seen in as many tiles as it needs.
            resize: None; a scene is seen whole.
            layers: Whether :attr:`Prediction.layers` are wanted.

        Raises:
            UserError: A batch size below 1, another ``resize``, or a picture of another camera.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        if resize not in (None, self.preprocess.resize):
            raise UserError(f"resize is '{resize}', but this run sees pictures whole, at their own proportions")
        for image in images:
            yield self._prediction(image, layers=layers)

    def _prediction(self, picture: NDArray[np.uint8], *, layers: bool) -> Prediction:
        size = picture.shape[0], picture.shape[1]
        working = self.scene.working_size(size)
        small = reduced(picture, working)
        background = self.scene.background.of(small)
        found = self.scene.find(small, background)
        labels = _enlarged(found.labels, size)
        full = self.scene.at_full_size(background, size)
        objects, labels = self._objects(picture, labels, found.scores, working[0] / size[0])
        drawn = np.round(full * 255).astype(np.uint8)
        inside = labels > 0
        drawing = Drawing(
            drawn, np.where(inside[..., None], picture, drawn), _alone(picture, labels, objects) if layers else None
        )
        return Prediction(labels, objects, drawing, place(size, size, resize="squeeze"))

    def _objects(
        self, picture: NDArray[np.uint8], labels: NDArray[np.int32], scores: NDArray[np.float32], scale: float
    ) -> tuple[tuple[ObjectPrediction, ...], NDArray[np.int32]]:
        """The objects that are sure and large enough, the lowest first, and the label map of these alone."""
        config = self.scene.config
        smallest = config.smallest or self.scene.sizes.smallest / scale**2
        largest = config.largest or np.inf
        kept: list[ObjectPrediction] = []
        numbers = np.zeros(len(scores) + 1, np.int32)
        windows = ndimage.find_objects(labels, max_label=len(scores))
        seen = [(number, window) for number, window in enumerate(windows, start=1) if window is not None]
        for number, window in sorted(seen, key=lambda one: -one[1][0].stop):
            mine = labels[window] == number
            area = int(np.count_nonzero(mine))
            if scores[number - 1] < config.least_score or not smallest <= area <= largest:
                continue
            numbers[number] = len(kept) + 1
            kept.append(_object(picture, window, mine, len(kept), float(scores[number - 1])))
        return tuple(kept), numbers[labels]


def _object(
    picture: NDArray[np.uint8], window: tuple[slice, slice], mask: NDArray[np.bool_], order: int, score: float
) -> ObjectPrediction:
    """Object ``order`` of a picture, its pixels ``mask`` within the box ``window``."""
    rows, columns = np.nonzero(mask)
    colours = picture[window][mask] / 255
    top, left = window[0].start, window[1].start
    height, width = mask.shape
    return ObjectPrediction(
        id=order + 1,
        position=(float(left + columns.mean()), float(top + rows.mean())),
        box=(left, top, width, height),
        scale=(picture.shape[1] / width, picture.shape[0] / height),
        activation=0.0,
        area=len(rows),
        order=order,
        visibility=1.0,
        score=score,
        appearance=np.concatenate([colours.mean(axis=0), colours.std(axis=0)]).astype(np.float32),
    )


def _enlarged(labels: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """Labels at another size, with smooth outlines: each object in its own window."""
    if labels.shape == size:
        return labels
    out = np.zeros(size, np.int32)
    best = np.full(size, 0.5, np.float32)
    down, across = size[0] / labels.shape[0], size[1] / labels.shape[1]
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        rows, columns = (
            slice(max(0, part.start - 1), min(length, part.stop + 1))
            for part, length in zip(window, labels.shape, strict=True)
        )
        box = (
            round(rows.start * down),
            round(rows.stop * down),
            round(columns.start * across),
            round(columns.stop * across),
        )
        mask = Image.fromarray((labels[rows, columns] == number).astype(np.float32))
        opacity = np.asarray(mask.resize((box[3] - box[2], box[1] - box[0]), Image.Resampling.BILINEAR))
        where = slice(box[0], box[1]), slice(box[2], box[3])
        mine = opacity >= best[where]
        out[where][mine], best[where][mine] = number, opacity[mine]
    return out


def _alone(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], objects: tuple[ObjectPrediction, ...]
) -> NDArray[np.uint8]:
    """Each object alone: n x H x W x 4, RGBA."""
    alone = np.zeros((len(objects), *labels.shape, 4), np.uint8)
    for layer, one in zip(alone, objects, strict=True):
        mine = labels == one.id
        layer[mine, :3], layer[mine, 3] = picture[mine], 255
    return alone
