"""A person's own pictures with masks, in every form they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as oracle

from astseg.data import load_scenes, open_source
from astseg.errors import UserError

HEIGHT, WIDTH = 20, 28


def picture(path: Path, *, height: int = HEIGHT, width: int = WIDTH, seed: int = 0, **options: Any) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(image).save(path, **options)
    return image


def blocks(values: list[int], dtype: type = np.uint8) -> np.ndarray:
    """Upright stripes of the values."""
    return np.repeat(np.array(values, dtype), WIDTH // len(values))[None].repeat(HEIGHT, axis=0)


def test_masks_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for index, name in enumerate(["a.png", "deep/b.webp", "c.tiff", "d.png"]):
        picture(tmp_path / "images" / name, seed=index, **({"lossless": True} if "webp" in name else {}))
    (tmp_path / "masks" / "deep").mkdir(parents=True)
    palette = Image.fromarray(blocks([0, 5, 9, 5])).convert("P")
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "masks" / "a.png")
    Image.fromarray(blocks([0, 255])).save(tmp_path / "masks" / "deep" / "b.png")
    Image.fromarray(blocks([0, 300, 65535, 7], np.uint16)).save(tmp_path / "masks" / "c.png")
    Image.fromarray(blocks([3, 2, 1, 3], np.uint16)).save(tmp_path / "masks" / "d.tif")
    source = open_source(tmp_path)
    assert (source.name, len(source), source.has_labels) == ("folder of pictures with masks", 4, True)
    expected = {"a.png": [0, 1, 2, 1], "c.tiff": [0, 2, 3, 1], "d.png": [3, 2, 1, 3], "deep/b.webp": [0, 1]}
    assert [source.scene_name(index) for index in range(4)] == [f"images/{name}" for name in expected]
    for index, values in enumerate(expected.values()):
        np.testing.assert_array_equal(source.read(index)[1], blocks(values))
    assert load_scenes(tmp_path, size=9, max_label=3).labels is not None


def test_masks_beside_their_pictures(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        image = picture(tmp_path / f"{name}.png")
        Image.fromarray(blocks([0, 4])).save(tmp_path / f"{name}_mask.png")
    source = open_source(tmp_path)
    assert [source.scene_name(index) for index in range(len(source))] == ["cat.png", "dog.png"]
    np.testing.assert_array_equal(source.read(1)[0], image)
    np.testing.assert_array_equal(source.read(1)[1], blocks([0, 1]))


def test_what_is_missing_or_wrong_is_told_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / "images" / f"{name}.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(blocks([0, 1])[:-1]).save(tmp_path / "masks" / "a.png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "masks" / "c.png")
    Image.fromarray(np.arange(560, dtype=np.uint16).reshape(HEIGHT, WIDTH)).save(tmp_path / "masks" / "d.png")
    Image.fromarray(blocks([0, 1])).save(tmp_path / "masks" / "e.png")
    with pytest.raises(UserError) as caught:
        load_scenes(tmp_path, size=9)
    message = str(caught.value)
    assert message.startswith("5 problems")
    assert "mask 'masks/a.png' is 19x28 but its image is 20x28" in message
    assert "the mask of 'images/b.png' is missing" in message
    assert "mask 'masks/c.png' holds colours" in message
    assert "'masks/d.png' holds 559 labels, expected at most 255" in message
    assert "the picture of mask 'masks/e.png' is missing" in message
    picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match="'images/a.jpg' and 'images/a.png' differ in their ending alone"):
        open_source(tmp_path)


def test_photographs_as_cameras_leave_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    picture(tmp_path / "images" / "turned.jpg", exif=exif)
    grey = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 100).reshape(HEIGHT, WIDTH)
    Image.fromarray(grey).save(tmp_path / "images" / "deep.tiff")
    Image.fromarray(np.full((HEIGHT, WIDTH, 4), (9, 8, 7, 0), np.uint8)).save(tmp_path / "images" / "clear.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)).save(tmp_path / "images" / "grey.webp", lossless=True)
    source = open_source(tmp_path / "images")
    found = {source.scene_name(index): source.read(index)[0] for index in range(len(source))}
    assert found["turned.jpg"].shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_array_equal(found["deep.tiff"][..., 1], grey >> 8)
    assert (found["clear.png"] == (9, 8, 7)).all() and (found["grey.webp"] == 77).all()


def coco(path: Path, segmentations: list[Any], **more: Any) -> Path:
    annotations = [{"id": index, "image_id": 7, "segmentation": one, **more} for index, one in enumerate(segmentations)]
    images = [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def runs(mask: np.ndarray, *, packed: bool) -> dict[str, Any]:
    found = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    if packed:
        return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_are_read_as_pycocotools_writes_them(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((HEIGHT, WIDTH)) < generator.random()
    picture(tmp_path / "a.png")
    for packed in (True, False):
        source = open_source(coco(tmp_path / "objects.json", [runs(mask, packed=packed)]))
        np.testing.assert_array_equal(source.read(0)[1], mask)
    assert source.name == "pictures with COCO masks, objects.json"


def test_polygons_overlap_and_crowds(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    large, small = [2, 3, 20, 3, 20, 15, 2, 15], [5, 5, 10, 5, 10, 9, 5, 9]
    path = coco(tmp_path / "a.json", [[small], [large], [[0, 0, 4, 0, 4, 2, 0, 2], [24, 17, 27, 17, 27, 19, 24, 19]]])
    labels = open_source(path).read(0)[1]
    assert labels is not None and set(np.unique(labels)) == {0, 1, 2, 3}
    for label, polygons in ((2, [large]), (3, [[0, 0, 4, 0, 4, 2, 0, 2], [24, 17, 27, 17, 27, 19, 24, 19]])):
        expected = oracle.decode(oracle.merge(oracle.frPyObjects(polygons, HEIGHT, WIDTH))).astype(bool)
        found = (labels == label) | ((labels == 1) if label == 2 else False)  # the smaller one is in front
        np.testing.assert_array_equal(found, expected)
    assert (labels[6:8, 6:9] == 1).all()
    assert not open_source(coco(path, [[large]], iscrowd=1)).read(0)[1].any()  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(4))
def test_polygons_of_any_shape_are_drawn_nearly_as_pycocotools_does(tmp_path: Path, seed: int) -> None:
    """It rounds corners to fifths of a pixel, so that single pixels at the rim may differ."""
    generator = np.random.default_rng(seed)
    angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
    points = np.stack([14 + 12 * np.cos(angles), 10 + 8 * np.sin(angles)], axis=1).ravel().tolist()
    picture(tmp_path / "a.png")
    found = open_source(coco(tmp_path / "a.json", [[points]])).read(0)[1]
    expected = oracle.decode(oracle.merge(oracle.frPyObjects([points], HEIGHT, WIDTH)))
    assert found is not None and (found != expected).sum() <= 0.06 * expected.sum()


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([[1, 2, 3, 4]], "a polygon has 4 numbers"),
        ({"size": [3, 3], "counts": [9]}, r"its size is \[3, 3\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "its runs cover 10 pixels of 560"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 565]}, "its runs cover 560 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "\x01"}, "is no letter of run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "oooo"}, "is broken"),
        ([["x"] * 6], "is broken"),
        ({}, "is broken"),
        (4, "is broken"),
    ],
)
def test_broken_annotations(tmp_path: Path, segmentation: Any, told: str) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"annotation 0 of 'a.png' in 'a.json' is broken.*{told}|{told}"):
        open_source(coco(tmp_path / "a.json", [segmentation])).read(0)


def test_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, told in [
        ("{", "is no readable json"),
        ("[" * 100_000, "is no readable json"),
        ("[]", "without 'images' and 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": []}', "is no whole COCO file"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "is no whole COCO file"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            open_source(path)


def test_a_coco_file_among_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "notes.json").write_text("{}")
    assert open_source(tmp_path).name == "folder of pictures"
    coco(tmp_path / "objects.json", [])
    source = open_source(tmp_path)
    assert source.name == "pictures with COCO masks, objects.json" and not source.read(0)[1].any()  # type: ignore[union-attr]
    (tmp_path / "a.png").unlink()
    assert source.problem(0) == "'a.png' is missing"
    coco(tmp_path / "more.json", [])
    with pytest.raises(UserError, match="holds 2 COCO files"):
        open_source(tmp_path)


def test_the_folders_of_coco_itself(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "annotations").mkdir()
    coco(tmp_path / "annotations" / "instances.json", [[[2, 3, 20, 3, 20, 15, 2, 15]]])
    source = open_source(tmp_path)
    assert source.name == "pictures with COCO masks, instances.json" and source.problem(0) is None
    labels = source.read(0)[1]
    assert labels is not None and labels.sum() == 18 * 12
