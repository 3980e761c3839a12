"""Data sets in one .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astseg.data import load_scenes, open_source
from astseg.data.sources.npz import compact_labels
from astseg.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 9, 3)).astype(np.uint8)


def save(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "scenes.npz", **arrays)
    return folder / "scenes.npz"


def test_images_alone(tmp_path: Path) -> None:
    path = save(tmp_path, images=IMAGES)
    source = open_source(path)
    assert (len(source), source.has_labels, source.crop, source.scene_name(3)) == (5, False, 1.0, "000003")
    arrays = load_scenes(path, size=None, selection="1:4")
    np.testing.assert_array_equal(arrays.images, IMAGES[1:4])
    assert arrays.labels is None and arrays.names == ("000001", "000002", "000003")
    with pytest.raises(UserError, match="has no 'train' split"):
        source.split("train")


def test_names_and_split(tmp_path: Path) -> None:
    names = np.array([f"tower/cam_{n}" for n in range(5)])
    source = open_source(save(tmp_path, images=IMAGES, split=np.array([0, 1, 0, 0, 1], np.uint8), names=names))
    assert source.scene_name(4) == "tower/cam_4"
    assert source.split("train") == [0, 2, 3]
    assert source.split("test") == source.split("val") == [1, 4]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int16, np.uint16])
def test_background_labels_become_0_and_the_others_1_to_n(tmp_path: Path, dtype: type) -> None:
    masks = np.zeros((5, 6, 9), dtype)
    masks[0, 0, :6] = [2, 3, 1, 9, 100, 9]
    path = save(tmp_path, images=IMAGES, masks=masks, background_labels=np.array([0, 2, 3, 50]))
    labels = load_scenes(path, size=None).labels
    assert labels is not None and labels.dtype == np.uint8
    assert labels[0, 0, :7].tolist() == [0, 0, 1, 2, 3, 2, 0]
    # Without the list, label 0 alone is background.
    labels = load_scenes(save(tmp_path, images=IMAGES, masks=masks), size=None).labels
    assert labels is not None and labels[0, 0, :7].tolist() == [2, 3, 1, 4, 5, 4, 0]


def test_labels_that_do_not_start_at_0() -> None:
    masks = np.array([[[-3, 5], [5, 700]]])
    assert compact_labels(masks, np.array([0]), "x").tolist() == [[[1, 2], [2, 3]]]
    assert compact_labels(masks > 0, np.array([0]), "x").tolist() == [[[0, 1], [1, 1]]]
    with pytest.raises(UserError, match="holds 299 labels, expected at most 255"):
        compact_labels(np.arange(300).reshape(1, 20, 15), np.array([0]), "x")


MASKS = np.zeros((5, 6, 9), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": IMAGES}, "holds no array 'images'"),
        ({"images": IMAGES[:0]}, "holds no images"),
        ({"images": IMAGES / 255}, "'images' in .* are 5 x 6 x 9 x 3 float64, expected N x H x W x 3 uint8"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "are 5 x 3 x 6 x 9 uint8, expected N x H x W x 3"),
        ({"images": IMAGES, "masks": MASKS[:4]}, "'masks' in .* are 4 x 6 x 9 uint8, expected 5 x 6 x 9 integers"),
        ({"images": IMAGES, "masks": MASKS * 0.5}, "'masks' in .* are 5 x 6 x 9 float64"),
        ({"images": IMAGES, "masks": MASKS, "background_labels": np.array(["sky"])}, "'background_labels' in"),
        ({"images": IMAGES, "split": np.array([0, 1, 2, 0, 0])}, "'split' in .*, expected 5 numbers, each 0"),
        ({"images": IMAGES, "names": np.arange(5)}, "'names' in .* are 5 int64, expected 5 texts"),
        ({"images": np.array([IMAGES, None], object)}, "is not a readable .npz file"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        open_source(save(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["text", "truncated", "flipped", "npy", "empty"])
def test_broken_files(tmp_path: Path, fault: str) -> None:
    path = save(tmp_path, images=IMAGES)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[300] ^= 255
    faults = {"text": b"not a zip", "truncated": data[:-90], "flipped": bytes(flipped), "empty": b""}
    if fault == "npy":
        with path.open("wb") as file:
            np.save(file, IMAGES)
    else:
        path.write_bytes(faults[fault])
    with pytest.raises(UserError, match="is not a readable .npz file") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
