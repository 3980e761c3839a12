"""Pooling by attention, sampling weights and crops: golden values, properties, cases worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from astseg.model.ops import (
    at_least_float32,
    attention_pool,
    cell_positions,
    crop_glimpses,
    full_precision,
    sampling_weights,
)

B, K, F, H, W, G = 2, 3, 8, 20, 28, 16


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positions(height: int, width: int) -> Tensor:
    return cell_positions(height, width, device=torch.device("cpu"), dtype=torch.float32)


# Precision


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(given: torch.dtype, got: torch.dtype) -> None:
    assert at_least_float32(torch.ones(3, dtype=given)).dtype == got


def test_full_precision_suspends_autocast() -> None:
    a = normal(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(a.device):
            inside = a @ a.mT
        outside = a @ a.mT
    assert (inside.dtype, outside.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_device_and_precision_are_those_of_the_inputs(size: tuple[int, int]) -> None:
    """Tensors without memory stand for those of a GPU: they do not mix with the processor's."""
    there: dict[str, Any] = {"device": torch.device("meta"), "dtype": torch.float64}
    logits, features, position = (torch.empty(B, K, *rest, **there) for rest in (size, size, (2,)))
    read = sampling_weights(position[..., 0], position[..., 1], image_side=9, glimpse_side=4)
    for made in (cell_positions(*size, **there), *attention_pool(logits, features), read):
        assert (made.device.type, made.dtype) == ("meta", torch.float64)


# Soft-argmax


def test_cell_positions_run_from_corner_to_corner_row_by_row() -> None:
    grid = positions(3, 5).view(3, 5, 2)
    torch.testing.assert_close(grid[1, :, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(grid[:, 3, 1], torch.tensor([-1.0, 0.0, 1.0]))
    assert grid[0, 4].tolist() == [1, -1]  # top right


def test_a_single_row_or_column_lies_in_the_middle() -> None:
    assert positions(1, 2).tolist() == [[-1, 0], [1, 0]]
    assert positions(1, 1).tolist() == [[0, 0]]


@pytest.mark.parametrize("scaling", ["aniso", "iso"])
def test_attention_pool_is_golden(scaling: str, golden_arrays: Callable[[str], dict[str, Any]]) -> None:
    """May change only with Algorithm 1."""
    golden = golden_arrays("attention_pooling.npz")
    maps = golden[f"{scaling}_feature_map"]
    h, w = maps.shape[-2:]
    grid = positions(h, w).view(h, w, 2).permute(2, 0, 1)
    torch.testing.assert_close(grid, golden[f"{scaling}_position_map"], rtol=0, atol=1e-6)
    attention, pooled = attention_pool(maps[:, :3], maps[:, 3:])
    torch.testing.assert_close(attention, golden[f"{scaling}_attention"], rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled.transpose(0, 1), golden[f"{scaling}_pooled_latents"], rtol=0, atol=1e-6)


def test_double_precision_is_not_lost_on_the_way() -> None:
    logits = normal(B, K, 5, 7, dtype=torch.float64)
    _, pooled = attention_pool(logits, normal(B, F, 5, 7, dtype=torch.float64))
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    expected = (logits.flatten(2).softmax(2).view(B, K, 5, 7) * x).sum(dim=(2, 3))
    torch.testing.assert_close(pooled[..., 0], expected, rtol=0, atol=1e-14)


def test_attention_sums_to_one() -> None:
    attention, pooled = attention_pool(10 * normal(B, K, 5, 7), normal(B, F, 5, 7))
    assert attention.shape == (B, K, 5, 7)
    assert pooled.shape == (B, K, 2 + F)
    torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(B, K))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (4, 6)])
def test_one_hot_attention_gives_exactly_the_cell(row: int, column: int) -> None:
    logits = torch.full((1, 1, 5, 7), -1e4)
    logits[0, 0, row, column] = 1e4
    features = normal(1, F, 5, 7)
    _, pooled = attention_pool(logits, features)
    assert torch.equal(pooled[0, 0, :2], positions(5, 7).view(5, 7, 2)[row, column])
    assert torch.equal(pooled[0, 0, 2:], features[0, :, row, column])


@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, 0), (-1, 2)])
def test_shifted_maps_shift_positions_and_keep_features(down: int, right: int) -> None:
    h, w = 9, 11
    logits = torch.full((B, K, h, w), -1e4)
    logits[..., 3:6, 3:8] = normal(B, K, 3, 5)
    features = normal(B, F, h, w, seed=1)
    _, before = attention_pool(logits, features)
    _, after = attention_pool(logits.roll((down, right), (2, 3)), features.roll((down, right), (2, 3)))
    shift = torch.tensor([2 * right / (w - 1), 2 * down / (h - 1)])
    torch.testing.assert_close(after[..., :2] - before[..., :2], shift.expand(B, K, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(after[..., 2:], before[..., 2:])


def test_turning_the_maps_over_swaps_x_and_y() -> None:
    logits, features = normal(B, K, 5, 7), normal(B, F, 5, 7, seed=1)
    _, pooled = attention_pool(logits, features)
    _, turned = attention_pool(logits.mT, features.mT)
    torch.testing.assert_close(turned[..., :2], pooled[..., :2].flip(-1))
    torch.testing.assert_close(turned[..., 2:], pooled[..., 2:])


# Sampling weights and crops


def test_sampling_weights_by_hand() -> None:
    """Scale 1 at the centre, as many pixels on both sides: every pixel reads its own."""
    same = sampling_weights(torch.tensor(0.0), torch.tensor(1.0), image_side=5, glimpse_side=5)
    torch.testing.assert_close(same, torch.eye(5))
    # Half the side of an image of 4 is 2 pixels, -1/4 and 1/4: glimpse coordinates -1/2 and 1/2, pixels 0 and 1 of 2.
    half = sampling_weights(torch.tensor(0.0), torch.tensor(2.0), image_side=4, glimpse_side=2)
    torch.testing.assert_close(half, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("numbers", [1, 2])
def test_crops_are_those_of_grid_sample(numbers: int) -> None:
    images, position = uniform(B, 3, H, W, dtype=torch.float64), uniform(B, K, 2, seed=1, dtype=torch.float64) * 2 - 1
    scale = 1 + 3 * uniform(B, K, numbers, seed=2, dtype=torch.float64)
    crops = crop_glimpses(images, position, scale, side=7)
    assert crops.shape == (B, K, 3, 7, 7)
    theta = torch.zeros(B * K, 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 1, 1] = (1 / scale[..., 0]).flatten(), (1 / scale[..., -1]).flatten()
    theta[:, :, 2] = position.flatten(0, 1)
    grid = functional.affine_grid(theta, [B * K, 3, 7, 7], align_corners=False)
    expected = functional.grid_sample(images.repeat_interleave(K, dim=0), grid, align_corners=False)
    torch.testing.assert_close(crops.flatten(0, 1), expected, atol=1e-12, rtol=0)


def test_bfloat16_crops() -> None:
    images, position = uniform(B, 3, H, W), 2 * uniform(B, K, 2, seed=1) - 1
    scale = 1.3 + uniform(B, K, 2, seed=2)
    crops = crop_glimpses(images.bfloat16(), position, scale, side=7)
    assert crops.dtype == torch.bfloat16
    torch.testing.assert_close(crops.float(), crop_glimpses(images, position, scale, side=7), rtol=0, atol=0.02)
