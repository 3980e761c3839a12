"""Whether what is seen looks like an object that is known, told from how much objects of this video vary.

A quantity such as the colour tells objects apart where it varies more from object to object than from frame to frame.
Both covariances are learnt from the video. The evidence is the logarithm of the ratio of two densities, that an object
which is known looks as is seen, and that any other does. Where all objects look alike, it is near 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Resemblance"]

PRIOR_SIGHTINGS, PRIOR_OBJECTS = 20, 2
"""For how many sightings and objects the values count that hold before any is seen."""

MEMORY = 2000
"""Sightings (and objects) after which older ones are slowly forgotten."""

CLIPPED = 4.0
"""Standard deviations beyond which a sighting counts as so far off when covariances are learnt."""


class Resemblance:
    """What is known of the variation of a quantity within objects and between them."""

    def __init__(self, *, within: NDArray[np.float64], between: NDArray[np.float64], wrong: float) -> None:
        """Begin a video.

        Args:
            within: Standard deviations from frame to frame, N of them, before any is measured.
            between: The same from object to object.
            wrong: Share of sightings that look like anything: half hidden, in a flash of light.
        """
        self._log_wrong, self._log_right = np.log(wrong), np.log1p(-wrong)
        self._within, self._between = np.diag(within**2), np.diag(between**2)
        self._floor = np.diag((within / 10) ** 2)
        self._mean = np.zeros(len(within))
        self._sightings, self._objects = float(PRIOR_SIGHTINGS), 0.0

    def log_ratio(
        self, own: NDArray[np.float64], seen: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """How much more likely an object looks as is seen than any other does, as a logarithm.

        Args:
            own: N numbers, how the object looked.
            seen: S x N, how each of what is seen looks.
            noise: S x N, standard deviations of what more than usual is not known of each number.
        """
        extra = noise[:, :, None] ** 2 * np.eye(seen.shape[1])
        within = self._within + self._floor + extra
        alike = _log_normal(seen - own, within)
        other = _log_normal(seen - self._mean, within + self._between)
        ratio: NDArray[np.float64] = np.logaddexp(self._log_wrong, self._log_right + alike - other)
        return ratio

    def learn_sighting(self, offset: NDArray[np.float64]) -> None:
        """Take in by how much an object looks otherwise than before: N numbers."""
        within = self._within + self._floor
        far = float(np.sqrt(offset @ np.linalg.solve(within, offset)))
        offset = offset * min(1.0, CLIPPED / max(far, 1e-9))
        self._sightings = min(self._sightings + 1, MEMORY)
        self._within += (np.outer(offset, offset) - self._within) / self._sightings

    def learn_object(self, values: NDArray[np.float64]) -> None:
        """Take in how a new object looks: N numbers."""
        self._objects = min(self._objects + 1, MEMORY)
        offset = values - self._mean
        self._mean = self._mean + offset / self._objects
        if self._objects > 1:
            spread = np.outer(offset, offset) * (self._objects - 1) / self._objects
            self._between += (spread - self._between) / (self._objects + PRIOR_OBJECTS)


def _log_normal(offsets: NDArray[np.float64], covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log density of S normal distributions (S x N x N) at S x N offsets, without the part that is the same for all."""
    solved = np.linalg.solve(covariances, offsets[:, :, None])[:, :, 0]
    density: NDArray[np.float64] = -0.5 * ((offsets * solved).sum(axis=1) + np.linalg.slogdet(covariances)[1])
    return density
