"""Presets against the supplement's Table 1, typed in again here."""

import dataclasses
from typing import Any

import pytest

from astseg.config import Config, from_dict, to_dict
from astseg.presets import PRESETS, preset
from astseg.types import UserError

# Supplement, Table 1 (left: its words), and the reference for what it leaves out.
TABLE_1: dict[str, Any] = {
    "background.batch": 128,  # background model pretraining: batch size
    "background.learning_rate": 2e-3,  # learning rate
    "objects.batch": 64,  # foreground model training: batch size
    "objects.learning_rate": 4e-5,  # learning rate
    "objects.betas": (0.90, 0.98),  # Adam beta 1 and 2
    "objects.eps": 1e-9,  # Adam epsilon
    "objects.steps": 125_000,  # number of foreground model training iterations
    "objects.frozen_steps": 30_000,  # number of steps of phase 2 (CT scenario)
    "objects.warmup": 5_000,  # number of steps of learning rate warmup phase
    "objects.entropy_ramp": 10_000,  # number of steps of pixel entropy loss weight warmup phase
    "model.background_log_activation": 11.0,  # initial value of background activation before training: e^11
    "model.appearance": 32,  # dimension of z_what
    "objects.entropy_weight": 1e-2,  # pixel entropy loss weight
    "model.scale_min": 1.3,  # minimum value of inverse scaling factor
    "model.scale_max": 24.0,  # maximum value of inverse scaling factor
    "model.transformer_width": 256,  # dimension of inputs and outputs of transformer encoder
    "model.transformer_heads": 8,  # number of heads of transformer encoder layer
    "model.transformer_feedforward": 512,  # dimension of feedforward transformer layer
    "model.transformer_layers": 6,  # number of layers of transformer encoder
}
REFERENCE: dict[str, Any] = {
    "objects.decay_from": 0.9,
    "background.beta": 6.0,
    "background.ramp": (0.0, 0.0),
    "model.backbone": "segformer-b3",
    "model.backbone_weights": "nvidia/mit-b3",
    "model.dropout": 0.1,
}
NOT_OURS: dict[str, Any] = {  # what this package adds is off in the published presets
    "model.refinement": "paper",
    "model.background_form": "paper",
    "model.pixel_activation": False,
    "objects.guidance": 0.0,
    "objects.parsimony_weight": 0.0,
    "objects.decay": "step",
    "model.glimpse_width": 1,
    "objects.flip": False,
    "objects.precision": "float32",
    "background.precision": "float32",
    "augment.copies": 1,
}
DATA_SETS: dict[str, dict[str, Any]] = {
    "clevr": {
        "background.steps": 2_500,  # datasets with fixed backgrounds (CLEVR)
        "model.background_width": "simple",
        "model.image_size": (128, 128),
        "model.slots": 10,
        "model.isotropic": True,
    },
    "clevrtex": {
        "background.steps": 500_000,  # datasets with complex backgrounds (CLEVRTEX, ShapeStacks, ObjectsRoom)
        "model.background_width": "complex",
        "model.image_size": (128, 128),
        "model.slots": 10,
        "model.isotropic": False,
    },
    "shapestacks": {
        "background.steps": 500_000,
        "model.background_width": "complex",
        "model.image_size": (64, 64),
        "model.slots": 6,
        "model.isotropic": True,
    },
    "objects-room": {
        "background.steps": 500_000,
        "model.background_width": "complex",
        "model.image_size": (64, 64),
        "model.slots": 3,
        "model.isotropic": False,
    },
}
SCENARIOS = {"bt": "baseline", "ct": "curriculum"}
PUBLISHED = [(name, short) for name in DATA_SETS for short in SCENARIOS]


def setting(config: Config, name: str) -> Any:
    part, field = name.split(".")
    return getattr(getattr(config, part), field)


@pytest.mark.parametrize(("data", "short"), PUBLISHED)
def test_published_values(data: str, short: str) -> None:
    config = preset(f"{data}-{short}")
    expected = {**TABLE_1, **REFERENCE, **NOT_OURS, **DATA_SETS[data], "objects.scenario": SCENARIOS[short]}
    assert {name: setting(config, name) for name in expected} == expected


def test_every_setting_of_a_published_preset_is_accounted_for() -> None:
    checked = {*TABLE_1, *REFERENCE, *NOT_OURS, *DATA_SETS["clevr"], "objects.scenario"}
    irrelevant = {
        "objects.guidance_steps",  # there is no guidance
        "background.share",  # there is no limit of time
        *(f"augment.{name}" for name in ("flip", "zoom", "shift", "light", "colour")),  # there are no variants
    }
    every = {f"{part}.{name}" for part, values in to_dict(Config()).items() for name in values}
    assert every - checked == irrelevant


def test_there_are_no_other_presets() -> None:
    assert set(PRESETS) == {"small", *(f"{data}-{short}" for data, short in PUBLISHED)}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_come_back_from_json(name: str) -> None:
    config = preset(name)
    assert from_dict(to_dict(config)) == config
    assert PRESETS[name].about
    assert PRESETS[name].source


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_only_what_differs(name: str) -> None:
    """The scenario is in the preset's name, so it may repeat the default."""
    defaults = to_dict(Config())
    for part, values in PRESETS[name].values.items():
        for field, value in values.items():
            plain = list(value) if isinstance(value, tuple) else value
            assert plain != defaults[part][field] or field == "scenario", f"{part}.{field}"


def test_small_is_made_for_a_laptop() -> None:
    config = preset("small")
    assert config.model.image_size == (64, 64)
    assert config.model.backbone == "cnn"
    assert config.objects.guidance > 0
    assert config.objects.frozen_steps < config.objects.steps


def test_presets_do_not_share_state() -> None:
    assert dataclasses.replace(preset("small"), objects=preset("small").objects) == preset("small")
    assert preset("clevr-ct") != preset("clevr-bt")


def test_an_unknown_preset() -> None:
    with pytest.raises(UserError, match="'clevr_ct' is not a preset: did you mean 'clevr-ct'?"):
        preset("clevr_ct")
