"""Placing and blending at once: the numbers and gradients of the two operations that it stands for."""

from typing import Any

import pytest
import torch
from torch import Tensor

from astseg.model.fast import windows as drawing
from astseg.model.fast.compositing import draw_and_blend
from astseg.model.renderer import blend_layers, place_glimpses

B, K, H, W, G = 2, 3, 20, 28, 8
WINDOWS = pytest.mark.parametrize("windows", [True, False])


def uniform(*shape: int, seed: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (low + (high - low) * values).to(dtype)


def inputs(
    size: tuple[int, int] = (H, W), *, scale_numbers: int = 2, pixels: bool = False, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Glimpses, positions (some beyond the rim), scales, activations, background and its activation."""
    made = [
        uniform(B, K, 4, G, G, seed=0, dtype=dtype),
        uniform(B, K, 2, seed=1, low=-1.2, high=1.2, dtype=dtype),
        uniform(B, K, scale_numbers, seed=2, low=1.3, high=7.0, dtype=dtype),
        uniform(B, K, seed=3, low=-3.0, high=3.0, dtype=dtype),
        uniform(B, 3, *size, seed=4, dtype=dtype),
        uniform(*(size if pixels else ()), seed=5, high=2.0, dtype=dtype),
    ]
    return [tensor.requires_grad_() for tensor in made]


def blended(*given: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    weights, reconstruction, errors = draw_and_blend(*given, **options)
    assert errors is None
    return weights, reconstruction


def one_by_one(glimpses: Tensor, position: Tensor, scale: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    placed = place_glimpses(glimpses, position, scale, image_size=rest[1].shape[-2:])
    return blend_layers(placed[:, :, :3], placed[:, :, 3], *rest)


def gradients(outputs: tuple[Tensor, Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    arriving = [uniform(*output.shape, seed=6 + i, low=-1.0) for i, output in enumerate(outputs)]
    return torch.autograd.grad(outputs, given, [gradient.to(outputs[0].dtype) for gradient in arriving])


@WINDOWS
@pytest.mark.parametrize("size", [(H, W), (37, 9)])
@pytest.mark.parametrize("scale_numbers", [1, 2])
@pytest.mark.parametrize("pixels", [False, True])
def test_it_is_placing_and_blending(windows: bool, size: tuple[int, int], scale_numbers: int, pixels: bool) -> None:
    given = inputs(size, scale_numbers=scale_numbers, pixels=pixels)
    expected, got = one_by_one(*given), blended(*given, windows=windows)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for one, other in zip(gradients(got, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@WINDOWS
@pytest.mark.parametrize("pixels", [False, True])
def test_gradients_are_those_of_finite_differences(windows: bool, pixels: bool) -> None:
    given = inputs((5, 7), pixels=pixels)
    assert torch.autograd.gradcheck(lambda *tensors: blended(*tensors, windows=windows), given)


@WINDOWS
def test_one_of_the_two_results_is_enough(windows: bool) -> None:
    given = inputs()
    for index in (0, 1):
        got = blended(*given, windows=windows)[index].square().sum()
        expected = one_by_one(*given)[index].square().sum()
        for one, other in zip(
            torch.autograd.grad(got, given, allow_unused=True, materialize_grads=True),
            torch.autograd.grad(expected, given, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("windows", "limit"), [(True, "WINDOW_NUMBERS"), (False, "WHOLE_NUMBERS")])
def test_how_many_are_drawn_together_does_not_matter(
    windows: bool, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs()
    together = blended(*given, windows=windows)
    monkeypatch.setattr(drawing, limit, 1)
    alone = blended(*given, windows=windows)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    for one, other in zip(gradients(alone, given), gradients(together, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_windows_of_a_group_are_of_similar_size(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = [100.0, 60.0, 50.0, 49.0, 10.0, 4.0]
    assert drawing._group_sizes(areas) == [6]  # too few pixels to be worth another group
    monkeypatch.setattr(drawing, "FEW_PIXELS", 150)
    assert drawing._group_sizes(areas) == [3, 3]  # 300 pixels for 63, then 147
    monkeypatch.setattr(drawing, "FEW_PIXELS", 0)
    assert drawing._group_sizes(areas) == [3, 1, 1, 1]
    monkeypatch.setattr(drawing, "WINDOW_NUMBERS", 4 * 200)
    assert drawing._group_sizes(areas) == [2, 2, 1, 1]
    assert drawing._group_sizes([]) == []


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_precision_is_that_of_float32_at_least(precision: torch.dtype) -> None:
    given = [tensor.detach().float() for tensor in inputs()]
    given[0] = given[0].to(precision).float()
    expected = one_by_one(*given)
    given[0] = given[0].to(precision).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = blended(*given)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    got[1].sum().backward()
    assert given[0].grad is not None
    assert given[0].grad.dtype == precision


@WINDOWS
@pytest.mark.parametrize(("objects", "background"), [(200.0, 11.0), (11.0, 200.0), (1e4, -1e4), (-1e4, 1e4)])
def test_extreme_activations_neither_overflow_nor_vanish(windows: bool, objects: float, background: float) -> None:
    given = [tensor.detach().float() for tensor in inputs()]
    given[3] = torch.full((B, K), 11.0)
    given[3][0, 1] = objects
    given[5] = torch.tensor(background)
    given = [tensor.requires_grad_() for tensor in given]
    got = blended(*given, windows=windows)
    torch.testing.assert_close(got[0].sum(dim=1), torch.ones(B, H, W))
    for one, other in zip(gradients(got, given), gradients(one_by_one(*given), given), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@WINDOWS
def test_what_has_diverged_comes_out_as_nan(windows: bool) -> None:
    given: list[Any] = [tensor.detach() for tensor in inputs()]
    given[1][1, 2] = float("nan")
    weights, reconstruction = blended(*given, windows=windows)
    assert reconstruction[0].isfinite().all()
    assert reconstruction[1].isnan().any()
    assert weights[1, 3].isnan().any()


@WINDOWS
@pytest.mark.parametrize("some", [None, torch.tensor([[True, False, True], [False, True, True]])])
def test_colours_are_compared_with_those_of_the_layers(windows: bool, some: Tensor | None) -> None:
    """Wherever an object has any weight; what is drawn, and its gradients, stay what they are."""
    given = inputs()
    if some is not None:
        given[0] = (given[0].detach() * some[..., None, None, None]).requires_grad_()
    glimpses, position, scale, _, background, _ = given
    images = uniform(B, 3, H, W, seed=9)
    layers = place_glimpses(glimpses, position, scale, image_size=(H, W))
    expected = torch.cat([background[:, None], layers[:, :, :3]], dim=1).sub(images[:, None]).square().sum(dim=2)
    weights, reconstruction, errors = draw_and_blend(*given, images=images, windows=windows, drawn=some)
    assert errors is not None
    assert not errors.requires_grad
    seen = weights > 0
    assert all(seen[:, layer].any() for layer in range(K + 1))
    torch.testing.assert_close(errors[seen], expected[seen].detach(), rtol=1e-9, atol=1e-9)
    alone = blended(*given, windows=windows, drawn=some)
    torch.testing.assert_close((weights, reconstruction), alone, rtol=0, atol=0)
    for one, other in zip(gradients((weights, reconstruction), given), gradients(alone, given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
