"""Every value of every preset has a source of its own, and the command tells both."""

import inspect
from collections.abc import Callable

import pytest
import torch

from astseg.cli import main
from astseg.config import Config, to_dict
from astseg.config.presets import PRESETS, TABLE_1, preset, preset_names
from astseg.config.provenance import CONSTANTS, DEFAULTS, explain, preset_list, preset_sheet
from astseg.model import background

Printed = Callable[..., list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    def run(*words: str) -> list[str]:
        assert main.run(words) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_every_setting_has_the_source_of_its_default() -> None:
    every = {f"{part}.{name}" for part, values in to_dict(Config()).items() for name in values}
    assert set(DEFAULTS) == every


@pytest.mark.parametrize("name", preset_names())
def test_every_value_is_told_with_its_source(name: str) -> None:
    plain = to_dict(preset(name))
    lines = explain(name)
    assert [(line.name, line.value) for line in lines] == [
        (f"{part}.{setting}", value) for part, values in plain.items() for setting, value in values.items()
    ]
    assert all(line.source for line in lines)


def test_sources_follow_what_a_preset_and_its_ablation_change() -> None:
    sources = {name: {line.name: line.source for line in explain(name)} for name in preset_names()}
    assert sources["clevrtex-ct"]["objects.eps"] == TABLE_1
    assert sources["clevrtex-ct"]["background.steps"].startswith(TABLE_1)
    assert "fixed" in sources["clevr-ct"]["background.steps"]
    assert sources["shapestacks-bt"]["model.slots"] == "reference implementation"
    assert sources["video"]["objects.steps"] == "reference implementation, real videos"
    assert sources["clevr-bt-unet"]["model.backbone"] == "supplement, Table 3"
    assert sources["clevr-bt-unet"]["objects.eps"] == TABLE_1
    assert sources["small"]["objects.learning_rate"].startswith("ours")


def test_what_no_setting_changes_is_what_the_code_does() -> None:
    assert "0.9 0.999" in CONSTANTS["background optimiser"][0]
    assert inspect.signature(torch.optim.AdamW).parameters["betas"].default == (0.9, 0.999)
    assert CONSTANTS["background code"][0] == f"{background.CODE_SIZE} numbers"


def test_the_command_lists_all(printed: Printed) -> None:
    lines = printed("presets")
    assert lines == preset_list()
    for name, chosen in PRESETS.items():
        assert any(line.startswith(f"{name} ") and line.endswith(chosen.about) for line in lines)
    assert any(line.startswith("-no-entropy ") for line in lines)


def test_the_command_tells_every_value(printed: Printed) -> None:
    lines = printed("presets", "clevrtex-ct")
    assert lines == preset_sheet("clevrtex-ct")
    cells = {line.split()[0]: line for line in lines if "." in line.split(" ")[0]}
    assert len(cells) == len(DEFAULTS)
    assert cells["model.image_size"].split()[1:3] == ["128", "128"]
    assert cells["objects.betas"].endswith("supplement, Table 1")


def test_an_unknown_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["presets", "clevrtex"]) == 2
    assert capsys.readouterr().err == "astseg: 'clevrtex' is not a preset: did you mean 'clevrtex-ct'?\n"
