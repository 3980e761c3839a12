"""The commands on data sets, as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.cli import data, main
from astseg.data import loading
from astseg.data.formats.png import PALETTE
from astseg.diagnostics.contact_sheet import contact_sheet
from astseg.runs.folder import RunFolder
from tiny import MODEL_SETTINGS

SETTINGS = {
    "model": MODEL_SETTINGS,
    "background": {"steps": 3, "batch": 4},
    "objects": {"steps": 4, "frozen_steps": 3, "batch": 2, "pseudo_label_decay": 2},
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "desk"
    assert main.run(f"scenes {folder} --count 12 --size 32 --seed 5 --processes 1".split()) == 0
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "tiny.json"
    file.write_text(json.dumps(SETTINGS))
    return file


# Looking


def test_check_data_of_a_clean_folder(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheets" / "a.png"
    assert main.run(["check-data", str(desk), "--pictures", "--out", str(sheet)]) == 0
    out = capsys.readouterr().out
    for told in ("CLEVRTEX layout, DESK_full", "12", "32x32 (12)", "split train", "nothing wrong", str(sheet)):
        assert told in out
    assert Image.open(sheet).size[0] > 6 * 144


def test_check_data_of_a_broken_folder(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((desk / "desk_full" / "0").glob("*[0-9].png"))
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / files[3].name).write_bytes(b"")
    (tmp_path / files[4].name).write_bytes(files[5].read_bytes())
    assert main.run(["check-data", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert f"wrong: '{files[3].name}' is not a complete picture" in out
    assert f"wrong: '{files[5].name}' is the same picture as '{files[4].name}'" in out
    assert "2 wrong" in out and "11 readable" in out
    assert main.run(["check-data", str(tmp_path / "nowhere")]) == 2
    assert main.run(["check-data", str(desk), "--stride", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_contact_sheets_show_pictures_above_their_masks() -> None:
    image = np.full((20, 40, 3), (10, 200, 30), np.uint8)
    labels = np.full((20, 40), 2, np.uint8)
    sheet = np.asarray(contact_sheet([("a long name of a picture that does not fit.png", image, labels)] * 8))
    assert sheet.shape == (6 + 2 * (16 + 2 * 150), 6 + 6 * 150, 3)
    assert tuple(sheet[6 + 16 + 72, 6 + 72]) == (10, 200, 30)
    assert tuple(sheet[6 + 16 + 150 + 72, 6 + 72]) == tuple(PALETTE[2])
    assert contact_sheet([("a", image, None)]).size == (6 + 150, 6 + 16 + 150)


# Preparing


def test_prepare_and_train_from_the_cache(
    desk: Path, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    words = ["prepare", str(desk), str(cache), "--size", "20", "28", "--processes", "1"]
    assert main.run(words) == 0
    assert f"12 scenes of 20x28 in {cache}" in capsys.readouterr().out.replace("\n", " ")
    assert main.run(["check-data", str(cache)]) == 0
    assert "cache of CLEVRTEX layout, DESK_full" in capsys.readouterr().out
    assert main.run([*words[:-4], "30", "28"]) == 2
    assert "holds a cache with other" in capsys.readouterr().err
    fingerprints = []
    for source in (desk, cache):
        assert (
            main.run(["train", str(source), "--config", str(settings), "--out", str(tmp_path / source.name / "run")])
            == 0
        )
        fingerprints.append(RunFolder(tmp_path / source.name / "run").load_config()[1].fingerprint)
    assert fingerprints[0] == fingerprints[1]
    hashes = []
    for source in (desk, cache):
        assert main.run(["evaluate", str(tmp_path / "desk" / "run"), str(source), "--split", "train"]) == 0
        figures = json.loads((tmp_path / "desk" / "run" / "metrics.json").read_text())
        hashes.append((figures["split_hash"], figures["miou"]))
        assert f"split train ({figures['split_hash']})" in capsys.readouterr().out
    assert hashes[0] == hashes[1]


def test_large_sources_are_prepared_beside_the_run(
    desk: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(desk), "--config", str(settings)]
    for module in (data, loading):
        monkeypatch.setattr(module, "IN_MEMORY", 5000)
    assert main.run([*words, "--out", str(tmp_path / "run"), "--split", "train"]) == 0
    assert "10 scenes are many: preparing them in" in capsys.readouterr().out
    assert (tmp_path / "run-cache" / "manifest.json").is_file()
    assert RunFolder(tmp_path / "run").load_config()[1].images == 10
