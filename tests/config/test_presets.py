"""Presets against the supplement's Table 1, which lies beside this file as it was printed."""

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from astseg.config import Config, from_dict, to_dict
from astseg.config.presets import PRESETS, VARIANTS, find_preset, preset, preset_names, variants_of
from astseg.errors import UserError

ROOT = Path(__file__).parents[1]
# The settings that hold the rows of the supplement's Table 1, in its order; an index where a row is half of a pair.
ROWS: list[tuple[str, str]] = [
    ("background.batch", "batch size"),
    ("background.learning_rate", "learning rate"),
    ("background.steps", "datasets with fixed backgrounds"),
    ("background.steps", "datasets with complex backgrounds"),
    ("objects.batch", "batch size"),
    ("objects.learning_rate", "learning rate"),
    ("objects.betas.0", "β_1"),
    ("objects.betas.1", "β_2"),
    ("objects.eps", "ϵ"),
    ("objects.steps", "training iterations"),
    ("objects.frozen_steps", "phase 2"),
    ("objects.warmup", "learning rate warmup"),
    ("objects.entropy_ramp", "pixel entropy loss weight warmup"),
    ("model.background_log_activation", "initial value of background activation"),
    ("model.appearance", "dimension of z_{what}"),
    ("objects.entropy_weight", "pixel entropy loss weight"),
    ("model.scale_min", "minimum value of inverse scaling factor"),
    ("model.scale_max", "maximum value of inverse scaling factor"),
    ("model.transformer_width", "inputs and outputs of transformer"),
    ("model.transformer_heads", "heads"),
    ("model.transformer_feedforward", "feedforward"),
    ("model.transformer_layers", "layers"),
]
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
    "model.glimpse_crop": 0,
    "objects.pseudo_label_steps": 0,
    "model.reference": False,
    "model.background_form": "paper",
    "model.pixel_activation": False,
    "objects.pruning_margin": 0.0,
    "inference.colour_std": 0.0,
    "inference.proposals": False,
    "objects.pseudo_label_weight": 0.0,
    "objects.parsimony_weight": 0.0,
    "objects.decay": "step",
    "model.glimpse_width": 1,
    "objects.flip": False,
    "objects.copy_paste": 0.0,
    "objects.accumulate": 1,
    "objects.clip": 0.0,
    "objects.frozen_storage": "float16",
    "objects.precision": "float32",
    "objects.cuda_graphs": True,
    "background.precision": "float32",
    "background.cuda_graphs": True,
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


def table_1() -> list[dict[str, str]]:
    with (ROOT / "supplement_table_1.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def number(printed: str) -> float:
    """'2.10^{-3}' -> 0.002, '10^{-9}' -> 1e-9, 'e^{11}' -> 11: the logarithm, which is what is set."""
    if power := re.fullmatch(r"e\^{(\d+)}", printed):
        return float(power[1])
    if power := re.fullmatch(r"(?:(\d+)\.)?10\^{(-\d+)}", printed):
        return float(f"{power[1] or 1}e{power[2]}")
    return float(printed)


def setting(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


@pytest.mark.parametrize(("data", "short"), PUBLISHED)
def test_every_row_of_the_supplement_s_table(data: str, short: str) -> None:
    config = preset(f"{data}-{short}")
    table = table_1()
    assert len(table) == len(ROWS) == 22
    for row, (name, words) in zip(table, ROWS, strict=True):
        part = "background" if name.startswith("background.") else "foreground"
        assert row["part"].lower().startswith(part)
        assert words in row["description"]
        for_others = "CLEVRTEX" in row["description"] if data == "clevr" else "(CLEVR)" in row["description"]
        if not for_others:
            assert setting(config, name) == pytest.approx(number(row["value"]), rel=1e-12), row["description"]


@pytest.mark.parametrize(("data", "short"), PUBLISHED)
def test_published_values(data: str, short: str) -> None:
    config = preset(f"{data}-{short}")
    expected = {**REFERENCE, **NOT_OURS, **DATA_SETS[data], "objects.scenario": SCENARIOS[short]}
    assert {name: setting(config, name) for name in expected} == expected


def test_every_setting_of_a_published_preset_is_accounted_for() -> None:
    printed = {".".join(name.split(".")[:2]) for name, _ in ROWS}
    checked = {*printed, *REFERENCE, *NOT_OURS, *DATA_SETS["clevr"], "objects.scenario"}
    irrelevant = {
        "objects.pseudo_label_decay",  # there is no guidance
        "background.time_fraction",  # there is no limit of time
        *(f"augment.{name}" for name in ("flip", "zoom", "shift", "light", "colour")),  # there are no variants
        *(f"pseudo_labels.{name}" for name in to_dict(Config())["pseudo_labels"]),
        *(f"discovery.{name}" for name in to_dict(Config())["discovery"]),
        *(f"scene.{name}" for name in to_dict(Config())["scene"]),  # the whole picture is seen at the model's size
        *(f"inference.{name}" for name in to_dict(Config())["inference"] if name not in ("colour_std", "proposals")),
    }
    every = {f"{part}.{name}" for part, values in to_dict(Config()).items() for name in values}
    assert every - checked == irrelevant


def test_video_has_the_reference_s_settings_for_real_videos() -> None:
    config = preset("video")
    expected: dict[str, Any] = {
        "model.image_size": (200, 320),
        "model.scale_max": 40.0,
        "model.isotropic": False,
        "model.pixel_activation": True,
        "objects.scenario": "curriculum",
        "objects.batch": 24,
        "objects.learning_rate": 1e-5,
        "objects.steps": 500_000,
        "objects.warmup": 20_000,
        "objects.entropy_ramp": 20_000,
        "objects.frozen_steps": 60_000,
        "background.steps": 24_000,
    }
    assert {name: setting(config, name) for name in expected} == expected
    assert 16 <= config.model.slots <= 24
    assert 16 <= config.model.appearance <= 24


ABLATIONS: dict[str, dict[str, Any]] = {
    "unet": {"model.backbone": "unet", "model.backbone_weights": None},
    **{f"b{i}": {"model.backbone": f"segformer-b{i}", "model.backbone_weights": f"nvidia/mit-b{i}"} for i in range(6)},
    "fresh": {"model.backbone_weights": None},
    "no-transformer": {"model.refinement": "none"},
    "no-entropy": {"objects.entropy_weight": 0.0},
    "frozen": {"objects.frozen_steps": 125_000},
}


@pytest.mark.parametrize("base", [f"{data}-{short}" for data, short in PUBLISHED])
def test_an_ablation_changes_what_it_names_and_nothing_else(base: str) -> None:
    assert ABLATIONS.keys() == VARIANTS.keys()
    for ending in variants_of(base):
        before, after = to_dict(preset(base)), to_dict(preset(f"{base}-{ending}"))
        changed = {
            f"{part}.{name}": value
            for part, values in after.items()
            for name, value in values.items()
            if value != before[part][name]
        }
        assert changed == {n: v for n, v in ABLATIONS[ending].items() if v != setting(preset(base), n)}
    assert ("frozen" in variants_of(base)) == base.endswith("-ct")


def test_a_frozen_background_stays_frozen_to_the_end() -> None:
    objects = preset("clevrtex-ct-frozen").objects
    assert objects.frozen_steps == objects.steps


def test_there_are_no_other_presets() -> None:
    published = {f"{data}-{short}" for data, short in PUBLISHED}
    assert set(PRESETS) == {"small", "video", *published}
    names = preset_names()
    assert len(names) == len(set(names)) == len(PRESETS) + len(published) * len(VARIANTS) - len(DATA_SETS)
    assert all(preset(name) for name in names)
    assert variants_of("small") == variants_of("video") == variants_of("nothing-ct") == []


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
    assert config.objects.pseudo_label_weight > 0
    assert config.objects.frozen_steps < config.objects.steps


def test_presets_do_not_share_state() -> None:
    assert dataclasses.replace(preset("small"), objects=preset("small").objects) == preset("small")
    assert preset("clevr-ct") != preset("clevr-bt")


def test_the_sources_of_single_values_are_of_values_that_are_stated() -> None:
    for name in preset_names():
        chosen = find_preset(name)
        stated = {f"{part}.{setting}" for part, values in chosen.values.items() for setting in values}
        assert set(chosen.sources) <= stated | {"background.steps", "model.background_width"}, name


def test_an_unknown_preset() -> None:
    with pytest.raises(UserError, match="'clevr_ct' is not a preset: did you mean 'clevr-ct'?"):
        preset("clevr_ct")
    with pytest.raises(UserError, match="'clevr-ct-unett' is not a preset: did you mean 'clevr-ct-unet'?"):
        preset("clevr-ct-unett")
    with pytest.raises(UserError, match="'clevr-bt-frozen' is not a preset"):
        preset("clevr-bt-frozen")
