"""Pictures that a finder can learn from: cut-outs of what differs from the background, pasted where nothing does.

The base of a training picture is a real one, in which whatever differs from the background is replaced by the
background with the noise of another picture, so that leaves, reflections and grain stay as they are. Onto it go cut-
outs near the height at which they were seen, often touching or covering one another, mirrored, lighter or darker,
larger or smaller: so the finder sees what hides what, and it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from astseg.discovery.finder import STRIDE, finder_input
from astseg.discovery.scene_background import resized

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.discovery.cutouts import CutOut, Material
    from astseg.discovery.scene_background import SceneBackground

__all__ = ["Collage"]

ZOOM = 0.2
"""Logarithm of the factor by which cut-outs are enlarged or reduced, at most."""

IGNORED = 3
"""Pixels around what was replaced in a base that do not count: something of the object may be left."""

CROWD = 2.0, 8.0
"""Fewest and most objects in the mean training picture; twice as many as there are in pictures."""

SEEN = 0.85
"""Fraction of the training pictures that show a place where objects are seen."""

TOUCHING = 0.4
"""Fraction of the objects that are pasted beside or over the one before."""

FAINT = 0.3
"""Fraction of them whose contrast is reduced, by half at most."""

ANYWHERE = 0.15
"""Fraction of them that are pasted at another height, also across the border."""


class _Pasted(NamedTuple):
    """The middle of a cut-out in the window, and the square root of its box's area."""

    row: float
    column: float
    side: float


class Collage:
    """Training pictures, as many as are asked for."""

    def __init__(
        self,
        scene: SceneBackground,
        material: Material,
        *,
        side: int,
        reach: float,
        rng: np.random.Generator,
    ) -> None:
        """Take the parts.

        Args:
            scene: The background.
            material: Pictures and at least one cut-out.
            side: Side of the training pictures, a multiple of 16; smaller where the pictures are.
            reach: Unit of the way to the centre, in pixels.
            rng: Chance.
        """
        self.scene, self.frames, self.cutouts = scene, material.frames, material.cutouts
        self.weights = material.weights / material.weights.sum()
        self.rows = np.array([one.row for one in self.cutouts])
        self.full = self.frames[0].taken.shape
        self.size = (min(side, self.full[0] // STRIDE * STRIDE), min(side, self.full[1] // STRIDE * STRIDE))
        share = self.size[0] * self.size[1] / (self.full[0] * self.full[1])
        self.crowd = float(np.clip(2 * material.crowd * share, *CROWD))
        self.reach, self.rng = reach, rng

    def sample(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """A training picture: input h x w x 9, targets h x w x 4 as the finder gives them, weights h x w in {0, 1}."""
        window = self._window()
        colours, background, counts = self._base(window)
        labels = np.zeros(self.size, np.int32)
        last: _Pasted | None = None
        for number in range(1, 1 + int(self.rng.poisson(self.crowd))):
            cutout = self._drawn(window[0].start + self.size[0] / 2, self.size[0])
            last = self._place(cutout, window[0].start, last)
            _paste(cutout, colours, labels, number, last, self.rng)
        light = self.rng.uniform(0.9, 1.1)
        picture = np.round(np.clip(colours * light, 0, 1) * 255).astype(np.uint8)
        inputs = finder_input(picture, (background * light).astype(np.float32), self.scene, window)
        return inputs, _targets(labels, self.reach), (counts | (labels > 0)).astype(np.float32)

    def _window(self) -> tuple[slice, slice]:
        """Which part of the pictures is shown, mostly one where objects are seen."""
        rng, (height, width), (tall, wide) = self.rng, self.full, self.size
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        if rng.random() < SEEN:
            seen = self.cutouts[rng.choice(len(self.cutouts), p=self.weights)]
            top = int(np.clip(seen.row - rng.uniform(0.1, 0.9) * tall, 0, height - tall))
            left = int(np.clip(seen.column - rng.uniform(0.1, 0.9) * wide, 0, width - wide))
        return slice(top, top + tall), slice(left, left + wide)

    def _place(self, cutout: CutOut, top: int, last: _Pasted | None) -> _Pasted:
        """Where a cut-out is pasted in a window that begins at row ``top``."""
        rng, (tall, wide) = self.rng, self.size
        height, width = cutout.mask.shape
        side = (height * width) ** 0.5
        if last is not None and rng.random() < TOUCHING:
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.55) * (last.side + side)
            return _Pasted(last.row + distance * np.sin(angle), last.column + distance * np.cos(angle), side)
        row = cutout.row - top + rng.normal(0, 0.05 * self.full[0])
        if rng.random() < ANYWHERE or not -height / 2 < row < tall + height / 2:
            row = rng.uniform(-0.3 * height, tall + 0.3 * height)
        return _Pasted(row, rng.uniform(-0.3 * width, wide + 0.3 * width), side)

    def _base(self, window: tuple[slice, slice]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Colours and background of an empty scene, and the pixels that count."""
        frame, other = (self.frames[int(self.rng.integers(len(self.frames)))] for _ in range(2))
        background = self.scene.drawn(frame.light, self.full, window)
        colours = frame.picture[window].astype(np.float32) / np.float32(255)
        taken = frame.taken[window]
        if taken.any():
            grain = other.picture[window].astype(np.float32) / np.float32(255)
            grain -= self.scene.drawn(other.light, self.full, window)
            hidden = other.taken[window]
            if hidden.any():
                noise = self.scene.noise_in(window)
                grain[hidden] = (self.rng.standard_normal(grain.shape, np.float32) * noise)[hidden]
            colours[taken] = (background + grain)[taken]
            rim = ndimage.binary_dilation(taken, iterations=IGNORED) & ~taken
            return colours, background, ~rim
        return colours, background, np.ones(taken.shape, np.bool_)

    def _drawn(self, row: float, around: float) -> CutOut:
        """A cut-out that was seen near a height."""
        near = self.weights * np.exp(-0.5 * ((self.rows - row) / (0.6 * around)) ** 2) + 1e-6 * self.weights
        return self.cutouts[self.rng.choice(len(self.cutouts), p=near / near.sum())]


def _paste(
    cutout: CutOut,
    colours: NDArray[np.float32],
    labels: NDArray[np.int32],
    number: int,
    where: _Pasted,
    rng: np.random.Generator,
) -> None:
    """Draw a cut-out with its middle at a place, lighter or darker, mirrored or not."""
    source, off, mask = _zoomed(cutout, float(np.exp(rng.uniform(-ZOOM, ZOOM))))
    if rng.random() < 0.5:
        source, off, mask = source[:, ::-1], off[:, ::-1], mask[:, ::-1]
    tall, wide = mask.shape
    top, left = round(where.row - tall / 2), round(where.column - wide / 2)
    rows = slice(max(0, top), min(labels.shape[0], top + tall))
    columns = slice(max(0, left), min(labels.shape[1], left + wide))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    inside = mask[inner]
    look = source[inner] * rng.uniform(0.85, 1.15)
    if rng.random() < FAINT:  # nearer to the ground that it was seen on
        look = look - rng.uniform(0, 0.5) * off[inner]
    colours[rows, columns][inside] = look[inside]
    around = ~inside & (labels[rows, columns] == 0)
    colours[rows, columns][around] += off[inner][around]  # the soft edge, on the ground that is there now
    labels[rows, columns][inside] = number


def _zoomed(cutout: CutOut, factor: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Colours, difference and mask, larger or smaller."""
    size = max(3, round(cutout.mask.shape[0] * factor)), max(3, round(cutout.mask.shape[1] * factor))
    planes = np.concatenate([cutout.colours, cutout.off, cutout.mask[..., None]], axis=2, dtype=np.float32)
    zoomed = resized(planes, size)
    return zoomed[..., :3], zoomed[..., 3:6], zoomed[..., 6] > 0.5


def _targets(labels: NDArray[np.int32], reach: float) -> NDArray[np.float32]:
    """Object or not, way to the centre, log size; h x w x 4."""
    targets = np.zeros((*labels.shape, 4), np.float32)
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        mine = labels[window] == number
        rows, columns = np.nonzero(mine)
        part = targets[window]
        part[rows, columns, 0] = 1
        part[rows, columns, 1] = (columns.mean() - columns) / reach
        part[rows, columns, 2] = (rows.mean() - rows) / reach
        part[rows, columns, 3] = np.log(len(rows) ** 0.5 / reach)
    return targets
