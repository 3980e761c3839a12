"""Blob guidance: regions of drawn masks, their matching with slots, and what the loss pulls at."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from astseg.discovery.components import BELL, Components, _depth, label_components
from astseg.model.ops import crop_glimpses
from astseg.training.pseudo_labels import (
    INSIDE,
    MARGIN,
    OFF_MARGIN,
    ON_MARGIN,
    TERM_WEIGHTS,
    WRONG_PIXEL,
    glimpse_loss,
    pseudo_label_loss,
    slot_anchors,
)
from astseg.types import ObjectLatents, SceneOutput

H, W = 32, 46
ATTENTION = (8, 23)  # h x w
SCALES = (1.3, 24.0)
Mask = NDArray[np.bool_]


def disc(row: float, column: float, radius: float) -> Mask:
    rows, columns = np.indices((H, W))
    return np.hypot(rows - row, columns - column) <= radius


def rectangle(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (H, W)) -> Mask:
    """Ends exclusive."""
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def regions(mask: Mask, **settings: Any) -> list[list[float]]:
    """Centre x, centre y, width, height of each region of a mask, in pixels."""
    h, w = mask.shape
    components = label_components(mask[None], **{"limit": 5, **settings})
    return [
        [(float(x) + 1) * w / 2, (float(y) + 1) * h / 2, float(width) * w, float(height) * h]
        for x, y, width, height in components.box[0][components.present[0]]
    ]


# Regions


def test_box_of_a_rectangle_is_exact() -> None:
    """Rows 4 to 11 of 20, columns 6 to 19 of 28; its edges lie at -4/7 and 3/7, and at -3/5 and 1/5."""
    components = label_components(rectangle(4, 12, 6, 20, size=(20, 28))[None], limit=3)
    assert components.box.shape == (1, 3, 4)
    assert components.present.tolist() == [[True, False, False]]
    x, y, width, height = components.box[0, 0].tolist()
    assert (x - width, x + width) == pytest.approx((-4 / 7, 3 / 7), abs=1e-6)
    assert (y - height, y + height) == pytest.approx((-3 / 5, 1 / 5), abs=1e-6)


def test_a_region_at_the_border_is_whole() -> None:
    assert regions(rectangle(0, 9, 0, 7)) == [pytest.approx([3.5, 4.5, 7, 9], abs=1e-4)]
    assert regions(np.ones((H, W), dtype=bool)) == [pytest.approx([W / 2, H / 2, W, H], abs=1e-4)]


def test_nothing_to_find() -> None:
    components = label_components(np.zeros((3, H, W), dtype=bool), limit=4)
    assert components.box.shape == (3, 4, 4)
    assert not components.present.any()
    assert components.box.isfinite().all()


def test_largest_first_up_to_the_limit() -> None:
    mask = rectangle(1, 6, 1, 6) | rectangle(10, 20, 10, 20) | rectangle(1, 8, 30, 37)
    widths = [width for _, _, width, _ in regions(mask)]
    assert widths == pytest.approx([10, 7, 5], abs=1e-4)
    assert [width for _, _, width, _ in regions(mask, limit=2)] == pytest.approx([10, 7], abs=1e-4)


def test_specks_are_left_out() -> None:
    mask = rectangle(10, 20, 10, 20) | rectangle(2, 3, 2, 5)  # 3 pixels; 4 count if the image is small enough
    assert len(regions(mask)) == 1
    assert len(regions(mask | rectangle(2, 3, 2, 6))) == 2
    assert len(regions(mask | rectangle(2, 4, 2, 6), smallest=0.01)) == 1


def test_images_do_not_meet() -> None:
    masks = np.stack([disc(15, 12, 6), np.zeros((H, W), dtype=bool), disc(15, 33, 8)])
    components = label_components(masks, limit=2)
    assert components.present.tolist() == [[True, False], [False, False], [True, False]]
    assert components.box[0, 0, 0] < 0 < components.box[2, 0, 0]


@pytest.mark.parametrize("radius", [3, 5, 8.5, 13])
def test_one_disc_is_one_region(radius: float) -> None:
    assert regions(disc(15, 20, radius)) == [
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
    found = sorted(regions(mask))
    assert len(found) == 2
    for (x, y, _, _), column in zip(found, columns, strict=True):
        assert x == pytest.approx(column, abs=2.1)
        assert y == pytest.approx(15.5, abs=0.1)
    parts = sum(width for _, _, width, _ in found)
    assert parts == pytest.approx(mask.any(axis=0).sum(), abs=1.1)  # nothing lost, next to nothing counted twice


def test_cutting_does_not_care_for_direction() -> None:
    mask = disc(15, 12, 7) | disc(15, 30, 7) | rectangle(14, 17, 12, 30)
    upright = regions(mask.T)
    assert sorted((y, x, height, width) for x, y, width, height in upright) == [
        pytest.approx(box, abs=1e-4) for box in sorted(map(tuple, regions(mask)))
    ]


@pytest.mark.parametrize("thickness", [2, 3, 4, 7, 10])
def test_a_long_bar_is_one_region(thickness: int) -> None:
    assert len(regions(rectangle(10, 10 + thickness, 2, 44))) == 1
    slanted = np.zeros((H, W), dtype=bool)
    for i in range(4, 26):
        slanted |= disc(i, 5 + 1.5 * (i - 4), thickness / 2)
    assert len(regions(slanted)) == 1


def test_overlapping_discs_without_a_neck_are_one_region() -> None:
    assert len(regions(disc(15, 18, 8) | disc(15, 24, 8))) == 1


def test_regions_are_numbered_as_their_boxes() -> None:
    mask = rectangle(1, 6, 1, 6) | rectangle(10, 20, 10, 20) | rectangle(1, 8, 30, 37)
    components = label_components(np.stack([mask, np.zeros((H, W), dtype=bool)]), limit=2)
    assert components.regions.shape == (2, H, W)
    assert components.regions.dtype == torch.uint8
    np.testing.assert_array_equal(components.regions[0] == 1, rectangle(10, 20, 10, 20))
    np.testing.assert_array_equal(components.regions[0] == 2, rectangle(1, 8, 30, 37))
    assert components.regions.unique().tolist() == [0, 1, 2]
    assert not components.regions[1].any()


def test_parts_of_a_cut_region_share_its_pixels() -> None:
    mask = disc(15, 12, 7) | disc(15, 32, 7) | rectangle(14, 17, 12, 32)
    regions_map = label_components(mask[None], limit=5).regions[0].numpy()
    np.testing.assert_array_equal(regions_map > 0, mask)
    assert sorted(np.unique(regions_map)) == [0, 1, 2]


@pytest.mark.parametrize(
    "mask",
    [
        disc(15, 20, 12) & ~disc(15, 20, 8),  # a thin ring
        disc(15, 20, 12) & ~disc(15, 23, 7),  # thick on one side
        rectangle(4, 28, 6, 40) & ~rectangle(7, 25, 9, 37),  # a frame
        disc(15, 20, 10) & ~disc(13, 17, 2) & ~disc(18, 24, 3),  # a button
    ],
)
def test_a_ring_is_one_region(mask: Mask) -> None:
    components = label_components(mask[None], limit=5)
    assert components.present.sum() == 1
    np.testing.assert_array_equal(components.regions[0] > 0, mask)  # what shows through the hole is background


def test_a_disc_in_a_ring_is_another_region() -> None:
    ring, inner = disc(15, 20, 13) & ~disc(15, 20, 9), disc(15, 20, 4)
    components = label_components((ring | inner)[None], limit=5)
    np.testing.assert_array_equal(components.regions[0] == 1, ring)
    np.testing.assert_array_equal(components.regions[0] == 2, inner)


@pytest.mark.parametrize("smooth", [0.7, 1.5, 3.0])
def test_depth_is_that_of_the_filled_region(smooth: float) -> None:
    """Of random spots with holes and without, whether or not a cheap look tells that there is none."""
    holes = 0
    for seed in range(40):
        parts, _ = ndimage.label(ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(H, W)), smooth) > 0)
        for number, window in enumerate(ndimage.find_objects(parts), start=1):
            region = parts[window] == number
            filled = ndimage.binary_fill_holes(region)
            holes += not np.array_equal(filled, region)
            np.testing.assert_array_equal(_depth(region), ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1])
    assert holes


def test_depth_is_smoothed_by_a_gaussian() -> None:
    depth = _depth(disc(15, 12, 7) | disc(15, 32, 7))
    smooth = ndimage.correlate1d(ndimage.correlate1d(depth, BELL, axis=0), BELL, axis=1)
    np.testing.assert_array_equal(smooth, ndimage.gaussian_filter(depth, 1.0))


def assert_same(one: Components, other: Components) -> None:
    torch.testing.assert_close(one.box, other.box)
    assert torch.equal(one.present, other.present)
    assert torch.equal(one.regions, other.regions)


def test_take_picks_images() -> None:
    masks = np.stack([disc(15, 12, 6), disc(20, 33, 8), disc(9, 9, 4)])
    components = label_components(masks, limit=2)
    assert_same(components.take(torch.tensor([2, 0, 2])), label_components(masks[[2, 0, 2]], limit=2))
    assert_same(components.to(torch.device("cpu")), components)


def test_take_in_a_mirror() -> None:
    masks = np.stack([disc(15, 12, 6) | disc(20, 33, 8), disc(9, 9, 4)])
    taken = label_components(masks, limit=3).take(torch.tensor([0, 1, 0]), torch.tensor([True, False, False]))
    assert_same(taken, label_components(np.stack([masks[0, :, ::-1], masks[1], masks[0]]), limit=3))


def test_cells_are_shares_of_regions() -> None:
    """Cells of 4 x 2 pixels; the second region reaches half into the last row and column of its cells."""
    mask = rectangle(8, 16, 2, 8) | rectangle(20, 26, 20, 23)
    cells = label_components(mask[None], limit=3).cells(ATTENTION)
    assert cells.shape == (1, 3, *ATTENTION)
    first, second = torch.zeros(ATTENTION), torch.zeros(ATTENTION)
    first[2:4, 1:4] = 1
    second[5, 10:12], second[6, 10:12] = torch.tensor([1, 0.5]), torch.tensor([0.5, 0.25])
    torch.testing.assert_close(cells[0], torch.stack([first, second, torch.zeros(ATTENTION)]))


# Loss


def blobs_of(*images: list[tuple[float, float, float, float]], limit: int = 4) -> Components:
    """Boxes (centre x, centre y, width, height) for each image, filled."""
    box, present = torch.zeros(len(images), limit, 4), torch.zeros(len(images), limit, dtype=torch.bool)
    regions_map = torch.zeros(len(images), H, W, dtype=torch.uint8)
    for i, boxes in enumerate(images):
        for j, (x, y, width, height) in enumerate(boxes):
            box[i, j], present[i, j] = torch.tensor([x, y, width, height]), True
            rows, columns = ((torch.arange(side) + 0.5) * 2 / side - 1 for side in (H, W))
            inside = ((rows - y).abs() < height)[:, None] & ((columns - x).abs() < width)
            regions_map[i][inside] = j + 1
    return Components(box, present, regions_map)


def latents_of(position: list[list[list[float]]], scale: float = 4.0, *, scale_numbers: int = 2) -> ObjectLatents:
    """B x K positions; every field is a leaf that wants its gradient."""
    positions = torch.tensor(position)
    b, k, _ = positions.shape
    fields = (
        positions,
        torch.full((b, k, scale_numbers), scale),
        torch.zeros(b, k),
        torch.zeros(b, k, 5),
    )
    return ObjectLatents(*(field.requires_grad_() for field in fields))


def output_of(latents: ObjectLatents, logits: Tensor | None = None, weights: Tensor | None = None) -> SceneOutput:
    """Attention even everywhere, or the softmax of B x K x h x w logits; layer weights even, or as given."""
    b, k = latents.position.shape[:2]
    if logits is None:
        logits = torch.zeros(b, k, *ATTENTION).to(latents.position)
    if weights is None:
        weights = torch.full((b, k + 1, H, W), 1 / (k + 1)).to(latents.position)
    attention = logits.flatten(2).softmax(dim=-1).view_as(logits)
    nothing = torch.full((1,), math.nan)
    return SceneOutput(latents, attention, nothing, nothing, nothing, weights, nothing)


def loss_of(
    latents: ObjectLatents,
    components: Components,
    *,
    logits: Tensor | None = None,
    weights: Tensor | None = None,
    background: float = 0.0,
    anchoring: float = 0.0,
) -> Tensor:
    return pseudo_label_loss(
        output_of(latents, logits, weights),
        components,
        background_log_activation=torch.tensor(background, requires_grad=True),
        scale_range=SCALES,
        anchoring=anchoring,
    )


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


def only(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weigh one part of the loss by 1, the others by 0."""
    for name in TERM_WEIGHTS:
        monkeypatch.setitem(TERM_WEIGHTS, name, float(name == term))


SIDE = 1 / (4 * MARGIN)  # the side of a region that wants scale 4


def test_each_region_takes_the_nearest_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = latents_of([[[0.9, 0.9], [0.5, -0.5], [-0.4, 0.1]]])
    components = blobs_of([(-0.4, 0.1, SIDE, SIDE), (0.5, -0.5, SIDE, SIDE)])
    pull = gradient(loss_of(latents, components), latents.log_activation)[0]
    assert pull[0] > 0  # the slot that has none is switched off, the others on
    assert pull[1] < 0
    assert pull[2] < 0
    for term in ("position", "scale"):
        only(term, monkeypatch)
        assert loss_of(latents, components).item() == pytest.approx(0, abs=1e-6)


def test_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot, off by 0.2 and 0.1, half as large as it should be, as active as the background; one slot too many.

    Even attention and weights: on the region lies the part of the cells that it covers, and of each pixel a third.
    """
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]], scale=8.0)
    components = blobs_of([(0.0, 0.0, SIDE, SIDE)])
    covered = (components.regions == 1).float().mean().item()
    on, off = abs(1.5 - ON_MARGIN) / 2, math.log1p(math.exp(1.5 + OFF_MARGIN))
    expected = {
        "attention": -math.log(covered),
        "position": 0.15,
        "scale": math.log(2),
        "activation": (on + off) / 2,
        "mask": -math.log(1 / 3 + WRONG_PIXEL),
    }
    loss = loss_of(latents, components, background=-1.5)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum(TERM_WEIGHTS[name] * value for name, value in expected.items()), rel=1e-5)
    for name, value in expected.items():
        only(name, monkeypatch)
        assert loss_of(latents, components, background=-1.5).item() == pytest.approx(value, rel=1e-5)


def test_scale_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Width 0.4 and height 0.1; one scale number serves the longer side; none leaves the range."""
    only("scale", monkeypatch)
    components = blobs_of([(0.0, 0.0, 0.4, 0.1)])
    both = latents_of([[[0.0, 0.0]]])
    both.scale.data.copy_(torch.tensor([1 / (0.4 * MARGIN), 1 / (0.1 * MARGIN)]))
    assert loss_of(both, components).item() == pytest.approx(0, abs=1e-6)
    one = latents_of([[[0.0, 0.0]]], scale=1 / (0.4 * MARGIN), scale_numbers=1)
    assert loss_of(one, components).item() == pytest.approx(0, abs=1e-6)
    for side, limit in ((1.0, SCALES[0]), (1e-4, SCALES[1])):
        latents = latents_of([[[0.0, 0.0]]], scale=limit)
        assert loss_of(latents, blobs_of([(0.0, 0.0, side, side)])).item() == pytest.approx(0, abs=1e-6)


def test_attention_is_drawn_onto_the_region() -> None:
    latents = latents_of([[[0.0, 0.0], [0.9, 0.9]]])
    components = blobs_of([(0.0, 0.0, 0.3, 0.2)])
    logits = torch.zeros(1, 2, *ATTENTION, requires_grad=True)
    pull = gradient(loss_of(latents, components, logits=logits), logits)[0]
    inside = components.cells(ATTENTION)[0, 0]
    assert (pull[0][inside == 1] < 0).all()
    assert (pull[0][inside == 0] > 0).all()
    assert not pull[1].any()  # nobody tells an idle slot where to look


def test_attention_far_from_its_region_is_told_in_a_finite_number(monkeypatch: pytest.MonkeyPatch) -> None:
    only("attention", monkeypatch)
    logits = torch.zeros(1, 1, *ATTENTION)
    logits[..., 0, 0] = 200.0
    logits.requires_grad_()
    loss = loss_of(latents_of([[[0.5, 0.5]]]), blobs_of([(0.5, 0.5, 0.2, 0.2)]), logits=logits)
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-4)
    assert gradient(loss, logits).isfinite().all()


def test_slots_are_matched_by_their_attention_too() -> None:
    latents = latents_of([[[0.0, 0.0], [0.0, 0.0]]])
    logits = torch.zeros(1, 2, *ATTENTION)
    logits[0, 0, :, 12:] = 9.0  # slot 0 looks to the right
    logits[0, 1, :, :11] = 9.0
    pull = gradient(loss_of(latents, blobs_of([(-0.5, 0.0, 0.2, 0.2)]), logits=logits), latents.log_activation)[0]
    assert pull[1] < 0 < pull[0]


def test_pixels_are_drawn_to_the_layer_of_their_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two regions, slot 1 on the first and slot 0 on the second: layers 2 and 1."""
    only("mask", monkeypatch)
    latents = latents_of([[[0.5, 0.5], [-0.5, 0.0], [0.9, -0.9]], [[0.0, 0.0]] * 3])
    components = blobs_of([(-0.5, 0.0, 0.3, 0.2), (0.5, 0.5, 0.2, 0.2)], [])
    wanted = torch.tensor([0, 2, 1, 0, 0])[components.regions[0].long()]
    right = torch.zeros(2, 4, H, W)
    right[0].scatter_(0, wanted[None], 1.0)
    right[1, 0] = 1
    assert loss_of(latents, components, weights=right).item() == pytest.approx(-math.log(1 + WRONG_PIXEL), abs=1e-6)
    wrong = right.roll(1, dims=1).requires_grad_()
    loss = loss_of(latents, components, weights=wrong)
    assert loss.item() == pytest.approx(-math.log(WRONG_PIXEL), rel=1e-5)
    assert torch.equal(gradient(loss, wrong) < 0, right == 1)
    half = right.clone()
    half[0, :, : H // 2] = wrong.detach()[0, :, : H // 2]
    weight = torch.where(components.regions > 0, INSIDE, 1.0)
    share = (weight[0, : H // 2].sum() / weight.sum()).item()
    expected = -share * math.log(WRONG_PIXEL) - (1 - share) * math.log(1 + WRONG_PIXEL)
    assert loss_of(latents, components, weights=half).item() == pytest.approx(expected, rel=1e-5)


def test_a_region_that_no_slot_is_left_for_counts_as_background(monkeypatch: pytest.MonkeyPatch) -> None:
    only("mask", monkeypatch)
    weights = torch.full((1, 2, H, W), 0.5, requires_grad=True)
    components = blobs_of([(-0.5, 0.0, 0.3, 0.2), (0.5, 0.5, 0.2, 0.2)])
    pull = gradient(loss_of(latents_of([[[0.5, 0.5]]]), components, weights=weights), weights)[0]
    assert torch.equal(pull[1] < 0, components.regions[0] == 2)
    assert torch.equal(pull[0] < 0, components.regions[0] != 2)


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_no_gradient_where_nothing_is_present(scale_numbers: int) -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2, scale=8.0, scale_numbers=scale_numbers)
    loss = loss_of(latents, blobs_of([(0.0, 0.0, 0.3, 0.2)], []))
    for field in (latents.position, latents.scale):
        pull = gradient(loss, field)
        assert pull[0].abs().max() > 0
        assert pull[1].abs().max() == 0
    assert (gradient(loss, latents.log_activation)[1] > 0).all()


def test_a_batch_without_any_region(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2)
    components = blobs_of([], [])
    loss = loss_of(latents, components)
    for field in (latents.position, latents.scale):
        assert gradient(loss, field).abs().max() == 0
    assert (gradient(loss, latents.log_activation) > 0).all()
    for term in ("attention", "position", "scale"):
        only(term, monkeypatch)
        assert loss_of(latents, components).item() == 0


def test_more_regions_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    only("position", monkeypatch)
    latents = latents_of([[[0.5, 0.5]]])
    components = blobs_of([(-0.5, -0.5, SIDE, SIDE), (0.5, 0.5, SIDE, SIDE), (0.9, 0.0, SIDE, SIDE)])
    assert loss_of(latents, components).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("slots", [1, 2, 7, 10, 24])
def test_anchors_are_spread_over_the_image(slots: int) -> None:
    anchors = slot_anchors(slots)
    assert anchors.shape == (slots, 2)
    assert (anchors.norm(dim=-1) < 0.8).all()
    if slots > 1:
        assert torch.pdist(anchors).min() > 0.5 / math.sqrt(slots)
        assert anchors.mean(dim=0).norm() < 0.3


def test_anchors_part_slots_that_are_all_alike() -> None:
    k = 6
    latents = latents_of([[[0.0, 0.0]] * k])
    for slot, (x, y) in enumerate(slot_anchors(k).tolist()):
        pull = gradient(
            loss_of(latents, blobs_of([(x, y, 0.1, 0.1)]), anchoring=1.0),
            latents.log_activation,
        )[0]
        assert pull.argmin() == slot


def test_anchors_do_not_count_in_the_end() -> None:
    """The slot that is there keeps its region, wherever its anchor is."""
    x, y = slot_anchors(2)[0].tolist()
    latents = latents_of([[[-x, -y], [x, y]]])
    components = blobs_of([(x, y, 0.1, 0.1)])
    for anchoring in (0.0, -1.0):
        assert gradient(loss_of(latents, components, anchoring=anchoring), latents.log_activation)[0].argmin() == 1
    assert gradient(loss_of(latents, components, anchoring=9.0), latents.log_activation)[0].argmin() == 0


def test_the_loss_pulls_slots_onto_their_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERM_WEIGHTS, "mask", 0.0)  # the layer weights do not follow the latents here
    latents = latents_of([[[0.3, 0.2], [-0.1, -0.2], [0.0, 0.6]], [[0.1, 0.0], [0.2, 0.0], [0.3, 0.1]]])
    logits = torch.zeros(2, 3, *ATTENTION, requires_grad=True)
    boxes = [[(-0.5, 0.1, 0.3, 0.2), (0.6, -0.4, 0.15, 0.4)], [(0.1, -0.7, 0.1, 0.1)]]
    components = blobs_of(*boxes)
    optimizer = torch.optim.Adam([latents.position, latents.scale, latents.log_activation, logits], lr=0.03)
    before = loss_of(latents, components, logits=logits).item()
    for _ in range(250):
        optimizer.zero_grad()
        loss_of(latents, components, logits=logits).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss_of(latents, components, logits=logits).item() < 0.25 * before
    active = latents.log_activation > 0
    assert active.sum(dim=1).tolist() == [2, 1]
    attention = logits.detach().flatten(2).softmax(dim=-1)
    for i, wanted in enumerate(boxes):
        for j, (x, y, width, height) in enumerate(wanted):
            distance = (latents.position[i] - torch.tensor([x, y])).norm(dim=-1)
            nearest = distance.argmin()
            assert distance[nearest] < 0.1
            assert active[i, nearest]
            target = torch.tensor([1 / (MARGIN * width), 1 / (MARGIN * height)])
            torch.testing.assert_close(latents.scale[i, nearest].detach(), target, rtol=0.1, atol=0)
            assert attention[i, nearest][components.cells(ATTENTION)[i, j].flatten() > 0].sum() > 0.9


def test_the_background_is_not_pulled() -> None:
    background = torch.tensor(3.0, requires_grad=True)
    loss = pseudo_label_loss(
        output_of(latents_of([[[0.2, 0.1]]])),
        blobs_of([(0.0, 0.0, 0.3, 0.2)]),
        background_log_activation=background,
        scale_range=SCALES,
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert background.grad is None


@pytest.mark.parametrize("anchoring", [0.0, 1.0])
def test_a_diverged_model_is_told_by_its_loss(anchoring: float) -> None:
    latents = latents_of([[[math.nan, 0.1], [0.3, 0.2]]])
    assert loss_of(latents, blobs_of([(0.0, 0.0, 0.3, 0.2), (0.3, 0.3, 0.3, 0.2)]), anchoring=anchoring).isnan()


def test_double_precision() -> None:
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]])
    doubled = ObjectLatents(
        *(t.double() for t in (latents.position, latents.scale, latents.log_activation, latents.appearance))
    )
    components = blobs_of([(0.0, 0.0, 0.3, 0.2)])
    loss = loss_of(doubled, components, anchoring=0.5)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loss_of(latents, components, anchoring=0.5).item(), rel=1e-5)


# Glimpses


def scene_with_a_square() -> tuple[Tensor, Tensor, Components]:
    backgrounds = torch.full((2, 3, H, W), 0.3)
    images = backgrounds.clone()
    images[0, :, 8:20, 10:26] = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    return images, backgrounds, label_components((images != backgrounds)[:, 0].numpy(), limit=3)


def loss_of_drawing(mask: float, colour: float, *, perfect: bool = False) -> Tensor:
    """Of a glimpse of one colour and an even mask, or of the crop itself, with the mask where it differs from 0.3."""
    images, backgrounds, components = scene_with_a_square()

    def draw(seen: Tensor, attended: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        assert attended.shape[1:] == (1, *ATTENTION)
        if perfect:
            crop = crop_glimpses(seen, position, scale, side=16)
            differs = ((crop - 0.3).abs().amax(dim=2, keepdim=True) > 0.28).float()
            return torch.cat([crop, differs], dim=2)
        even = torch.full((len(seen), 1, 4, 16, 16), colour)
        even[:, :, 3] = mask
        return even.requires_grad_()

    torch.manual_seed(0)
    return glimpse_loss(draw, images, backgrounds, components, side=16, cells=ATTENTION, scale_range=SCALES)


def test_glimpses_that_show_their_region_cost_least() -> None:
    perfect = loss_of_drawing(0, 0, perfect=True)
    assert perfect < 0.1
    assert perfect < loss_of_drawing(1.0, 0.5)
    assert perfect < loss_of_drawing(0.0, 0.5)
    loss_of_drawing(0.5, 0.5).backward()  # type: ignore[no-untyped-call]


def test_no_region_no_glimpse() -> None:
    images = torch.rand(2, 3, H, W)
    components = label_components(np.zeros((2, H, W), dtype=bool), limit=3)
    loss = glimpse_loss(lambda *_: images, images, images, components, side=16, cells=ATTENTION, scale_range=SCALES)
    assert loss.item() == 0


def test_regions_that_are_numbered_already_keep_apart() -> None:
    """Two halves of a square that touch; and a number that no pixel has."""
    numbered = np.zeros((1, H, W), np.int32)
    numbered[0, 5:15, 5:12], numbered[0, 5:15, 12:20] = 1, 3
    components = label_components(numbered, limit=4)
    assert components.present.tolist() == [[True, True, False, False]]
    assert (components.regions > 0).sum() == 150


def test_joined_blobs_are_those_of_all_images() -> None:
    masks = np.stack([disc(15, 12, 6), np.zeros((H, W), dtype=bool), disc(15, 33, 8)])
    assert_same(
        Components.joined([label_components(masks[:2], limit=3), label_components(masks[2:], limit=3)]),
        label_components(masks, limit=3),
    )
