"""Files of settings, run folders and folders of pictures of any content: an exit code and one line, never a trace."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from astseg.cli import main
from astseg.config import Config, to_dict
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from tiny import PAPER_FORM

MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

CONFIG = PAPER_FORM
NAMES = [part for part in to_dict(Config())] + [name for part in to_dict(Config()).values() for name in part]
LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 3, 300, 2**31, 2**63, 10**30, 1e-320, 1e308, float("inf"), float("nan")])
    | st.sampled_from(["", "cnn", "segformer-b0", "1e-4", "auto", "\0", "é\n", "../../x"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def run(*words: object) -> tuple[int, str]:
    """Exit code and what was told on both screens; a code of 2 comes with one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.run([str(word) for word in words])
    assert code in (0, 2, 3)
    if code == 2 and words[0] != "check-data":
        (line,) = err.getvalue().splitlines()
        assert line.startswith("astseg: ")
    return code, out.getvalue() + err.getvalue()


@MANY
@given(values=VALUES, form=st.sampled_from(["json", "yaml"]))
def test_settings_of_any_values(values: Any, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"a.{form}"
        file.write_text(json.dumps(values) if form == "json" else yaml.safe_dump(values))
        assert run("train", Path(folder) / "nothing", "--out", Path(folder) / "run", "--config", file)[0] == 2
        assert not (Path(folder) / "run").exists()


@MANY
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode(errors="replace")))
def test_settings_of_any_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.yaml").write_bytes(content)
        assert run("train", Path(folder) / "nothing", "--out", "x", "--config", Path(folder) / "a.yaml")[0] == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with fresh weights, and a picture."""
    folder = RunFolder(tmp_path_factory.mktemp("fuzz") / "run")
    torch.manual_seed(0)
    folder.save_config(CONFIG, RunInfo(preset="small"))
    folder.save_weights(build(CONFIG.model))
    Image.fromarray(np.full((24, 36, 3), 90, np.uint8)).save(folder.path.parent / "picture.png")
    return folder.path


@contextlib.contextmanager
def copied(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(path, Path(folder) / "run"))


@FEW
@given(
    part=st.sampled_from(["model", "background", "objects", "inference", "augment", "format", "run"]),
    value=VALUES,
)
def test_configurations_of_runs_of_any_values(
    trained: Path, limited_memory: Callable[[int], Any], part: str, value: Any
) -> None:
    with copied(trained) as folder, limited_memory(2**30):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, part: value}))
        run("segment", folder, trained.parent / "picture.png", "--out", folder.parent / "out")


@FEW
@given(name=st.sampled_from(sorted(to_dict(CONFIG)["model"])), value=LEAVES)
def test_models_of_any_settings(trained: Path, limited_memory: Callable[[int], Any], name: str, value: Any) -> None:
    with copied(trained) as folder, limited_memory(2**30):
        content = json.loads((folder / "config.json").read_text())
        content["model"][name] = value
        (folder / "config.json").write_text(json.dumps(content))
        run("segment", folder, trained.parent / "picture.png", "--out", folder.parent / "out")


@FEW
@given(
    file=st.sampled_from(["config.json", "model.safetensors"]),
    near=st.sampled_from([1, 20, 1000]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.sampled_from([1.0, 1.0, 0.99, 0.1, 0.0]),
)
def test_runs_of_changed_bytes(
    trained: Path,
    limited_memory: Callable[[int], Any],
    file: str,
    near: int,
    edits: list[tuple[float, int]],
    cut: float,
) -> None:
    with copied(trained) as folder, limited_memory(2**30):
        data = bytearray((folder / file).read_bytes())
        before = bytes(data)
        for place, value in edits:
            data[int(place * len(data) / near)] = value
        (folder / file).write_bytes(bytes(data[: int(cut * len(data))]))
        code, _ = run("segment", folder, trained.parent / "picture.png", "--out", folder.parent / "out")
        assert code == 2 or file == "config.json" or bytes(data) == before


def encoded(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (13, 17, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=form)
    return buffer.getvalue()


FORMS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP"}
FILES = {suffix: encoded(form) for suffix, form in FORMS.items()}
FILE_NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".") and len(os.fsencode(name.encode("utf-8", "replace"))) < 200
)


@MANY
@given(
    name=FILE_NAMES,
    suffix=st.sampled_from(sorted(FILES)),
    content=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.sampled_from([1.0, 1.0, 0.8, 0.1]),
)
def test_folders_of_any_pictures(
    name: str, suffix: str, content: str, edits: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(FILES[content])
    for place, value in edits:
        data[int(place * len(data))] = value
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "good.png").write_bytes(FILES[".png"])
        target = os.fsencode(folder) + b"/" + (name.encode("utf-8", "replace") + suffix.encode())
        Path(os.fsdecode(target)).write_bytes(bytes(data[: int(cut * len(data))]))
        code, told = run("check-data", folder)
        assert ("nothing wrong" in told) == (code == 0)
