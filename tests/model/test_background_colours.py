"""Reading a background's colours and mixing it of them."""

import pytest
import torch
from torch import Tensor

from astseg.model.background import BackgroundModel
from astseg.model.background_colours import COLOURS, ColourMixture
from astseg.training.losses import background_loss

SIZE = (29, 38)  # no multiple of a cell
HORIZON = 13


def rooms(count: int, *, seed: int = 0, with_object: bool = False) -> tuple[Tensor, Tensor]:
    """Walls above, floors below, each of its own colour; with an object somewhere, and without."""
    generator = torch.Generator().manual_seed(seed)
    wall, floor, thing = (0.1 + 0.8 * torch.rand(count, 3, 1, 1, generator=generator) for _ in range(3))
    empty = torch.cat([wall.expand(-1, -1, HORIZON, SIZE[1]), floor.expand(-1, -1, SIZE[0] - HORIZON, SIZE[1])], dim=2)
    full = empty.clone()
    for number in range(count if with_object else 0):
        top, left = torch.randint(0, 22, (2,), generator=generator).tolist()
        full[number, :, top : top + 5, left : left + 6] = thing[number]
    return full, empty


def test_cells_start_with_those_whose_colours_go_together() -> None:
    palette = ColourMixture(SIZE, 16)
    palette.start_from(rooms(40)[0])
    owner = palette.attention.argmax(dim=0)
    rows = HORIZON // palette.cell
    assert len(owner[:rows].unique()) == 1
    assert len(owner[rows + 1 :].unique()) == 1
    assert owner[0, 0] != owner[-1, 0]


def test_what_was_read_is_the_background_behind_an_object() -> None:
    images, empty = rooms(50, with_object=True)
    palette = ColourMixture(SIZE, 16)
    palette.start_from(images)
    view = palette.pool(images)
    nothing = torch.zeros(())
    mixed = palette.mix(view, torch.zeros(1, 16), nothing, nothing)
    error = (mixed - empty).abs().mean(dim=1)
    assert error[:, : HORIZON - palette.cell].mean() < 0.03
    assert error[:, HORIZON + palette.cell :].mean() < 0.03
    differs = (images - empty).abs().mean(dim=1) > 0.1
    assert error[differs].mean() < 0.3 * (images - empty).abs().mean(dim=1)[differs].mean()


def test_nearness_is_one_at_the_colour_and_little_far_from_it() -> None:
    images, _ = rooms(30)
    palette = ColourMixture(SIZE, 16)
    palette.start_from(images)
    view = palette.pool(images)
    assert view.nearness.shape == (30, COLOURS, *SIZE)
    assert view.nearness.min() >= 0
    assert view.nearness.max() <= 1 + 1e-5
    of_floor = palette.attention.argmax(dim=0)[-1, 0]
    assert view.nearness[:, of_floor, -1].min() > 0.95
    distance = (images[:, :, 0, 0] - images[:, :, -1, 0]).norm(dim=1)
    assert (view.nearness[:, of_floor, 0, 0][distance > 0.5] < 0.01).all()


def test_the_model_starts_with_the_scenes_drawn_half_right_already() -> None:
    """Where the template can only be grey."""
    images, empty = rooms(60)
    error = {}
    for form in ("fixed", "varying"):
        torch.manual_seed(0)
        model = BackgroundModel(SIZE, "small", form=form)
        model.start_from(images)
        with torch.no_grad():
            error[form] = float((model.eval()(images)[0] - empty).abs().mean())
    assert error["varying"] < 0.5 * error["fixed"]


@pytest.mark.parametrize("images", [torch.full((5, 3, *SIZE), 0.4), torch.zeros(1, 3, *SIZE), torch.ones(2, 3, *SIZE)])
def test_images_without_any_difference_are_no_trouble(images: Tensor) -> None:
    model = BackgroundModel(SIZE, "small", form="varying")
    model.start_from(images)
    background, predicted_error = model(images)
    assert background.isfinite().all()
    assert predicted_error.isfinite().all()
    background_loss(images, background, predicted_error, beta=6.0)["total"].backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_the_start_is_the_same_every_time() -> None:
    images, _ = rooms(30, with_object=True)
    first, second = ColourMixture(SIZE, 16), ColourMixture(SIZE, 16)
    first.start_from(images)
    torch.rand(7)
    second.start_from(images)
    assert torch.equal(first.attention, second.attention)


def test_autocast_leaves_the_colours_exact() -> None:
    images, _ = rooms(8)
    palette = ColourMixture(SIZE, 16)
    palette.start_from(images)
    exact = palette.pool(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = palette.pool(images)
    torch.testing.assert_close(exact.colours, rounded.colours)
    torch.testing.assert_close(exact.nearness, rounded.nearness)
