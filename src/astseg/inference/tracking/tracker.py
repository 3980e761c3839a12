"""Which object of a frame is which of the frames before: assignment by likelihoods.

A slot is no identity: which slot takes an object depends on where it lies. So the objects of a frame are assigned to
those of the frames before by the Hungarian method, each pair by the logarithm of how much more likely it is that the
two are one than that the one was missed and the other is new. What counts is where an object should be by now
(:mod:`~astseg.inference.tracking.motion`), its mean colour and size (:mod:`~astseg.inference.tracking.resemblance`),
and where new objects come from: mostly over the border of the picture. What goes over the border is gone; what
vanishes within the picture is hidden, and keeps its id for a while.

The mean colour of an object's pixels and their centre are used rather than the model's own numbers for both, which
change more when something comes in front. The constants here and in the two other files were chosen one after the
other on made-up sequences (``benchmarks/track_scenes.py``), for the fewest switches and superfluous ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from astseg.inference.tracking.motion import Motion
from astseg.inference.tracking.resemblance import Resemblance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction

__all__ = ["Tracker"]

SEEN_ODDS, HIDDEN_ODDS = 5.0, 1.0
"""Odds that an object is seen again: in the next frame, and in any later one."""

NEW_INSIDE, NEW_AT_BORDER = 0.001, 0.1
"""New objects a frame, within the picture and over its border."""

GONE_AFTER = 3
"""Frames after which an object that went to the border of the picture and is not seen any more has left it."""

COLOUR_WRONG, SIZE_WRONG = 1e-4, 0.05
"""Shares of sightings whose colour, or size, says nothing: in a flash of light, half hidden."""

MIXED = 0.2
"""Standard deviation of the colour of what has e times the usual size, or one e-th: it is partly hidden, or merged."""

WEIGHT = 0.2
"""Of the present frame in the running means of colour and size."""

ADAPT, LEAST, MOST = 0.02, 0.1, 3.0
"""How quickly the restlessness of objects follows the video, and its range; 1 before any is measured."""

SURE = 4
"""Sightings after which the velocity of an object is known."""

USUAL_SPEED, MEMORY = 0.5, 1000
"""Speed of objects in diameters a frame before any is measured, and sightings that later ones are averaged over."""


@dataclass(frozen=True)
class _Sightings:
    """The S objects of a frame."""

    positions: NDArray[np.float64]
    """S x 2, the centres of their pixels."""
    looks: NDArray[np.float64]
    """S x 3, mean colours in [0, 1]."""
    sizes: NDArray[np.float64]
    """S x 1, logarithms of the diameters, in pixels, of discs of their areas."""
    gaps: NDArray[np.float64]
    """S, pixels between their boxes and the border of the picture."""
    visibility: NDArray[np.float64]


@dataclass
class _Track:
    """An object as it was last seen."""

    id: int
    motion: Motion
    looks: NDArray[np.float64]
    size: NDArray[np.float64]
    at_border: bool
    seen: int = 1
    unseen: int = 0

    @property
    def diameter(self) -> float:
        """In pixels."""
        return float(np.exp(self.size[0]))


class Tracker:
    """The ids of the objects of one video; give it the frames in order."""

    def __init__(self, *, patience: int = 30) -> None:
        """Begin a video.

        Args:
            patience: Frames after which an object that is not seen any more is forgotten.
        """
        self._patience = patience
        self._tracks: list[_Track] = []
        self._next = 1
        self._colours = Resemblance(within=np.full(3, 0.02), between=np.full(3, 0.15), wrong=COLOUR_WRONG)
        self._sizes = Resemblance(within=np.full(1, 0.1), between=np.full(1, 0.3), wrong=SIZE_WRONG)
        self._restlessness = 1.0
        self._speed, self._steps = USUAL_SPEED**2, 10.0

    def step(
        self, image: NDArray[np.uint8], labels: NDArray[np.int32], objects: Sequence[ObjectPrediction]
    ) -> list[int]:
        """The ids of the objects of the next frame.

        Args:
            image: H x W x 3.
            labels: H x W label map.
            objects: The objects of the frame.

        Returns:
            Their ids, in their order: from 1 on, each new one the next.
        """
        size = labels.shape[0], labels.shape[1]
        for track in self._tracks:
            within = size if track.unseen > GONE_AFTER else None
            track.motion.predict(track.diameter, within, self._restlessness)
        seen = _sightings(image, labels, objects)
        ids = [0] * len(objects)
        for track, index in self._pairs(seen, size):
            self._follow(track, seen, index)
            ids[index] = track.id
        followed = set(ids)
        for track in self._tracks:
            track.unseen = 0 if track.id in followed else track.unseen + 1
        self._tracks = [track for track in self._tracks if not self._is_gone(track, size)]
        for index in range(len(objects)):
            if not ids[index]:
                ids[index] = self._begin(seen, index)
        return ids

    def _pairs(self, seen: _Sightings, size: tuple[int, int]) -> list[tuple[_Track, int]]:
        """Tracks and the sightings that are theirs."""
        if not self._tracks or not len(seen.positions):
            return []
        new = self._log_new(seen, size)
        gains = np.stack([self._log_seen(track, seen) - new for track in self._tracks])
        rows, columns = linear_sum_assignment(np.maximum(gains, 0), maximize=True)
        return [
            (self._tracks[row], int(column))
            for row, column in zip(rows, columns, strict=True)
            if gains[row, column] > 0
        ]

    def _log_seen(self, track: _Track, seen: _Sightings) -> NDArray[np.float64]:
        """For each sighting, how likely it is this object, against that the object is not seen and it is any other."""
        odds = SEEN_ODDS if not track.unseen else HIDDEN_ODDS
        partial = (seen.gaps <= 0) | track.at_border
        unsure = np.where(partial[:, None], 1.0, 0.0)  # what lies at the border is larger than what is seen of it
        mixed = np.broadcast_to(MIXED * np.abs(seen.sizes - track.size), seen.looks.shape)
        density: NDArray[np.float64] = (
            np.log(odds)
            + track.motion.log_density(
                seen.positions, _shift(track, seen), diameter=track.diameter, unseen=track.unseen
            )
            + self._colours.log_ratio(track.looks, seen.looks, mixed)
            + self._sizes.log_ratio(track.size, seen.sizes, unsure)
        )
        return density

    def _log_new(self, seen: _Sightings, size: tuple[int, int]) -> NDArray[np.float64]:
        """How likely a new object is to be seen where each sighting is: the logarithm of a density over pixels."""
        height, width = size
        step = 1 + np.sqrt(self._speed) * np.exp(seen.sizes[:, 0])
        strip = 2 * (height + width) * step
        at_border = NEW_AT_BORDER / strip * np.exp(-np.maximum(seen.gaps, 0) / step)
        density: NDArray[np.float64] = np.log(NEW_INSIDE / (height * width) + at_border)
        return density

    def _follow(self, track: _Track, seen: _Sightings, index: int) -> None:
        """Update a track with its sighting; the less of an object is visible, the less its looks count."""
        before = track.motion.position - track.motion.velocity
        noise = float(_shift(track, seen)[index])
        if not track.unseen:
            way = float(((seen.positions[index] - before) ** 2).sum()) / track.diameter**2
            self._steps = min(self._steps + 1, MEMORY)
            self._speed += (min(way, 9.0) - self._speed) / self._steps
        surprise = track.motion.update(seen.positions[index], noise, track.diameter)
        if not track.unseen and track.seen > SURE:
            self._restlessness *= float(np.exp(ADAPT * (min(surprise, 4.0) - 1)))
            self._restlessness = min(max(self._restlessness, LEAST), MOST)
        at_border = bool(seen.gaps[index] <= 0)
        looks, size = seen.looks[index] - track.looks, seen.sizes[index] - track.size
        if not (at_border or track.at_border):
            self._colours.learn_sighting(looks)
            self._sizes.learn_sighting(size)
        weight = max(WEIGHT, 1 / (track.seen + 1)) * float(seen.visibility[index])
        track.looks = track.looks + weight * looks
        track.size = track.size + (np.maximum(size, 0) if at_border or track.at_border else weight * size)
        track.at_border = at_border
        track.seen += 1

    def _begin(self, seen: _Sightings, index: int) -> int:
        """A new track; its id."""
        size = seen.sizes[index]
        diameter = float(np.exp(size[0]))
        motion = Motion(seen.positions[index], diameter=diameter, speed=float(np.sqrt(self._speed)) * diameter)
        self._tracks.append(_Track(self._next, motion, seen.looks[index], size, bool(seen.gaps[index] <= 0)))
        self._colours.learn_object(seen.looks[index])
        self._sizes.learn_object(size)
        self._next += 1
        return self._next - 1

    def _is_gone(self, track: _Track, size: tuple[int, int]) -> bool:
        """Whether a track is not followed any longer: it has left the picture, or was not seen for too long."""
        if 0 < track.unseen <= GONE_AFTER:
            position, velocity = track.motion.position, track.motion.velocity
            outside = np.where(velocity > 0, position - np.array(size[::-1]) + 1, -position)
            # Its own half, and less for what was cut off by the border already.
            margin = track.diameter / 2 * ((track.unseen < GONE_AFTER) - track.at_border)
            if ((outside > margin) & (velocity != 0)).any():
                return True
        return track.unseen > min(self._patience, GONE_AFTER * track.seen)


def _shift(track: _Track, seen: _Sightings) -> NDArray[np.float64]:
    """By how many pixels centres may be off as less of the object is seen than before, or other things with it."""
    return np.abs(np.exp(seen.sizes[:, 0]) - track.diameter) / 2


def _sightings(image: NDArray[np.uint8], labels: NDArray[np.int32], objects: Sequence[ObjectPrediction]) -> _Sightings:
    height, width = labels.shape
    positions, looks, gaps = np.zeros((len(objects), 2)), np.zeros((len(objects), 3)), np.zeros(len(objects))
    for index, found in enumerate(objects):
        x, y, across, down = found.box
        mine = labels[y : y + down, x : x + across] == found.id
        rows, columns = np.nonzero(mine)
        positions[index] = x + columns.mean(), y + rows.mean()
        looks[index] = image[y : y + down, x : x + across][mine].mean(axis=0) / 255
        gaps[index] = min(x, y, width - x - across, height - y - down)
    visibility = np.array([found.visibility for found in objects])
    areas = np.array([found.area for found in objects]) / visibility
    return _Sightings(positions, looks, np.log(2 * np.sqrt(areas / np.pi))[:, None], gaps, visibility)
