"""Plain folders of pictures and single pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from astseg.config import AugmentConfig
from astseg.data import load_scenes, open_source
from astseg.data.sources.folder import _natural
from astseg.errors import UserError


def write(path: Path, level: int, *, height: int = 20, width: int = 28) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(path)


def test_nested_pictures_in_natural_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    for level, name in enumerate(["frame_10.png", "frame_2.PNG", "b/1.jpg", ".thumb.png", ".cache/x.png", "a.tiff"]):
        write(tmp_path / name, level)
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(tmp_path)
    names = [source.scene_name(index) for index in range(len(source))]
    assert names == ["a.tiff", "b/1.jpg", "frame_2.PNG", "frame_10.png"]
    assert (source.name, source.has_labels, source.crop) == ("folder of pictures", False, 1.0)
    image, labels = source.read(3)
    assert labels is None and (image == 0).all() and image.shape == (20, 28, 3)


def test_one_picture(tmp_path: Path) -> None:
    write(tmp_path / "cat.webp", 7)
    arrays = load_scenes(tmp_path / "cat.webp", size=None)
    assert arrays.names == ("cat.webp",) and arrays.labels is None and arrays.images.shape == (1, 20, 28, 3)


def test_pictures_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", 2, height=30)
    with pytest.raises(UserError, match="'b.png' is 30x28 but the first scene is 20x28: choose one size for all"):
        load_scenes(tmp_path, size=None)
    assert load_scenes(tmp_path, size=(6, 9)).images.shape == (2, 6, 9, 3)


def test_a_broken_picture_is_told_by_its_path_in_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "good.png", 1)
    write(tmp_path / "in" / "bad.png", 1)
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="1 problem in .*: 'in/bad.png' is not a complete picture"):
        load_scenes(tmp_path, size=8)


def test_empty_folder_missing_path_unknown_file_and_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures: expected PNG, JPEG"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="of no known format"):
        open_source(tmp_path / "a.txt")
    write(tmp_path / "a.png", 1)
    with pytest.raises(UserError, match="has no 'val' split: use 'all' or a slice"):
        load_scenes(tmp_path, size=8, selection="val")


@given(st.lists(st.text(st.sampled_from("ab019-/é"), min_size=1, max_size=7), max_size=9, unique=True))
def test_natural_order_is_that_of_texts_and_numbers_in_turn(names: list[str]) -> None:
    def parts(name: str) -> tuple[list[str | int], str]:
        split = re.split("([0-9]+)", name)
        return [int(part) if position % 2 else part for position, part in enumerate(split)], name

    assert sorted(names, key=_natural) == sorted(names, key=parts)


def test_broken_pictures_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    for number in range(5):
        Image.fromarray(np.full((20, 28, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 problem in .*'3.png'"):
        load_scenes(tmp_path, size=(20, 28))
    broken: list[str] = []
    scenes = load_scenes(tmp_path, size=(20, 28), broken=broken, augment=AugmentConfig(copies=2))
    assert len(broken) == 1
    assert "3.png" in broken[0]
    assert scenes.names == ("0.png", "0.png#1", "1.png", "1.png#1", "2.png", "2.png#1", "4.png", "4.png#1")
    assert scenes.images[::2, 0, 0, 0].tolist() == [0, 10, 20, 40]
    for file in tmp_path.iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="5 problems in"):
        load_scenes(tmp_path, size=(20, 28), broken=[])
