"""Weights of the authors' program: every tensor of its files finds its place, and what does not fit is told."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from astseg.cli import arguments, main
from astseg.config import Config, ModelConfig
from astseg.config.presets import preset
from astseg.model.backbones import build_backbone
from astseg.runs.folder import RunFolder, load_model
from astseg.runs.info import RunInfo
from astseg.runs.reference_weights import our_names, read_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
BACKGROUNDS: dict[str, Any] = json.loads((GOLDEN / "background_shapes.json").read_text())
SOURCE = Path(__file__).parents[2] / "src" / "astseg"
Arrays = Callable[[str], dict[str, Any]]
Fill = Callable[..., None]
Tensors = dict[str, Tensor]

# The golden model of one_step_hash.npz: what its shapes do not tell.
SETTINGS = {"model": {"transformer_heads": 4, "image_size": [64, 64], "scale_max": 2.0}}


def background_tensors(key: str) -> tuple[Tensors, Tensors]:
    """Encoder and generator of the background under the reference's names and with its shapes (golden file)."""
    halves = []
    for half in ("encoder", "generator"):
        tensors: Tensors = {}
        for layer in BACKGROUNDS[key][half]["layers"]:
            name = layer["name"]
            if layer["type"] in ("Conv2d", "ConvTranspose2d"):
                channels = [layer["out_channels"], layer["in_channels"]]
                order = channels if layer["type"] == "Conv2d" else channels[::-1]
                tensors[f"{name}.weight"] = torch.empty(*order, *layer["kernel"])
            elif layer["type"] == "GroupNorm":
                tensors |= {f"{name}.{end}": torch.empty(layer["channels"]) for end in ("weight", "bias")}
        halves.append(tensors)
    return halves[0], halves[1]


def empty(golden: dict[str, Any], part: str) -> Tensors:
    """Tensors with the names and shapes of a golden file."""
    shapes = (tuple(map(int, shape.split(","))) for shape in golden[f"{part}_tensor_shapes"])
    return {name: torch.empty(shape) for name, shape in zip(golden[f"{part}_tensor_names"], shapes, strict=True)}


def batch_norms(tensors: Tensors) -> Tensors:
    """The buffers that a state dictionary also holds."""
    buffers: Tensors = {}
    for name, tensor in tensors.items():
        if re.search(r"batch_norm\.weight$", name):
            stem = name.removesuffix("weight")
            buffers |= {f"{stem}running_mean": torch.zeros_like(tensor), f"{stem}running_var": torch.ones_like(tensor)}
            buffers[f"{stem}num_batches_tracked"] = torch.tensor(3)
    return buffers


@pytest.fixture
def content(golden_arrays: Arrays, fill_by_rule_a: Fill, fill_by_rule_b: Fill) -> dict[str, Any]:
    """What a file of the reference holds: four state dictionaries, with the golden weights."""
    golden = golden_arrays("one_step_hash.npz")
    parts = {part: empty(golden, part) for part in ("encoder", "renderer")}
    for tensors in parts.values():
        fill_by_rule_b(tensors.items())
    encoder = {**parts["encoder"], **batch_norms(parts["encoder"]), "position_map": torch.zeros(2, 16, 16)}
    generator = {**parts["renderer"], "background_activation_logit": torch.tensor([1.0])}
    background = background_tensors("64x64_complexity_False")
    for tensors in background:
        fill_by_rule_a(tensors.items())
    positions = {"background_encoder.0.positional_encoding": torch.zeros(1, 2, 64, 64)}
    return {
        "step": 125_000,
        "encoder": encoder,
        "generator": generator,
        "background": {"encoder": {**background[0], **positions}, "generator": background[1]},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 4e-5}]},
    }


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(SETTINGS))
    return file


def run_import(file: Path, out: Path, *words: object) -> int:
    return main.run(["import-reference", str(file), str(out), *map(str, words)])


def test_golden_weights_give_golden_values(
    content: dict[str, Any], settings: Path, tmp_path: Path, golden_arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the reference's file through the command to the reference's own numbers, objects and background."""
    torch.save(content, tmp_path / "reference.pth")
    assert run_import(tmp_path / "reference.pth", tmp_path / "run", "--config", settings) == 0
    printed = capsys.readouterr().out
    assert "--model.slots 3 --model.appearance 8" in printed
    assert "nvidia/mit-b0" in printed and "not for commercial use" in printed
    model, config, _ = load_model(tmp_path / "run")
    assert (config.model.backbone, config.model.background_width) == ("segformer-b0", "simple")
    assert (config.model.isotropic, config.model.transformer_layers) == (False, 2)
    assert model.renderer.background_log_activation.item() == 1
    golden = golden_arrays("one_step_hash.npz")
    raw: list[Tensor] = []
    model.encoder.refinement.register_forward_hook(lambda _, __, out: raw.append(out))
    with torch.no_grad():
        model(golden["images_u8"].float() / 255)
    torch.testing.assert_close(raw[0].transpose(0, 1), golden["eval_latents"], rtol=0, atol=1e-5)
    known = golden_arrays("background_forward.npz")
    with torch.no_grad():
        background, error = model.background_model(known["images_u8"].float() / 255)
    torch.testing.assert_close(torch.cat([background, error], 1) * 255, known["prediction"], rtol=0, atol=0.03)


def test_the_run_folder_says_where_it_is_from(content: dict[str, Any], settings: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "reference.pth")
    run_import(tmp_path / "reference.pth", tmp_path / "run", "--config", settings)
    _, info = RunFolder(tmp_path / "run").load_config()
    assert info.imported == str(tmp_path / "reference.pth")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "trained by the authors' program" in card
    assert "not for commercial use" in card
    assert "log.jsonl" not in card


def test_names_of_2022_are_the_same_weights(content: dict[str, Any], tmp_path: Path) -> None:
    """transformers itself saves Segformer's weights under the names that the authors' release had."""
    import transformers
    from safetensors.torch import load_file

    backbone: Any = build_backbone("segformer-b0", out_channels=14, image_size=(64, 64))
    prefix = "feature_and_attention_map_generator.complete_model."
    now = {f"{prefix}{name}": tensor for name, tensor in backbone.complete_model.state_dict().items()}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=14))
    model.load_state_dict(backbone.complete_model.state_dict())
    model.save_pretrained(tmp_path / "saved")
    then = {f"{prefix}{name}": t for name, t in load_file(tmp_path / "saved" / "model.safetensors").items()}
    assert any(".attention.self.query." in name for name in then)
    assert any(".decode_head.linear_c." in name for name in then)
    ours, theirs = our_names(now), our_names(then)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # and their number is that of the golden file, buffers aside
    assert set(our_names(content["encoder"])) - {"position_map"} >= set(ours)


@pytest.mark.parametrize("nest", ["flat", "parallel", "deep"])
def test_the_nest_of_dictionaries_does_not_matter(nest: str, content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "plain.pth")
    parts = [content["encoder"], content["generator"], *content["background"].values()]
    flat = {name: tensor for part in parts for name, tensor in part.items()}
    other: Any = {
        "flat": flat,
        "parallel": {f"module.{name}": tensor for name, tensor in flat.items()},
        "deep": {"epoch": 3, "models": {"a": {"b": parts[0]}, "c": parts[1], "d": {**parts[2], **parts[3]}}},
    }[nest]
    torch.save(other, tmp_path / "other.pth")
    one, two = read_tensors(tmp_path / "plain.pth"), read_tensors(tmp_path / "other.pth")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_background_from_another_file(content: dict[str, Any], settings: Path, tmp_path: Path) -> None:
    torch.save(content.pop("background"), tmp_path / "background.pth")
    torch.save(content, tmp_path / "objects.pth")
    words = ["--config", settings, "--background", tmp_path / "background.pth"]
    assert run_import(tmp_path / "objects.pth", tmp_path / "run", *words) == 0
    assert load_model(tmp_path / "run")[1].model.background_width == "simple"


def reference_names(tensors: Tensors) -> Tensors:
    """Our names of a state dictionary as the reference's."""
    pairs = {
        r"^encoder\.backbone": "feature_and_attention_map_generator",
        r"^encoder\.refinement\.embedding": "feature_vector_embedding",
        r"^encoder\.refinement\.transformer": "transformer",
        r"^encoder\.refinement\.projection": "latents_projection",
        r"^renderer\.generator": "glimpse_generator",
        r"^renderer\.background_log_activation": "background_activation_logit",
        r"^renderer\.pixel_log_activation": "local_background_activation_logit",
        r"^background_model\.encoder\.(\d+)": r"background_encoder.\1.downsample",
        r"^background_model\.decoder\.(\d+)\.(?=\d)": r"background_generator.\1.upsample.",
        r"^background_model\.decoder\.(\d+)\.(?=weight)": r"background_generator.\1.upsample.0.",
    }
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in pairs.items():
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        named[name] = tensor
    return named


MODELS: dict[str, dict[str, Any]] = {
    "unet": {"backbone": "unet", "background_width": "simple", "slots": 4},
    "isotropic": {"backbone": "segformer-b1", "isotropic": True, "background_width": "simple", "slots": 6},
    "video": {"image_size": (200, 320), "backbone": "unet", "pixel_activation": True, "slots": 7, "appearance": 9},
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_comes_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astseg.model.astseg import build

    small = {"transformer_layers": 1, "transformer_width": 16, "transformer_feedforward": 12, "appearance": 5}
    config = ModelConfig(**{"image_size": (64, 64), **small, **MODELS[kind]})
    torch.manual_seed(0)
    model = build(replace(config, reference=config.isotropic)).eval()
    model.renderer.background_log_activation.data.fill_(2.5)
    torch.save(reference_names(model.state_dict()), tmp_path / "reference.pth")
    size = " ".join(map(str, config.image_size))
    (tmp_path / "size.yaml").write_text(f"model: {{image_size: [{size.replace(' ', ', ')}], backbone_weights: null}}")
    assert run_import(tmp_path / "reference.pth", tmp_path / "run", "--config", tmp_path / "size.yaml") == 0
    loaded, found, _ = load_model(tmp_path / "run")
    assert found.model == replace(config, reference=config.isotropic)
    images = torch.rand(1, 3, *config.image_size)
    with torch.no_grad():
        assert torch.equal(loaded(images).weights, model(images).weights)


# Refusals


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def change(content: dict[str, Any], how: str) -> Any:
    encoder, background = content["encoder"], content["background"]
    if how == "no background":
        del content["background"]
    elif how == "missing":
        del encoder["transformer.layers.1.norm2.bias"]
    elif how == "unknown":
        encoder["adapter.weight"] = torch.zeros(3)
    elif how == "shape":
        encoder["latents_projection.bias"] = torch.zeros(14)
    elif how == "not finite":
        encoder["latents_projection.bias"][3] = torch.nan
    elif how == "twice":
        content["older"] = {"latents_projection.bias": torch.ones(13)}
    elif how == "depths":
        stage = "feature_and_attention_map_generator.complete_model.segformer.stages.2.blocks.1."
        content["encoder"] = {name: t for name, t in encoder.items() if not name.startswith(stage)}
    elif how == "object":
        content["arguments"] = Config()
    elif how == "latents":
        content["generator"]["glimpse_generator.0.weight"] = torch.zeros(7, 64, 2, 2)
    elif how == "generator":
        content["generator"]["glimpse_generator.0.weight"] = torch.zeros(8, 128, 2, 2)
    elif how == "background of another size":
        background["generator"] = background_tensors("128x128_complexity_False")[1]
    elif how == "sides":
        encoder["feature_vector_embedding.weight"] = torch.zeros(13)
    elif how == "nothing":
        return {"weights": torch.zeros(3)}
    elif how == "a tensor":
        return torch.zeros(3)
    return content


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no background", "lacks 'background_model.encoder.0.0.weight'.*--background"),
        ("missing", "'encoder.refinement.transformer.layers.1.norm2.bias' is missing"),
        ("unknown", "'adapter.weight' is unknown"),
        ("shape", r"'encoder.refinement.projection.bias' is \(14,\) instead of \(13,\)"),
        ("not finite", "'encoder.refinement.projection.bias' is not finite"),
        ("twice", "two tensors 'latents_projection.bias'"),
        ("depths", r"depths \(2, 2, 1, 2\)"),
        ("object", "cannot be read as plain tensors"),
        ("latents", "latents of 13 numbers and 7 for appearance"),
        ("generator", "glimpse generator of 128 channels, which is not for images of 64x64"),
        ("background of another size", "does not fit its model"),
        ("sides", "other names or sides than the reference's"),
        ("nothing", "none of the reference's modules"),
        ("a tensor", "none of the reference's modules"),
    ],
)
def test_files_that_do_not_fit(
    how: str, message: str, content: dict[str, Any], settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(change(content, how), tmp_path / "reference.pth")
    before = tree(tmp_path)
    assert run_import(tmp_path / "reference.pth", tmp_path / "run", "--config", settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert tree(tmp_path) == before


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "text.pth").write_text("hello")
    for name, words in (("none", "cannot be read"), ("broken", "plain tensors"), ("text", "plain tensors")):
        assert run_import(tmp_path / f"{name}.pth", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "run").save_config(Config(), RunInfo("small"))
    assert run_import(tmp_path / "reference.pth", tmp_path / "run") == 2
    assert "holds a run already" in capsys.readouterr().err


def test_pickles_of_others_are_read_for_tensors_alone() -> None:
    calls = [
        (path.name, line.strip())
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"torch\.load\(|pickle\.load|allow_pickle=True", line)
    ]
    assert sorted(name for name, _ in calls) == ["pretrained.py", "reference_weights.py"]
    assert all("weights_only=True" in line for _, line in calls)


def test_the_command_line() -> None:
    command = arguments.parse(["import-reference", "a.pth", "run"])
    assert command == arguments.ImportReference(Path("a.pth"), Path("run"))
    assert preset(command.preset)
