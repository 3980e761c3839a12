"""``astseg segment``: what it says about the preprocessing where images are cut off."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.cli import main
from astseg.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("trained", "words", "line"),
    [
        ("crop", "", "of 1 images the model sees the centre alone, as in training (resize crop to 32x48, crop 0.8)"),
        ("crop", "--resize crop", "as in training (resize crop to 32x48, crop 0.8)"),
        ("squeeze", "--resize crop", "as asked for (resize crop to 32x48, crop 1)"),
        ("crop", "--resize squeeze", None),
        ("letterbox", "", None),
    ],
)
def test_images_that_are_cut_off_are_reported(
    trained: str, words: str, line: str | None, spread_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(Path(shutil.copytree(spread_run, tmp_path / "run")))
    config, info = run.load_config()
    run.save_config(config, replace(info, resize=trained, crop=0.8 if trained == "crop" else 1.0))
    Image.fromarray(np.full((30, 90, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    assert main.run(f"segment {run.path} {tmp_path}/wide.png --out {tmp_path}/masks --write {words}".split()) == 0
    printed = capsys.readouterr().out
    if line is None:
        assert "the centre alone" not in printed
    else:
        assert f"{line}, and the rest is background: with --resize squeeze it sees all of them\n" in printed
