"""How a picture of any size comes into the frame that the model sees, and how masks come back.

``crop`` keeps the largest centred part with the frame's proportions (or a share of it) and loses the rest;
``letterbox`` keeps the whole picture and leaves black bars; ``squeeze`` keeps the whole picture and changes its
proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from astseg.errors import UserError
from astseg.runs.info import RunInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RESIZE_MODES", "Placement", "Preprocess", "place", "reduced"]

RESIZE_MODES = ("crop", "letterbox", "squeeze")


@dataclass(frozen=True)
class Placement:
    """Which part of a picture fills which part of the frame.

    Attributes:
        picture: (H, W) of the picture.
        frame: (h, w) of the frame.
        box: Left, top, right, bottom of the part of the picture that is kept, in its pixels.
        inner: Left, top, right, bottom of the part of the frame that it fills, in the frame's pixels.
    """

    picture: tuple[int, int]
    frame: tuple[int, int]
    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]

    @property
    def is_whole(self) -> bool:
        """Whether all of the picture fills all of the frame."""
        (height, width), (h, w) = self.picture, self.frame
        return self.box == (0, 0, width, height) and self.inner == (0, 0, w, h)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture H x W x 3 in the frame, h x w x 3: bilinear, averaging where it shrinks; black bars."""
        return self._framed(image, Image.Resampling.BILINEAR)

    def labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels H x W in the frame, h x w: nearest; bars are background."""
        return self._framed(labels, Image.Resampling.NEAREST)

    def restore(self, framed: NDArray[Any], *, smooth: bool = False) -> NDArray[Any]:
        """Bring something the size of the frame back to the picture's size; what was cropped off is 0.

        Args:
            framed: h x w labels, or h x w x C pictures; uint8, or h x w of int32 or float32.
            smooth: Bilinear instead of nearest.

        Returns:
            H x W or H x W x C, of the same type.
        """
        if self.is_whole and self.picture == self.frame:
            return framed
        left, top, right, bottom = self.inner
        resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        part = np.ascontiguousarray(framed[top:bottom, left:right])
        return self.pasted(np.asarray(Image.fromarray(part).resize(self.box_size[::-1], resampling)))

    @property
    def box_size(self) -> tuple[int, int]:
        """(height, width) of the part of the picture that is kept."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]

    @property
    def enlargement(self) -> float:
        """Pixels of the picture along a pixel of the frame, the geometric mean of both sides."""
        left, top, right, bottom = self.inner
        return math.sqrt(math.prod(self.box_size) / ((bottom - top) * (right - left)))

    @property
    def kept(self) -> float:
        """Share of the picture's pixels that lie in the kept part, in (0, 1]."""
        (height, width), (rows, columns) = self.box_size, self.picture
        return height * width / (rows * columns)

    def pasted(self, part: NDArray[Any]) -> NDArray[Any]:
        """What belongs to the kept part, of its size, in an array of the picture's size that is 0 elsewhere."""
        if part.shape[:2] == self.picture:
            return part
        whole = np.zeros((*self.picture, *part.shape[2:]), part.dtype)
        whole[self.box[1] : self.box[3], self.box[0] : self.box[2]] = part
        return whole

    def _framed(self, array: NDArray[np.uint8], resampling: Image.Resampling) -> NDArray[np.uint8]:
        if self.is_whole and self.picture == self.frame:
            return array
        left, top, right, bottom = self.inner
        picture = Image.fromarray(array).crop(self.box).resize((right - left, bottom - top), resampling)
        if (right - left, bottom - top) == self.frame[::-1]:
            return np.asarray(picture)
        frame = np.zeros((*self.frame, *array.shape[2:]), np.uint8)
        frame[top:bottom, left:right] = np.asarray(picture)
        return frame


def place(
    picture: tuple[int, int], frame: tuple[int, int] | None, *, resize: str = "crop", crop: float = 1.0
) -> Placement:
    """Where a picture lies in the frame.

    Args:
        picture: (H, W).
        frame: (h, w); None: as large as the part of the picture that is kept.
        resize: One of :data:`RESIZE_MODES`.
        crop: For ``crop``, the part to keep of the largest centred rectangle with the frame's proportions, in (0, 1].

    Raises:
        UserError: Another ``resize``.

    >>> place((240, 320), (128, 128), crop=0.8).box
    (64, 24, 256, 216)
    >>> place((240, 320), (128, 128), resize="letterbox").inner
    (0, 16, 128, 112)
    """
    whole = (0, 0, picture[1], picture[0])
    if resize == "crop":
        box = _centre_box(picture, frame or picture, crop)
        h, w = frame or (box[3] - box[1], box[2] - box[0])
        return Placement(picture, (h, w), box, (0, 0, w, h))
    h, w = frame or picture
    if resize == "squeeze":
        return Placement(picture, (h, w), whole, (0, 0, w, h))
    if resize != "letterbox":
        raise UserError(f"resize is '{resize}', choose from {', '.join(RESIZE_MODES)}")
    scale = min(h / picture[0], w / picture[1])
    height, width = (max(1, round(side * scale)) for side in picture)
    left, top = (w - width) // 2, (h - height) // 2
    return Placement(picture, (h, w), whole, (left, top, left + width, top + height))


@dataclass(frozen=True)
class Preprocess:
    """How the images of a run are brought to the size of its model: in training, evaluation and use alike.

    Attributes:
        size: (H, W) of the model.
        resize: One of :data:`RESIZE_MODES`.
        crop: For ``crop``, the share to keep of the largest centred rectangle with the model's proportions, in (0, 1].
    """

    size: tuple[int, int]
    resize: str = "crop"
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: An unknown mode, or a crop outside (0, 1].
        """
        if self.resize not in RESIZE_MODES:
            raise UserError(f"resize is '{self.resize}', choose from {', '.join(RESIZE_MODES)}")
        if not 0 < self.crop <= 1:
            raise UserError(f"crop is {self.crop}, expected a share above 0, up to 1")

    @classmethod
    def of_run(cls, size: tuple[int, int], info: RunInfo, *, declared_crop: float = 1.0) -> Preprocess:
        """What a run was trained with.

        Args:
            size: (H, W) of its model.
            info: Its metadata.
            declared_crop: What its data set declares, for runs whose metadata do not say what was kept.
        """
        return cls(size, info.resize, declared_crop if info.crop is None else info.crop)

    def instead(self, resize: str | None) -> Preprocess:
        """With another mode, which then keeps the whole image as far as it can; None, or the same: unchanged."""
        return self if resize in (None, self.resize) else Preprocess(self.size, resize or self.resize)

    def place(self, image: tuple[int, int]) -> Placement:
        """Where an image of (H, W) pixels lies in what the model sees."""
        return place(image, self.size, resize=self.resize, crop=self.crop)


def reduced(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture H x W x 3 at a smaller size (h, w), each pixel the mean of those that it covers."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))


def _centre_box(full: tuple[int, int], target: tuple[int, int], crop: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part to keep: the target's proportions, centred, ``crop`` of what fits."""
    fit = min(full[0] * target[1], full[1] * target[0])  # full height or full width, times the target's other side
    height, width = (max(1, int(crop * fit / side + 1e-6)) for side in (target[1], target[0]))
    left, top = (full[1] - width) // 2, (full[0] - height) // 2
    return left, top, left + width, top + height
