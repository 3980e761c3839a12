"""Hugging Face data sets, in the files that ``save_to_disk`` and the hub's parquet conversion leave."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from astseg.data import load_scenes, open_source, select
from astseg.errors import UserError

GENERATOR = np.random.default_rng(1)
IMAGES = GENERATOR.integers(0, 256, (7, 20, 28, 3)).astype(np.uint8)
MASKS = GENERATOR.integers(0, 4, (7, 20, 28)).astype(np.uint8)


def encoded(array: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(rows: slice, *, masks: bool = True) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "image": [encoded(image) for image in IMAGES[rows]],
        "count": list(range(len(IMAGES[rows]))),
    }
    if masks:
        columns["mask"] = [encoded(mask) for mask in MASKS[rows]]
    return pa.table(columns)


def arrow(folder: Path, content: pa.Table) -> None:
    folder.mkdir(parents=True)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, content.schema) as out,
    ):
        out.write_table(content)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")


def test_parquet_with_several_row_groups(tmp_path: Path) -> None:
    pq.write_table(table(slice(None)), tmp_path / "scenes.parquet", row_group_size=3)
    source = open_source(tmp_path / "scenes.parquet")
    assert (source.name, len(source), source.has_labels) == ("Hugging Face data set", 7, True)
    for index in (0, 6, 2, 3):
        np.testing.assert_array_equal(source.read(index)[0], IMAGES[index])
        np.testing.assert_array_equal(source.read(index)[1], MASKS[index])
    np.testing.assert_array_equal(load_scenes(tmp_path, size=None).images, IMAGES)


def test_splits_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(table(slice(0, 2)), tmp_path / "data" / "train-00000-of-00002.parquet")
    pq.write_table(table(slice(2, 5)), tmp_path / "data" / "train-00001-of-00002.parquet")
    pq.write_table(table(slice(5, 7)), tmp_path / "data" / "validation-00000-of-00001.parquet")
    source = open_source(tmp_path)
    assert (select(source, "train"), select(source, "val")) == ([0, 1, 2, 3, 4], [5, 6])
    assert [source.scene_name(index) for index in (3, 6)] == ["train/000003", "validation/000001"]
    np.testing.assert_array_equal(source.read(4)[0], IMAGES[4])
    with pytest.raises(UserError, match="has no 'test' split"):
        select(source, "test")


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    arrow(tmp_path / "one", table(slice(0, 3), masks=False))
    source = open_source(tmp_path / "one")
    assert len(source) == 3 and not source.has_labels
    np.testing.assert_array_equal(source.read(2)[0], IMAGES[2])
    arrow(tmp_path / "both" / "train", table(slice(0, 4)))
    arrow(tmp_path / "both" / "test", table(slice(4, 7)))
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = open_source(tmp_path / "both")
    assert select(source, "test") == [4, 5, 6] and source.scene_name(5) == "test/000001"
    np.testing.assert_array_equal(source.read(5)[0], IMAGES[5])


def test_wrong_tables(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is no readable table"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected one of pictures called 'image'"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "x.png"}]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'000000' holds no encoded picture"):
        open_source(tmp_path / "a.parquet").read(0)
    pq.write_table(pa.table({"image": [b"nothing"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'000000' is not a complete picture"):
        open_source(tmp_path / "a.parquet").read(0)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is no whole Hugging Face data set"):
        open_source(tmp_path)
