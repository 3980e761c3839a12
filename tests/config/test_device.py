"""In which precision a machine trains, and that a run keeps the one it began with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from astseg.config import Config, device
from astseg.config.device import choose_device, default_device, has_fast_bfloat16, resolved, uses_bfloat16
from astseg.config.presets import preset
from astseg.errors import UserError
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder, TrainingState
from astseg.runs.info import RunInfo

CPU = torch.device("cpu")
INFO = RunInfo("small", fingerprint="f")


def on(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)


def precisions(config: Config) -> tuple[str, str]:
    return config.background.precision, config.objects.precision


def test_every_command_chooses_the_same_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == choose_device(CPU) == CPU
    for there, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device() == default_device() == torch.device(kind)
    with pytest.raises(UserError, match="device 'gpu' cannot be used .*: choose another, such as cpu"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("capabilities", "quick"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        # Products in bfloat16 take its units of float32 twice as long.
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, False),
        ({"architecture": "arm64", "bf16": True}, False),
        ({}, False),
    ],
)
def test_a_processor_is_quick_in_bfloat16_with_units_for_it(
    capabilities: dict[str, Any], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, capabilities)
    assert has_fast_bfloat16(CPU) is quick
    assert [uses_bfloat16(precision, CPU) for precision in ("float32", "bfloat16", "auto")] == [False, True, quick]
    chosen = "bfloat16" if quick else "float32"
    assert precisions(resolved(preset("small"), CPU)) == (chosen, chosen)
    assert precisions(resolved(Config(), CPU)) == ("float32", "float32")


def test_torch_that_cannot_tell_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_bfloat16(CPU)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_quick_if_it_does_not_emulate(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_fast_bfloat16(torch.device("cuda")) is native


def test_other_devices_train_in_float32() -> None:
    assert not has_fast_bfloat16(torch.device("mps"))


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on another machine, where a new run would take another."""
    config = preset("small")
    on(monkeypatch, {"amx_bf16": True})
    begun = RunFolder(tmp_path / "run").begin(config, INFO)
    assert precisions(begun) == ("bfloat16", "bfloat16")
    on(monkeypatch, {})
    assert precisions(RunFolder(tmp_path / "run").begin(config, INFO)) == ("bfloat16", "bfloat16")
    assert RunFolder(tmp_path / "run").load_config()[0] == begun
    assert precisions(RunFolder(tmp_path / "other").begin(config, INFO)) == ("float32", "float32")
    asked = replace(config, objects=replace(config.objects, precision="float32"))
    with pytest.raises(UserError, match=r"differs in objects.precision \(bfloat16, now float32\)"):
        RunFolder(tmp_path / "run").begin(asked, INFO)


def test_objects_that_are_planned_anew_keep_the_precision_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the background is trained; ``astseg train-background`` and ``astseg train`` are two commands."""
    config, folder = preset("small"), RunFolder(tmp_path / "run")
    on(monkeypatch, {"amx_bf16": True})
    folder.begin(config, INFO)
    model = build(config.model)
    folder.save_state(TrainingState("objects", 0, 0.0, 1.0, 0), model, None)
    on(monkeypatch, {})
    assert precisions(folder.begin(config.with_steps(100), INFO)) == ("bfloat16", "bfloat16")
    asked = replace(config, objects=replace(config.objects, precision="float32"))
    assert precisions(folder.begin(asked, INFO)) == ("bfloat16", "float32")
