"""Backbones against the golden values, at odd sizes, and with weights that do not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.config import BACKBONES
from astseg.errors import UserError
from astseg.model.backbones import build_backbone
from astseg.model.backbones.mix_transformer import MIX_TRANSFORMERS, DropPath
from astseg.model.backbones.pretrained import body_weights
from astseg.model.backbones.segformer import Segformer, licence_notice
from astseg.model.backbones.small_cnn import SmallCNN
from astseg.model.backbones.unet import UNet, unet_widths

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIX = "feature_and_attention_map_generator."


def golden_json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def images_of(values: Any) -> Tensor:
    return torch.from_numpy(values["images_u8"]).float() / 255


def assert_near(actual: Tensor, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), torch.from_numpy(expected), rtol=0, atol=tolerance)


def fill_one_dimensional(name: str, parameter: Tensor) -> Tensor:
    i = torch.arange(parameter.numel(), dtype=torch.float64)
    return 1 + 0.1 * torch.sin(i) if name.endswith("weight") else 0.05 * torch.cos(i)


@torch.no_grad()
def fill_by_rule_a(module: nn.Module) -> None:
    """The golden files' weights that depend on the shape alone."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            values = fill_one_dimensional(name, parameter)
        else:
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            values = torch.sin(0.7 * i + 0.3) / (parameter.numel() / parameter.shape[0]) ** 0.5
        parameter.copy_(values.view(parameter.shape))


@torch.no_grad()
def fill_by_rule_b(module: nn.Module) -> None:
    """The golden files' hashed weights: of full rank, and different for every tensor."""
    for salt, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.dim() == 1:
            values = fill_one_dimensional(name, parameter)
        else:
            i = np.arange(parameter.numel(), dtype=np.uint64)
            v = (i * np.uint64(2654435761) + np.uint64(salt * 40503 + 12345)) % np.uint64(2**32)
            for _ in range(2):
                v ^= v >> np.uint64(16)
                v = v * np.uint64(0x45D9F3B) % np.uint64(2**32)
            v ^= v >> np.uint64(16)
            hashed = v.astype(np.float64) / 2**32 * 2 - 1
            values = torch.from_numpy(hashed / (parameter.numel() / parameter.shape[0]) ** 0.5)
        parameter.copy_(values.view(parameter.shape))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def segformer_b0(out_channels: int = 14) -> Segformer:
    return Segformer("b0", out_channels=out_channels, classifier_dropout=0.0, drop_path=0.0)


# Segformer


@pytest.mark.parametrize("size", ["B0", "B3"])
@pytest.mark.parametrize("scaling", ["aniso", "iso"])
def test_segformer_parameter_counts(size: str, scaling: str) -> None:
    expected = golden_json("glimpse_shapes.json")["encoders_K10_dz32"][f"segformer_{size}_{scaling}_128x128"]
    with torch.device("meta"):
        backbone = Segformer(size.lower(), out_channels=expected["feature_map_channels"])
    assert count(backbone) == expected["modules"]["feature_and_attention_map_generator"]
    assert count(backbone.complete_model.segformer) == expected["feature_generator_split"]["segformer"]
    assert count(backbone.complete_model.decode_head) == expected["feature_generator_split"]["decode_head"]


def test_segformer_tensors_carry_the_reference_names() -> None:
    expected = golden_json("glimpse_shapes.json")["encoders_K10_dz32"]["segformer_B0_aniso_128x128"]
    backbone = Segformer("b0", out_channels=expected["feature_map_channels"])
    assert {name: list(p.shape) for name, p in backbone.named_parameters()} == expected["parameter_shapes"]
    values = np.load(GOLDEN / "one_step_hash.npz")
    names = [name.removeprefix(PREFIX) for name in values["encoder_tensor_names"] if name.startswith(PREFIX)]
    shapes = values["encoder_tensor_shapes"][: len(names)]
    tensors = list(segformer_b0().named_parameters())
    assert [name for name, _ in tensors] == names
    assert [",".join(map(str, p.shape)) for _, p in tensors] == list(shapes)


def test_segformer_golden_rule_a() -> None:
    # These values come from the reference; nothing of ours may change them.
    values = np.load(GOLDEN / "one_step.npz")
    backbone = segformer_b0()
    fill_by_rule_a(backbone)
    images = images_of(values)
    backbone.eval()
    for i, stage in enumerate(backbone.complete_model.segformer(images)):
        assert_near(stage[0, ::4], values[f"stage{i}_sub"], 3e-4)
    maps = backbone(images)
    assert_near(maps[..., ::2, ::2], values["eval_feature_map_sub"], 5e-5)
    assert_near(maps.mean((0, 2, 3)), values["eval_feature_map_channel_mean"], 5e-5)
    assert_near(maps.std((0, 2, 3), unbiased=False), values["eval_feature_map_channel_std"], 5e-5)
    assert_near(backbone.train()(images)[..., ::2, ::2], values["feature_map_sub"], 5e-5)


def test_segformer_golden_rule_b() -> None:
    values = np.load(GOLDEN / "one_step_hash.npz")
    backbone = segformer_b0()
    fill_by_rule_b(backbone)
    images = images_of(values)
    backbone.eval()
    for i, stage in enumerate(backbone.complete_model.segformer(images)):
        assert_near(stage[0, ::4], values[f"stage{i}_sub"], 1e-5)
    assert_near(backbone(images)[..., ::2, ::2], values["eval_feature_map_sub"], 5e-5)
    assert_near(backbone.train()(images)[..., ::2, ::2], values["feature_map_sub"], 5e-5)


def test_segformer_drops_out_in_training_alone() -> None:
    backbone = Segformer("b0", out_channels=5)
    images = torch.rand(2, 3, 32, 36)
    assert not torch.equal(backbone(images), backbone(images))
    backbone.eval()
    assert torch.equal(backbone(images), backbone(images))


def test_padding_for_segformer_leaves_large_images_alone() -> None:
    backbone = segformer_b0().eval()
    images = torch.rand(1, 3, 29, 45)
    complete = backbone.complete_model
    assert torch.equal(backbone(images), complete.decode_head(complete.segformer(images)))


def test_padding_for_segformer_repeats_the_last_row_and_column() -> None:
    backbone = segformer_b0().eval()
    images = torch.rand(1, 3, 20, 28)
    rows, columns = torch.arange(29).clamp(max=19), torch.arange(29).clamp(max=27)
    padded = images[:, :, rows][..., columns]
    torch.testing.assert_close(backbone(images), backbone(padded)[..., :5, :7])


def test_sizes_of_mix_transformers() -> None:
    assert list(MIX_TRANSFORMERS) == ["b0", "b1", "b2", "b3", "b4", "b5"]
    assert [sum(size.depths) for size in MIX_TRANSFORMERS.values()] == [8, 8, 16, 28, 41, 52]


# Pretrained weights


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A b0 body saved under each of the three heads, and folders that cannot serve as weights."""
    import transformers

    folder = tmp_path_factory.mktemp("checkpoints")
    config = transformers.SegformerConfig()
    torch.manual_seed(0)
    for head in ("SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation"):
        getattr(transformers, head)(config).save_pretrained(folder / head)
    transformers.BertConfig().save_pretrained(folder / "bert")
    transformers.SegformerConfig(depths=[1, 1, 1, 1]).save_pretrained(folder / "odd")
    config.save_pretrained(folder / "no_weights")
    (folder / "empty").mkdir()
    return folder


def body_tensors(folder: Path) -> dict[str, Tensor]:
    import transformers

    model = getattr(transformers, folder.name).from_pretrained(folder)
    return dict(getattr(model, "segformer", model).state_dict())


@pytest.mark.parametrize(
    "head", ["SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation"]
)
def test_weights_come_from_a_folder_whatever_its_head(checkpoints: Path, head: str) -> None:
    backbone = build_backbone("segformer-b0", out_channels=12, image_size=(20, 28), weights=str(checkpoints / head))
    assert isinstance(backbone, Segformer)
    loaded = backbone.complete_model.segformer.state_dict()
    expected = body_tensors(checkpoints / head)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert backbone.complete_model.decode_head.classifier.out_channels == 12


def test_weights_come_from_a_pickled_checkpoint_too(checkpoints: Path, tmp_path: Path) -> None:
    """As NVIDIA's are on the hub."""
    from safetensors.torch import load_file

    source = checkpoints / "SegformerForImageClassification"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    torch.save(load_file(source / "model.safetensors"), tmp_path / "pytorch_model.bin")
    backbone = Segformer("b0", out_channels=5)
    expected = backbone.complete_model.segformer.state_dict()
    loaded, same = (body_weights(str(path), "b0", expected) for path in (tmp_path, source))
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], same[name]) for name in expected)


@pytest.mark.parametrize(
    ("size", "folder", "message"),
    [
        ("b3", "SegformerModel", "are of size b0, but the backbone is segformer-b3"),
        ("b0", "odd", r"depths \(1, 1, 1, 1\)"),
        ("b0", "bert", "of a 'bert' model"),
        ("b0", "empty", "cannot be loaded"),
        ("b0", "no_weights", "cannot be loaded"),
        ("b0", "missing", "no such folder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(checkpoints: Path, size: str, folder: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Segformer(size, out_channels=5, weights=str(checkpoints / folder))
    assert "\n" not in str(error.value)


def test_incomplete_and_cut_weights_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = checkpoints / "SegformerModel"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / "model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 1 tensors"):
        Segformer("b0", out_channels=5, weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:9999])
    with pytest.raises(UserError, match="cannot be loaded"):
        Segformer("b0", out_channels=5, weights=str(tmp_path))


def test_licence_notice() -> None:
    for weights in ("nvidia/mit-b3", "/models/mit-b0", "hub/models--nvidia--mit-b5/snapshots/1"):
        notice = licence_notice(weights)
        assert notice is not None
        assert "not for commercial use" in notice
        assert "\n" not in notice
    assert licence_notice(None) is None
    assert licence_notice("my/submit-b1") is None


# U-Net


@pytest.mark.parametrize("name", ["64x64", "128x128", "200x320"])
def test_unet_layers_follow_the_golden_table(name: str) -> None:
    expected = golden_json("unet_shapes.json")[name]
    height, width = map(int, name.split("x"))
    with torch.device("meta"):
        backbone = UNet(out_channels=expected["d_phi"], widths=unet_widths((height, width)))
        images = torch.rand(1, 3, height, width)
    assert count(backbone) == expected["params"]
    seen: list[tuple[str, list[int]]] = []
    convolutions = {
        layer["name"]: layer["output_size"] for layer in expected["layers"] if layer["type"].startswith("Conv")
    }
    for layer_name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(
                lambda _, __, out, layer_name=layer_name: seen.append((layer_name, list(out.shape[1:])))
            )
    assert list(backbone.eval()(images).shape[1:]) == expected["output_size"]
    assert seen == list(convolutions.items())
    for layer in expected["layers"]:
        module = backbone.get_submodule(layer["name"])
        assert isinstance(module, getattr(nn, layer["type"]))
        assert count(module) == layer["params"]


@pytest.mark.parametrize("scaling", ["aniso", "iso"])
def test_unet_parameter_counts_in_the_encoder(scaling: str) -> None:
    expected = golden_json("glimpse_shapes.json")["encoders_K10_dz32"][f"unet_{scaling}_128x128"]
    backbone = build_backbone("unet", out_channels=expected["feature_map_channels"], image_size=(128, 128))
    assert count(backbone) == expected["modules"]["feature_and_attention_map_generator"]


def test_unet_golden_values() -> None:
    # These values come from the reference; nothing of ours may change them.
    values = np.load(GOLDEN / "unet_forward.npz")
    backbone = UNet(out_channels=20, widths=unet_widths((64, 64)))
    fill_by_rule_a(backbone)
    images = images_of(values)
    centres: list[Tensor] = []
    backbone.center_block.register_forward_hook(lambda _, __, out: centres.append(out))
    for mode, tolerance, centre_tolerance in (("eval", 5e-6, 5e-6), ("train", 1e-4, 5e-4)):
        maps = backbone.train(mode == "train")(images)
        assert_near(maps[..., ::4, ::4], values[f"{mode}_output_sub"], tolerance)
        assert_near(maps.mean((0, 2, 3)), values[f"{mode}_channel_mean"], tolerance)
        assert_near(maps.std((0, 2, 3), unbiased=False), values[f"{mode}_channel_std"], tolerance)
        assert_near(centres[-1][:, ::4], values[f"{mode}_center"], centre_tolerance)
    norm = backbone.first_feature_map[1]
    assert_near(norm.running_mean, values["first_bn_running_mean_after_one_train_forward"], 1e-5)
    assert_near(norm.running_var, values["first_bn_running_var_after_one_train_forward"], 1e-5)
    assert_near(backbone.eval()(images)[..., ::4, ::4], values["eval_after_train_output_sub"], 1e-4)


def test_unet_levels_follow_the_longer_side() -> None:
    assert len(unet_widths((199, 64))) == 6
    assert len(unet_widths((64, 200))) == 7


@pytest.mark.parametrize("image_size", [(15, 64), (64, 15), (31, 200)])
def test_unet_refuses_images_too_small(image_size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"image size {image_size[0]}x{image_size[1]} is too small"):
        build_backbone("unet", out_channels=5, image_size=image_size)
    backbone = UNet(out_channels=5, widths=(4, 8, 8, 8, 8, 8) if max(image_size) < 200 else (4, 8, 8, 8, 8, 8, 8))
    with pytest.raises(UserError, match="too small"):
        backbone(torch.rand(2, 3, *image_size))


def test_unet_trains_on_a_batch_of_one_only_where_batch_norm_can() -> None:
    backbone = UNet(out_channels=5, widths=(4, 8, 8, 8, 8, 8))
    with pytest.raises(UserError, match="batch of one 63x20 image"):
        backbone(torch.rand(1, 3, 63, 20))
    assert backbone(torch.rand(1, 3, 64, 20)).shape == (1, 5, 64, 20)
    assert backbone(torch.rand(2, 3, 63, 20)).shape == (2, 5, 63, 20)
    assert backbone.eval()(torch.rand(1, 3, 63, 20)).shape == (1, 5, 63, 20)


# SmallCNN


def test_small_cnn_does_not_depend_on_batch_or_mode() -> None:
    backbone = SmallCNN(out_channels=7)
    images = torch.rand(3, 3, 20, 28)
    together = backbone(images)
    alone = backbone.eval()(images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_small_cnn_sees_the_whole_image_from_its_deepest_level() -> None:
    backbone = SmallCNN(out_channels=7, widths=(8, 8, 8, 8, 8))
    for level in backbone.levels:
        level.norm = nn.Identity()  # a norm alone would carry every pixel everywhere
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    features = backbone.stem(images)
    for level in backbone.levels:
        features = level(features)
    for corner in ((0, 0), (-1, -1)):
        (gradient,) = torch.autograd.grad(features[..., corner[0], corner[1]].sum(), images, retain_graph=True)
        assert (gradient != 0).any(dim=1).all()


def test_small_cnn_learns_to_point() -> None:
    torch.manual_seed(0)
    backbone = SmallCNN(out_channels=1, widths=(8, 16, 16, 16))
    optimiser = torch.optim.Adam(backbone.parameters(), lr=1e-2)
    images = torch.zeros(6, 3, 20, 28)
    cells = torch.tensor([0, 6, 17, 20, 28, 34])
    for image, cell in zip(images, cells, strict=True):
        y, x = divmod(int(cell), 7)
        image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 1
    for _ in range(40):
        loss = nn.functional.cross_entropy(backbone(images).flatten(1), cells)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (backbone(images).flatten(1).argmax(1) == cells).all()


# All of them


@pytest.mark.parametrize("name", ["segformer-b0", "unet", "cnn"])
@pytest.mark.parametrize("image_size", [(20, 28), (33, 47), (64, 36)])
def test_maps_have_the_size_that_was_told(name: str, image_size: tuple[int, int]) -> None:
    backbone = build_backbone(name, out_channels=11, image_size=image_size)
    maps = backbone(torch.rand(2, 3, *image_size))
    assert maps.shape == (2, 11, *backbone.output_size(image_size))
    assert maps.isfinite().all()
    maps.square().mean().backward()
    for tensor_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, tensor_name
        assert parameter.grad.isfinite().all(), tensor_name


@pytest.mark.parametrize(("name", "size"), [("segformer-b0", (5, 7)), ("unet", (20, 28)), ("cnn", (5, 7))])
def test_output_size_at_20x28(name: str, size: tuple[int, int]) -> None:
    assert build_backbone(name, out_channels=5, image_size=(20, 28)).output_size((20, 28)) == size


def test_every_name_builds() -> None:
    with torch.device("meta"):
        for name in BACKBONES:
            build_backbone(name, out_channels=5, image_size=(64, 64))


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'segformer-b6'.*did you mean 'segformer-b"):
        build_backbone("segformer-b6", out_channels=5, image_size=(64, 64))
    with pytest.raises(UserError, match="did you mean 'unet'"):
        build_backbone("u-net", out_channels=5, image_size=(64, 64))


def test_weights_without_segformer_are_refused() -> None:
    with pytest.raises(UserError, match="backbone cnn has none"):
        build_backbone("cnn", out_channels=5, image_size=(64, 64), weights="nvidia/mit-b3")


def test_single_segformer_image_in_training() -> None:
    maps = segformer_b0(5)(torch.rand(1, 3, 20, 28))
    assert maps.shape == (1, 5, 5, 7)
    assert maps.isfinite().all()


# transformers as the oracle


def in_transformers(backbone: Segformer, size: str) -> Any:
    """The model of the package transformers with the same weights, in float64, without anything random."""
    import transformers

    shape = MIX_TRANSFORMERS[size]
    config = transformers.SegformerConfig(
        depths=shape.depths,
        hidden_sizes=shape.widths,
        decoder_hidden_size=shape.decoder_width,
        num_labels=backbone.complete_model.decode_head.classifier.out_channels,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
    )
    model = transformers.SegformerForSemanticSegmentation(config).double()
    model.load_state_dict(backbone.double().complete_model.state_dict())
    return model.train(backbone.training)


@pytest.mark.parametrize(("name", "size"), [("b0", (36, 44)), ("b0", (64, 40)), ("b1", (33, 47))])
def test_stages_maps_and_gradients_are_those_of_transformers(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = Segformer(name, out_channels=5, classifier_dropout=0.0, drop_path=0.0).double()
    oracle = in_transformers(backbone, name)
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = oracle(images, output_hidden_states=True)
    stages = backbone.complete_model.segformer(images)
    for one, other in zip(stages, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert one.is_contiguous(memory_format=torch.channels_last)
    maps = backbone.complete_model.decode_head(stages)
    torch.testing.assert_close(maps, expected.logits, rtol=1e-9, atol=1e-9)
    arriving = torch.randn_like(maps)
    names = [tensor_name for tensor_name, _ in backbone.complete_model.named_parameters()]
    assert names == [tensor_name for tensor_name, _ in oracle.named_parameters()]
    ours = torch.autograd.grad(maps, list(backbone.parameters()), arriving)
    theirs = torch.autograd.grad(expected.logits, list(oracle.parameters()), arriving)
    for tensor_name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9, msg=tensor_name)


def test_fresh_weights_are_drawn_as_in_transformers() -> None:
    """Each tensor has the mean and the standard deviation that it has there."""
    torch.manual_seed(0)
    backbone = Segformer("b0", out_channels=5)
    import transformers

    oracle = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=5))
    for (name, ours), theirs in zip(backbone.complete_model.named_parameters(), oracle.parameters(), strict=True):
        for one, other in zip((ours.mean(), ours.std()), (theirs.mean(), theirs.std()), strict=True):
            torch.testing.assert_close(one, other, rtol=0.25, atol=0.004, equal_nan=True, msg=name)


def test_drop_path_rates_grow_linearly() -> None:
    backbone = Segformer("b0", out_channels=5, drop_path=0.7)
    rates = [module.rate for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([i / 10 for i in range(8)])


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    branch = torch.rand(1000, 3, 5) + 1
    out = drop(branch)
    kept = (out != 0).any(dim=2).any(dim=1)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(out[kept], branch[kept] / 0.75)
    assert not out[~kept].any()
    assert drop.eval()(branch) is branch


def test_dropout_of_the_head_has_its_own_mode() -> None:
    backbone = Segformer("b0", out_channels=5, drop_path=0.0)
    images = torch.rand(2, 3, 32, 36)
    assert not torch.equal(backbone(images), backbone(images))
    backbone.complete_model.decode_head.dropout.eval()
    assert torch.equal(backbone(images), backbone(images))
