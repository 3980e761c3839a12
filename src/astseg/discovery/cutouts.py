"""What training pictures are made of: objects cut out of the pictures, and pictures to paste them onto.

First the regions that differ from the background are cut out, without their shadows; once the finder has learned from
them, what it finds: whole where colours are the background's, and apart where objects touch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from astseg.discovery.cast_shadows import ShadowPlace, shadow_place, shadow_ratio
from astseg.discovery.regions import Region, find_regions, region_map, strong_regions
from astseg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from astseg.discovery.scene_model import SceneModel

__all__ = ["FEWEST_CUTOUTS", "CutOut", "Frame", "Material", "finds_of", "first_regions"]

RIM = 2
"""Pixels within which the outline of a region may be too wide."""

FEWEST_CUTOUTS, MOST = 10, 2000
"""Cut-outs below which there is nothing to learn from, and how many are kept."""

SURE = 0.7
"""Score from which on a find is cut out."""

FEW, THICK = 20, 3.0
"""Objects that tell what is usual at their height, and by what factor thicker than they are wide what is none is."""

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
        light: Its light (:meth:`astseg.discovery.scene_background.SceneBackground.light_of`).
        taken: H x W, pixels that differ from the background by an object.
    """

    picture: NDArray[np.uint8]
    light: NDArray[np.float32]
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


@dataclass(frozen=True)
class _Candidate:
    """A region that may be an object."""

    region: Region
    cutout: CutOut
    shadow: NDArray[np.float32]
    inner: tuple[slice, slice]


def first_regions(scene: SceneModel, pictures: Sequence[NDArray[np.uint8]]) -> Material:
    """The material that background subtraction gives.

    Args:
        scene: Background, sizes and settings.
        pictures: N of h x w x 3, at the working scale.

    Raises:
        UserError: Too few objects stand out.
    """
    config, smallest = scene.config, scene.sizes.smallest
    candidates, lights, found = [], [], []
    for picture in pictures:
        light = scene.background.light_of(picture)
        background = scene.background.drawn(light, picture.shape[:2])
        regions = find_regions(picture, background, scene.background, config, smallest=0.5 * smallest)
        labels = region_map(regions, background.shape[:2])
        for name, region in enumerate(regions, start=1):
            if region.whole and region.area >= smallest and region.strength > config.strength:
                candidates.append(_candidate(picture, background, region, labels, name))
        lights.append(light)
        found.append(regions)
    sure = {id(one) for one in strong_regions([one.region for one in candidates], config)}
    candidates = [one for one in candidates if id(one.region) in sure]
    clutter = _clutter([one.region for one in candidates], [one for regions in found for one in regions])
    candidates = [one for one in candidates if id(one.region) not in clutter]
    if len(candidates) < FEWEST_CUTOUTS:
        raise UserError(
            f"{len(candidates)} objects stand out from the background in {len(pictures)} pictures, expected"
            f" {FEWEST_CUTOUTS} at least: give more pictures, or pictures with more objects"
        )
    place = shadow_place([one.region.mask for one in candidates], [one.shadow for one in candidates])
    frames = []
    for picture, light, regions in zip(pictures, lights, found, strict=True):
        objects = [region for region in regions if id(region) not in clutter]
        taken = region_map(objects, picture.shape[:2]) > 0
        frames.append(Frame(picture, light, ndimage.binary_dilation(taken, iterations=RIM)))
    return _material(frames, [_without_shadow(one, place) for one in candidates], len(candidates) / len(pictures))


def _candidate(
    picture: NDArray[np.uint8],
    background: NDArray[np.float32],
    region: Region,
    labels: NDArray[np.int32],
    name: int,
) -> _Candidate:
    """A region, cut out."""
    window = _grown(region.window, labels.shape)
    cutout = _cut_out(picture[window], background[window], labels[window], name, window)
    inner = tuple(
        slice(part.start - around.start, part.stop - around.start)
        for part, around in zip(region.window, window, strict=True)
    )
    colours = picture[region.window].astype(np.float32) / np.float32(255)
    return _Candidate(region, cutout, shadow_ratio(colours, background[region.window]), (inner[0], inner[1]))


def _without_shadow(one: _Candidate, place: ShadowPlace) -> CutOut:
    """The object of a candidate."""
    mask = np.zeros_like(one.cutout.mask)
    mask[one.inner] = place.without(one.region.mask, one.shadow)
    return replace(one.cutout, mask=_tight(mask, np.abs(one.cutout.off).max(axis=2)))


def _clutter(objects: Sequence[Region], regions: Sequence[Region]) -> set[int]:
    """Regions, by :func:`id`, that are much thicker than objects at their height: a person at a table of balls.

    A group of objects that touch is larger than one of them, but not much thicker.
    """
    if len(objects) < FEW:
        return set()
    rows = np.array([_middle(one) for one in objects])
    areas = np.array([one.area for one in objects])
    clutter = set()
    for region in regions:
        near = np.argsort(np.abs(rows - _middle(region)), kind="stable")[: max(FEW, len(rows) // 5)]
        usual = np.median(areas[near])
        if region.area > THICK**2 * usual and _thickness(region.mask) > THICK * usual**0.5:
            clutter.add(id(region))
    return clutter


def _middle(region: Region) -> float:
    rows = region.window[0]
    return float(rows.start + rows.stop) / 2


def _thickness(mask: NDArray[np.bool_]) -> float:
    """Diameter of the largest disc that a mask holds."""
    return 2 * float(np.max(ndimage.distance_transform_edt(np.pad(mask, 1))))


def finds_of(scene: SceneModel, frames: Sequence[Frame]) -> Material:
    """The material that a finder gives.

    Args:
        scene: With a finder that has learned.
        frames: The pictures of the material that it learned from.
    """
    kept, cutouts = [], []
    for frame in frames:
        size = frame.taken.shape
        background = scene.background.drawn(frame.light, size)
        found = scene.find(frame.picture, background)
        labels = found.labels
        for number, window in enumerate(ndimage.find_objects(labels), start=1):
            rows, columns = window
            whole = rows.start > 0 and columns.start > 0 and rows.stop < size[0] and columns.stop < size[1]
            if whole and found.scores[number - 1] > SURE:
                around = _grown(window, size)
                near = np.where(labels[around] > 0, labels[around], -frame.taken[around].astype(np.int32))
                cutout = _cut_out(frame.picture[around], background[around], near, number, around)
                cutouts.append(replace(cutout, mask=_tight(cutout.mask, np.abs(cutout.off).max(axis=2))))
        taken = frame.taken | ndimage.binary_dilation(labels > 0, iterations=RIM)
        kept.append(Frame(frame.picture, frame.light, taken))
    return _material(kept, cutouts, len(cutouts) / len(frames))


def _material(frames: list[Frame], cutouts: list[CutOut], crowd: float) -> Material:
    cutouts = cutouts[:: max(1, len(cutouts) // MOST)]
    areas = np.array([one.area for one in cutouts], np.float64)
    weights = _likely_single(areas, np.array([one.row for one in cutouts]), frames[0].taken.shape[0])
    return Material(tuple(frames), tuple(cutouts), weights, crowd)


def _cut_out(
    picture: NDArray[np.uint8],
    background: NDArray[np.float32],
    labels: NDArray[np.int32],
    number: int,
    window: tuple[slice, slice],
) -> CutOut:
    """Cut an object out, with what is around it and is no other object, such as its shadow.

    Args:
        picture: h x w x 3, a window.
        background: h x w x 3 in [0, 1], the same window.
        labels: h x w, the numbers of objects; 0 background, below 0 what is neither.
        number: Of the object.
        window: Where it is.
    """
    colours = picture.astype(np.float32) / np.float32(255)
    mine = (labels == number) | (labels < 0)
    middle = ((part.start + part.stop) / 2 for part in window)
    return CutOut(colours, (colours - background) * mine[..., None], labels == number, *middle)


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
