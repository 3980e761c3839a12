"""The whole model: parameter counts of the reference, every backbone at an odd size, what `build` refuses."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from astseg.config import ModelConfig
from astseg.errors import UserError
from astseg.model import glimpse_encoder, renderer
from astseg.model.astseg import AstSeg, build
from astseg.model.background import BackgroundModel
from astseg.model.ops import attention_pool
from astseg.training.losses import reconstruction_loss

GOLDEN = Path(__file__).parents[1] / "golden"
ENCODERS: dict[str, Any] = json.loads((GOLDEN / "glimpse_shapes.json").read_text())["encoders_K10_dz32"]

# The reference's modules, and ours.
MODULES = {
    "feature_and_attention_map_generator": "encoder.backbone",
    "feature_vector_embedding": "encoder.refinement.embedding",
    "transformer": "encoder.refinement.transformer",
    "latents_projection": "encoder.refinement.projection",
}

# Parameter counts


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("key", ENCODERS)
def test_built_encoders_have_the_reference_s_parameters(key: str) -> None:
    """'segformer_B0_iso_128x128', 'unet_aniso_128x128', and so on."""
    *backbone, scaling, size = key.split("_")
    config = ModelConfig(
        image_size=(int(size.split("x")[0]), int(size.split("x")[1])),
        backbone="-".join(backbone).lower(),
        isotropic=scaling == "iso",
    )
    with torch.device("meta"):
        model = build(config)
    assert count(model.encoder) == ENCODERS[key]["total_trainable"]
    modules = {ours: count(model.get_submodule(ours)) for ours in MODULES.values()}
    assert modules == {ours: ENCODERS[key]["modules"][theirs] for theirs, ours in MODULES.items()}
    assert model.encoder.backbone.output_size(config.image_size) == (
        ENCODERS[key]["feature_map_height"],
        ENCODERS[key]["feature_map_width"],
    )


def test_defaults_are_the_paper_s_model() -> None:
    with torch.device("meta"):
        model = build(ModelConfig())
    assert count(model.encoder) == 50_438_930
    assert count(model.renderer) == 191_476 + 1
    assert count(model.background_model) == 21_183_616 + 48_633_192
    assert model.renderer.background_log_activation.shape == ()


# Every part at an odd size

B, K, Z, H, W = 2, 3, 5, 20, 28


def small_config(**settings: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "image_size": (H, W),
            "slots": K,
            "appearance": Z,
            "backbone": "cnn",
            "background_width": "small",
            "transformer_width": 16,
            "transformer_heads": 4,
            "transformer_layers": 2,
            "transformer_feedforward": 24,
            **settings,
        }
    )


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.mark.parametrize(("backbone", "map_size"), [("cnn", (5, 7)), ("unet", (20, 28)), ("segformer-b0", (5, 7))])
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("refinement", ["paper", "residual"])
def test_every_backbone(backbone: str, map_size: tuple[int, int], isotropic: bool, refinement: str) -> None:
    model = build(small_config(backbone=backbone, isotropic=isotropic, refinement=refinement, pixel_activation=True))
    output = model(torch.rand(B, 3, H, W))
    assert output.latents.position.shape == (B, K, 2)
    assert output.latents.scale.shape == (B, K, 1 if isotropic else 2)
    assert output.latents.log_activation.shape == (B, K)
    assert output.latents.appearance.shape == (B, K, Z)
    assert output.attention.shape == (B, K, *map_size)
    assert output.background.shape == (B, 3, H, W)
    assert output.layers.shape == (B, K, 3, H, W)
    assert output.masks.shape == (B, K, H, W)
    assert output.weights.shape == (B, K + 1, H, W)
    assert output.reconstruction.shape == (B, 3, H, W)
    torch.testing.assert_close(output.weights.sum(dim=1), torch.ones(B, H, W))
    torch.testing.assert_close(output.attention.sum(dim=(2, 3)), torch.ones(B, K))
    reconstruction_loss(output.reconstruction, torch.rand(B, 3, H, W)).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("background_model.decoder"):  # its predicted error has no part in this
            assert parameter.grad is not None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_known_background_is_not_computed_again() -> None:
    model = build(small_config())
    images, background = torch.rand(B, 3, H, W), torch.rand(B, 3, H, W)
    output = model(images, background)
    assert output.background is background
    output.reconstruction.square().mean().backward()
    assert all(parameter.grad is None for parameter in model.background_model.parameters())
    model.eval()
    computed, _ = model.background_model(images)
    torch.testing.assert_close(model(images, computed).reconstruction, model(images).reconstruction)


def test_the_start_is_the_background() -> None:
    model = build(small_config())
    output = model(torch.rand(B, 3, H, W))
    torch.testing.assert_close(output.reconstruction, output.background, rtol=0, atol=1e-2)
    assert (output.weights.argmax(dim=1) == 0).all()


def test_object_parameters_are_all_but_the_background_s() -> None:
    model = build(small_config())
    objects = {id(parameter) for parameter in model.object_parameters()}
    background = {id(parameter) for parameter in model.background_model.parameters()}
    assert objects.isdisjoint(background)
    assert objects | background == {id(parameter) for parameter in model.parameters()}


def test_settings_reach_their_parts() -> None:
    model = build(small_config(scale_min=1.5, scale_max=7.0, background_log_activation=3.0, dropout=0.25))
    assert isinstance(model.background_model, BackgroundModel)
    assert model.encoder.scale_range == (1.5, 7.0)
    assert model.renderer.background_log_activation.item() == 3
    rates = {module.p for module in model.encoder.refinement.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.25}


def test_without_a_transformer_the_latents_are_what_was_pooled() -> None:
    model = build(small_config(refinement="none"))
    assert not list(model.encoder.refinement.parameters())
    images = torch.rand(B, 3, H, W)
    maps = model.encoder.backbone(images)
    _, pooled = attention_pool(maps[:, :K], maps[:, K:])
    latents = model(images).latents
    torch.testing.assert_close(latents.position, pooled[..., :2])
    torch.testing.assert_close(latents.appearance, pooled[..., -Z:])


@pytest.mark.parametrize("isotropic", [True, False])
def test_the_switch_of_the_reference_reaches_its_parts(isotropic: bool) -> None:
    model = build(small_config(isotropic=isotropic, reference=True))
    latents = model(torch.rand(B, 3, H, W)).latents
    assert torch.equal(latents.log_activation, latents.appearance[..., 0]) == isotropic
    first, second = model.encoder.refinement.transformer.layers
    assert torch.equal(first.linear1.weight, second.linear1.weight)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(UserError, match="backbone is 'segfomer-b0': did you mean 'segformer-b0'"):
        build(small_config(backbone="segfomer-b0"))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="images are 28x20, but the model was built for 20x28: resize them"):
        build(small_config())(torch.rand(B, 3, W, H))


def test_the_smallest_images() -> None:
    """What the configuration lets pass, every backbone can take."""
    for backbone in ("cnn", "unet", "segformer-b0"):
        model = build(small_config(image_size=(16, 17), backbone=backbone))
        assert model(torch.rand(B, 3, 16, 17)).weights.shape == (B, K + 1, 16, 17)


def test_unet_refuses_what_it_cannot_halve() -> None:
    with pytest.raises(UserError, match="16x200 is too small for the unet"):
        build(small_config(backbone="unet", image_size=(16, 200)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Doubles stay doubles; under autocast only backbone, background and glimpses are rounded."""
    model, images = build(small_config()), torch.rand(B, 3, H, W)
    exact = model(images)
    if dtype == torch.float64:
        output = model.double()(images.double())
    else:
        with torch.autocast("cpu", dtype):
            output = model(images)
    assert output.reconstruction.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(output.reconstruction.float(), exact.reconstruction, rtol=0, atol=0.03)
    torch.testing.assert_close(output.weights.sum(dim=1).float(), torch.ones(B, H, W))


def paper_and_glimpse_encoder_models() -> Iterator[AstSeg]:
    """Models without dropout and batch statistics whose objects are drawn."""
    for glimpse_crop in (0, 8):
        yield build(
            small_config(
                glimpse_crop=glimpse_crop, refinement="residual", dropout=0.0, background_log_activation=0.0, slots=4
            )
        )


def test_numbers_are_the_same_in_every_mode() -> None:
    """Training or evaluation, with gradients or without, with layers or without: one arithmetic."""
    images = torch.rand(B, 3, H, W)
    for model in paper_and_glimpse_encoder_models():
        expected = model.train()(images)
        assert (expected.weights[:, 1:].amax(dim=(2, 3)) > 0.01).all()
        outputs = [model(images, layers=False)]
        for context in (nullcontext(), torch.no_grad(), torch.inference_mode()):
            for training in (True, False):
                with context:
                    outputs += [model.train(training)(images, layers=layers) for layers in (True, False)]
        for output in outputs:
            torch.testing.assert_close(output.weights, expected.weights, rtol=0, atol=1e-6)
            assert torch.equal(output.weights.argmax(dim=1), expected.weights.argmax(dim=1))
            torch.testing.assert_close(output.reconstruction, expected.reconstruction, rtol=0, atol=1e-5)
            torch.testing.assert_close(output.latents.appearance, expected.latents.appearance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
def test_pruned_slots_are_not_drawn_and_the_others_learn_the_same(monkeypatch: pytest.MonkeyPatch, fixed: bool) -> None:
    """Half of the objects weigh e^-20: whether they are drawn or not, gradients differ by no more than that.

    The same where shapes are fixed, as on a GPU: there they are drawn, and multiplied by zero.
    """
    for module in (glimpse_encoder, renderer):
        monkeypatch.setattr(module, "shapes_are_fixed", lambda device: fixed)
    model = build(small_config(glimpse_crop=8, slots=4, dropout=0.0, background_log_activation=0.0))
    images = torch.rand(B, 3, H, W)
    gradients = []
    for pruned in (False, True):
        model.zero_grad()
        background, _ = model.background_model(images)
        latents, attention = model.encoder.locate(images)
        faint = torch.tensor([0.0, -20.0, 0.0, -20.0])
        latents = replace(latents, log_activation=latents.log_activation + faint)
        active = model.renderer.active(latents.log_activation, 10.0)
        assert active.tolist() == [[True, False, True, False]] * B
        output = model.render(images, background, latents, attention, layers=False, active=active if pruned else None)
        (output.reconstruction - images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        assert (output.weights[:, [2, 4]] > 0).any().item() == (not pruned)
    for every, some in zip(*gradients, strict=True):
        assert (every - some).norm() <= 1e-4 * every.norm() + 1e-6
