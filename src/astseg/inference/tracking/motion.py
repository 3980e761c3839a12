"""Where an object will be: a Kalman filter of constant velocity, the same for x and y.

Source: the filter is R. E. Kalman's (1960) with the white-noise acceleration model; the heavy tail is ours: an object
may also have stopped, or turned, and then is somewhere near the place where it was seen last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Motion"]

ACCELERATION = 0.06
"""Standard deviation of the change of velocity from frame to frame, in diameters of the object."""

NOISE = 0.08
"""Standard deviation of the centre of a mask, in diameters."""

SURPRISE = 0.02
"""Share of objects that do not go on as they went."""

ROAMING = 0.3
"""Standard deviation of the way of an object that did not go on as it went, in diameters a frame not seen, plus one."""


class Motion:
    """Position and velocity of an object, with what is not known of them."""

    def __init__(self, position: NDArray[np.float64], *, diameter: float, speed: float) -> None:
        """Begin with one sighting.

        Args:
            position: (x, y) in pixels.
            diameter: Of the object, in pixels.
            speed: How fast objects are in this video, in pixels a frame: the velocity is not known yet.
        """
        self.position = position
        self.velocity = np.zeros(2)
        self._seen_at = position
        self._covariance = np.diag([(NOISE * diameter) ** 2, speed**2])

    def predict(self, diameter: float, size: tuple[int, int] | None, restlessness: float) -> None:
        """Go one frame on.

        Args:
            diameter: Of the object, in pixels.
            size: Height and width of a picture that the object does not leave; None: it may.
            restlessness: Factor for the changes of velocity, as they are measured in this video.
        """
        self.position = self.position + self.velocity
        if size is not None:
            self.position = np.clip(self.position, 0, np.array(size[::-1]) - 1)
        step = np.array([[1.0, 1.0], [0.0, 1.0]])
        push = np.array([0.5, 1.0]) * ACCELERATION * diameter * restlessness
        self._covariance = step @ self._covariance @ step.T + np.outer(push, push)

    def log_density(
        self, positions: NDArray[np.float64], noise: NDArray[np.float64], *, diameter: float, unseen: int
    ) -> NDArray[np.float64]:
        """How likely the object is to be seen at each of some positions, as the logarithm of a density over pixels.

        Args:
            positions: S x 2.
            noise: S, what more than usual is not known of each of them: a standard deviation in pixels.
            diameter: Of the object, in pixels.
            unseen: Frames since it was last seen before this one.
        """
        going_on = self._covariance[0, 0] + (NOISE * diameter) ** 2 + noise**2
        roaming = (diameter * (1 + ROAMING * unseen)) ** 2 + noise**2
        density: NDArray[np.float64] = np.logaddexp(
            np.log(1 - SURPRISE) + _log_normal(positions - self.position, going_on),
            np.log(SURPRISE) + _log_normal(positions - self._seen_at, roaming),
        )
        return density

    def update(self, position: NDArray[np.float64], noise: float, diameter: float) -> float:
        """Take in a sighting of the present frame, with its ``noise`` as for :meth:`log_density`.

        Returns:
            The square of how far it was from where it was expected, over what that is on average: 1, if all is right.
        """
        variance = self._covariance[0, 0] + (NOISE * diameter) ** 2 + noise**2
        gain = self._covariance[:, 0] / variance
        innovation = position - self.position
        self.position = self.position + gain[0] * innovation
        self.velocity = self.velocity + gain[1] * innovation
        self._covariance = self._covariance - np.outer(gain, self._covariance[0])
        self._seen_at = position
        return float((innovation**2).sum() / (2 * variance))


def _log_normal(offsets: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log density of S round normal distributions of the plane at S x 2 offsets."""
    density: NDArray[np.float64] = -(offsets**2).sum(axis=1) / (2 * variance) - np.log(2 * np.pi * variance)
    return density
