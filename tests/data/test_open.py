"""Choosing scenes, bringing them to size, and the real data sets."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.data import fingerprint, index_hash, load_scenes, open_source, select
from astseg.errors import UserError
from astseg.types import SceneArrays

HEIGHT, WIDTH = 20, 28


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Seven scenes; scene k shows labels 0..k, so that its highest label is k."""
    generator = np.random.default_rng(5)
    masks = np.stack([generator.integers(0, k + 1, (HEIGHT, WIDTH)) for k in range(7)])
    masks[:, HEIGHT // 2, WIDTH // 2] = range(7)
    images = generator.integers(0, 256, (7, HEIGHT, WIDTH, 3)).astype(np.uint8)
    np.savez(tmp_path / "scenes.npz", images=images, masks=masks)
    return tmp_path / "scenes.npz"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        (":", [0, 1, 2, 3, 4, 5, 6]),
        (":-5", [0, 1]),
        ("-2:", [5, 6]),
        ("0:100:3", [0, 3, 6]),
        ("1:3:", [1, 2]),
        (" 4: ", [4, 5, 6]),
        ("::-3", [6, 3, 0]),
    ],
)
def test_selections(archive: Path, selection: str, expected: list[int]) -> None:
    assert select(open_source(archive), selection) == expected


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ("7:", "'7:' chooses none of the 7 scenes"),
        ("5:2", "chooses none"),
        ("::0", "has step 0"),
        ("first", "is not understood: use all, train"),
        ("3", "is not understood"),
        ("1:2:3:4", "is not understood"),
        ("", "is not understood"),
    ],
)
def test_wrong_selections(archive: Path, selection: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        select(open_source(archive), selection)


def test_order_names_limit_and_progress(archive: Path) -> None:
    seen: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, threading.current_thread() is threading.main_thread()))

    everything = load_scenes(archive, size=None)
    some = load_scenes(archive, size=None, selection="::-2", limit=3, progress=progress)
    np.testing.assert_array_equal(some.images, everything.images[[6, 4, 2]])
    assert some.labels is not None and everything.labels is not None
    np.testing.assert_array_equal(some.labels, everything.labels[[6, 4, 2]])
    assert some.names == ("000006", "000004", "000002")
    assert seen == [(1, 3, True), (2, 3, True), (3, 3, True)]
    assert str(archive) in some.source and "::-2" in some.source and "3 of 7 scenes" in some.source


def test_square_crop_is_a_part_of_the_short_side(archive: Path) -> None:
    arrays = load_scenes(archive, size=8, crop=0.8, limit=1)
    image, labels = open_source(archive).read(0)
    box = (6, 2, 22, 18)  # 16 = 0.8 of 20, centred in 28 x 20
    expected = Image.fromarray(image).crop(box).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(arrays.images[0], expected)
    assert labels is not None and arrays.labels is not None
    np.testing.assert_array_equal(
        arrays.labels[0], Image.fromarray(labels).crop(box).resize((8, 8), Image.Resampling.NEAREST)
    )


def test_crop_takes_the_proportions_of_the_target(archive: Path) -> None:
    # A target twice as wide as high: all 28 columns, 14 of the 20 rows.
    image, _ = open_source(archive).read(1)
    arrays = load_scenes(archive, size=(14, 28), selection="1:2")
    np.testing.assert_array_equal(arrays.images[0], image[3:17])
    # A target higher than wide: all 20 rows, 10 columns.
    arrays = load_scenes(archive, size=(20, 10), selection="1:2")
    np.testing.assert_array_equal(arrays.images[0], image[:, 9:19])


def test_own_size_may_be_cropped(archive: Path) -> None:
    image, _ = open_source(archive).read(0)
    np.testing.assert_array_equal(load_scenes(archive, size=None, crop=0.5).images[0], image[5:15, 7:21])


def test_shrinking_averages_and_masks_stay_labels(tmp_path: Path) -> None:
    checkers = np.indices((32, 32)).sum(axis=0) % 2
    images = np.repeat((checkers * 255).astype(np.uint8)[None, :, :, None], 3, axis=3)
    np.savez(tmp_path / "a.npz", images=images, masks=checkers[None] * 4)
    arrays = load_scenes(tmp_path / "a.npz", size=4)
    assert np.abs(arrays.images.astype(int) - 127).max() <= 2
    assert arrays.labels is not None and set(np.unique(arrays.labels)) <= {0, 1}


def test_labels_above_the_slots(archive: Path) -> None:
    assert len(load_scenes(archive, size=None, max_label=6)) == 7
    with pytest.raises(UserError) as caught:
        load_scenes(archive, size=None, max_label=4)
    told = "label 6 in '000006' is above the 4 slots (so are labels in 1 more): use 6 slots or more"
    assert str(caught.value) == f"1 problem in '{archive}': {told}"
    with pytest.raises(UserError, match="label 5 in '000005' is above the 4 slots: use 5 slots or more"):
        load_scenes(archive, size=None, selection=":6", max_label=4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"crop": 0.0}, "crop is 0.0"),
        ({"crop": 1.5}, "crop is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"size": 0}, "size is 0"),
        ({"size": (5, -1)}, r"size is \(5, -1\)"),
    ],
)
def test_wrong_arguments(archive: Path, arguments: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_scenes(archive, **{"size": 8, **arguments})  # type: ignore[arg-type]


def test_fingerprint_changes_with_any_part(archive: Path) -> None:
    arrays = load_scenes(archive, size=None)
    digits = fingerprint(arrays)
    assert len(digits) == 16 and digits == fingerprint(load_scenes(archive, size=None))
    assert arrays.labels is not None
    images, labels = arrays.images.copy(), arrays.labels.copy()
    images[2, 3, 4, 1] ^= 1
    labels[2, 3, 4] ^= 1
    changed = [
        dataclasses.replace(arrays, images=images),
        dataclasses.replace(arrays, labels=labels),
        dataclasses.replace(arrays, labels=None),
        dataclasses.replace(arrays, images=arrays.images.reshape(7, WIDTH, HEIGHT, 3)),
        dataclasses.replace(arrays, images=arrays.images[:6]),
    ]
    assert len({digits, *map(fingerprint, changed)}) == 6
    # Names and words do not count: the same pixels under another path are the same data.
    assert fingerprint(dataclasses.replace(arrays, names=(), source="")) == digits


def test_index_hash_counts_the_order() -> None:
    assert index_hash([1, 2, 3]) == index_hash(np.array([1, 2, 3]).tolist())
    assert len({index_hash([1, 2, 3]), index_hash([3, 2, 1]), index_hash([12, 3]), index_hash([])}) == 4


def test_import_is_light() -> None:
    line = "import sys, astseg.data; sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'transformers')))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", line], env=environment, check=False).returncode == 0


# ---- The real data sets ----------------------------------------------------------------------------------------------


def load_real(path: Path, *, size: int | None, selection: str = "all", limit: int | None = None) -> SceneArrays:
    if not path.exists():
        pytest.skip(f"'{path}' is not there")
    return load_scenes(path, size=size, selection=selection, limit=limit)


@pytest.mark.dataset
@pytest.mark.parametrize(("name", "count"), [("clevr", 350), ("clevrtex", 300)])
def test_clevr_and_clevrtex(dataset_root: Path, name: str, count: int) -> None:
    arrays = load_real(dataset_root / name, size=128, limit=40)
    assert arrays.images.shape == (40, 128, 128, 3) and arrays.labels is not None
    assert 3 <= arrays.labels.max() <= 10 and (arrays.labels == 0).any(axis=(1, 2)).all()
    source = open_source(dataset_root / name)
    assert (len(source), source.has_labels, source.crop) == (count, True, 0.8)
    sizes = [len(source.split(split)) for split in ("test", "val", "train")]
    assert sizes == [count // 10, count // 10, count - 2 * (count // 10)]
    assert all(source.problem(index) is None for index in range(count))
    # The benchmark's own preparation, spelled out: 192 = 0.8 of 240, centred in 320 x 240.
    path = dataset_root / name / f"{name}_full" / "0" / f"{name.upper()}_full_000002"
    box = (64, 24, 256, 216)
    image = Image.open(f"{path}.png").convert("RGB").crop(box).resize((128, 128), Image.Resampling.BILINEAR)
    mask = Image.open(f"{path}_flat.png").crop(box).resize((128, 128), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(arrays.images[2], image)
    np.testing.assert_array_equal(arrays.labels[2], mask)


@pytest.mark.dataset
def test_objects_room(dataset_root: Path) -> None:
    arrays = load_real(dataset_root / "objects_room" / "objects_room_64.npz", size=64)
    assert arrays.images.shape == (5000, 64, 64, 3) and arrays.labels is not None
    assert np.unique(arrays.labels).tolist() == [0, 1, 2, 3]  # 4, 5, 6 in the file; 0 to 3 are sky, floor and walls


@pytest.mark.dataset
def test_shapestacks(dataset_root: Path) -> None:
    path = dataset_root / "shapestacks" / "shapestacks_64.npz"
    train, evaluation = (load_real(path, size=None, selection=split) for split in ("train", "test"))
    assert len(train) + len(evaluation) == 4352 and len(train) > len(evaluation) > 0
    assert not set(train.names) & set(evaluation.names)
    assert train.labels is not None and np.unique(train.labels).tolist() == list(range(7))
