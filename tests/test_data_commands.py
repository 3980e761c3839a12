"""The commands on data sets, as a user calls them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg import cli
from astseg.contact import contact_sheet
from astseg.outputs import PALETTE


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "desk"
    assert cli.run(f"scenes {folder} --count 12 --size 32 --seed 5 --processes 1".split()) == 0
    return folder


# Looking


def test_check_data_of_a_clean_folder(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheets" / "a.png"
    assert cli.run(["check-data", str(desk), "--pictures", "--out", str(sheet)]) == 0
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
    assert cli.run(["check-data", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert f"wrong: '{files[3].name}' is not a complete picture" in out
    assert f"wrong: '{files[5].name}' is the same picture as '{files[4].name}'" in out
    assert "2 wrong" in out and "11 readable" in out
    assert cli.run(["check-data", str(tmp_path / "nowhere")]) == 2
    assert cli.run(["check-data", str(desk), "--stride", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_contact_sheets_show_pictures_above_their_masks() -> None:
    image = np.full((20, 40, 3), (10, 200, 30), np.uint8)
    labels = np.full((20, 40), 2, np.uint8)
    sheet = np.asarray(contact_sheet([("a long name of a picture that does not fit.png", image, labels)] * 8))
    assert sheet.shape == (6 + 2 * (16 + 2 * 150), 6 + 6 * 150, 3)
    assert tuple(sheet[6 + 16 + 72, 6 + 72]) == (10, 200, 30)
    assert tuple(sheet[6 + 16 + 150 + 72, 6 + 72]) == tuple(PALETTE[2])
    assert contact_sheet([("a", image, None)]).size == (6 + 150, 6 + 16 + 150)
