"""Damaged files of every kind: an error in one line that names the file, no crash, no hang, no hunger for memory."""

import gzip
import io
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from astseg.data import open_source
from astseg.data.formats.labels import compact_labels, renumbered
from astseg.data.formats.pictures import read_label_numbers, read_labels
from astseg.data.sources.example import BrokenExampleError, byte_list, features
from astseg.data.sources.records import masked_crc32c, read_records
from astseg.data.sources.shapestacks import read_map
from astseg.errors import UserError

SLACK = 2**20
"""Bytes that Python and its buffers may take whatever the file."""

MANY = settings(max_examples=60, deadline=2000, suppress_health_check=list(HealthCheck))
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


def damaged(data: bytes, edits: list[tuple[float, int]], cut: float) -> bytes:
    """Some bytes replaced, and the end cut off."""
    changed = bytearray(data)
    for place, value in edits:
        changed[int(place * len(changed))] = value
    return bytes(changed[: int(cut * len(changed))])


def read_everything(path: Path, file_size: int) -> None:
    """Read all scenes; a UserError in one line that names the file and, once it is open, an offset is fine."""
    tracemalloc.start()
    try:
        source = open_source(path)
        for index in range(len(source)):
            image, labels = source.read(index)
            assert image.shape == (64, 64, 3) and labels is not None and labels.shape == (64, 64)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
        assert "byte" in str(error) or "holds no records" in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= 10 * file_size + SLACK


@pytest.fixture(scope="module")
def one_room(rooms: Any, scene_record: Any) -> bytes:
    return bytes(scene_record(rooms[0][0], rooms[1][0], entities=7))


@MANY
@given(edits=EDITS, cut=st.sampled_from([1.0, 1.0, 0.9, 0.1]))
def test_damaged_record_files(rooms_file: Path, edits: list[tuple[float, int]], cut: float) -> None:
    """The bytes on disk: the GZIP stream breaks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "objects_room.tfrecords"
        path.write_bytes(damaged(rooms_file.read_bytes(), edits, cut))
        read_everything(path, len(gzip.decompress(rooms_file.read_bytes())))


@MANY
@given(edits=EDITS, cut=st.floats(0, 1), packed=st.booleans())
def test_damaged_framing(rooms_file: Path, edits: list[tuple[float, int]], cut: float, packed: bool) -> None:
    """The bytes inside the GZIP stream: checksums do not match."""
    data = gzip.decompress(rooms_file.read_bytes())[:400_000]
    data = damaged(data, [(place / 8, value) for place, value in edits], cut)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "objects_room.tfrecords"
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        read_everything(path, len(data))


@MANY
@given(edits=EDITS, cut=st.sampled_from([1.0, 0.999, 0.5, 0.01]), near=st.sampled_from([1, 300, 20_000]))
def test_records_of_damaged_content(
    write_records: Any, one_room: bytes, edits: list[tuple[float, int]], cut: float, near: int
) -> None:
    """Records that are well framed and hold nonsense."""
    edits = [(place / near, value) for place, value in edits]
    with tempfile.TemporaryDirectory() as folder:
        path = write_records(Path(folder) / "objects_room.tfrecords", [one_room, damaged(one_room, edits, cut)])
        try:
            read_everything(path, 2 * len(one_room))
        except AssertionError as error:
            raise AssertionError(str(error)) from error


@MANY
@given(st.binary(max_size=200))
def test_examples_of_any_bytes(data: bytes) -> None:
    try:
        for place in features(data).values():
            assert 0 <= place.start <= place.stop <= len(data)
            byte_list(data, place)
    except BrokenExampleError as error:
        assert 0 <= error.offset <= len(data) and str(error)


@MANY
@given(st.binary(max_size=300))
def test_framing_of_any_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.tfrecords"
        path.write_bytes(data)
        try:
            assert not list(read_records(path)) or data
        except UserError as error:
            assert "byte" in str(error) and "any.tfrecords" in str(error)


def test_a_record_that_claims_to_be_huge_takes_no_memory(tmp_path: Path, write_records: Any) -> None:
    for claimed in (2**40, 2**26):
        length = claimed.to_bytes(8, "little")
        data = length + masked_crc32c(length).to_bytes(4, "little") + b"x" * 1000
        for packed in (True, False):
            path = tmp_path / "huge.tfrecords"
            path.write_bytes(gzip.compress(data) if packed else data)
            tracemalloc.start()
            with pytest.raises(UserError, match="record 0 at byte 0 (says it has|ends after)"):
                list(read_records(path))
            assert tracemalloc.get_traced_memory()[1] < SLACK
            tracemalloc.stop()


# Label decoding


def mask_file(form: str) -> bytes:
    labels = np.random.default_rng(0).integers(0, 7, (20, 28)).astype(np.uint8)
    image = {
        "varying": Image.fromarray(labels).convert("P"),
        "grey": Image.fromarray(labels),
        "deep": Image.fromarray(labels.astype(np.uint16) * 900),
        "map": Image.fromarray(np.dstack([labels * 32] * 3)),
    }[form]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@MANY
@given(form=st.sampled_from(["varying", "grey", "deep", "map"]), edits=EDITS, cut=st.sampled_from([1.0, 1.0, 0.7, 0.1]))
def test_damaged_mask_files(form: str, edits: list[tuple[float, int]], cut: float) -> None:
    data = damaged(mask_file(form), edits, cut)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        path.write_bytes(data)
        for read in (read_labels, read_label_numbers, read_map):
            try:
                assert read(path, "mask.png").ndim == 2
            except UserError as error:
                assert "mask.png" in str(error) and "\n" not in str(error)


@MANY
@given(st.data())
def test_renumbering_keeps_the_objects_apart(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
    values = data.draw(st.lists(st.integers(0 if kind != np.int64 else -9, 120), min_size=1, max_size=40))
    mask = np.array(values, kind)[None]
    labels = renumbered(mask, "a")
    assert labels.dtype == np.uint8 and ((labels == 0) == (mask == 0)).all()
    assert labels.max() == len(set(values) - {0})
    assert len({*zip(values, labels[0].tolist(), strict=True)}) == len(set(values))
    background = np.array(data.draw(st.lists(st.integers(0, 9), max_size=3)), np.int64)
    compact = compact_labels(mask[None], background, "a")
    assert ((compact == 0) == np.isin(mask, background)).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 600) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@MANY
@given(segmentation=JSON, image=JSON)
def test_coco_files_of_any_content(segmentation: Any, image: Any) -> None:
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 28}, *([image] if isinstance(image, dict) else [])]
    content = {"images": images, "annotations": [{"image_id": 1, "segmentation": segmentation}]}
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(np.zeros((20, 28, 3), np.uint8)).save(Path(folder) / "a.png")
        (Path(folder) / "a.json").write_text(json.dumps(content))
        try:
            labels = open_source(Path(folder) / "a.json").read(0)[1]
            assert labels is not None and labels.shape == (20, 28)
        except UserError as error:
            assert "a.json" in str(error) and "\n" not in str(error)
