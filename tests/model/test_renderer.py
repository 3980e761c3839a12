"""Renderer: golden values at both scale modes and two sizes, generator shapes, properties of what is drawn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from astseg.model.encoder import split_latents
from astseg.model.renderer import GlimpseGenerator, Renderer, glimpse_channels, place_glimpses
from astseg.types import ObjectLatents

GOLDEN = Path(__file__).parents[1] / "golden"
GENERATORS: dict[str, Any] = json.loads((GOLDEN / "glimpse_shapes.json").read_text())["glimpse_generators"]
SCALES = (1.3, 24.0)
B, K, Z, H, W = 2, 3, 5, 20, 28


def parse(key: str) -> tuple[tuple[int, int], int]:
    """'image_200x320_z16' -> (200, 320), 16."""
    _, size, appearance = key.split("_")
    height, width = size.split("x")
    return (int(height), int(width)), int(appearance.removeprefix("z"))


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance)


# Glimpse generator


@pytest.mark.parametrize("key", GENERATORS)
def test_generators_are_the_reference_s(key: str) -> None:
    size, appearance = parse(key)
    expected = GENERATORS[key]
    generator = GlimpseGenerator(appearance, glimpse_channels(size))
    assert sum(parameter.numel() for parameter in generator.parameters()) == expected["params"]
    assert generator.side == expected["output_size"][1]
    assert generator(torch.randn(2, appearance)).shape == (2, *expected["output_size"])
    named = dict(generator.named_children())
    for layer in expected.get("layers", []):
        ours = named[layer["name"]]
        assert isinstance(ours, getattr(nn, layer["type"]))
        if isinstance(ours, nn.ConvTranspose2d):
            assert (ours.in_channels, ours.out_channels) == (layer["in_channels"], layer["out_channels"])
            assert (list(ours.kernel_size), list(ours.padding)) == (layer["kernel"], layer["padding"])
            assert (ours.bias is not None) == layer["bias"]
        elif isinstance(ours, nn.GroupNorm):
            assert (ours.num_groups, ours.eps) == (layer["groups"], layer["eps"])


@pytest.mark.parametrize(
    ("size", "side"), [((64, 64), 32), ((64, 65), 64), ((20, 128), 64), ((129, 20), 128), ((20, 28), 32)]
)
def test_glimpses_grow_with_the_longer_side(size: tuple[int, int], side: int) -> None:
    assert 2 ** len(glimpse_channels(size)) == side


def test_only_the_last_layer_has_a_bias() -> None:
    generator = GlimpseGenerator(Z, (8, 4, 4, 4))
    names = [name for name, layer in generator.named_children() if isinstance(layer, nn.ConvTranspose2d)]
    assert [generator.get_submodule(name).bias is not None for name in names] == [False, False, False, True]


# Golden scenes


def golden_scene(
    golden: dict[str, Any], scale_numbers: int, fill: Callable[..., None], **settings: Any
) -> tuple[Renderer, ObjectLatents, Tensor]:
    """The renderer with the golden weights, the latents and the backgrounds of a golden file."""
    backgrounds = golden["backgrounds_u8"].float() / 255
    size = (backgrounds.shape[2], backgrounds.shape[3])
    latents = split_latents(golden["latents"].transpose(0, 1), scale_numbers=scale_numbers, scale_range=SCALES)
    renderer = Renderer(
        GlimpseGenerator(latents.appearance.shape[-1], glimpse_channels(size)),
        image_size=size,
        background_log_activation=float(golden["bg_logit"]),
        **settings,
    )
    fill(renderer.generator.named_parameters())
    return renderer, latents, backgrounds


@pytest.mark.parametrize(
    ("name", "scale_numbers", "suffix", "rows", "columns"),
    [
        ("aniso_64", 2, "", slice(None), slice(None)),
        ("iso_64", 1, "_intended", slice(None, None, 2), slice(None, None, 2)),
        ("aniso_128", 2, "", slice(1, None, 4), slice(2, None, 4)),
    ],
)
def test_golden_rendering(
    name: str,
    scale_numbers: int,
    suffix: str,
    rows: slice,
    columns: slice,
    golden_arrays: Callable[[str], dict[str, Any]],
    fill_by_rule_a: Callable[..., None],
) -> None:
    """May change only with Algorithm 2."""
    golden = golden_arrays(f"renderer_{name}.npz")
    renderer, latents, backgrounds = golden_scene(golden, scale_numbers, fill_by_rule_a)
    k, n = golden["latents"].shape[:2]
    theta = golden["theta"].view(k, n, 2, 3).transpose(0, 1)  # rows (sx, 0, -x sx) and (0, sy, -y sy)
    near(latents.scale.expand(n, k, 2), torch.stack([theta[..., 0, 0], theta[..., 1, 1]], -1), 1e-5)
    near(-latents.position * latents.scale, theta[..., 2], 1e-5)
    appearance = latents.appearance.transpose(0, 1).flatten(0, 1)
    near(renderer.generator(appearance), golden["glimpses"], 1e-5)

    layers, masks, weights, reconstruction, _ = renderer(latents, backgrounds)
    placed = torch.cat([layers, masks[:, :, None]], dim=2).transpose(0, 1)
    near(placed[..., rows, columns], golden["warped" if "warped" in golden else "warped_sub"], 1e-4)
    near(weights.transpose(0, 1), golden[f"weights{suffix}"], 1e-4)
    near(reconstruction, golden[f"reconstruction{suffix}"], 1e-4)


def test_golden_rendering_with_the_reference_s_activation_index(
    golden_arrays: Callable[[str], dict[str, Any]], fill_by_rule_a: Callable[..., None]
) -> None:
    """The reference reads the activation at index 4, which with one scale number is the first of the appearance."""
    golden = golden_arrays("renderer_iso_64.npz")
    renderer, latents, backgrounds = golden_scene(golden, 1, fill_by_rule_a)
    raw = golden["latents"].transpose(0, 1)
    as_the_reference = split_latents(raw, scale_numbers=1, scale_range=SCALES, reference=True)
    _, _, weights, reconstruction, _ = renderer(as_the_reference, backgrounds)
    near(weights.transpose(0, 1), golden["weights_official"], 1e-4)
    near(reconstruction, golden["reconstruction_official"], 1e-4)


def test_golden_rendering_with_pixel_activation(
    golden_arrays: Callable[[str], dict[str, Any]], fill_by_rule_a: Callable[..., None]
) -> None:
    golden = golden_arrays("renderer_aniso_64.npz")
    renderer, latents, backgrounds = golden_scene(golden, 2, fill_by_rule_a, pixel_activation=True)
    assert renderer.pixel_log_activation is not None
    near(renderer(latents, backgrounds)[2].transpose(0, 1), golden["weights"], 1e-4)  # it starts at nothing
    renderer.pixel_log_activation.data.copy_(golden["varbg_local_logit"])
    _, _, weights, reconstruction, _ = renderer(latents, backgrounds)
    near(weights.transpose(0, 1)[..., ::2, ::2], golden["varbg_weights_sub"], 1e-4)
    near(reconstruction[..., ::2, ::2], golden["varbg_reconstruction_sub"], 1e-4)


# Properties


def renderer_20x28(**settings: Any) -> Renderer:
    torch.manual_seed(0)
    return Renderer(GlimpseGenerator(Z, glimpse_channels((H, W))), image_size=(H, W), **settings)


def some_latents(scale_numbers: int = 2, seed: int = 0) -> ObjectLatents:
    torch.manual_seed(seed)
    raw = torch.randn(B, K, 3 + scale_numbers + Z)
    return split_latents(raw, scale_numbers=scale_numbers, scale_range=(1.3, 6.0))


@pytest.mark.parametrize("scale_numbers", [1, 2])
@pytest.mark.parametrize("pixel_activation", [False, True])
def test_shapes_ranges_and_gradients(scale_numbers: int, pixel_activation: bool) -> None:
    renderer = renderer_20x28(pixel_activation=pixel_activation)
    latents = some_latents(scale_numbers)
    numbers = [latents.position, latents.scale, latents.log_activation, latents.appearance]
    for number in numbers:
        number.requires_grad_()
    background = torch.rand(B, 3, H, W)
    layers, masks, weights, reconstruction, _ = renderer(latents, background)
    assert layers.shape == (B, K, 3, H, W)
    assert masks.shape == (B, K, H, W)
    assert weights.shape == (B, K + 1, H, W)
    assert reconstruction.shape == (B, 3, H, W)
    for values in (layers, masks, weights, reconstruction):
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-6
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B, H, W))
    (reconstruction - 0.3).square().sum().backward()
    for tensor in (*numbers, *renderer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_objects_start_almost_invisible() -> None:
    latents = replace(some_latents(), log_activation=torch.zeros(B, K))
    background = torch.rand(B, 3, H, W)
    _, _, weights, reconstruction, _ = renderer_20x28()(latents, background)
    assert weights[:, 1:].max() < 2e-5
    torch.testing.assert_close(reconstruction, background, rtol=0, atol=1e-4)


def test_active_objects_hide_the_background() -> None:
    latents = replace(some_latents(), log_activation=torch.full((B, K), 30.0))
    _, masks, weights, _, _ = renderer_20x28()(latents, torch.rand(B, 3, H, W))
    assert (weights[:, 0][masks.amax(dim=1) > 0.1] < 1e-6).all()
    assert (weights[:, 0][masks.amax(dim=1) == 0] == 1).all()


def test_colours_are_compared_the_same_way_with_layers_and_without() -> None:
    renderer, latents, background = renderer_20x28(), some_latents(), torch.rand(B, 3, H, W)
    images = torch.rand(B, 3, H, W)
    full, bare = (renderer(latents, background, images=images, layers=layers) for layers in (True, False))
    assert renderer(latents, background).errors is None
    assert not full.errors.requires_grad
    seen = full.weights > 0
    torch.testing.assert_close(bare.weights, full.weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bare.errors[seen], full.errors[seen], rtol=1e-4, atol=1e-5)
    expected = (full.layers - images[:, None]).square().sum(dim=2)
    torch.testing.assert_close(full.errors[:, 1:], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(full.errors[:, 0], (background - images).square().sum(dim=1), rtol=1e-4, atol=1e-5)


def test_order_of_slots_does_not_matter() -> None:
    renderer, latents, background = renderer_20x28(), some_latents(), torch.rand(B, 3, H, W)
    order = torch.tensor([2, 0, 1])
    turned = ObjectLatents(
        latents.position[:, order],
        latents.scale[:, order],
        latents.log_activation[:, order],
        latents.appearance[:, order],
    )
    _, masks, weights, reconstruction, _ = renderer(latents, background)
    _, turned_masks, turned_weights, turned_reconstruction, _ = renderer(turned, background)
    torch.testing.assert_close(turned_masks, masks[:, order])
    torch.testing.assert_close(turned_weights[:, 1:], weights[:, 1:][:, order])
    torch.testing.assert_close(turned_reconstruction, reconstruction)


def test_layers_are_the_placed_glimpses() -> None:
    renderer, latents = renderer_20x28(), some_latents()
    layers, masks, _, _, _ = renderer(latents, torch.rand(B, 3, H, W))
    for i, k in ((0, 2), (1, 0)):
        glimpse = renderer.generator(latents.appearance[i, k][None])[None]
        position, scale = latents.position[i, k].view(1, 1, 2), latents.scale[i, k].view(1, 1, 2)
        alone = place_glimpses(glimpse, position, scale, image_size=(H, W))[0, 0]
        torch.testing.assert_close(layers[i, k], alone[:3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(masks[i, k], alone[3], rtol=1e-4, atol=1e-5)


def test_mixed_precision_keeps_weights_exact() -> None:
    renderer, latents, background = renderer_20x28(), some_latents(), torch.rand(B, 3, H, W)
    exact = renderer(latents, background)
    with torch.autocast("cpu", torch.bfloat16):
        rough = renderer(latents, background)
    for ours, theirs in zip(rough[:4], exact[:4], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)
    torch.testing.assert_close(rough[2].sum(dim=1), torch.ones(B, H, W))


def test_double_precision() -> None:
    latents = some_latents()
    doubled = ObjectLatents(
        latents.position.double(), latents.scale.double(), latents.log_activation.double(), latents.appearance.double()
    )
    background = torch.rand(B, 3, H, W)
    exact = renderer_20x28().double()(doubled, background.double())
    for ours, theirs in zip(exact[:4], renderer_20x28()(latents, background)[:4], strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-4)


def test_width_multiplies_the_hidden_channels() -> None:
    assert glimpse_channels((64, 48), 2) == (128, 64, 32, 16, 4)
    assert glimpse_channels((64, 128)) == (128, 64, 32, 16, 8, 4)
    generator = GlimpseGenerator(5, glimpse_channels((64, 48), 2))
    assert generator(torch.randn(3, 5)).shape == (3, 4, 32, 32)


# Without layers


def scene(*, off: float) -> tuple[Renderer, ObjectLatents, Tensor]:
    """A renderer, the latents of B images with one object each that is off, and backgrounds."""
    torch.manual_seed(0)
    renderer = Renderer(GlimpseGenerator(Z, (16, 8, 8, 4)), image_size=(H, W), background_log_activation=1.0)
    raw = torch.randn(B, K, 2 + 2 + 1 + Z)
    latents = split_latents(raw, scale_numbers=2, scale_range=(1.3, 6.0))
    latents.log_activation[:, 1] = 1.0 + off
    return renderer, latents, torch.rand(B, 3, H, W)


def test_without_layers_it_draws_the_same() -> None:
    renderer, latents, background = scene(off=-2.0)
    layers, masks, *expected, _ = renderer(latents, background)
    assert layers.shape == (B, K, 3, H, W)
    assert masks.shape == (B, K, H, W)
    no_layers, no_masks, *got, _ = renderer(latents, background, layers=False)
    assert no_layers is None
    assert no_masks is None
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_pruned_slots_are_not_drawn() -> None:
    renderer, latents, background = scene(off=-20.0)
    generated: list[int] = []
    renderer.generator.register_forward_hook(lambda _, given, __: generated.append(len(given[0])))
    expected = renderer(latents, background, layers=False)[2:4]
    with torch.no_grad():
        got = renderer(latents, background, layers=False, drawn=renderer.active(latents.log_activation, 10.0))[2:4]
    assert generated == [B * K, B * (K - 1)]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        latents.log_activation[:] = -100.0
        drawn = renderer.active(latents.log_activation, 10.0)
        _, _, weights, reconstruction, _ = renderer(latents, background, layers=False, drawn=drawn)
    assert torch.equal(reconstruction, background)
    assert (weights[:, 0] == 1).all()
