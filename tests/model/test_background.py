"""Background model: layer plan and weights against the reference, outputs, foreground rule, choice of width."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.model.background import (
    BackgroundModel,
    background_variation,
    channel_tables,
    is_complex,
    layer_plan,
    positional_channels,
)
from astseg.training.losses import background_loss

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES: dict[str, Any] = json.loads((GOLDEN / "background_shapes.json").read_text())
REQUESTED = [key for key in SHAPES if "_complexity_" in key]
EXTRA = SHAPES["extra_sizes_status"]


def parse(key: str) -> tuple[tuple[int, int], str]:
    """'200x320_complexity_True' -> (200, 320), 'complex'."""
    size, _, answer = key.split("_")
    height, width = size.split("x")
    return (int(height), int(width)), "complex" if answer == "True" else "simple"


def on_meta(size: tuple[int, int], width: str) -> BackgroundModel:
    with torch.device("meta"):
        return BackgroundModel(size, width)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def fill_with_rule_a(module: nn.Module) -> None:
    """The golden weights: a formula of the shape alone (golden README, weight rule A)."""
    for name, parameter in module.named_parameters():
        index = np.arange(parameter.numel(), dtype=np.float64)
        if parameter.dim() > 1:
            values = np.sin(0.7 * index + 0.3) / np.sqrt(parameter.numel() / parameter.shape[0])
        else:
            values = 1 + 0.1 * np.sin(index) if name.endswith("weight") else 0.05 * np.cos(index)
        parameter.data = torch.from_numpy(values.astype(np.float32)).view(parameter.shape)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "background_forward.npz") as arrays:
        return {key: torch.from_numpy(arrays[key].astype(np.float32)) for key in arrays.files}


@pytest.fixture(scope="module")
def golden_model() -> BackgroundModel:
    model = BackgroundModel((64, 64), "simple")
    fill_with_rule_a(model)
    return model


@pytest.mark.parametrize("key", REQUESTED)
def test_every_convolution_is_the_reference_s(key: str) -> None:
    size, width = parse(key)
    plans = layer_plan(size)
    model = on_meta(size, width)
    for half, module, ordered in (
        ("encoder", model.encoder, plans),
        ("generator", model.decoder, plans[::-1]),
    ):
        layers = [layer for layer in SHAPES[key][half]["layers"] if "Conv" in layer["type"]]
        weights = [parameter for parameter in module.parameters() if parameter.dim() > 1]
        assert len(layers) == len(weights) == len(ordered)
        for layer, weight, plan in zip(layers, weights, ordered, strict=True):
            channels = (layer["in_channels"], layer["out_channels"])
            assert tuple(weight.shape) == (*(channels if half == "generator" else channels[::-1]), *layer["kernel"])
            assert (list(plan.kernel), list(plan.stride)) == (layer["kernel"], layer["stride"])
            assert list(plan.padding) == layer["padding"]
            assert list(plan.large if half == "generator" else plan.small) == layer["output_size"][1:]
            if half == "generator":
                assert list(plan.output_padding) == layer["output_padding"]
        groups = [layer["groups"] for layer in SHAPES[key][half]["layers"] if layer["type"] == "GroupNorm"]
        assert groups == [norm.num_groups for norm in module.modules() if isinstance(norm, nn.GroupNorm)]
        assert count(module) == SHAPES[key][half]["params_trainable"]


@pytest.mark.parametrize("key", EXTRA)
def test_extra_sizes_have_the_reference_s_parameters(key: str) -> None:
    """But for the decoder of images whose width runs out before their height, or after: there the reference errs."""
    size, width = parse(key)
    plans, model = layer_plan(size), on_meta(size, width)
    encoder, generator = EXTRA[key]["encoder"], EXTRA[key]["generator"]
    assert count(model.encoder) == encoder["params_trainable"]
    positions = sum(2 * plan.large[0] * plan.large[1] for plan in plans)
    assert positions == encoder["params_positional_encoding_not_trained"]
    assert len(model.decoder) == encoder["n_blocks"]
    reference_errs = max(size) < 200 and any((plan.large[0] > 3) != (plan.large[1] > 3) for plan in plans)
    assert (count(model.decoder) != generator["params_trainable"]) == reference_errs


@pytest.mark.parametrize(
    "size", [(8, 8), (9, 31), (20, 28), (64, 64), (5 * 17, 100), (120, 199), (200, 12), (241, 321), (2400, 3000)]
)
def test_plan_leads_to_one_pixel_and_back(size: tuple[int, int]) -> None:
    plans = layer_plan(size)
    assert plans[0].large == size
    assert plans[-1].small == (1, 1)
    for before, after in zip(plans, plans[1:], strict=False):
        assert before.small == after.large
    for plan in plans:
        for axis in range(2):
            padded = plan.large[axis] + 2 * plan.padding[axis] - plan.kernel[axis]
            assert padded // plan.stride[axis] + 1 == plan.small[axis]
            back = (plan.small[axis] - 1) * plan.stride[axis] - 2 * plan.padding[axis] + plan.kernel[axis]
            assert back + plan.output_padding[axis] == plan.large[axis]
            assert 0 <= plan.output_padding[axis] < plan.stride[axis] or plan.output_padding[axis] == 0


def test_turning_the_image_turns_the_plan() -> None:
    for plan, turned in zip(layer_plan((64, 128)), layer_plan((128, 64)), strict=True):
        assert (plan.large, plan.kernel, plan.output_padding) == (
            turned.large[::-1],
            turned.kernel[::-1],
            turned.output_padding[::-1],
        )


@pytest.mark.parametrize("size", [(7, 64), (64, 7), (1, 1)])
def test_too_small_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} is too small.*at least 8"):
        BackgroundModel(size)


def test_unknown_width_is_refused() -> None:
    with pytest.raises(UserError, match="'huge' is unknown: choose small, simple or complex"):
        BackgroundModel((20, 28), "huge")


@pytest.mark.parametrize("width", ["small", "simple", "complex"])
@pytest.mark.parametrize("depth", range(3, 10))
def test_channel_tables_fit_every_depth(width: str, depth: int) -> None:
    encoder, decoder = channel_tables(width, depth)
    assert len(encoder) == len(decoder) == depth + 1
    assert (encoder[0], encoder[-1], decoder[0], decoder[-1]) == (3, 16, 4, 16)
    for channels in (*encoder[1:], *decoder[1:]):
        assert channels % max(1, channels // 16) == 0


def test_derived_channel_tables() -> None:
    assert channel_tables("simple", 3) == ((3, 64, 32, 16), (4, 144, 32, 16))
    assert channel_tables("simple", 4) == ((3, 64, 160, 32, 16), (4, 144, 256, 32, 16))
    assert channel_tables("complex", 8)[0] == (3, 64, 320, 640, 640, 320, 320, 16, 16)
    assert channel_tables("small", 6) == ((3, 16, 32, 80, 32, 16, 16), (4, 32, 64, 128, 64, 16, 16))


def test_positional_channels() -> None:
    position = positional_channels((3, 5))
    assert position.shape == (1, 2, 3, 5)
    torch.testing.assert_close(position[0, 0, :, 2], torch.tensor([-0.5, 0.0, 0.5]))
    torch.testing.assert_close(position[0, 1, 1], torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5]))
    torch.testing.assert_close(positional_channels((1, 2))[0, :, 0], torch.tensor([[1.0, 1.0], [-0.5, 0.5]]))


def test_first_positional_channels_are_golden(golden: dict[str, Tensor]) -> None:
    position = positional_channels((64, 64))[0, :, ::16, ::16]
    torch.testing.assert_close(position, golden["enc_first_positional"], rtol=0, atol=1e-6)


def test_forward_loss_and_gradients_are_golden(golden: dict[str, Tensor], golden_model: BackgroundModel) -> None:
    """May change only with the layer plan, the channel tables, the normalisation or the loss."""
    images = golden["images_u8"] / 255
    background, predicted_error = golden_model(images)
    prediction = torch.cat([background, predicted_error], dim=1) * 255
    torch.testing.assert_close(golden_model.encode(images), golden["latents"], rtol=0, atol=2e-4)
    torch.testing.assert_close(prediction, golden["prediction"], rtol=0, atol=0.03)

    golden_model.zero_grad()
    loss = background_loss(images, background, predicted_error)["total"]
    loss.backward()
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-4, atol=0)
    for module, name in ((golden_model.encoder, "encoder"), (golden_model.decoder, "generator")):
        norm = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
        torch.testing.assert_close(norm, golden[f"grad_norm_{name}"], rtol=1e-3, atol=0)


def test_decode_is_golden(golden: dict[str, Tensor], golden_model: BackgroundModel) -> None:
    prediction = torch.cat(golden_model.decode(golden["latents2"]), dim=1) * 255
    torch.testing.assert_close(prediction[:, :, ::4, ::4], golden["prediction2_sub"], rtol=0, atol=0.03)


@pytest.mark.parametrize("size", [(8, 9), (13, 9), (20, 28), (37, 64), (33, 201)])
def test_any_size_comes_back_in_range(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = BackgroundModel(size, "small")
    images = torch.rand(2, 3, *size)
    assert model.encode(images).shape == (2, 16)
    background, predicted_error = model(images)
    assert background.shape == (2, 3, *size)
    assert predicted_error.shape == (2, 1, *size)
    for values in (background, predicted_error):
        assert values.min() >= 0
        assert values.max() <= 1


def test_images_of_a_batch_do_not_meet() -> None:
    torch.manual_seed(0)
    model = BackgroundModel((20, 28), "small")
    images = torch.rand(3, 3, 20, 28)
    together, _ = model(images)
    alone, _ = model(images[1:2])
    torch.testing.assert_close(together[1:2], alone)


def test_mixed_precision_keeps_fine_grey_levels() -> None:
    torch.manual_seed(0)
    model = BackgroundModel((20, 28), "small")
    images = torch.rand(2, 3, 20, 28)
    with torch.autocast("cpu", torch.bfloat16):
        background, predicted_error = model(images)
    assert background.dtype == predicted_error.dtype == torch.float32
    torch.testing.assert_close(background, model(images)[0], rtol=0, atol=0.03)


def test_positions_stay_out_of_the_checkpoint() -> None:
    assert {name.split(".")[-1] for name in on_meta((20, 28), "small").state_dict()} == {"weight", "bias"}


def test_one_background_is_simple_and_many_are_complex() -> None:
    torch.manual_seed(0)
    fixed = torch.rand(1, 3, 20, 28).expand(5, -1, -1, -1)
    noisy = fixed + 0.02 * torch.randn(5, 3, 20, 28)
    varied = torch.rand(5, 3, 1, 1).expand(-1, -1, 20, 28)
    assert background_variation(fixed) == 0
    assert not is_complex(noisy)
    assert is_complex(varied)
    assert background_variation([varied[:2], varied[2:]]) == background_variation(varied)


def test_background_variation_by_hand() -> None:
    """Three backgrounds, one of which differs from the median by 0.1 in each colour."""
    reconstructions = torch.full((3, 3, 5, 7), 0.4)
    reconstructions[1] += 0.1
    assert background_variation(reconstructions) == pytest.approx(float(np.tanh(0.3 / 0.25)) / 3, rel=1e-5)


def test_template_starts_from_the_median_whatever_lies_before_it():
    torch.manual_seed(0)
    model = BackgroundModel((20, 28), "small", form="fixed")
    scene = 0.1 + 0.8 * torch.rand(3, 20, 28)
    images = scene.repeat(5, 1, 1, 1)
    images[0, :, 3:9, 4:11] = 1.0
    images[1, :, 8:15, 9:20] = 0.0
    model.start_from(images)
    assert model.template is not None
    assert torch.allclose(model.template[:3].sigmoid(), scene, atol=1e-6)
    assert (model.template[3].sigmoid() < 0.03).all()


def test_without_a_template_there_is_nothing_to_start():
    model = BackgroundModel((20, 28), "small")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_from(torch.rand(3, 3, 20, 28))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_centred_input_lets_the_code_see_brightness_and_the_published_one_hardly():
    torch.manual_seed(0)
    dark = 0.2 + 0.2 * torch.rand(1, 3, 64, 64)
    change = {}
    for form in ("paper", "fixed"):
        model = BackgroundModel((64, 64), "small", form=form)
        with torch.no_grad():
            code, brighter = model.encode(dark), model.encode(2 * dark)
        change[form] = float((brighter - code).norm() / code.norm())
    assert change["paper"] < 0.02
    assert change["fixed"] > 10 * change["paper"]
