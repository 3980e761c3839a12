"""What some of the pictures of a source look like: sizes, levels, whether they share one background.

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

from astseg.data.open import evenly_spaced
from astseg.data.resize import place
from astseg.discovery.median_background import MedianBackground, median_background
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.data import SceneSource
    from astseg.data.benchmark import Benchmark

__all__ = ["SIDE", "Frame", "Survey", "frame_for", "survey"]

SAMPLED = 400
"""Pictures that are looked at, evenly spaced."""

SIDE = 64
"""Short side, in pixels, at which they are looked at."""

REDUCED = 4 * SIDE
"""Short side of those that are kept in memory while they are read."""

PROPORTION_STEP = 8
"""The long side is a multiple of this, so that pictures of nearly the same proportions come to one size."""

LARGEST_CUT = 0.1
"""Pictures of several proportions are cropped while at most this fraction of them is lost; else bars are added."""


@dataclass(frozen=True)
class Frame:
    """How pictures come to the size of the model.

    Attributes:
        size: (H, W) in pixels.
        resize: ``crop`` or ``letterbox``.
        crop: Fraction that is kept, as :func:`astseg.data.load_scenes` takes it; None: what the source declares.
        cut: Fraction of the pictures that is cut off, on average.
    """

    size: tuple[int, int]
    resize: str
    crop: float | None
    cut: float


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
        background: What they have in common.
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
    background: MedianBackground
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
    """Look at some scenes of a source, evenly spaced.

    Args:
        source: The data set.
        indices: The scenes to learn from.
        resize: How pictures of other proportions fit in; None: what loses least.
        crop: Fraction to keep; None: what the source declares.
        size: (H, W) of the model, for its proportions; None: their own.
        progress: Called with the number of scenes read and their total.

    Raises:
        UserError: Not one scene can be read, or they are smaller than the model can take.
    """
    count = min(SAMPLED, len(indices))
    chosen = [indices[number] for number in evenly_spaced(count, len(indices))]
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
        background=median_background(images),
        benchmark=source.benchmark,
    )


def _read(
    source: SceneSource, chosen: Sequence[int], progress: Callable[[int, int], None] | None
) -> tuple[list[NDArray[np.uint8]], Counter[tuple[int, int]], list[str]]:
    """The pictures that can be read, reduced where they are large, their sizes, and what is wrong with the others."""

    def read(index: int) -> tuple[NDArray[np.uint8], tuple[int, int]] | str:
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
        for done, seen in enumerate(pool.map(read, chosen), start=1):
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
