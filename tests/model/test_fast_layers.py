"""Layers that go around slow kernels: torch's own numbers and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from astseg.model.fast import layers
from astseg.model.fast.layers import Convolution, GroupNorm, TransposedConvolution, convolve_transposed

B, C, OUT, H, W = 2, 6, 5, 7, 9


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def copied(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 2, 2), (2, 2, 0), (4, 2, 1)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_are_those_of_finite_differences(
    kernel: int, stride: int, padding: int, transposed: bool, biased: bool
) -> None:
    shape = (C, OUT, kernel, kernel) if transposed else (OUT, C, kernel, kernel)
    given = [normal(B, C, 4, 5, dtype=torch.float64), normal(*shape, seed=1, dtype=torch.float64)]
    bias = normal(OUT, seed=2, dtype=torch.float64).requires_grad_() if biased else None
    given = [tensor.requires_grad_() for tensor in given]

    def run(features: Tensor, weight: Tensor) -> Tensor:
        return layers._few_cells(features, weight, bias, stride, padding, transposed)

    assert torch.autograd.gradcheck(run, given)
    if bias is not None:
        gradient = normal(*run(*given).shape, seed=3, dtype=torch.float64)
        torch.testing.assert_close(torch.autograd.grad(run(*given), bias, gradient)[0], gradient.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: Convolution(C, OUT, 3, padding=1, bias=False), nn.Conv2d(C, OUT, 3, padding=1, bias=False)),
        (lambda: Convolution(C, OUT, 3, stride=2, padding=1), nn.Conv2d(C, OUT, 3, stride=2, padding=1)),
        (lambda: TransposedConvolution(C, OUT, 4, 2, 1, bias=False), nn.ConvTranspose2d(C, OUT, 4, 2, 1, bias=False)),
        (lambda: TransposedConvolution(C, OUT, 4, 2, 1), nn.ConvTranspose2d(C, OUT, 4, 2, 1)),
    ],
)
@pytest.mark.parametrize("limit", [0, 10_000])
@pytest.mark.parametrize("half", [False, True])
def test_convolutions_are_torch_s(
    make: Callable[[], nn.Module], plain: nn.Module, limit: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "FEW_CELLS", limit)
    ours = make()
    copied(ours, plain)
    # Where it goes around torch's kernels it is held against exact sums of the rounded factors: torch's own are rough
    # in half precision on some processors.
    around = half and limit > 0 and not (isinstance(ours, TransposedConvolution) and ours.bias is not None)
    if around:
        plain.bfloat16().double()
    results = []
    for layer, exact in ((ours, False), (plain, around)):
        features = normal(B, C, H, W).to(memory_format=torch.channels_last)
        features = (features.bfloat16().double() if exact else features).requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half and not exact):
            output = layer(features)
        assert output.dtype == (torch.float64 if exact else torch.bfloat16 if half else torch.float32)
        gradient = normal(*output.shape, seed=1).to(torch.bfloat16 if half else torch.float32)
        output.backward(gradient.to(output.dtype))
        results.append([output, features.grad, *(parameter.grad for parameter in layer.parameters())])
    assert all(one.dtype == torch.float32 for one in results[0][1:])
    tolerance = 0.01 if around else 1e-5
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kernel", "more"), [((4, 4), 0), ((5, 5), 0), ((5, 5), 1)])
@pytest.mark.parametrize("biased", [False, True])
def test_sides_are_doubled_by_a_plain_convolution(
    kernel: tuple[int, int], more: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers; only without gradients, to few channels, over enough cells."""
    monkeypatch.setattr(layers, "FEW_CELLS", B * H * W // 8)
    padding = (kernel[0] - 1) // 2
    bias = normal(3, seed=2, dtype=torch.float64) if biased else None
    given = (bias, (2, 2), (padding, padding), (more, more))
    features = normal(B, C, H, W, dtype=torch.float64)
    few, many = (normal(C, outputs, *kernel, seed=1, dtype=torch.float64) for outputs in (3, 5))
    plain = functional.conv_transpose2d
    with torch.no_grad():
        wanted = plain(features, few, *given)
        calls = []
        monkeypatch.setattr(layers.F, "conv_transpose2d", lambda *_: calls.append(1))
        torch.testing.assert_close(convolve_transposed(features, few, *given), wanted)
        assert not calls
        convolve_transposed(features, many, None, *given[1:])
        convolve_transposed(features[:1], few, *given)
    convolve_transposed(features, few, *given)
    assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (32, 2)])
def test_group_norm_is_torch_s(dtype: torch.dtype, channels: int, groups: int) -> None:
    features = normal(B, channels, H, W).to(dtype).to(memory_format=torch.channels_last)
    ours, plain = GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
    output = ours(features)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), plain(features.float()), rtol=0.01, atol=0.01)
