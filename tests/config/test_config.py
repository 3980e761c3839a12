"""Configuration: every check, names that are nearly right, the way to JSON and YAML and back."""

import dataclasses
import json
from typing import Any

import pytest
import yaml

from astseg.config import (
    AugmentConfig,
    BackgroundConfig,
    Config,
    DiscoveryConfig,
    InferenceConfig,
    ModelConfig,
    ObjectsConfig,
    PseudoLabelConfig,
    from_dict,
    nearest,
    override,
    to_dict,
)
from astseg.errors import UserError

PARTS = (
    *(ModelConfig, BackgroundConfig, ObjectsConfig, PseudoLabelConfig),
    *(DiscoveryConfig, InferenceConfig, AugmentConfig),
)
CHANGED = Config(
    model=ModelConfig(image_size=(20, 28), slots=3, isotropic=True, backbone="cnn", backbone_weights="a/b"),
    background=BackgroundConfig(ramp=(0.1, 0.4), steps=7),
    objects=ObjectsConfig(betas=(0.8, 0.9), learning_rate=3e-4, scenario="baseline"),
)

# The supplement's Table 1


def test_defaults_are_the_paper_s() -> None:
    config = Config()
    model, objects, background = config.model, config.objects, config.background
    assert (model.image_size, model.slots, model.appearance) == ((128, 128), 10, 32)
    assert (model.scale_min, model.scale_max, model.background_log_activation) == (1.3, 24, 11)
    assert (model.transformer_layers, model.transformer_heads) == (6, 8)
    assert (model.transformer_width, model.transformer_feedforward) == (256, 512)
    assert (objects.steps, objects.frozen_steps, objects.batch, objects.learning_rate) == (125_000, 30_000, 64, 4e-5)
    assert (objects.betas, objects.eps, objects.warmup, objects.decay_from) == ((0.90, 0.98), 1e-9, 5_000, 0.9)
    assert (objects.entropy_weight, objects.entropy_ramp, objects.pseudo_label_weight) == (1e-2, 10_000, 0)
    assert (background.steps, background.batch, background.learning_rate) == (500_000, 128, 2e-3)
    assert (background.beta, background.ramp) == (6, (0, 0))


# Checks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "slots is 0, expected at least 1"),
        ({"slots": 256}, "slots is 256, expected at most 255"),
        ({"image_size": (15, 64)}, r"image_size is \(15, 64\), expected at least 16"),
        ({"appearance": 0}, "appearance is 0, expected at least 1"),
        ({"scale_min": 0.0}, "model.scale_min is 0.0, expected more than 0"),
        ({"scale_min": 24.0}, r"model.scale_min is 24.0, expected less than model.scale_max \(24.0\)"),
        ({"scale_max": float("nan")}, "model.scale_max is nan, expected a finite number"),
        ({"refinement": "residal"}, "refinement is 'residal': did you mean 'residual'?"),
        ({"background_width": "simpel"}, "background_width is 'simpel': did you mean 'simple'?"),
        ({"transformer_width": 100}, "transformer_width is 100, expected a multiple of model.transformer_heads"),
        ({"transformer_width": 0}, "transformer_width is 0"),
        ({"transformer_heads": 0}, "transformer_heads is 0, expected at least 1"),
        ({"transformer_layers": 0}, "transformer_layers is 0, expected at least 1"),
        ({"transformer_feedforward": 0}, "transformer_feedforward is 0, expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0, expected less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_model_checks(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "background.steps is 0, expected at least 1"),
        ({"batch": 0}, "background.batch is 0, expected at least 1"),
        ({"learning_rate": 0.0}, "background.learning_rate is 0.0, expected more than 0"),
        ({"learning_rate": float("nan")}, "background.learning_rate is nan"),
        ({"beta": -1.0}, "background.beta is -1.0, expected at least 0"),
        ({"ramp": (0.5, 0.2)}, r"background.ramp is \(0.5, 0.2\), expected 0 <= start <= end <= 1"),
        ({"ramp": (-0.1, 0.2)}, "background.ramp"),
        ({"ramp": (0.1, 1.2)}, "background.ramp"),
    ],
)
def test_background_checks(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BackgroundConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenario": "curiculum"}, "scenario is 'curiculum': did you mean 'curriculum'?"),
        ({"steps": 0}, "objects.steps is 0, expected at least 1"),
        ({"frozen_steps": -1}, "frozen_steps is -1, expected at least 0"),
        ({"batch": 0}, "objects.batch is 0, expected at least 1"),
        ({"accumulate": 0}, "accumulate is 0, expected at least 1"),
        (
            {"batch": 6, "accumulate": 4},
            r"objects.batch is 6, expected a multiple of objects.accumulate \(4\), which splits it",
        ),
        ({"clip": -0.5}, "clip is -0.5, expected at least 0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"learning_rate": -1e-4}, "objects.learning_rate is -0.0001, expected more than 0"),
        ({"warmup": -1}, "warmup is -1, expected at least 0"),
        ({"decay_from": 0.0}, "decay_from is 0.0, expected more than 0"),
        ({"decay_from": 1.1}, "decay_from is 1.1"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\), expected less than 1"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"eps": 0.0}, "eps is 0.0, expected more than 0"),
        ({"entropy_weight": -1.0}, "entropy_weight is -1.0, expected at least 0"),
        ({"entropy_ramp": -1}, "entropy_ramp is -1, expected at least 0"),
        ({"pseudo_label_weight": -1.0}, "pseudo_label_weight is -1.0, expected at least 0"),
        ({"pseudo_label_decay": -1}, "pseudo_label_decay is -1, expected at least 0"),
    ],
)
def test_objects_checks(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectsConfig(**settings)


def test_values_at_the_borders_pass() -> None:
    ModelConfig(slots=255, image_size=(16, 16), dropout=0.0, transformer_width=8, transformer_heads=8)
    BackgroundConfig(steps=1, batch=1, beta=0.0, ramp=(0.0, 1.0))
    ObjectsConfig(warmup=0, frozen_steps=0, decay_from=1.0, entropy_ramp=0, entropy_weight=0.0, betas=(0.0, 0.0))


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.slots = 3  # type: ignore[misc]


def test_messages_are_one_line() -> None:
    for settings in ({"slots": 0}, {"refinement": "x"}, {"image_size": (1, 1)}):
        with pytest.raises(UserError) as caught:
            ModelConfig(**settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


# Names


def test_nearest_name() -> None:
    assert nearest("basline", ["curriculum", "baseline"]) == "did you mean 'baseline'?"
    assert nearest("xyz", ["curriculum", "baseline"]) == "choose from baseline, curriculum"
    assert nearest("baselin", iter(["baseline"])) == "did you mean 'baseline'?"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "'modle' is not a setting: did you mean 'model'?"),
        ({"model": {"slot": 3}}, "'model.slot' is not a setting: did you mean 'slots'?"),
        ({"objects": {"learning_rat": 1e-4}}, "'objects.learning_rat' is not a setting: did you mean 'learning_rate'?"),
        ({"background": {"qqq": 1}}, "'background.qqq' is not a setting: choose from batch, beta"),
        ({3: 1}, "'3' is not a setting: choose from augment, background, discovery, inference, model, objects"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert message in str(caught.value)


# There and back


@pytest.mark.parametrize("config", [Config(), CHANGED])
def test_there_and_back(config: Config) -> None:
    plain = to_dict(config)
    assert from_dict(plain) == config
    assert from_dict(json.loads(json.dumps(plain))) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config
    assert override(CHANGED, plain) == config


def test_parts_that_are_missing_have_their_defaults() -> None:
    """Runs that were written before a part was added are read."""
    plain = to_dict(CHANGED)
    del plain["discovery"], plain["pseudo_labels"]
    assert from_dict(plain) == CHANGED


def test_only_plain_values_go_out() -> None:
    plain = to_dict(CHANGED)
    parts = ["model", "background", "objects", "pseudo_labels", "discovery", "inference", "augment", "scene"]
    assert list(plain) == parts
    assert plain["model"]["image_size"] == [20, 28]
    assert plain["objects"]["betas"] == [0.8, 0.9]
    types = {type(value) for part in plain.values() for value in part.values()}
    assert types <= {int, float, str, bool, list, type(None)}


def test_override_changes_only_what_it_names() -> None:
    config = override(CHANGED, {"model": {"slots": 5}, "objects": {"flip": True}})
    assert config == dataclasses.replace(
        CHANGED,
        model=dataclasses.replace(CHANGED.model, slots=5),
        objects=dataclasses.replace(CHANGED.objects, flip=True),
    )
    assert override(CHANGED, {}) == CHANGED
    assert override(CHANGED, {"model": {}}) == CHANGED
    assert override(CHANGED.model, {"slots": 4}).slots == 4


def test_yaml_values() -> None:
    """YAML 1.1 reads 1e-4, which has no point, as text, and 3 as a whole number."""
    text = """
    model: {image_size: [20, 28], scale_max: 12, backbone_weights: null}
    objects: {learning_rate: 1e-4, betas: [0, 0.9], flip: yes}
    background: {ramp: [0.1, 4e-1]}
    """
    values = yaml.safe_load(text)
    assert values["objects"]["learning_rate"] == "1e-4"
    config = from_dict(values)
    assert config.objects.learning_rate == 1e-4
    assert config.objects.betas == (0.0, 0.9)
    assert config.objects.flip is True
    assert config.background.ramp == (0.1, 0.4)
    assert config.model.image_size == (20, 28)
    assert config.model.scale_max == 12.0
    assert isinstance(config.model.scale_max, float)
    assert config.model.backbone_weights is None


def test_one_number_stands_for_both_sides() -> None:
    assert from_dict({"model": {"image_size": 64}}).model.image_size == (64, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"slots": 3.5}}, "'model.slots' is 3.5, expected a whole number"),
        ({"model": {"slots": "3"}}, "'model.slots' is '3', expected a whole number"),
        ({"model": {"slots": True}}, "'model.slots' is True, expected a whole number"),
        ({"model": {"slots": None}}, "'model.slots' is None, expected a whole number"),
        ({"model": {"isotropic": 1}}, "'model.isotropic' is 1, expected true or false"),
        ({"model": {"isotropic": "yes"}}, "'model.isotropic' is 'yes', expected true or false"),
        ({"model": {"backbone": 3}}, "'model.backbone' is 3, expected a name"),
        ({"model": {"backbone_weights": 3}}, "'model.backbone_weights' is 3, expected a name"),
        ({"model": {"scale_max": "wide"}}, "'model.scale_max' is 'wide', expected a number"),
        ({"model": {"scale_max": True}}, "'model.scale_max' is True, expected a number"),
        ({"model": {"scale_max": [1]}}, "'model.scale_max' is [1], expected a number"),
        ({"model": {"scale_max": "inf"}}, "'model.scale_max' is 'inf', expected a number"),
        ({"model": {"scale_max": 10**400}}, "expected a number"),
        ({"objects": {"learning_rate": float("nan")}}, "'objects.learning_rate' is nan, expected a number"),
        ({"model": {"image_size": [1, 2, 3]}}, "'model.image_size' is [1, 2, 3], expected a list of 2 numbers"),
        ({"model": {"image_size": "64x64"}}, "'model.image_size' is '64x64', expected a list of 2 numbers"),
        ({"model": {"image_size": True}}, "'model.image_size' is True, expected a list of 2 numbers"),
        ({"model": {"image_size": [64, 64.5]}}, "'model.image_size' is 64.5, expected a whole number"),
        ({"objects": {"betas": 0.9}}, "'objects.betas' is 0.9, expected a list of 2 numbers"),
        ({"model": 3}, "model is 3, expected names and values"),
        ([1], "the configuration is [1], expected names and values"),
        ({"model": {"slots": 0}}, "slots is 0, expected at least 1"),
    ],
)
def test_wrong_values_are_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert message in str(caught.value)


def test_other_parts_are_checked_too() -> None:
    for wrong, message in (
        (lambda: DiscoveryConfig(neck=1.5), "discovery.neck is 1.5, expected at most 1"),
        (lambda: DiscoveryConfig(shadow_brightness=(0.9, 0.4)), "expected the smaller one first"),
        (lambda: PseudoLabelConfig(glimpses=0), "pseudo_labels.glimpses is 0, expected at least 1"),
        (lambda: InferenceConfig(proposal_iou=0.0), "inference.proposal_iou is 0.0, expected more than 0"),
        (lambda: InferenceConfig(proposal_margin=float("inf")), "proposal_margin is inf, expected a finite number"),
        (lambda: AugmentConfig(zoom=1.0), "augment.zoom is 1.0, expected less than 1"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_every_setting_is_described_in_the_docstring_of_its_part() -> None:
    for part in PARTS:
        described = (part.__doc__ or "").partition("Attributes:\n")[2].splitlines()
        assert described == [f"    {name}: {known.meaning}" for name, known in part.settings().items()]
        assert list(part.settings()) == [field.name for field in dataclasses.fields(part)]
