"""Losses against the reference's values and gradients, and on cases worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from astseg.training.losses import (
    background_loss,
    background_pixel_weight,
    parsimony_loss,
    pixel_entropy_loss,
    reconstruction_loss,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as arrays:
        return {key: torch.from_numpy(arrays[key].astype(np.float32)) for key in arrays.files}


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float, atol: float = 0.0) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=atol)


def test_reconstruction_loss_is_golden() -> None:
    golden = load("losses.npz")
    reconstruction = golden["reconstruction"].requires_grad_()
    loss = reconstruction_loss(reconstruction, golden["input"])
    loss.backward()
    assert_close(loss, golden["reconstruction_loss"], rtol=1e-6)
    assert reconstruction.grad is not None
    assert_close(reconstruction.grad, golden["grad_reconstruction"], rtol=1e-5, atol=1e-7)


def test_reconstruction_loss_squares_the_sum_over_rgb() -> None:
    images = torch.zeros(2, 3, 5, 7)
    reconstruction = images.clone()
    reconstruction[0, :, 3, 6] = torch.tensor([0.5, -0.25, 0.25])
    assert reconstruction_loss(reconstruction, images).item() == pytest.approx(1 / (2 * 5 * 7))


def test_pixel_entropy_loss_is_golden() -> None:
    golden = load("losses.npz")
    weights = golden["weights"].squeeze(2).transpose(0, 1).contiguous().requires_grad_()
    loss = pixel_entropy_loss(weights)
    loss.backward()
    assert_close(loss, golden["pixel_entropy_loss"], rtol=1e-6)
    assert weights.grad is not None
    expected = golden["grad_weights"].squeeze(2).transpose(0, 1)
    assert_close(weights.grad, expected, rtol=1e-5, atol=1e-7)


def test_pixel_entropy_loss_of_even_weights() -> None:
    weights = torch.full((2, 4, 5, 7), 0.25)
    assert pixel_entropy_loss(weights).item() == pytest.approx(math.log(4) ** 2)


def test_pixel_entropy_loss_has_the_gradient_of_the_formula() -> None:
    torch.manual_seed(0)
    weights = torch.rand(2, 4, 3, 5, dtype=torch.float64).softmax(dim=1).requires_grad_()
    assert torch.autograd.gradcheck(pixel_entropy_loss, (weights,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pixel_entropy_loss_is_finite_at_zero_in_every_precision(dtype: torch.dtype) -> None:
    weights = torch.zeros(2, 4, 5, 7, dtype=dtype)
    weights[:, 0, :, :4] = 1
    weights[:, 1:3, :, 4:] = 0.5
    weights.requires_grad_()
    loss = pixel_entropy_loss(weights)
    loss.backward()
    assert loss.item() == pytest.approx(3 / 7 * math.log(2) ** 2)
    assert weights.grad is not None
    assert weights.grad.dtype == dtype
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize("prefix", ["s64", "s160x200"])
def test_background_loss_and_gradient_are_golden(prefix: str) -> None:
    golden = {key.removeprefix(f"{prefix}_"): value for key, value in load("background_loss.npz").items()}
    images = golden["images_u8"] / 255
    prediction = (golden["prediction_u16"] / 256 / 255).requires_grad_()
    losses = background_loss(images, prediction[:, :3], prediction[:, 3:])
    losses["total"].backward()
    assert_close(losses["total"], golden["loss"], rtol=1e-5)

    # The reference differentiates with respect to values from 0 to 255.
    assert prediction.grad is not None
    gradient = prediction.grad / 255
    middle = gradient.shape[-1] // 2
    crop = gradient[:, :, 20:32, middle - 8 : middle + 8]
    assert_close(gradient.norm(), golden["grad_norm"], rtol=1e-4)
    assert_close(gradient.flatten(2).norm(dim=2), golden["grad_channel_norms"], rtol=1e-4)
    assert_close(gradient[:, :, ::8, ::8], golden["grad_sub"], rtol=1e-4, atol=1e-12)
    assert_close(crop, golden["grad_crop"], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("prefix", ["s64", "s160x200"])
def test_background_pixel_weight_is_golden(prefix: str) -> None:
    golden = load("background_loss.npz")
    images = golden[f"{prefix}_images_u8"] / 255
    background = golden[f"{prefix}_prediction_u16"][:, :3] / 256 / 255
    error = torch.nn.functional.smooth_l1_loss(background, images, beta=3 / 255, reduction="none").sum(dim=1)
    weight = background_pixel_weight(error, beta=6.0)
    assert_close(weight[:, ::4, ::4], golden[f"{prefix}_weight_sub"], rtol=1e-5, atol=1e-5)
    assert_close(torch.tanh(error / 0.25)[:, ::4, ::4], golden[f"{prefix}_soft_mask_sub"], rtol=1e-5, atol=1e-5)


def test_background_pixel_weight_counts_only_pixels_that_exist() -> None:
    """Box of 3 x 3 from a width of 75: a corner has 4 pixels, an edge 6, the inside 9."""
    error = torch.zeros(2, 5, 75)
    error[1, 0, 0] = 1e6
    share = -background_pixel_weight(error, beta=1.0).log()
    assert (share[0] == 0).all()
    expected = torch.tensor([[1 / 4, 1 / 6, 0], [1 / 6, 1 / 9, 0], [0, 0, 0]])
    torch.testing.assert_close(share[1, :3, :3], expected)


def test_background_loss_without_beta_counts_all_pixels_alike() -> None:
    images, background = torch.zeros(2, 3, 20, 28), torch.full((2, 3, 20, 28), 0.5)
    half_step = 3 / 255 / 2
    losses = background_loss(images, background, torch.zeros(2, 1, 20, 28), beta=0.0)
    error = 3 * (0.5 - half_step)
    assert losses["weight"].item() == 1
    assert losses["reconstruction"].item() == pytest.approx(error)
    assert losses["predicted_error"].item() == pytest.approx(error / 3 - half_step)
    assert losses["total"].item() == pytest.approx(4 / 3 * error - half_step)


def test_background_loss_ignores_foreground_pixels() -> None:
    """An object that the background does not draw hardly pulls at it, a small error does."""
    images = torch.full((1, 3, 20, 28), 0.5)
    images[:, :, 5:9, 6:12] = 1.0
    background = torch.full((1, 3, 20, 28), 0.51).requires_grad_()
    background_loss(images, background, torch.zeros(1, 1, 20, 28))["total"].backward()
    assert background.grad is not None
    pull = background.grad.abs()
    assert pull[0, 0, 6, 8] < 0.01 * pull[0, 0, 15, 20]


def test_predicted_error_sends_no_gradient_into_the_background() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 20, 28)
    background = torch.rand(2, 3, 20, 28).requires_grad_()
    predicted_error = torch.rand(2, 1, 20, 28).requires_grad_()
    losses = background_loss(images, background, predicted_error)
    assert not losses["weight"].requires_grad
    losses["predicted_error"].backward()
    assert background.grad is None
    assert predicted_error.grad is not None


def test_parsimony_prefers_one_object_to_two_halves():
    whole = torch.zeros(1, 3, 20, 28)
    whole[:, 0] = 1
    whole[:, 0, 4:10, 5:15] = 0
    whole[:, 1, 4:10, 5:15] = 1
    halves = whole.clone()
    halves[:, 1, 4:10, 10:15] = 0
    halves[:, 2, 4:10, 10:15] = 1
    one, two = parsimony_loss(whole), parsimony_loss(halves)
    assert one == pytest.approx((61**0.5 - 1) / (20 * 28), rel=1e-5)
    assert two == pytest.approx(2 * (31**0.5 - 1) / (20 * 28), rel=1e-5)


def test_parsimony_pulls_hardest_on_the_smaller_object_and_is_finite_on_none():
    weights = torch.zeros(2, 3, 20, 28, dtype=torch.float64)
    weights[0, 1, :10, :14], weights[0, 2, 15:, 20:] = 0.9, 0.9
    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(parsimony_loss(weights), weights)
    assert gradient[0, 2, 0, 0] > gradient[0, 1, 0, 0] > 0
    assert gradient.isfinite().all()
    assert (gradient[:, 0] == 0).all()
