"""Folders of small pictures: a still camera, objects that move."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def draw() -> Draw:
    """Draws a scene H x W x 3, uint8: a textured ground, in a light, with so many coloured squares on it."""

    def scene(
        number: int, *, size: tuple[int, int] = (40, 52), objects: int = 3, light: float = 1.0, side: int = 8
    ) -> NDArray[np.uint8]:
        height, width = size
        rows, columns = np.mgrid[:height, :width]
        ground = 110 + 30 * np.sin(rows / 5) + 20 * columns / width  # leans to the right: no mirror image of itself
        picture = np.repeat(ground[:, :, None], 3, axis=2) * light
        generator = np.random.default_rng(number)
        for place in range(objects):
            band = place * width // max(1, objects)  # each in a band of its own, so that none touches another
            top = int(generator.integers(2, height - side - 2))
            left = band + int(generator.integers(1, max(2, width // max(1, objects) - side - 1)))
            picture[top : top + side, left : left + side] = [(230, 40, 40), (40, 60, 230), (230, 220, 30)][place % 3]
        return np.clip(picture, 0, 255).astype(np.uint8)

    return scene


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Callable[..., Path]:
    """Writes so many scenes as PNG, and gives the folder."""

    def write(count: int, **how: object) -> Path:
        path = tmp_path / "pictures"
        path.mkdir()
        for number in range(count):
            Image.fromarray(draw(number, **how)).save(path / f"{number:04d}.png")
        return path

    return write
