"""Pictures of a known scene to predictions: background, finder, outlines at the picture's own size.

The working scale, the background and the finder are the run's (:mod:`astseg.discovery.scene_model`). Pictures of any
size are looked at in tiles, those without anything that differs from the background are passed over, and the number of
objects has no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from astseg.data.resize import Preprocess, place, reduced
from astseg.errors import UserError
from astseg.inference.outlines import refine
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

    def check_options(self, batch_size: int, resize: str | None) -> Preprocess:
        """As of other segmenters, but pictures are always seen whole.

        Raises:
            UserError: A batch size below 1, or another ``resize``.
        """
        if resize not in (None, self.preprocess.resize):
            raise UserError(f"resize is '{resize}', but this run sees pictures whole, at their own proportions")
        return super().check_options(batch_size, resize)

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
        self.check_options(batch_size, resize)
        for image in images:
            yield self._prediction(image, layers=layers)

    def _prediction(self, picture: NDArray[np.uint8], *, layers: bool) -> Prediction:
        size = picture.shape[0], picture.shape[1]
        working = self.scene.working_size(size)
        small = reduced(picture, working)
        light = self.scene.background.light_of(small)
        found = self.scene.find(small, self.scene.background.drawn(light, working))
        full = self.scene.at_full_size(light, size)
        labels = self._outlined(picture, found.labels, full)
        objects, labels = self._objects(picture, labels, found.scores, working[0] / size[0])
        inside = labels > 0
        drawing = Drawing(
            full, np.where(inside[..., None], picture, full), _alone(picture, labels, objects) if layers else None
        )
        return Prediction(labels, objects, drawing, place(size, size, resize="squeeze"))

    def _outlined(
        self, picture: NDArray[np.uint8], labels: NDArray[np.int32], background: NDArray[np.uint8]
    ) -> NDArray[np.int32]:
        """Labels at the picture's own size, decided by its own pixels; labels: h x w, as they were found."""
        if labels.shape == picture.shape[:2]:
            return labels
        error = np.broadcast_to(self.scene.background.noise * 255, labels.shape)
        return refine(picture, labels, scale=labels.shape[0] / picture.shape[0], background=background, error=error)

    def _objects(
        self, picture: NDArray[np.uint8], labels: NDArray[np.int32], scores: NDArray[np.float32], scale: float
    ) -> tuple[tuple[ObjectPrediction, ...], NDArray[np.int32]]:
        """The objects that are sure and large enough, the lowest first, and the label map of these alone."""
        config = self.scene.config
        smallest = config.smallest or self.scene.sizes.smallest_mask / scale**2
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


def _alone(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], objects: tuple[ObjectPrediction, ...]
) -> NDArray[np.uint8]:
    """Each object alone: n x H x W x 4, RGBA."""
    alone = np.zeros((len(objects), *labels.shape, 4), np.uint8)
    for layer, one in zip(alone, objects, strict=True):
        mine = labels == one.id
        layer[mine, :3], layer[mine, 3] = picture[mine], 255
    return alone
