"""Encoder: golden values of pooling and refinement, named latents, properties of the refinement."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from astseg import config
from astseg.model.backbones.small_cnn import SmallCNN
from astseg.model.encoder import REFINEMENTS, Encoder, Refinement, split_latents
from astseg.types import ObjectLatents

B, K, Z, H, W = 2, 3, 5, 20, 28
SCALES = (1.3, 24.0)


class Maps(nn.Module):
    """A backbone that has seen the image before."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        return self.maps


def refinement(size: int = 2 + 3 + Z, form: str = "paper", dropout: float = 0.0) -> Refinement:
    torch.manual_seed(0)
    return Refinement(size=size, width=16, heads=4, layers=3, feedforward=24, dropout=dropout, form=form)


def fields(latents: ObjectLatents) -> list[Tensor]:
    return [latents.position, latents.scale, latents.log_activation, latents.appearance]


def test_the_forms_are_those_of_the_configuration() -> None:
    assert (*REFINEMENTS, "none") == config.REFINEMENTS


@pytest.mark.parametrize(("scaling", "scale_numbers"), [("aniso", 2), ("iso", 1)])
def test_golden_latents(
    scaling: str,
    scale_numbers: int,
    golden_arrays: Callable[[str], dict[str, Any]],
    fill_by_rule_a: Callable[..., None],
) -> None:
    """May change only with Algorithm 1."""
    golden = {key.removeprefix(f"{scaling}_"): value for key, value in golden_arrays("attention_pooling.npz").items()}
    size = golden["latents"].shape[-1]
    refine = Refinement(size=size, width=16, heads=4, layers=2, feedforward=24, dropout=0.0, form="paper")
    fill_by_rule_a(refine.named_parameters())
    seen: dict[str, Tensor] = {}
    for name in ("embedding", "transformer", "projection"):
        refine.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    encoder = Encoder(Maps(golden["feature_map"]), refine, slots=3, scale_numbers=scale_numbers, scale_range=SCALES)
    latents, attention = encoder.locate(torch.zeros(2, 3, 24, 20))

    torch.testing.assert_close(attention, golden["attention"], rtol=0, atol=1e-6)
    for name, key in (("embedding", "embedding"), ("transformer", "transformer_out"), ("projection", "latents")):
        torch.testing.assert_close(seen[name].transpose(0, 1), golden[key], rtol=0, atol=1e-5)
    raw = golden["latents"].transpose(0, 1)
    expected = split_latents(raw, scale_numbers=scale_numbers, scale_range=SCALES)
    for ours, theirs in zip(fields(latents), fields(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # torch's shortcut for evaluation
        shortcut = refine.eval()(golden["pooled_latents"].transpose(0, 1))
    torch.testing.assert_close(shortcut, raw, rtol=0, atol=1e-5)


# Latents


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_split_reads_every_number_once(scale_numbers: int) -> None:
    raw = torch.arange(3.0 + scale_numbers + Z) / 100
    latents = split_latents(raw.expand(B, K, -1), scale_numbers=scale_numbers, scale_range=(2.0, 6.0))
    assert latents.position.shape == (B, K, 2)
    assert latents.scale.shape == (B, K, scale_numbers)
    assert latents.log_activation.shape == (B, K)
    assert latents.appearance.shape == (B, K, Z)
    torch.testing.assert_close(latents.position[0, 0], torch.tensor([0.00, 0.01]))
    scale = 2 + 4 * torch.tensor([0.02, 0.03][:scale_numbers]).sigmoid()
    torch.testing.assert_close(latents.scale[1, 2], scale)
    torch.testing.assert_close(latents.log_activation[0, 1], torch.tensor(0.02 + scale_numbers / 100))
    torch.testing.assert_close(latents.appearance[0, 0], raw[3 + scale_numbers :])


def test_ranges_of_positions_and_scales() -> None:
    latents = split_latents(1e3 * torch.randn(B, K, 5 + Z), scale_numbers=2, scale_range=SCALES)
    assert latents.position.abs().max() == 1
    assert latents.scale.min() >= SCALES[0]
    assert latents.scale.max() <= SCALES[1]


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_the_reference_reads_the_activation_at_index_4(scale_numbers: int) -> None:
    """With two scale numbers that is its own place; with one it is the first of the appearance."""
    raw = torch.randn(B, K, 3 + scale_numbers + Z)
    named = split_latents(raw, scale_numbers=scale_numbers, scale_range=SCALES)
    theirs = split_latents(raw, scale_numbers=scale_numbers, scale_range=SCALES, reference=True)
    assert torch.equal(theirs.log_activation, named.appearance[..., 0] if scale_numbers == 1 else named.log_activation)
    for one, other in ((named.position, theirs.position), (named.appearance, theirs.appearance)):
        assert torch.equal(one, other)


# Refinement


def test_residual_refinement_starts_as_the_identity() -> None:
    pooled = torch.randn(B, K, 10)
    assert torch.equal(refinement(form="residual", dropout=0.1)(pooled), pooled)
    assert not torch.allclose(refinement(form="paper")(pooled), pooled, atol=0.1)


def test_residual_refinement_learns() -> None:
    refine = refinement(form="residual")
    refine(torch.randn(B, K, 10)).square().sum().backward()
    assert refine.projection.weight.grad is not None
    assert refine.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("form", REFINEMENTS)
@pytest.mark.parametrize("shortcut", [True, False])
def test_slots_are_a_set(form: str, shortcut: bool) -> None:
    refine = refinement(form=form).eval()
    nn.init.normal_(refine.projection.weight)
    pooled, order = torch.randn(B, K, 10), torch.tensor([2, 0, 1])
    with torch.set_grad_enabled(not shortcut):
        torch.testing.assert_close(refine(pooled[:, order]), refine(pooled)[:, order], rtol=1e-4, atol=1e-5)


def test_slots_see_each_other_and_images_do_not() -> None:
    refine = refinement().eval()
    pooled = torch.randn(B, K, 10)
    changed = pooled.clone()
    changed[0, 1] += 1
    moved = (refine(changed) - refine(pooled)).abs().amax(-1) > 1e-4
    assert moved.tolist() == [[True] * K, [False] * K]


def test_all_layers_start_with_different_weights() -> None:
    layers = list(refinement().transformer.layers)
    assert len(layers) == 3
    for one, other in combinations(layers, 2):
        for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
            assert a is not b
            if a.dim() > 1:
                assert not torch.equal(a, b), name


def test_layers_start_equal_as_in_the_reference_where_asked() -> None:
    refine = Refinement(
        size=10, width=16, heads=4, layers=3, feedforward=24, dropout=0.0, form="paper", equal_layers=True
    )
    first, *others = refine.transformer.layers
    for other in others:
        for (name, a), (_, b) in zip(first.named_parameters(), other.named_parameters(), strict=True):
            assert a is not b
            assert torch.equal(a, b), name


# Encoder


def encoder_of(backbone: nn.Module, scale_numbers: int, form: str = "paper") -> Encoder:
    refine = refinement(size=3 + scale_numbers + Z, form=form)
    return Encoder(backbone, refine, slots=K, scale_numbers=scale_numbers, scale_range=SCALES)


@pytest.mark.parametrize("scale_numbers", [1, 2])
@pytest.mark.parametrize("form", REFINEMENTS)
def test_shapes_and_gradients(scale_numbers: int, form: str) -> None:
    encoder = encoder_of(SmallCNN(out_channels=K + Z + 1 + scale_numbers), scale_numbers, form)
    latents, attention = encoder.locate(torch.rand(B, 3, H, W))
    assert attention.shape == (B, K, 5, 7)
    assert [tuple(field.shape) for field in fields(latents)] == [
        (B, K, 2),
        (B, K, scale_numbers),
        (B, K),
        (B, K, Z),
    ]
    sum(field.square().sum() for field in fields(latents)).backward()  # type: ignore[union-attr]
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_residual_positions_start_as_the_soft_argmax() -> None:
    """An attention that points at the last cell of the first row: an object in the upper right corner."""
    maps = torch.zeros(B, K + Z + 3, 5, 7)
    maps[:, :K] = -1e4
    maps[:, :K, 0, 6] = 1e4
    latents, _ = encoder_of(Maps(maps), 2, "residual").locate(torch.rand(B, 3, H, W))
    assert torch.equal(latents.position, torch.tensor([1.0, -1.0]).expand(B, K, 2))


@pytest.mark.parametrize("form", REFINEMENTS)
def test_positions_keep_their_precision_under_autocast(form: str) -> None:
    maps = torch.randn(B, K + Z + 3, 5, 7)
    encoder = encoder_of(Maps(maps), 2, form)
    exact, _ = encoder.locate(torch.rand(B, 3, H, W))
    with torch.autocast("cpu", torch.bfloat16):
        latents, _ = encoder.locate(torch.rand(B, 3, H, W))
    for ours, theirs in zip(fields(latents), fields(exact), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_half_precision_maps_and_double_models() -> None:
    maps = torch.randn(B, K + Z + 3, 5, 7)
    assert encoder_of(Maps(maps.bfloat16()), 2).locate(torch.rand(B, 3, H, W))[0].position.dtype == torch.float32
    latents, attention = encoder_of(Maps(maps.double()), 2).double().locate(torch.rand(B, 3, H, W))
    assert {field.dtype for field in (*fields(latents), attention)} == {torch.float64}
