"""What training pictures are made of: objects cut out of the pictures, and pictures to paste them onto.

First the regions that differ from the background are cut out, without their shadows; once the finder has learned from
them, what it finds: whole where colours are the background's, and apart where objects touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from astseg.discovery.cast_shadows import shadow_like, shadow_place
from astseg.discovery.regions import find_regions, region_map, strong_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from astseg.discovery.scene_model import SceneModel

__all__ = ["CutOut", "Frame", "Material", "finds_of", "first_regions"]

RIM = 2
"""Pixels within which the outline of a region may be too wide."""

MOST = 2000
"""Cut-outs that are kept."""

SURE = 0.7
"""Score from which on a find is cut out."""

HALF = 0.45
"""A pixel of the rim is the object's where it differs by this fraction of what differs most around it."""


@dataclass(frozen=True)
class CutOut:
    """An object, as it was seen.

    Attributes:
        colours: h x w x 3, in [0, 1].
        off: h x w x 3, how they differ from the background there.
        mask: h x w, the object's pixels.
        row: Where the middle of it was, in pixels from the top.
        column: And from the left.
    """

    colours: NDArray[np.float32]
    off: NDArray[np.float32]
    mask: NDArray[np.bool_]
    row: float
    column: float

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class Frame:
    """A picture to build on.

    Attributes:
        picture: H x W x 3.
        background: H x W x 3, float16, in [0, 1].
        taken: H x W, pixels that differ from the background by an object.
    """

    picture: NDArray[np.uint8]
    background: NDArray[np.float16]
    taken: NDArray[np.bool_]


@dataclass(frozen=True)
class Material:
    """What training pictures are made of.

    Attributes:
        frames: Pictures to build on.
        cutouts: Objects.
        weights: How often each is pasted, one for each cut-out, in (0, 1].
        crowd: Mean number of objects in a picture.
    """

    frames: tuple[Frame, ...]
    cutouts: tuple[CutOut, ...]
    weights: NDArray[np.float64]
    crowd: float


def first_regions(scene: SceneModel, pictures: Sequence[NDArray[np.uint8]]) -> Material:
    """The material that background subtraction gives.

    Args:
        scene: Background, sizes and settings.
        pictures: N of h x w x 3, at the working scale.
    """
    config, smallest = scene.config, scene.sizes.smallest
    backgrounds: list[NDArray[np.float16]] = []
    found = []
    for picture in pictures:
        own = scene.background.of(picture)
        backgrounds.append(own.astype(np.float16))
        found.append(find_regions(picture, own, scene.background, config, smallest=0.5 * smallest))
    sure = {id(region) for region in strong_regions([one for regions in found for one in regions], config)}
    chosen, shadows = [], []
    for picture, background, regions in zip(pictures, backgrounds, found, strict=True):
        for region in regions:
            if id(region) in sure and region.whole and region.area >= smallest:
                colours = picture[region.window].astype(np.float32) / np.float32(255)
                chosen.append(region)
                shadows.append(shadow_like(colours, background[region.window].astype(np.float32)))
    place = shadow_place([region.mask for region in chosen], shadows)
    masks = {id(region): place.without(region.mask, shadow) for region, shadow in zip(chosen, shadows, strict=True)}
    frames, cutouts = [], []
    for picture, background, regions in zip(pictures, backgrounds, found, strict=True):
        labels = region_map(regions, background.shape[:2])
        for number, region in enumerate(regions, start=1):
            if id(region) in masks:
                mask = np.zeros(labels.shape, np.bool_)
                mask[region.window] = masks[id(region)]
                cutouts.append(_cut_out(picture, background, mask, labels == number, region.window))
        frames.append(Frame(picture, background, ndimage.binary_dilation(labels > 0, iterations=RIM)))
    return _material(frames, cutouts, sum(map(len, found)) / len(pictures))


def finds_of(scene: SceneModel, frames: Sequence[Frame]) -> Material:
    """The material that a finder gives.

    Args:
        scene: With a finder that has learned.
        frames: The pictures of the material that it learned from.
    """
    kept, cutouts, count = [], [], 0
    for frame in frames:
        found = scene.find(frame.picture, frame.background.astype(np.float32))
        labels = found.labels
        height, width = labels.shape
        rest = frame.taken & (labels == 0)
        for number, window in enumerate(ndimage.find_objects(labels), start=1):
            rows, columns = window
            whole = rows.start > 0 and columns.start > 0 and rows.stop < height and columns.stop < width
            if whole and found.scores[number - 1] > SURE:
                cutouts.append(_cut_out(frame.picture, frame.background, labels == number, rest, window))
        count += len(found.scores)
        taken = frame.taken | ndimage.binary_dilation(labels > 0, iterations=RIM)
        kept.append(Frame(frame.picture, frame.background, taken))
    return _material(kept, cutouts, count / len(frames))


def _material(frames: list[Frame], cutouts: list[CutOut], crowd: float) -> Material:
    step = max(1, len(cutouts) // MOST)
    cutouts = cutouts[::step]
    areas = np.array([one.area for one in cutouts], np.float64)
    weights = _likely_single(areas, np.array([one.row for one in cutouts]), frames[0].taken.shape[0])
    return Material(tuple(frames), tuple(cutouts), weights, crowd)


def _cut_out(
    picture: NDArray[np.uint8],
    background: NDArray[np.float16],
    mask: NDArray[np.bool_],
    differing: NDArray[np.bool_],
    window: tuple[slice, slice],
) -> CutOut:
    """Cut an object out.

    Args:
        picture: H x W x 3.
        background: H x W x 3, in [0, 1].
        mask: H x W, the object's pixels.
        differing: H x W, what else around it is no background and no other object, such as its shadow.
        window: The object's box.
    """
    window = _grown(window, mask.shape)
    colours = picture[window].astype(np.float32) / np.float32(255)
    off = colours - background[window]
    inside = mask[window]
    rows, columns = window
    middle = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
    outline = _tight(inside, np.abs(off).max(axis=2))
    return CutOut(colours, off * (inside | differing[window])[..., None], outline, *middle)


def _grown(window: tuple[slice, slice], size: tuple[int, ...]) -> tuple[slice, slice]:
    """A box with what lies close around it."""
    grown = []
    for part, length in zip(window, size, strict=True):
        margin = RIM + (part.stop - part.start) // 4
        grown.append(slice(max(0, part.start - margin), min(length, part.stop + margin)))
    return grown[0], grown[1]


def _tight(mask: NDArray[np.bool_], difference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A mask whose rim ends where half of the difference is reached; h x w both. The whole, if little were left."""
    padded, off = np.pad(mask, RIM), np.pad(difference, RIM)
    inner = ndimage.binary_erosion(padded, iterations=RIM)
    near = ndimage.maximum_filter(np.where(padded, off, 0), size=2 * RIM + 1)
    kept = ndimage.binary_fill_holes(padded & (inner | (off > HALF * near)))
    kept = ndimage.binary_opening(kept, np.ones((2, 2), np.bool_))[RIM:-RIM, RIM:-RIM]
    return kept if np.count_nonzero(kept) > 0.4 * np.count_nonzero(mask) else mask


def _likely_single(areas: NDArray[np.float64], rows: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    """How often each cut-out is used, in (0, 1]: those of about the usual size at their height often, others seldom.

    What is much larger than usual may be several objects, what is much smaller a part of one.

    Args:
        areas: N, in pixels.
        rows: N, where they were seen.
        height: Of the pictures.
    """
    weights = np.ones(len(areas))
    for number, (area, row) in enumerate(zip(areas, rows, strict=True)):
        order = np.argsort(np.abs(rows - row), kind="stable")
        near = order[: max(8, np.count_nonzero(np.abs(rows - row) < 0.08 * height))]
        usual = np.median(areas[near])
        weights[number] = 1.0 if 0.4 * usual <= area <= 1.8 * usual else 0.1
    return weights
