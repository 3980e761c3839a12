"""Blob guidance: regions of drawn masks, their matching with slots, and what the loss pulls at."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from astseg.guidance import MARGIN, ON_MARGIN, Blobs, find_blobs, guidance_loss
from astseg.types import ObjectLatents

H, W = 32, 46
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
    blobs = find_blobs(mask[None], **{"limit": 5, **settings})
    return [
        [(float(x) + 1) * w / 2, (float(y) + 1) * h / 2, float(width) * w, float(height) * h]
        for x, y, width, height in blobs.box[0][blobs.present[0]]
    ]


# Regions


def test_box_of_a_rectangle_is_exact() -> None:
    """Rows 4 to 11 of 20, columns 6 to 19 of 28; its edges lie at -4/7 and 3/7, and at -3/5 and 1/5."""
    blobs = find_blobs(rectangle(4, 12, 6, 20, size=(20, 28))[None], limit=3)
    assert blobs.box.shape == (1, 3, 4)
    assert blobs.present.tolist() == [[True, False, False]]
    x, y, width, height = blobs.box[0, 0].tolist()
    assert (x - width, x + width) == pytest.approx((-4 / 7, 3 / 7), abs=1e-6)
    assert (y - height, y + height) == pytest.approx((-3 / 5, 1 / 5), abs=1e-6)


def test_a_region_at_the_border_is_whole() -> None:
    assert regions(rectangle(0, 9, 0, 7)) == [pytest.approx([3.5, 4.5, 7, 9], abs=1e-4)]
    assert regions(np.ones((H, W), dtype=bool)) == [pytest.approx([W / 2, H / 2, W, H], abs=1e-4)]


def test_nothing_to_find() -> None:
    blobs = find_blobs(np.zeros((3, H, W), dtype=bool), limit=4)
    assert blobs.box.shape == (3, 4, 4)
    assert not blobs.present.any()
    assert blobs.box.isfinite().all()


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
    blobs = find_blobs(masks, limit=2)
    assert blobs.present.tolist() == [[True, False], [False, False], [True, False]]
    assert blobs.box[0, 0, 0] < 0 < blobs.box[2, 0, 0]


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


def test_take_picks_images() -> None:
    blobs = find_blobs(np.stack([disc(15, 12, 6), disc(20, 33, 8), disc(9, 9, 4)]), limit=2)
    taken = blobs.take(torch.tensor([2, 0]))
    assert torch.equal(taken.box, blobs.box[[2, 0]])
    assert torch.equal(taken.present, blobs.present[[2, 0]])


def test_take_in_a_mirror() -> None:
    masks = np.stack([disc(15, 12, 6) | disc(20, 33, 8), disc(9, 9, 4)])
    mirrored = find_blobs(masks[..., ::-1], limit=3)
    blobs = find_blobs(masks, limit=3)
    one = blobs.take(torch.tensor([0, 1, 0]), torch.tensor([True, False, False]))
    torch.testing.assert_close(one.box[0], mirrored.box[0])
    assert torch.equal(one.box[1:], blobs.box[[1, 0]])
    assert torch.equal(one.present, blobs.present[[0, 1, 0]])


# Loss


def blobs_of(*images: list[tuple[float, float, float, float]], limit: int = 4) -> Blobs:
    """Boxes (centre x, centre y, width, height) for each image."""
    box, present = torch.zeros(len(images), limit, 4), torch.zeros(len(images), limit, dtype=torch.bool)
    for i, boxes in enumerate(images):
        for j, values in enumerate(boxes):
            box[i, j], present[i, j] = torch.tensor(values), True
    return Blobs(box, present)


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


def loss_of(latents: ObjectLatents, blobs: Blobs, background: float = 0.0) -> dict[str, Tensor]:
    return guidance_loss(
        latents, blobs, background_log_activation=torch.tensor(background, requires_grad=True), scale_range=SCALES
    )


def gradient(losses: dict[str, Tensor], of: Tensor) -> Tensor:
    total = losses["guidance_position"] + losses["guidance_scale"] + losses["guidance_activation"]
    return torch.autograd.grad(total, of, retain_graph=True)[0]


SIDE = 1 / (4 * MARGIN)  # the side of a region that wants scale 4


def test_each_region_takes_the_nearest_slot() -> None:
    latents = latents_of([[[0.9, 0.9], [0.5, -0.5], [-0.4, 0.1]]])
    blobs = blobs_of([(-0.4, 0.1, SIDE, SIDE), (0.5, -0.5, SIDE, SIDE)])
    losses = loss_of(latents, blobs)
    assert losses["guidance_position"].item() == pytest.approx(0, abs=1e-6)
    assert losses["guidance_scale"].item() == pytest.approx(0, abs=1e-6)
    pull = gradient(losses, latents.log_activation)[0]
    assert pull[0] > 0  # the slot that has none is switched off, the others on
    assert pull[1] < 0
    assert pull[2] < 0


def test_losses_by_hand() -> None:
    """One slot, off by 0.2 and 0.1, half as large as it should be, as active as the background; one slot too many."""
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]], scale=8.0)
    losses = loss_of(latents, blobs_of([(0.0, 0.0, SIDE, SIDE)]), background=-1.5)
    assert losses["guidance_position"].item() == pytest.approx(0.15)
    assert losses["guidance_scale"].item() == pytest.approx(math.log(2))
    on, off = math.log1p(math.exp(-(1.5 - ON_MARGIN))), math.log1p(math.exp(1.5))
    assert losses["guidance_activation"].item() == pytest.approx((on + off) / 2)
    assert all(loss.shape == () for loss in losses.values())


def test_scale_targets() -> None:
    """Width 0.4 and height 0.1; one scale number serves the longer side; none leaves the range."""
    blobs = blobs_of([(0.0, 0.0, 0.4, 0.1)])
    both = latents_of([[[0.0, 0.0]]])
    both.scale.data.copy_(torch.tensor([1 / (0.4 * MARGIN), 1 / (0.1 * MARGIN)]))
    assert loss_of(both, blobs)["guidance_scale"].item() == pytest.approx(0, abs=1e-6)
    one = latents_of([[[0.0, 0.0]]], scale=1 / (0.4 * MARGIN), scale_numbers=1)
    assert loss_of(one, blobs)["guidance_scale"].item() == pytest.approx(0, abs=1e-6)
    for side, limit in ((1.0, SCALES[0]), (1e-4, SCALES[1])):
        latents = latents_of([[[0.0, 0.0]]], scale=limit)
        blobs = blobs_of([(0.0, 0.0, side, side)])
        assert loss_of(latents, blobs)["guidance_scale"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_no_gradient_where_nothing_is_present(scale_numbers: int) -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2, scale=8.0, scale_numbers=scale_numbers)
    losses = loss_of(latents, blobs_of([(0.0, 0.0, 0.3, 0.2)], []))
    for field in (latents.position, latents.scale):
        pull = gradient(losses, field)
        assert pull[0].abs().max() > 0
        assert pull[1].abs().max() == 0
    assert (gradient(losses, latents.log_activation)[1] > 0).all()


def test_a_batch_without_any_region() -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2)
    losses = loss_of(latents, blobs_of([], []))
    assert losses["guidance_position"].item() == 0
    assert losses["guidance_scale"].item() == 0
    for field in (latents.position, latents.scale):
        assert gradient(losses, field).abs().max() == 0
    assert (gradient(losses, latents.log_activation) > 0).all()


def test_more_regions_than_slots() -> None:
    latents = latents_of([[[0.5, 0.5]]])
    losses = loss_of(latents, blobs_of([(-0.5, -0.5, SIDE, SIDE), (0.5, 0.5, SIDE, SIDE), (0.9, 0.0, SIDE, SIDE)]))
    assert losses["guidance_position"].item() == pytest.approx(0, abs=1e-6)


def test_the_loss_pulls_slots_onto_their_regions() -> None:
    latents = latents_of([[[0.3, 0.2], [-0.1, -0.2], [0.0, 0.6]], [[0.1, 0.0], [0.2, 0.0], [0.3, 0.1]]])
    boxes = [[(-0.5, 0.1, 0.3, 0.2), (0.6, -0.4, 0.15, 0.4)], [(0.1, -0.7, 0.1, 0.1)]]
    blobs = blobs_of(*boxes)
    fields = [latents.position, latents.scale, latents.log_activation]
    optimizer = torch.optim.Adam(fields, lr=0.02)
    before = sum(loss_of(latents, blobs).values())
    for _ in range(300):
        optimizer.zero_grad()
        sum(loss_of(latents, blobs).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    losses = loss_of(latents, blobs)
    assert sum(losses.values()) < 0.25 * before
    assert losses["guidance_position"] < 0.03
    assert losses["guidance_scale"] < 0.1
    active = latents.log_activation > 0
    assert active.sum(dim=1).tolist() == [2, 1]
    for i, wanted in enumerate(boxes):
        for x, y, width, height in wanted:
            nearest = (latents.position[i] - torch.tensor([x, y])).norm(dim=-1).argmin()
            assert active[i, nearest]
            target = torch.tensor([1 / (MARGIN * width), 1 / (MARGIN * height)])
            torch.testing.assert_close(latents.scale[i, nearest].detach(), target, rtol=0.1, atol=0)


def test_the_background_is_not_pulled() -> None:
    background = torch.tensor(3.0, requires_grad=True)
    latents = latents_of([[[0.2, 0.1]]])
    losses = guidance_loss(
        latents,
        blobs_of([(0.0, 0.0, 0.3, 0.2)]),
        background_log_activation=background,
        scale_range=SCALES,
    )
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert background.grad is None


def test_a_diverged_model_is_told_by_its_losses() -> None:
    latents = latents_of([[[math.nan, 0.1], [0.3, 0.2]]])
    assert loss_of(latents, blobs_of([(0.0, 0.0, 0.3, 0.2), (0.3, 0.3, 0.3, 0.2)]))["guidance_position"].isnan()


def test_double_precision() -> None:
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]])
    doubled = ObjectLatents(
        *(t.double() for t in (latents.position, latents.scale, latents.log_activation, latents.appearance))
    )
    blobs = blobs_of([(0.0, 0.0, 0.3, 0.2)])
    for name, loss in loss_of(doubled, blobs).items():
        assert loss.dtype == torch.float64
        assert loss.item() == pytest.approx(loss_of(latents, blobs)[name].item(), rel=1e-5)
