"""The median image: one background or many, in which light."""

import numpy as np
import pytest
from numpy.typing import NDArray

from astseg.data.synthetic.generate import render_scenes
from astseg.discovery.median_background import median_background

N, H, W = 21, 20, 27
ROWS, COLUMNS = np.mgrid[:H, :W]
GROUND = np.stack([90 + 2.0 * COLUMNS, 120 + 20 * np.sin(ROWS / 3), 80 + ROWS], axis=2)


def images_in(lights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A textured ground in so many lights, a bright square in another place on each."""
    images = np.stack([GROUND * light for light in lights])
    for number, image in enumerate(images):
        left = number % 7 * 3
        image[5:10, left : left + 5] = (240, 30, 30)
    return images.round().clip(0, 255).astype(np.uint8)


def test_a_fixed_background_is_the_median() -> None:
    found = median_background(images_in(np.ones(N)))
    assert found.kind == "fixed"
    assert found.light < 1e-3
    np.testing.assert_allclose(found.median * 255, GROUND, atol=0.51)
    mirrored = np.abs(GROUND - GROUND[:, ::-1]).mean() / 255
    assert found.symmetry == pytest.approx(mirrored, abs=0.003)


def test_changing_light_is_told_from_changing_backgrounds() -> None:
    lights = np.linspace(0.6, 1.3, N)
    lit = images_in(lights)
    found = median_background(lit)
    assert found.kind == "lit"
    assert found.light == pytest.approx(np.log(lights).std(), rel=0.15)
    backgrounds, error = found.reconstruct(lit)
    assert backgrounds.shape == lit.shape
    assert error.shape == (H, W)
    for number in (0, 10, 20):
        np.testing.assert_allclose(backgrounds[number, 10:] * 255, GROUND[10:] * lights[number], atol=6)
    assert error[10:].max() < 0.03  # below the squares
    noise = np.random.default_rng(0).integers(0, 256, (N, 4, 5, 3)).repeat(5, axis=1).repeat(5, axis=2)
    assert median_background(noise.astype(np.uint8)).kind == "varied"


@pytest.mark.parametrize(("family", "kind"), [("desk", "lit"), ("rooms", "varied")])
def test_the_synthetic_families(family: str, kind: str) -> None:
    assert median_background(render_scenes(family, seed=3, count=30, size=32).images).kind == kind
