"""Ids that stay with objects from frame to frame: assignment on position and appearance; ours, not in the paper.

A slot is no identity: which slot takes an object depends on where it lies. So the objects of a frame are assigned to
those of the frames before by the Hungarian method. An object that is hidden for a while keeps its id.

Appearance is the mean colour of an object's pixels, and its position their centre. The model's own numbers for both
change more when something comes in front: on videos where objects cross they gave three times as many switches of ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction

__all__ = ["Tracker"]

_COLOUR_WEIGHT = 3.0
_COST_LIMIT = 3.5
"""The largest cost of matching a sighting with a track."""

_FURTHEST = 2.0
"""Diameters; whatever is further away is equally far: an object that comes out from behind another is anywhere near."""

_SPEED_WEIGHT, _LOOKS_WEIGHT = 0.3, 0.2
"""Weights of the present frame in the running means."""

_LONGEST_EXTRAPOLATION = 5
"""Frames for which an object that is not seen goes on at its speed."""


@dataclass(frozen=True)
class _Sighting:
    """An object of a frame: centre of its pixels (x, y), mean colour in [0, 1], diameter of a disc of its size."""

    position: NDArray[np.float64]
    colour: NDArray[np.float64]
    diameter: float
    visibility: float


@dataclass
class _Track:
    """An object as it was last seen."""

    id: int
    position: NDArray[np.float64]
    colour: NDArray[np.float64]
    diameter: float
    velocity: NDArray[np.float64]
    age: int = 0

    def follow(self, seen: _Sighting) -> None:
        """Update with the present frame; the less of an object is visible, the less its looks count."""
        self.velocity += _SPEED_WEIGHT * ((seen.position - self.position) / (self.age + 1) - self.velocity)
        self.position = seen.position
        weight = _LOOKS_WEIGHT * seen.visibility
        self.colour = self.colour + weight * (seen.colour - self.colour)
        self.diameter += weight * (seen.diameter - self.diameter)
        self.age = 0


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
        self._differences, self._pairs = 0.0, 0

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
        sightings = [_sighting(image, labels, found) for found in objects]
        for one, other in combinations(sightings, 2):
            self._differences += float(np.linalg.norm(one.colour - other.colour))
            self._pairs += 1
        costs = np.array([[self._cost(track, seen) for seen in sightings] for track in self._tracks])
        ids = [0] * len(sightings)
        for track in self._tracks:
            track.age += 1
        if costs.size:
            for row, column in zip(*linear_sum_assignment(np.minimum(costs, _COST_LIMIT)), strict=True):
                if costs[row, column] < _COST_LIMIT:
                    self._tracks[row].age -= 1
                    self._tracks[row].follow(sightings[column])
                    ids[column] = self._tracks[row].id
        self._tracks = [track for track in self._tracks if track.age <= self._patience]
        for index, seen in enumerate(sightings):
            if not ids[index]:
                ids[index] = self._next
                begun = _Track(self._next, seen.position, seen.colour, seen.diameter, np.zeros(2))
                self._tracks.append(begun)
                self._next += 1
        return ids

    def _cost(self, track: _Track, seen: _Sighting) -> float:
        """How far apart in diameters, and how unlike in typical differences between two objects of one frame.

        With that unit of colour the limit means the same for grey images and for colourful ones.
        """
        expected = track.position + track.velocity * min(track.age + 1, _LONGEST_EXTRAPOLATION)
        distance = float(np.linalg.norm(seen.position - expected)) / track.diameter / (1 + 0.05 * track.age)
        typical = self._differences / self._pairs if self._pairs else np.inf
        unlike = float(np.linalg.norm(seen.colour - track.colour)) / max(typical, 1e-3)
        return min(distance, _FURTHEST) + _COLOUR_WEIGHT * unlike


def _sighting(image: NDArray[np.uint8], labels: NDArray[np.int32], found: ObjectPrediction) -> _Sighting:
    x, y, width, height = found.box
    mine = labels[y : y + height, x : x + width] == found.id
    rows, columns = np.nonzero(mine)
    return _Sighting(
        position=np.array([x + columns.mean(), y + rows.mean()]),
        colour=image[y : y + height, x : x + width][mine].mean(axis=0) / 255,
        diameter=float(2 * np.sqrt(found.area / found.visibility / np.pi)),
        visibility=found.visibility,
    )
