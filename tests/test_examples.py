"""The examples run, and what the documents say of commands, tests and files is so."""

import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from astseg.cli.arguments import parse
from astseg.config import Config, ModelConfig
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from tiny import MODEL

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def tiny(height: int, width: int) -> ModelConfig:
    return replace(MODEL, image_size=(height, width))


def test_every_example_is_run_here() -> None:
    assert [path.stem for path in EXAMPLES] == ["predict", "train_from_code"]


def test_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = tiny(20, 28)
    model = build(config)
    with torch.no_grad():  # objects come to the front, large
        model.renderer.background_log_activation.fill_(-4)
        model.encoder.refinement.projection.bias[2:4] = -4
    run = RunFolder(tmp_path / "run")
    run.save_config(Config(model=config), RunInfo(preset="small"))
    run.save_weights(model)
    Image.fromarray(np.full((41, 57, 3), 90, np.uint8)).save(tmp_path / "picture.png")
    prediction = example("predict")["main"](str(run.path), str(tmp_path / "picture.png"))
    assert prediction.labels.shape == (41, 57)
    printed = capsys.readouterr().out.splitlines()
    assert "57x41 pixels" in printed[0]
    assert 1 <= len(prediction.objects) == len(printed) - 1


def test_train_from_code(capsys: pytest.CaptureFixture[str]) -> None:
    history = example("train_from_code")["main"](tiny(20, 28), scenes=40, background_steps=30, object_steps=2)
    assert len(history) == 2
    assert np.isfinite(history).all()
    off = re.match(r"the background is (\d+\.\d) grey levels off", capsys.readouterr().out)
    assert off is not None
    assert float(off[1]) < 20  # it starts at 29


def spoken_commands() -> list[str]:
    """Every line that calls the command, in the code blocks of the documents."""
    commands = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            commands += [" ".join(line.split()) for line in lines if line.startswith("astseg ")]
    return sorted(set(commands))


@pytest.mark.parametrize("command", spoken_commands())
def test_commands_of_the_documents_are_real(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("model: {slots: 4}\n")
    words = shlex.split(command, comments=True)[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as stopped:
            parse(words)
        assert stopped.value.code == 0
    else:
        parse(words)


def test_named_tests_exist() -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(\w+)`", (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / "tests" / file).is_file()
        or f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if not (document.parent / link).exists()]
