"""Foreground components: boxes, necks, holes, and how they are taken, joined and laid over cells."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from astseg.config import DiscoveryConfig
from astseg.discovery.components import GAUSSIAN, Components, _depth, label_components

H, W = 32, 46
CELLS = (8, 23)  # h x w
Mask = NDArray[np.bool_]


def disc(row: float, column: float, radius: float) -> Mask:
    rows, columns = np.indices((H, W))
    return np.hypot(rows - row, columns - column) <= radius


def rectangle(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (H, W)) -> Mask:
    """Ends exclusive."""
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def boxes(mask: Mask, *, limit: int = 5, smallest: float = 0.002) -> list[list[float]]:
    """Centre x, centre y, width, height of each component of a mask, in pixels."""
    h, w = mask.shape
    components = label_components(mask[None], limit=limit, config=DiscoveryConfig(smallest_component=smallest))
    return [
        [(float(x) + 1) * w / 2, (float(y) + 1) * h / 2, float(width) * w, float(height) * h]
        for x, y, width, height in components.box[0][components.present[0]]
    ]


def test_box_of_a_rectangle_is_exact() -> None:
    """Rows 4 to 11 of 20, columns 6 to 19 of 28; its edges lie at -4/7 and 3/7, and at -3/5 and 1/5."""
    components = label_components(rectangle(4, 12, 6, 20, size=(20, 28))[None], limit=3)
    assert components.box.shape == (1, 3, 4)
    assert components.present.tolist() == [[True, False, False]]
    x, y, width, height = components.box[0, 0].tolist()
    assert (x - width, x + width) == pytest.approx((-4 / 7, 3 / 7), abs=1e-6)
    assert (y - height, y + height) == pytest.approx((-3 / 5, 1 / 5), abs=1e-6)


def test_a_component_at_the_border_is_whole() -> None:
    assert boxes(rectangle(0, 9, 0, 7)) == [pytest.approx([3.5, 4.5, 7, 9], abs=1e-4)]
    assert boxes(np.ones((H, W), dtype=bool)) == [pytest.approx([W / 2, H / 2, W, H], abs=1e-4)]


def test_nothing_to_find() -> None:
    components = label_components(np.zeros((3, H, W), dtype=bool), limit=4)
    assert components.box.shape == (3, 4, 4)
    assert not components.present.any()
    assert components.box.isfinite().all()


def test_largest_first_up_to_the_limit() -> None:
    mask = rectangle(1, 6, 1, 6) | rectangle(10, 20, 10, 20) | rectangle(1, 8, 30, 37)
    widths = [width for _, _, width, _ in boxes(mask)]
    assert widths == pytest.approx([10, 7, 5], abs=1e-4)
    assert [width for _, _, width, _ in boxes(mask, limit=2)] == pytest.approx([10, 7], abs=1e-4)


def test_specks_are_left_out() -> None:
    mask = rectangle(10, 20, 10, 20) | rectangle(2, 3, 2, 5)  # 3 pixels; 4 count if the image is small enough
    assert len(boxes(mask)) == 1
    assert len(boxes(mask | rectangle(2, 3, 2, 6))) == 2
    assert len(boxes(mask | rectangle(2, 4, 2, 6), smallest=0.01)) == 1


def test_images_do_not_meet() -> None:
    masks = np.stack([disc(15, 12, 6), np.zeros((H, W), dtype=bool), disc(15, 33, 8)])
    components = label_components(masks, limit=2)
    assert components.present.tolist() == [[True, False], [False, False], [True, False]]
    assert components.box[0, 0, 0] < 0 < components.box[2, 0, 0]


@pytest.mark.parametrize("radius", [3, 5, 8.5, 13])
def test_one_disc_is_one_component(radius: float) -> None:
    assert boxes(disc(15, 20, radius)) == [
        pytest.approx([20.5, 15.5, 2 * int(radius) + 1, 2 * int(radius) + 1], abs=1e-4)
    ]


@pytest.mark.parametrize(
    ("mask", "columns"),
    [
        (disc(15, 12, 7) | disc(15, 32, 7) | rectangle(14, 17, 12, 32), (12.5, 32.5)),  # a dumbbell
        (disc(15, 14, 7) | disc(15, 28, 7), (14.5, 28.5)),  # two that touch
        (disc(15, 12, 8) | disc(15, 25, 5), (12.5, 25.5)),  # a large one and a small one
    ],
)
def test_a_neck_is_cut(mask: Mask, columns: tuple[float, float]) -> None:
    found = sorted(boxes(mask))
    assert len(found) == 2
    for (x, y, _, _), column in zip(found, columns, strict=True):
        assert x == pytest.approx(column, abs=2.1)
        assert y == pytest.approx(15.5, abs=0.1)
    parts = sum(width for _, _, width, _ in found)
    assert parts == pytest.approx(mask.any(axis=0).sum(), abs=1.1)  # nothing lost, next to nothing counted twice


def test_cutting_does_not_care_for_direction() -> None:
    mask = disc(15, 12, 7) | disc(15, 30, 7) | rectangle(14, 17, 12, 30)
    upright = boxes(mask.T)
    assert sorted((y, x, height, width) for x, y, width, height in upright) == [
        pytest.approx(box, abs=1e-4) for box in sorted(map(tuple, boxes(mask)))
    ]


@pytest.mark.parametrize("thickness", [2, 3, 4, 7, 10])
def test_a_long_bar_is_one_component(thickness: int) -> None:
    assert len(boxes(rectangle(10, 10 + thickness, 2, 44))) == 1
    slanted = np.zeros((H, W), dtype=bool)
    for i in range(4, 26):
        slanted |= disc(i, 5 + 1.5 * (i - 4), thickness / 2)
    assert len(boxes(slanted)) == 1


def test_overlapping_discs_without_a_neck_are_one_component() -> None:
    assert len(boxes(disc(15, 18, 8) | disc(15, 24, 8))) == 1


def test_components_are_numbered_as_their_boxes() -> None:
    mask = rectangle(1, 6, 1, 6) | rectangle(10, 20, 10, 20) | rectangle(1, 8, 30, 37)
    components = label_components(np.stack([mask, np.zeros((H, W), dtype=bool)]), limit=2)
    assert components.labels.shape == (2, H, W)
    assert components.labels.dtype == torch.uint8
    np.testing.assert_array_equal(components.labels[0] == 1, rectangle(10, 20, 10, 20))
    np.testing.assert_array_equal(components.labels[0] == 2, rectangle(1, 8, 30, 37))
    assert components.labels.unique().tolist() == [0, 1, 2]
    assert not components.labels[1].any()


def test_parts_of_a_cut_component_share_its_pixels() -> None:
    mask = disc(15, 12, 7) | disc(15, 32, 7) | rectangle(14, 17, 12, 32)
    labels = label_components(mask[None], limit=5).labels[0].numpy()
    np.testing.assert_array_equal(labels > 0, mask)
    assert sorted(np.unique(labels)) == [0, 1, 2]


@pytest.mark.parametrize(
    "mask",
    [
        disc(15, 20, 12) & ~disc(15, 20, 8),  # a thin ring
        disc(15, 20, 12) & ~disc(15, 23, 7),  # thick on one side
        rectangle(4, 28, 6, 40) & ~rectangle(7, 25, 9, 37),  # a frame
        disc(15, 20, 10) & ~disc(13, 17, 2) & ~disc(18, 24, 3),  # a button
    ],
)
def test_a_ring_is_one_component(mask: Mask) -> None:
    components = label_components(mask[None], limit=5)
    assert components.present.sum() == 1
    np.testing.assert_array_equal(components.labels[0] > 0, mask)  # what shows through the hole is background


def test_a_disc_in_a_ring_is_another_component() -> None:
    ring, inner = disc(15, 20, 13) & ~disc(15, 20, 9), disc(15, 20, 4)
    components = label_components((ring | inner)[None], limit=5)
    np.testing.assert_array_equal(components.labels[0] == 1, ring)
    np.testing.assert_array_equal(components.labels[0] == 2, inner)


@pytest.mark.parametrize("smooth", [0.7, 1.5, 3.0])
def test_depth_is_that_of_the_filled_component(smooth: float) -> None:
    """Of random spots with holes and without, whether or not the cheap test finds that there is none."""
    holes = 0
    for seed in range(40):
        parts, _ = ndimage.label(ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(H, W)), smooth) > 0)
        for number, window in enumerate(ndimage.find_objects(parts), start=1):
            region = parts[window] == number
            filled = ndimage.binary_fill_holes(region)
            holes += not np.array_equal(filled, region)
            np.testing.assert_array_equal(_depth(region), ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1])
    assert holes


def test_depth_is_smoothed_by_a_gaussian_of_a_pixel() -> None:
    impulse = np.zeros(9)
    impulse[4] = 1.0
    np.testing.assert_allclose(GAUSSIAN, ndimage.gaussian_filter1d(impulse, 1.0, mode="constant"), rtol=1e-12)


def assert_same(one: Components, other: Components) -> None:
    torch.testing.assert_close(one.box, other.box)
    assert torch.equal(one.present, other.present)
    assert torch.equal(one.labels, other.labels)


def test_take_picks_images() -> None:
    masks = np.stack([disc(15, 12, 6), disc(20, 33, 8), disc(9, 9, 4)])
    components = label_components(masks, limit=2)
    assert_same(components.take(torch.tensor([2, 0, 2])), label_components(masks[[2, 0, 2]], limit=2))
    assert_same(components.to(torch.device("cpu")), components)


def test_take_in_a_mirror() -> None:
    masks = np.stack([disc(15, 12, 6) | disc(20, 33, 8), disc(9, 9, 4)])
    taken = label_components(masks, limit=3).take(torch.tensor([0, 1, 0]), torch.tensor([True, False, False]))
    assert_same(taken, label_components(np.stack([masks[0, :, ::-1], masks[1], masks[0]]), limit=3))


def test_cells_are_shares_of_components() -> None:
    """Cells of 4 x 2 pixels; the second region reaches half into the last row and column of its cells."""
    mask = rectangle(8, 16, 2, 8) | rectangle(20, 26, 20, 23)
    cells = label_components(mask[None], limit=3).cells(CELLS)
    assert cells.shape == (1, 3, *CELLS)
    first, second = torch.zeros(CELLS), torch.zeros(CELLS)
    first[2:4, 1:4] = 1
    second[5, 10:12], second[6, 10:12] = torch.tensor([1, 0.5]), torch.tensor([0.5, 0.25])
    torch.testing.assert_close(cells[0], torch.stack([first, second, torch.zeros(CELLS)]))


def test_components_that_are_numbered_already_keep_apart() -> None:
    """Two halves of a square that touch; and a number that no pixel has."""
    numbered = np.zeros((1, H, W), np.int32)
    numbered[0, 5:15, 5:12], numbered[0, 5:15, 12:20] = 1, 3
    components = label_components(numbered, limit=4)
    assert components.present.tolist() == [[True, True, False, False]]
    assert (components.labels > 0).sum() == 150


def test_joined_components_are_those_of_all_images() -> None:
    masks = np.stack([disc(15, 12, 6), np.zeros((H, W), dtype=bool), disc(15, 33, 8)])
    assert_same(
        Components.joined([label_components(masks[:2], limit=3), label_components(masks[2:], limit=3)]),
        label_components(masks, limit=3),
    )
