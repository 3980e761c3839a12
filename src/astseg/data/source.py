"""What a reader of any format offers: scenes by number, and what is known of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from astseg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from astseg.data.benchmark import Benchmark

__all__ = ["SPLITS", "NoSplitError", "SceneSource"]

SPLITS = ("train", "val", "test")


class NoSplitError(UserError):
    """The source does not say which scenes are for training and which for testing, or not of this split."""


class SceneSource(ABC):
    """A data set whose scenes are read one by one; a reader overrides what its format knows.

    Attributes:
        name: The format, in words.
        has_labels: Whether scenes have masks.
        benchmark: What the paper does with this data set, or None where it is none of the paper's.
    """

    name: str
    has_labels: bool = False
    benchmark: Benchmark | None = None
    _path: Path

    @property
    def crop(self) -> float:
        """Part of the short side that the data set's protocol keeps, in (0, 1]."""
        return 1.0 if self.benchmark is None else self.benchmark.crop

    @abstractmethod
    def __len__(self) -> int:
        """Number of scenes."""

    def scene_name(self, index: int) -> str:
        """Name of a scene, unique in the source: here its number, such as ``000012``."""
        return f"{index:06d}"

    def problem(self, index: int) -> str | None:
        """What is known to be missing of a scene without reading it, in words, or None."""
        return None

    @abstractmethod
    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image H x W x 3 and labels H x W (0 = background), uint8, at the source's own size.

        Raises:
            UserError: The scene is missing or damaged.
        """

    def split(self, name: str) -> list[int]:
        """Indices of the split ``train``, ``val`` or ``test``.

        Raises:
            NoSplitError: The source declares no such split.
            UserError: What it declares is wrong.
        """
        raise NoSplitError(f"'{self._path}' ({self.name}) has no '{name}' split: use 'all' or a slice such as ':-50'")
