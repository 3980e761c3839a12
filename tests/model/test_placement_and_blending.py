"""Placing glimpses and blending layers: properties, and cases worked out by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from astseg.model.ops import (
    crop_glimpses,
)
from astseg.model.renderer import blend_layers, place_glimpses

B, K, F, H, W, G = 2, 3, 8, 20, 28, 16


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Placing glimpses


def placed_by_grid_sample(glimpses: Tensor, position: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    """The same by torch's own sampling grid."""
    b, k, c, g, _ = glimpses.shape
    x, y = position.flatten(0, 1).unbind(-1)
    sx, sy = scale.expand(b, k, 2).flatten(0, 1).unbind(-1)
    nothing = torch.zeros_like(x)
    theta = torch.stack([torch.stack([sx, nothing, -x * sx], -1), torch.stack([nothing, sy, -y * sy], -1)], 1)
    grid = functional.affine_grid(theta, [b * k, c, *size], align_corners=False)
    placed = functional.grid_sample(glimpses.reshape(b * k, c, g, g), grid, align_corners=False)
    return placed.view(b, k, c, *size)


@pytest.mark.parametrize("scale_numbers", [1, 2])
@pytest.mark.parametrize("size", [(H, W), (37, 9)])
def test_placement_is_grid_sample(scale_numbers: int, size: tuple[int, int]) -> None:
    glimpses = uniform(B, K, 4, G, G)
    position = 2.4 * uniform(B, K, 2, seed=1) - 1.2
    scale = 1.3 + 5 * uniform(B, K, scale_numbers, seed=2)
    placed = place_glimpses(glimpses, position, scale, image_size=size)
    torch.testing.assert_close(placed, placed_by_grid_sample(glimpses, position, scale, size), rtol=0, atol=5e-5)


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_gradients_of_placement_are_those_of_grid_sample(scale_numbers: int) -> None:
    inputs = [
        uniform(B, K, 4, G, G, dtype=torch.float64),
        2 * uniform(B, K, 2, seed=1, dtype=torch.float64) - 1,
        1.3 + 5 * uniform(B, K, scale_numbers, seed=2, dtype=torch.float64),
    ]
    for tensor in inputs:
        tensor.requires_grad_()
    cotangent = normal(B, K, 4, H, W, dtype=torch.float64)
    ours = torch.autograd.grad(place_glimpses(*inputs, image_size=(H, W)), inputs, cotangent)
    theirs = torch.autograd.grad(placed_by_grid_sample(*inputs, (H, W)), inputs, cotangent)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-8)


def centre_and_area(placed: Tensor) -> tuple[float, float, float]:
    """Mean column, mean row and sum of an H x W map."""
    rows, columns = (torch.arange(float(n)) for n in placed.shape)
    area = placed.sum()
    return float(placed.sum(0) @ columns / area), float(placed.sum(1) @ rows / area), float(area)


def placed_disc(x: float, y: float, scale_x: float, scale_y: float) -> tuple[float, float, float]:
    glimpse = torch.ones(1, 1, 1, G, G)
    position, scale = torch.tensor([[[x, y]]]), torch.tensor([[[scale_x, scale_y]]])
    return centre_and_area(place_glimpses(glimpse, position, scale, image_size=(H, W))[0, 0, 0])


def test_position_and_scale_mean_what_they_say() -> None:
    column, row, area = placed_disc(0, 0, 4, 4)
    assert (column, row) == pytest.approx(((W - 1) / 2, (H - 1) / 2), abs=1e-4)
    assert area == pytest.approx(H * W / 16, rel=0.15)
    right = placed_disc(0.5, 0, 4, 4)
    assert right == pytest.approx((column + 0.25 * W, row, area), abs=1e-3)
    down = placed_disc(0, 0.4, 4, 4)
    assert down == pytest.approx((column, row + 0.2 * H, area), abs=1e-3)
    assert placed_disc(0, 0, 3, 4)[2] > 1.2 * area
    assert placed_disc(0, 0, 4, 5)[2] < 0.9 * area


def test_outside_the_glimpse_there_is_nothing() -> None:
    placed = place_glimpses(
        torch.ones(1, 1, 4, G, G), torch.zeros(1, 1, 2), torch.full((1, 1, 1), 4.0), image_size=(H, W)
    )
    assert placed[..., : H // 2 - 4, :].abs().sum() == 0
    assert placed[..., : W // 2 - 5].abs().sum() == 0
    assert placed[0, 0, 0, H // 2, W // 2] == pytest.approx(1)


def test_bfloat16_glimpses() -> None:
    glimpses, position = uniform(B, K, 4, G, G), 2 * uniform(B, K, 2, seed=1) - 1
    scale = 1.3 + uniform(B, K, 2, seed=2)
    exact = place_glimpses(glimpses, position, scale, image_size=(H, W))
    placed = place_glimpses(glimpses.bfloat16(), position, scale, image_size=(H, W))
    assert placed.dtype == torch.bfloat16
    torch.testing.assert_close(placed.float(), exact, rtol=0, atol=0.02)


# Blending layers


def blend(log_activation: Tensor, background_log_activation: Tensor, **to: Any) -> tuple[Tensor, ...]:
    """Weights and reconstruction of random layers, and the layers, masks and background that they were made of."""
    layers, masks = uniform(B, K, 3, H, W).to(**to), uniform(B, K, H, W, seed=1).to(**to)
    background = uniform(B, 3, H, W, seed=2).to(**to)
    masks[..., : W // 2] = 0  # half of the image shows nothing but background
    for tensor in (layers, masks, background):
        tensor.requires_grad_()
    return (*blend_layers(layers, masks, log_activation, background, background_log_activation), layers, masks)


def test_blending_by_hand() -> None:
    """Alpha 1, 3 and 2, masks 1/2 and 1/4: weights in the ratio 1 : 3/2 : 1/2."""
    layers = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
    masks = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    activation = torch.tensor([[3.0, 2.0]]).log()
    weights, reconstruction = blend_layers(layers, masks, activation, torch.full((1, 3, 1, 1), 0.1), torch.tensor(0.0))
    torch.testing.assert_close(weights.flatten(), torch.tensor([1 / 3, 1 / 2, 1 / 6]))
    torch.testing.assert_close(reconstruction.flatten(), torch.full((3,), 0.1 / 3 + 0.5 / 2 + 1 / 6))


def test_weights_sum_to_one_and_mix_the_layers() -> None:
    weights, reconstruction, *_ = blend(3 * normal(B, K), torch.tensor(1.0))
    assert weights.shape == (B, K + 1, H, W)
    assert reconstruction.shape == (B, 3, H, W)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B, H, W))
    assert weights.min() >= 0
    assert torch.equal(weights[:, 0, :, : W // 2], torch.ones(B, H, W // 2))
    assert reconstruction.min() >= 0
    assert reconstruction.max() <= 1


def test_a_background_activation_for_each_pixel() -> None:
    activation, background = normal(B, K), normal(H, W, seed=1)
    weights, *_ = blend(activation, background)
    one_pixel, *_ = blend(activation, background[7, 20])
    torch.testing.assert_close(weights[..., 7, 20], one_pixel[..., 7, 20])
    constant, *_ = blend(activation, torch.full((H, W), 0.7))
    torch.testing.assert_close(constant, blend(activation, torch.tensor(0.7))[0])


def test_only_the_ratio_of_activations_counts() -> None:
    activation = normal(B, K)
    weights, *_ = blend(activation, torch.tensor(1.0))
    torch.testing.assert_close(blend(activation + 300, torch.tensor(301.0))[0], weights)
    torch.testing.assert_close(blend(activation - 300, torch.tensor(-299.0))[0], weights)


@pytest.mark.parametrize(("objects", "background"), [(200.0, 11.0), (11.0, 200.0), (1e4, -1e4), (-1e4, 1e4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_activations_neither_overflow_nor_vanish(objects: float, background: float, dtype: torch.dtype) -> None:
    activation = torch.full((B, K), 11.0)
    activation[0, 1] = objects
    activation = activation.to(dtype).requires_grad_()
    background_activation = torch.tensor(background, dtype=dtype, requires_grad=True)
    weights, reconstruction, layers, masks = blend(activation, background_activation, dtype=dtype)
    torch.testing.assert_close(weights.float().sum(dim=1), torch.ones(B, H, W), rtol=0, atol=0.02)
    if objects > background:
        assert (weights[0, 2, :, W // 2 :] > 0.99).all()
    reconstruction.square().mean().backward()
    for tensor in (layers, masks, activation, background_activation):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_an_extreme_image_leaves_the_others_of_its_batch_alone() -> None:
    layers, masks, background = uniform(B, K, 3, H, W), uniform(B, K, H, W, seed=1), uniform(B, 3, H, W, seed=2)
    activation = normal(B, K)
    activation[0, 1] = 1e4
    together = blend_layers(layers, masks, activation, background, torch.tensor(1.0))
    alone = blend_layers(layers[1:], masks[1:], activation[1:], background[1:], torch.tensor(1.0))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:], other)


def test_bfloat16_blending_is_near() -> None:
    weights, reconstruction, *_ = blend(normal(B, K), torch.tensor(1.0))
    near_weights, near, *_ = blend(normal(B, K).bfloat16(), torch.tensor(1.0).bfloat16(), dtype=torch.bfloat16)
    torch.testing.assert_close(near_weights.float(), weights, rtol=0, atol=0.02)
    torch.testing.assert_close(near.float(), reconstruction, rtol=0, atol=0.03)


def test_faint_objects_still_get_gradients() -> None:
    """At the start objects weigh e^-11; the method lives on these small gradients."""
    activation = torch.zeros(B, K, requires_grad=True)
    _, reconstruction, *_ = blend(activation, torch.tensor(11.0))
    reconstruction.square().mean().backward()
    assert activation.grad is not None
    sizes = activation.grad.abs()
    assert (sizes > math.exp(-11) * 1e-4).all()
    assert (sizes < math.exp(-11)).all()


def test_a_placed_glimpse_is_cropped_as_it_was() -> None:
    """At a scale where glimpse pixels fall on image pixels."""
    glimpses = uniform(1, 1, 4, 8, 8)
    position, scale = torch.tensor([[[4 / 32, -6 / 24]]]), torch.tensor([[[32 / 8, 24 / 8]]])
    placed = place_glimpses(glimpses, position, scale, image_size=(24, 32)).squeeze(1)
    torch.testing.assert_close(crop_glimpses(placed, position, scale, side=8), glimpses, atol=1e-5, rtol=1e-5)
