"""What a user can name to be segmented."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.data.paths import open_given
from astseg.errors import UserError


def picture(path: Path, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(path)


def names(*paths: object) -> list[str]:
    source, _ = open_given([str(path) for path in paths])
    return [source.scene_name(index) for index in range(len(source))]


def test_pictures_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "deep/c.png", "deep/er/d.png", "odd[1].png"):
        picture(tmp_path / name)
    assert names(tmp_path / "a.png") == ["a.png"]
    assert names(tmp_path / "a.png", tmp_path / "deep") == ["a.png", "deep/c.png", "deep/er/d.png"]
    assert names(tmp_path / "?.png") == ["a.png", "b.png"]
    assert names(tmp_path / "**" / "*.png") == ["a.png", "b.png", "deep/c.png", "deep/er/d.png", "odd[1].png"]
    assert names(tmp_path / "odd[1].png") == ["odd[1].png"]  # a file, not a pattern
    assert names(tmp_path / "a.png", tmp_path / "*.png") == ["a.png", "b.png", "odd[1].png"]  # once each
    source, root = open_given([tmp_path / "deep" / "c.png", tmp_path / "a.png"])
    assert (root, source.scene_name(0), source.read(1)[0].shape) == (tmp_path, "deep/c.png", (5, 7, 3))


def test_pictures_are_taken_with_or_without_their_masks(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "beside" / name)
        picture(tmp_path / "apart" / "images" / name)
        picture(tmp_path / "coco" / name)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "beside" / "a_mask.png")
    (tmp_path / "apart" / "masks").mkdir()
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "apart" / "masks" / "b.png")
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 5, "width": 7}], "annotations": []}
    (tmp_path / "coco" / "few.json").write_text(json.dumps(content))
    assert names(tmp_path / "beside") == ["a.png", "b.png"]
    assert names(tmp_path / "apart") == ["images/a.png", "images/b.png"]
    assert names(tmp_path / "coco") == ["a.png", "b.png"]
    assert names(tmp_path / "coco" / "few.json") == ["a.png"]


def test_what_cannot_be_taken(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="no file matches"):
        names(tmp_path / "*.jpg")
    with pytest.raises(UserError, match="'.*none.png' does not exist: expected a picture"):
        names(tmp_path / "a.png", tmp_path / "none.png")
    with pytest.raises(UserError, match=r"'.*b.mp4' is a video and '.*a.png' is not"):
        names(tmp_path / "?.*")
    with pytest.raises(UserError, match="nothing is named"):
        names()
