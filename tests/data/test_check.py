"""Everything that is wrong with a data set, at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.data import index_hash, open_source
from astseg.data.check import check_source

HEIGHT, WIDTH = 20, 28


def write(root: Path, number: int, image: np.ndarray, labels: np.ndarray) -> Path:
    folder = root / "clevrtex_full" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"CLEVRTEX_full_{number:06d}"
    Image.fromarray(image).save(f"{stem}.png")
    Image.fromarray(labels).save(f"{stem}_flat.png")
    Path(f"{stem}.json").write_text("{}")
    return stem


def clean(root: Path, count: int = 12) -> list[Path]:
    generator = np.random.default_rng(0)
    stems = []
    for number in range(count):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:10, : 7 * (number % 3)] = 1 + number % 3
        stems.append(write(root, number, generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), labels))
    return stems


def test_statistics_of_a_clean_source(tmp_path: Path) -> None:
    clean(tmp_path)
    source = open_source(tmp_path)
    check = check_source(source)
    images, masks = zip(*(source.read(index) for index in range(12)), strict=True)
    labels = np.array(masks)
    assert not check.problems
    assert (check.name, check.count, check.read, check.slots) == ("CLEVRTEX layout, CLEVRTEX_full", 12, 12, 10)
    assert check.sizes == {(HEIGHT, WIDTH): 12}
    np.testing.assert_allclose(check.mean, np.array(images).mean(axis=(0, 1, 2)) / 255)
    np.testing.assert_allclose(check.std, np.array(images).std(axis=(0, 1, 2)) / 255)
    assert check.objects == {0: 4, 1: 8} and check.highest_label == 3
    assert check.foreground == (labels > 0).mean()
    assert check.splits == {
        "all": (12, index_hash(range(12))),
        "train": (10, index_hash(range(2, 12))),
        "val": (1, index_hash([1])),
        "test": (1, index_hash([0])),
    }


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    stems = clean(tmp_path)
    for end in (".png", "_flat.png", ".json"):
        Path(f"{stems[2]}{end}").unlink()
    Path(f"{stems[3]}.json").unlink()
    Path(f"{stems[4]}.png").write_bytes(Path(f"{stems[4]}.png").read_bytes()[:300])
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH), np.uint8)).save(f"{stems[5]}_flat.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 11, np.uint8)).save(f"{stems[6]}_flat.png")
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (9, 8, 7), np.uint8)).save(f"{stems[7]}.png")
    Path(f"{stems[9]}.png").write_bytes(Path(f"{stems[8]}.png").read_bytes())
    check = check_source(open_source(tmp_path))
    assert check.read == 8 and len(check.problems) == 7
    for number, told in [
        (2, "'CLEVRTEX_full_000002.png' is missing"),
        (3, "'CLEVRTEX_full_000003' is unfinished"),
        (4, "'CLEVRTEX_full_000004.png' is not a complete picture"),
        (5, "mask 'CLEVRTEX_full_000005_flat.png' is 21x28"),
        (6, "label 11 in 'CLEVRTEX_full_000006' is above 10"),
        (7, "'CLEVRTEX_full_000007' is empty: every pixel is (9, 8, 7)"),
        (9, "'CLEVRTEX_full_000009' is the same picture as 'CLEVRTEX_full_000008'"),
    ]:
        assert any(told in problem for problem in check.problems), number


def test_labels_are_held_against_the_slots_asked_for(tmp_path: Path) -> None:
    clean(tmp_path)
    told = check_source(open_source(tmp_path), slots=2).problems
    assert len(told) == 4 and all("label 3 in" in problem and "is above 2" in problem for problem in told)


def test_a_record_file_that_is_cut_off(rooms_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "objects_room.tfrecords"
    path.write_bytes(rooms_file.read_bytes()[:-3000])
    check = check_source(open_source(path))
    assert len(check.problems) == 1 and "GZIP stream ends" in check.problems[0]
    assert check.count == check.read == 10


def test_splits_that_name_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "recordings" / "env_a").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "recordings" / "env_a" / "rgb-w=0-cam_1-mono-0.png")
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "splits" / "default" / "train.txt").write_text("env_a\nenv_b")
    check = check_source(open_source(tmp_path))
    assert not check.has_labels and list(check.splits) == ["all"]
    assert len(check.problems) == 1 and "names 1 scenarios that are not there (env_b)" in check.problems[0]


REAL = [
    ("clevr", 350),
    ("clevrtex", 300),
    ("clevr_with_masks", 100),
    ("objects_room/objects_room_train.tfrecords", 2000),
    ("objects_room/objects_room_64.npz", 5000),
    ("shapestacks", 192),
    ("shapestacks/shapestacks_64.npz", 4352),
]


@pytest.mark.dataset
@pytest.mark.parametrize(("name", "count"), REAL)
def test_nothing_is_wrong_with_the_real_data(dataset_root: Path, name: str, count: int) -> None:
    check = check_source(open_source(dataset_root / name))
    assert not check.problems
    assert check.count == check.read == count and len(check.sizes) == 1 and check.highest_label > 2


@pytest.mark.dataset
def test_six_objects_are_too_many_for_three_slots(dataset_root: Path) -> None:
    source = open_source(dataset_root / "objects_room" / "objects_room_six_objects.tfrecords")
    assert check_source(source).problems and not check_source(source, slots=6).problems
