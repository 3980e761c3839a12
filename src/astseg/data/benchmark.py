"""What the paper does with each of its data sets, declared once and beside the reader that needs it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """The protocol of one data set.

    Attributes:
        name: What the paper calls the data set.
        slots: K, the largest number of objects.
        image_size: (H, W) the model sees.
        isotropic: Whether an object has one scale number for both axes.
        crop: Part of the short side that is kept, centred, before the image is resized.
        background_labels: Labels of the files that are background.
        preset: Named settings that go with it.
    """

    name: str
    slots: int
    image_size: tuple[int, int]
    isotropic: bool
    crop: float
    background_labels: tuple[int, ...]
    preset: str
