"""HDF5 files of several makers."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from astseg.data import load_scenes, open_source, select
from astseg.errors import UserError

GENERATOR = np.random.default_rng(1)
IMAGES = GENERATOR.integers(0, 256, (5, 20, 28, 3)).astype(np.uint8)
MASKS = GENERATOR.integers(0, 6, (5, 20, 28)).astype(np.uint8)
FIRST = MASKS.copy()
for _mask in FIRST:
    _mask[0, :6] = range(6)


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.mark.parametrize("names", [("image", "mask"), ("imgs", "masks"), ("deep/images", "deep/segmentation")])
def test_names(tmp_path: Path, names: tuple[str, str]) -> None:
    source = open_source(write(tmp_path / "a.h5", {names[0]: IMAGES, names[1]: FIRST, "other": MASKS}))
    assert (source.name, len(source), source.has_labels, source.crop) == ("HDF5", 5, True, 1.0)
    for index in range(5):
        np.testing.assert_array_equal(source.read(index)[0], IMAGES[index])
        np.testing.assert_array_equal(source.read(index)[1], FIRST[index])


def test_forms(tmp_path: Path) -> None:
    one_hot = (FIRST[:, None] == np.arange(6)[:, None, None]).astype(np.uint8) * 255
    for index, (images, masks) in enumerate(
        [
            (IMAGES.transpose(0, 3, 1, 2), FIRST[..., None]),
            (IMAGES / np.float32(255), one_hot),
            (IMAGES, one_hot[..., None] > 0),
            (IMAGES, FIRST.astype(np.float32)),
        ]
    ):
        arrays = load_scenes(write(tmp_path / f"{index}.hdf5", {"image": images, "mask": masks}), size=None)
        np.testing.assert_array_equal(arrays.images, IMAGES)
        np.testing.assert_array_equal(arrays.labels, FIRST)
    assert load_scenes(write(tmp_path / "c.h5", {"image": IMAGES}), size=9).labels is None


def test_background_is_declared_by_the_file_or_by_its_name(tmp_path: Path) -> None:
    expected = np.where(FIRST < 4, 0, FIRST - 3)
    room = open_source(write(tmp_path / "objects_room_train.h5", {"image": IMAGES, "mask": FIRST}))
    np.testing.assert_array_equal(room.read(2)[1], expected[2])
    assert room.benchmark is not None and room.benchmark.slots == 3
    own = {"image": IMAGES, "mask": FIRST, "background_labels": np.array([0, 1, 2, 3])}
    np.testing.assert_array_equal(open_source(write(tmp_path / "own.h5", own)).read(2)[1], expected[2])
    assert open_source(write(tmp_path / "clevr_10.h5", {"image": IMAGES})).crop == 0.8
    assert open_source(write(tmp_path / "shapestacks.h5", {"image": IMAGES})).crop == 0.875


def test_splits_are_groups(tmp_path: Path) -> None:
    arrays = {"train/image": IMAGES, "TEST/image": IMAGES[:2], "validation/image": IMAGES[:1]}
    source = open_source(write(tmp_path / "a.h5", arrays))
    assert [source.scene_name(index) for index in (0, 2, 7)] == ["TEST/000000", "train/000000", "validation/000000"]
    assert [select(source, name) for name in ("test", "train", "val")] == [[0, 1], [2, 3, 4, 5, 6], [7]]
    with pytest.raises(UserError, match="has no 'val' split"):
        select(open_source(write(tmp_path / "b.h5", {"image": IMAGES})), "val")


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing")
    for path, told in [
        (tmp_path / "a.h5", "is no readable HDF5 file"),
        (write(tmp_path / "b.h5", {"pictures": IMAGES}), "holds no array 'image' \\(it holds pictures\\)"),
        (write(tmp_path / "c.h5", {"image": MASKS}), "is 5 x 20 x 28, expected N x H x W x 3"),
        (write(tmp_path / "d.h5", {"image": IMAGES, "mask": MASKS[:4]}), "holds 5 images and 4 masks"),
    ]:
        with pytest.raises(UserError, match=told):
            open_source(path)
    for arrays, told in [
        ({"image": IMAGES, "mask": MASKS[:, :9]}, "is 9 x 28, expected 20 x 28"),
        ({"image": IMAGES.astype(np.float32)}, "holds float32 from"),
    ]:
        with pytest.raises(UserError, match=told):
            open_source(write(tmp_path / "e.h5", arrays)).read(0)
