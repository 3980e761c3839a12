"""Label maps found at a coarser scale, refined at the picture's own."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from astseg.data.synthetic.scene import FAMILIES, SyntheticScene, render_scene
from astseg.inference.outlines import refine

SIDE = 256
FACTOR = 8


def scene(family: str = "desk", index: int = 1) -> SyntheticScene:
    return render_scene(family, seed=5, index=index, size=SIDE)


def seen_at(labels: NDArray[np.integer], factor: int) -> NDArray[np.int32]:
    """A label map at one pixel for each block of ``factor`` pixels, by the middle one."""
    return labels[factor // 2 :: factor, factor // 2 :: factor].astype(np.int32)


def overlaps(true: NDArray[np.integer], found: NDArray[np.integer]) -> list[float]:
    """IoU of each object of the first map with that of the same label."""
    pairs = [(true == k, found == k) for k in np.unique(true[true > 0])]
    return [(one & other).sum() / (one | other).sum() for one, other in pairs]


def enlarged(labels: NDArray[np.int32], factor: int) -> NDArray[np.int32]:
    return labels.repeat(factor, axis=0).repeat(factor, axis=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_outlines_follow_the_picture(family: str) -> None:
    before, after = [], []
    for index in range(1, 6):
        made = scene(family, index)
        coarse = seen_at(made.labels, FACTOR)
        refined = refine(made.image, coarse, scale=1 / FACTOR)
        before += overlaps(made.labels, enlarged(coarse, FACTOR))
        after += overlaps(made.labels, refined)
    assert np.mean(before) < 0.87
    assert np.mean(after) > 0.94


@pytest.mark.parametrize("factor", [3, 6, 20])
def test_where_colours_say_nothing_the_outline_stays(factor: int) -> None:
    labels = np.zeros((121, 161), np.int32)
    labels[20:71, 30:80] = 1
    labels[20:70, 80:120] = 7  # touches the first
    flat = np.full((121, 161, 3), 120, np.uint8)
    np.testing.assert_array_equal(refine(flat, labels, scale=1 / factor), labels)


def test_a_shadow_is_no_part_of_an_object() -> None:
    rows, columns = np.indices((128, 128))
    background = np.stack([170 + 20 * np.sin(columns / 9), 120 + rows / 8, np.full((128, 128), 60.0)], axis=2)
    picture, true = background.copy(), np.zeros((128, 128), np.int32)
    picture[44:90, 84:96] *= 0.6
    true[40:88, 40:84] = 1
    picture[true > 0] = (30, 60, 190)
    taken_along = true.copy()
    taken_along[44:90, 84:92] = 1
    known = refine(picture.astype(np.uint8), taken_along, scale=1 / 8, background=background.astype(np.uint8))
    assert overlaps(true, known)[0] > 0.97 > overlaps(true, taken_along)[0]


@pytest.mark.parametrize("side", [1, 2, 5])
def test_tiny_objects_are_never_lost(side: int) -> None:
    made = scene()
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[9 : 9 + side, 30 : 30 + side] = 3
    labels[SIDE - side :, SIDE - side :] = 900
    assert set(np.unique(refine(made.image, labels, scale=1 / FACTOR))) == {0, 3, 900}


def test_what_is_far_from_an_outline_stays() -> None:
    made = scene()
    labels = ndimage.shift(made.labels, (2, -2), order=0).astype(np.int32)
    refined = refine(made.image, labels, scale=1 / 3)
    edges = ndimage.morphological_gradient(labels, 3) > 0
    far = ndimage.distance_transform_edt(~edges) > 7
    np.testing.assert_array_equal(refined[far], labels[far])


def test_a_known_background_helps() -> None:
    made = scene("rooms", 3)
    labels = ndimage.shift(made.labels, (3, 3), order=0).astype(np.int32)
    error = np.full((SIDE // 4, SIDE // 4), 2.0)
    refined = refine(made.image, labels, scale=1 / 4, background=made.background, error=error)
    assert np.mean(overlaps(made.labels, refined)) > np.mean(overlaps(made.labels, labels)) + 0.05


def test_no_object_no_change() -> None:
    made = scene()
    assert not refine(made.image, np.zeros((32, 32), np.int32), scale=1 / 8).any()
