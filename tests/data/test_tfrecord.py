"""TFRecord files as DeepMind wrote them, and damaged ones."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astseg.config.presets import preset
from astseg.data import load_scenes, open_source
from astseg.data.sources import records
from astseg.data.sources.records import masked_crc32c, read_records
from astseg.errors import UserError

Rooms = tuple[np.ndarray, np.ndarray]


def test_scenes_of_objects_room(rooms: Rooms, rooms_file: Path) -> None:
    source = open_source(rooms_file)
    assert source.name == "TFRecord, ObjectsRoom, 7 entities"
    assert (len(source), source.has_labels, source.crop) == (11, True, 1.0)
    assert source.scene_name(10) == "000010" and source.problem(4) is None
    for index in (0, 1, 7, 2, 10, 0):  # back and forth
        image, labels = source.read(index)
        np.testing.assert_array_equal(image, rooms[0][index])
        assert labels is not None
        np.testing.assert_array_equal(labels, np.where(rooms[1][index] < 4, 0, rooms[1][index] - 3))
    assert open_source(rooms_file.parent).name == source.name


@pytest.mark.parametrize(("single", "packed", "more"), [(True, True, True), (False, False, False), (True, False, True)])
def test_one_long_string_and_files_without_gzip(
    rooms: Rooms, scene_record: Any, write_records: Any, tmp_path: Path, single: bool, packed: bool, more: bool
) -> None:
    records = [scene_record(rooms[0][i], rooms[1][i], entities=7, single=single, more=more) for i in range(3)]
    arrays = load_scenes(write_records(tmp_path / "objects_room_train.tfrecords", records, packed=packed), size=None)
    np.testing.assert_array_equal(arrays.images, rooms[0][:3])


def test_clevr_with_masks(scene_record: Any, write_records: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (240, 320, 3)).astype(np.uint8)
    labels = generator.integers(0, 11, (240, 320)).astype(np.uint8)
    path = write_records(tmp_path / "clevr.tfrecord", [scene_record(image, labels, entities=11)])
    source = open_source(path)
    assert source.name == "TFRecord, CLEVR, 11 entities" and source.crop == 0.8
    np.testing.assert_array_equal(source.read(0)[0], image)
    np.testing.assert_array_equal(source.read(0)[1], labels)
    assert load_scenes(path, size=128).images.shape == (1, 128, 128, 3)


def test_absent_objects_and_pixels_that_nobody_claims(
    rooms: Rooms, scene_record: Any, write_records: Any, tmp_path: Path
) -> None:
    labels = np.full((64, 64), 9, np.uint8)  # beyond the entities: all masks are zero there
    labels[:5, :7] = 6
    path = write_records(tmp_path / "objects_room.tfrecords", [scene_record(rooms[0][0], labels, entities=7)])
    expected = np.zeros((64, 64), np.uint8)
    expected[:5, :7] = 3
    np.testing.assert_array_equal(open_source(path).read(0)[1], expected)


def test_splits_and_variants(rooms: Rooms, rooms_file: Path, tmp_path: Path) -> None:
    source = open_source(rooms_file)
    assert [source.split(name) for name in ("test", "val", "train")] == [[0], [1], list(range(2, 11))]
    variant = tmp_path / "objects_room_test_six_objects.tfrecords"
    variant.write_bytes(rooms_file.read_bytes())
    assert open_source(variant).split("test") == list(range(11))
    with pytest.raises(UserError, match="is the test set six_objects, which has no 'train' split: use 'all'"):
        open_source(variant).split("train")


def test_declared_protocols_are_those_of_the_presets(rooms_file: Path) -> None:
    from astseg.data.sources.clevrtex import CLEVR, CLEVRTEX
    from astseg.data.sources.shapestacks import SHAPESTACKS
    from astseg.data.sources.tfrecord import CLEVR_WITH_MASKS, OBJECTS_ROOM

    assert open_source(rooms_file).benchmark == OBJECTS_ROOM
    for about in (CLEVR, CLEVRTEX, SHAPESTACKS, CLEVR_WITH_MASKS, OBJECTS_ROOM):
        model = preset(about.preset).model
        assert (model.slots, model.image_size, model.isotropic) == (about.slots, about.image_size, about.isotropic)


def test_several_files_in_a_folder(rooms_file: Path, tmp_path: Path) -> None:
    for name in ("a.tfrecords", "b.tfrecords"):
        (tmp_path / name).write_bytes(rooms_file.read_bytes())
    with pytest.raises(UserError, match=r"holds 2 TFRecord files \(a.tfrecords, b.tfrecords\): name one of them"):
        open_source(tmp_path)


def test_checksum_of_a_known_text() -> None:
    # CRC-32C of "123456789" is e3069283, the check value of the algorithm's definition.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_flipped_byte_is_told_with_file_and_offset(rooms_file: Path, tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(rooms_file.read_bytes()))
    size = int.from_bytes(data[:8], "little") + 16
    data[size * 2 + 500] ^= 1
    path = tmp_path / "objects_room.tfrecords"
    path.write_bytes(gzip.compress(data))
    source = open_source(path)
    with pytest.raises(
        UserError, match=rf"'{path}' is damaged: record 2 at byte {size * 2} does not match its checksum"
    ):
        source.read(2)
    assert source.read(3)[0].shape == source.read(0)[0].shape == (64, 64, 3)  # the others can be read
    data[size * 3 + 1] ^= 1
    path.write_bytes(gzip.compress(data))
    with pytest.raises(UserError, match=rf"record 3 at byte {size * 3} has a length that does not match"):
        len(open_source(path))


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_was_cut_off(rooms_file: Path, tmp_path: Path, packed: bool) -> None:
    data = gzip.decompress(rooms_file.read_bytes())
    path = tmp_path / "objects_room.tfrecords"
    path.write_bytes(rooms_file.read_bytes()[:-3000] if packed else data[:-3000])
    told = (
        "GZIP stream ends, before it is complete, at byte [0-9]+" if packed else "record 10 at byte [0-9]+ ends after"
    )
    with pytest.raises(UserError, match=f"is damaged: .*{told}"):
        len(open_source(path))
    assert open_source(path).read(5)[0].shape == (64, 64, 3)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="holds no records"):
        open_source(path)


def test_records_of_something_else(write_records: Any, scene_record: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.tfrecords"
    for record, told in [
        (b"", "has images of 0 bytes, expected RGB of 64x64"),
        (b"hello world", "holds no scenes: byte 14 begins"),
        (scene_record(np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7)), entities=2), "has images of 105 bytes"),
    ]:
        write_records(path, [record])
        with pytest.raises(UserError, match=told):
            open_source(path)


def test_masks_of_other_values_are_told(rooms: Rooms, scene_record: Any, write_records: Any, tmp_path: Path) -> None:
    record = scene_record(rooms[0][0], rooms[1][0], entities=7, single=True).replace(
        b"\xff\xff\xff\xff", b"\xff\x07\xff\xff"
    )
    path = write_records(tmp_path / "objects_room.tfrecords", [record])
    with pytest.raises(UserError, match=r"record 0 at byte [0-9]+ begins a mask with value 7 in entity"):
        open_source(path)


def test_records_come_in_order(write_records: Any, tmp_path: Path) -> None:
    records = [bytes([number % 251]) * (number % 7) for number in range(300)]
    path = write_records(tmp_path / "a.tfrecords", records)
    assert [(record.index, record.checked()) for record in read_records(path)] == list(enumerate(records))


def test_a_file_is_counted_once_in_a_process(rooms_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "objects_room.tfrecords"
    path.write_bytes(rooms_file.read_bytes())
    passes = []
    monkeypatch.setattr(records, "read_records", lambda path: passes.append(path) or read_records(path))
    for _ in range(3):
        source = open_source(path)
        assert len(source) == 11 and len(source.split("train")) == 9
    assert len(passes) == 1
    path.write_bytes(rooms_file.read_bytes()[:-3000])
    with pytest.raises(UserError, match="is damaged"):
        len(open_source(path))


@pytest.mark.dataset
def test_the_file_of_objects_room_holds_what_its_decoded_copy_holds(dataset_root: Path) -> None:
    folder = dataset_root / "objects_room"
    records = load_scenes(folder / "objects_room_train.tfrecords", size=64)
    decoded = load_scenes(folder / "objects_room_64.npz", size=64, selection=":2000")
    np.testing.assert_array_equal(records.images, decoded.images)
    assert records.labels is not None and decoded.labels is not None
    np.testing.assert_array_equal(records.labels, decoded.labels)
    six = load_scenes(folder / "objects_room_six_objects.tfrecords", size=64)
    assert len(six) == 500 and six.labels is not None and six.labels.max() == 6


@pytest.mark.dataset
def test_the_file_of_clevr_with_masks(dataset_root: Path) -> None:
    arrays = load_scenes(dataset_root / "clevr_with_masks", size=128)
    assert arrays.images.shape == (100, 128, 128, 3) and arrays.labels is not None
    assert 3 <= arrays.labels.max() <= 10 and (arrays.labels == 0).any(axis=(1, 2)).all()
