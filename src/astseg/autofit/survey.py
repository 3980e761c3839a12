"""What some of the pictures of a source look like: sizes, light, how far they share one background.

Nothing here is learnt and no label is looked at. Not in the paper, whose settings are given for each data set.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.resize import place
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.data import SceneSource
    from astseg.data.benchmark import Benchmark

__all__ = ["SIDE", "Frame", "Scenery", "Survey", "frame_for", "scenery", "survey"]

SAMPLED = 400
"""Pictures that are looked at, evenly spread."""

SIDE = 64
"""Short side, in pixels, at which they are looked at."""

REDUCED = 4 * SIDE
"""Short side of those that are kept in memory while they are read."""

PROPORTION_STEP = 8
"""The long side is a multiple of this, so that pictures of nearly the same proportions come to one size."""

LARGEST_CUT = 0.1
"""Pictures of several proportions are cropped while this part of them is lost at most; else bars are added."""

STEADY = 0.03
"""A pixel is steady if, in the typical picture, it is off by less than this (of 1, mean over RGB)."""

LIT_STEADY = 0.04
"""The same, once a gain of each colour channel is taken out."""


@dataclass(frozen=True)
class Frame:
    """How pictures come to the size of the model.

    Attributes:
        size: (H, W) in pixels.
        resize: ``crop`` or ``letterbox``.
        crop: Part that is kept, as :func:`astseg.data.load_scenes` takes it; None: what the source declares.
        cut: Part of the pictures that is cut off, on the mean.
    """

    size: tuple[int, int]
    resize: str
    crop: float | None
    cut: float


@dataclass(frozen=True)
class Scenery:
    """What the pictures have in common.

    Attributes:
        kind: ``fixed``: one background in one light; ``lit``: one background in changing light; ``varied``: neither.
        steady: Share of the pixels that hardly differ from the median picture, in [0, 1].
        unrest: How far the typical pixel of the typical picture is off the median picture, of 1.
        light: Deviation of the brightness from picture to picture, as a part of it.
        symmetry: How far the median picture is off its mirror image, of 1.
        median: H x W x 3, float in [0, 1].
    """

    kind: str
    steady: float
    unrest: float
    light: float
    symmetry: float
    median: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Survey:
    """What was seen.

    Attributes:
        name: Format of the source, in words.
        count: Scenes there are to learn from.
        images: N x H x W x 3, uint8, those looked at.
        broken: For each that could not be read, what is wrong with it.
        sizes: How many of the others have which (height, width).
        frame: How they came to one size.
        distinct: How many of them differ from all others.
        grey: Whether they have no colours.
        levels: The levels, of 255, between which all but 2 % of the pixels lie.
        scenery: What they have in common.
        benchmark: What the paper does with this data set, if it is one of its.
    """

    name: str
    count: int
    images: NDArray[np.uint8] = field(repr=False)
    broken: tuple[str, ...]
    sizes: Counter[tuple[int, int]]
    frame: Frame
    distinct: int
    grey: bool
    levels: tuple[int, int]
    scenery: Scenery
    benchmark: Benchmark | None = None

    @property
    def sampled(self) -> int:
        """Scenes looked at, broken ones included."""
        return len(self.images) + len(self.broken)


def survey(
    source: SceneSource,
    indices: Sequence[int],
    *,
    resize: str | None = None,
    crop: float | None = None,
    size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at some scenes of a source, evenly spread.

    Args:
        source: The data set.
        indices: The scenes to learn from.
        resize: How pictures of other proportions fit in; None: what loses least.
        crop: Part to keep; None: what the source declares.
        size: (H, W) of the model, for its proportions; None: their own.
        progress: Called with the number of scenes read and their total.

    Raises:
        UserError: Not one scene can be read, or they are smaller than the model can take.
    """
    chosen = [
        indices[number * len(indices) // min(SAMPLED, len(indices))] for number in range(min(SAMPLED, len(indices)))
    ]
    pictures, sizes, broken = _read(source, chosen, progress)
    if not pictures:
        raise UserError(f"none of the {len(chosen)} pictures looked at can be read; the first: {broken[0]}")
    frame = frame_for(source, sizes, side=SIDE, resize=resize, crop=crop, size=size)
    kept = source.crop if frame.crop is None else frame.crop
    images = np.stack(
        [place((one.shape[0], one.shape[1]), frame.size, resize=frame.resize, crop=kept).image(one) for one in pictures]
    )
    digests = {hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=12).digest() for image in images}
    low, high = np.percentile(images, (1, 99))
    return Survey(
        name=source.name,
        count=len(indices),
        images=images,
        broken=tuple(broken),
        sizes=sizes,
        frame=frame,
        distinct=len(digests),
        grey=bool(int(np.ptp(images, axis=3).max()) <= 2),
        levels=(round(float(low)), round(float(high))),
        scenery=scenery(images),
        benchmark=source.benchmark,
    )


def _read(
    source: SceneSource, chosen: Sequence[int], progress: Callable[[int, int], None] | None
) -> tuple[list[NDArray[np.uint8]], Counter[tuple[int, int]], list[str]]:
    """The pictures that can be read, reduced where they are large, their sizes, and what is wrong with the others."""

    def look(index: int) -> tuple[NDArray[np.uint8], tuple[int, int]] | str:
        try:
            picture = source.read(index)[0]
        except UserError as error:
            return str(error)
        height, width = picture.shape[:2]
        factor = REDUCED / min(height, width)
        if factor < 1:  # photographs are large, and there are hundreds
            small = place((height, width), (round(height * factor), round(width * factor)), resize="squeeze")
            picture = small.image(picture)
        return picture, (height, width)

    pictures: list[NDArray[np.uint8]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    broken: list[str] = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done, seen in enumerate(pool.map(look, chosen), start=1):
            if progress is not None:
                progress(done, len(chosen))
            if isinstance(seen, str):
                broken.append(seen)
            else:
                pictures.append(seen[0])
                sizes[seen[1]] += 1
    return pictures, sizes, broken


def frame_for(
    source: SceneSource,
    sizes: Counter[tuple[int, int]],
    *,
    side: int,
    resize: str | None = None,
    crop: float | None = None,
    size: tuple[int, int] | None = None,
) -> Frame:
    """How pictures come to one size: their own proportions, the short side given; never enlarged.

    The paper's data sets keep the square that their protocol cuts out.

    Args:
        source: The data set.
        sizes: How many pictures have which (height, width).
        side: Short side in pixels.
        resize: As the user wants it, or None.
        crop: The same.
        size: (H, W) as the user wants it: its proportions are taken.

    Raises:
        UserError: Pictures smaller than the model can take.
    """
    total = sizes.total()
    shortest = int(np.median([min(one) for one in sizes.elements()]))
    if shortest < 16:
        raise UserError(f"the pictures are {shortest} pixels on the short side, expected at least 16: find larger ones")
    side = min(side, shortest)
    if size is not None:
        factor = min(1.0, side / min(size))
        size = (max(16, round(size[0] * factor)), max(16, round(size[1] * factor)))
    if size is None and source.benchmark is not None:
        size = (side, side)
    elif size is None:
        proportion = float(np.median([width / height for height, width in sizes.elements()]))
        long = max(side, PROPORTION_STEP * round(side * max(proportion, 1 / proportion) / PROPORTION_STEP))
        size = (side, long) if proportion >= 1 else (long, side)
        if len(sizes) == 1 and min(sizes)[0] == min(sizes)[1] == side:
            size = min(sizes)
    cut = 0.0
    for (height, width), number in sizes.items():
        left, top, right, bottom = place((height, width), size, crop=source.crop if crop is None else crop).box
        cut += number / total * (1 - (right - left) * (bottom - top) / (height * width))
    if resize is None:
        fit = "crop" if source.benchmark is not None or crop is not None or cut <= LARGEST_CUT else "letterbox"
    return Frame(size, fit, crop, cut if fit == "crop" else 0.0)


def scenery(images: NDArray[np.uint8]) -> Scenery:
    """What N images of one size, N x H x W x 3 uint8, have in common, by their distance from the median picture."""
    values: NDArray[np.float32] = images.astype(np.float32) / np.float32(255)
    median = np.median(values, axis=0).astype(np.float32)
    off = np.median(np.abs(values - median).mean(axis=3), axis=0)  # H x W
    gains = image_gains(values, median)
    lit = np.median(np.abs(values / gains[:, None, None] - median).mean(axis=3), axis=0)
    unrest, lit_unrest = float(np.median(off)), float(np.median(lit))
    kind = "fixed" if unrest < STEADY else "lit" if lit_unrest < LIT_STEADY else "varied"
    return Scenery(
        kind=kind,
        steady=float(((off if kind != "lit" else lit) < STEADY).mean()),
        unrest=unrest if kind != "lit" else lit_unrest,
        light=float(np.log(gains.mean(axis=1)).std()),
        symmetry=float(np.abs(median - median[:, ::-1]).mean()),
        median=median,
    )


def image_gains(values: NDArray[np.float32], median: NDArray[np.float32]) -> NDArray[np.float32]:
    """N x 3: how much brighter than the median picture each image is in each channel, by its typical pixel."""
    gains: NDArray[np.float32] = np.median((values + 0.05) / (median + 0.05), axis=(1, 2))
    return np.maximum(gains, 0.05)
