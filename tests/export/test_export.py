"""What is handed over is read back as its reader would, and its masks are those of the label maps."""

import errno
import json
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as oracle
from pycocotools.coco import COCO
from scipy import ndimage

from astseg.cli import main
from astseg.data.formats.png import save_label_png
from astseg.data.sources.coco import polygon_mask
from astseg.errors import UserError
from astseg.export import export
from astseg.export.polygons import bridged, parts_of
from astseg.inference.prediction import ObjectPrediction
from astseg.inference.writers.read_ahead import Picture
from astseg.inference.writers.tables import Tables

H, W = 60, 83
NAMES = {"ring & <disc>.png": "ring & <disc>", "deep/zwei\nteile.jpg": "deep/zwei\nteile", "none.png": "none"}


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def label_maps() -> dict[str, np.ndarray]:
    """A ring and a disc before it; an object in two pieces, one at the corner, and one of a pixel; nothing."""
    first, second = np.zeros((2, H, W), np.int32)
    first[disc(30, 30, 20) & ~disc(32, 28, 8)] = 4
    first[disc(55, 40, 12)] = 2
    second[disc(2, 1, 9) | disc(60, 30, 14) & ~disc(60, 30, 6)] = 1
    second[50, 40] = 7
    return dict(zip(NAMES, (first, second, np.zeros_like(first)), strict=True))


def found(labels: np.ndarray, label: int, order: int) -> ObjectPrediction:
    mask = labels == label
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    place = (0.0, 0.0)
    return ObjectPrediction(label, place, box, place, 0.0, int(mask.sum()), order, 0.5, 0.75, np.zeros(3, np.float32))


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A folder as ``astseg segment`` makes it."""
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    with Tables(out, appearance_size=3) as tables:
        for name, labels in label_maps().items():
            (pictures / name).parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.full((H, W, 3), 90, np.uint8))
            picture.save(pictures / name)
            ids = [int(label) for label in np.unique(labels) if label]
            save_label_png(labels, out / "masks" / f"{NAMES[name]}.png")
            objects = [(label, found(labels, label, order)) for order, label in enumerate(ids)]
            tables.add(Picture(tables.images, name, NAMES[name], np.asarray(picture)), labels, objects)
    about = {"input": [str(pictures)], "root": str(pictures), "kind": "pictures", "results": list(NAMES.values())}
    (out / "segment.json").write_text(json.dumps(about))
    return out


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def masks_of(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == label for label in np.unique(labels) if label]


def assert_kept(masks: list[np.ndarray], labels: np.ndarray) -> None:
    expected = masks_of(labels)
    assert len(masks) == len(expected)
    for mask, true in zip(masks, expected, strict=True):
        assert iou(mask, true) >= 0.98


# Formats


def test_cvat(segmented: Path) -> None:
    summary = export(segmented, "cvat", label='a "thing" & more')
    assert (summary.out, summary.images, summary.objects, summary.skipped) == (segmented / "cvat", 3, 4, ())
    root = ElementTree.parse(segmented / "cvat" / "annotations.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert root.findtext("meta/task/labels/label/name") == 'a "thing" & more'
    images = {image.attrib["name"]: image for image in root.findall("image")}
    kinds = {}
    for name, labels in label_maps().items():
        image = images[name]
        assert (image.attrib["width"], image.attrib["height"]) == (str(W), str(H))
        masks = []
        for shape in image:
            assert (shape.attrib["label"], shape.attrib["occluded"]) == ('a "thing" & more', "1")
            masks.append(read_cvat(shape))
        kinds[name] = [shape.tag for shape in image]
        depths = [int(shape.attrib["z_order"]) for shape in image]
        assert depths == sorted(depths, reverse=True)  # the front-most is the highest
        assert_kept(masks, labels)
    # What has a hole or two pieces is a mask, and the same to the pixel.
    assert list(kinds.values()) == [["polygon", "mask"], ["mask", "polygon"], []]
    labels = label_maps()["ring & <disc>.png"]
    np.testing.assert_array_equal(read_cvat(images["ring & <disc>.png"][1]), labels == 4)


def read_cvat(shape: ElementTree.Element) -> np.ndarray:
    if shape.tag == "polygon":
        points = [tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split(";")]
        return polygon_mask(np.array(points), H, W)
    x, y, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    flat: list[int] = []
    for number, length in enumerate(shape.attrib["rle"].split(",")):
        flat += [number % 2] * int(length)
    mask = np.zeros((H, W), bool)
    mask[y : y + height, x : x + width] = np.array(flat, bool).reshape(height, width)
    return mask


def test_labelme(segmented: Path) -> None:
    assert export(segmented, "labelme").objects == 4
    for name, labels in label_maps().items():
        file = segmented / "labelme" / f"{NAMES[name]}.json"
        content = json.loads(file.read_text())
        assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (H, W, None)
        assert (file.parent / content["imagePath"]).resolve() == (segmented.parent / "pictures" / name).resolve()
        groups: dict[Any, np.ndarray] = defaultdict(lambda: np.zeros((H, W), bool))
        for number, shape in enumerate(content["shapes"]):
            assert (shape["label"], shape["shape_type"]) == ("object", "polygon")
            key = -number if shape["group_id"] is None else shape["group_id"]
            groups[key] |= polygon_mask(np.array(shape["points"]), H, W)
        assert_kept(list(groups.values()), labels)
    two = json.loads((segmented / "labelme" / "deep" / "zwei\nteile.json").read_text())["shapes"]
    assert [shape["group_id"] for shape in two] == [1, 1, None]


def test_yolo(segmented: Path) -> None:
    summary = export(segmented, "yolo", label="thing")
    assert (segmented / "yolo" / "data.yaml").read_text() == 'train: images\nval: images\nnames:\n  0: "thing"\n'
    assert summary.images == 3
    for name, labels in label_maps().items():
        lines = (segmented / "yolo" / "labels" / f"{NAMES[name]}.txt").read_text().splitlines()
        masks = []
        for line in lines:
            label, *numbers = line.split()
            assert label == "0" and all(0 <= float(number) <= 1 for number in numbers)
            masks.append(polygon_mask(np.array(numbers, float).reshape(-1, 2) * [W, H], H, W))
        assert_kept(masks, labels)
        picture = next((segmented / "yolo" / "images").glob(f"{NAMES[name].replace('[', '[[]')}.*"))
        assert picture.is_symlink() and Image.open(picture).size == (W, H)


def test_yolo_copies_images_where_links_are_not_allowed(segmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(Path, "symlink_to", refused)
    assert export(segmented, "yolo").skipped == ()
    for name in NAMES:
        copy = segmented / "yolo" / "images" / name
        assert not copy.is_symlink()
        assert copy.read_bytes() == (segmented.parent / "pictures" / name).read_bytes()


def test_coco_is_read_by_pycocotools(segmented: Path) -> None:
    assert export(segmented, "coco", label="thing").objects == 4
    read = COCO(segmented / "coco" / "annotations.json")
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == ["thing"]
    for image, (name, labels) in zip(read.loadImgs(read.getImgIds()), label_maps().items(), strict=True):
        picture = segmented / "coco" / image["file_name"]
        assert picture.resolve() == (segmented.parent / "pictures" / name).resolve()
        annotations = read.loadAnns(read.getAnnIds(imgIds=image["id"]))
        assert_kept([read.annToMask(annotation) > 0 for annotation in annotations], labels)
        assert [one["area"] for one in annotations] == [mask.sum() for mask in masks_of(labels)]


def test_geojson(segmented: Path) -> None:
    assert export(segmented, "geojson", label="cell").objects == 4
    kinds = []
    for name, labels in label_maps().items():
        content = json.loads((segmented / "geojson" / f"{NAMES[name]}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        masks = []
        for feature in content["features"]:
            assert feature["type"] == "Feature"
            assert feature["properties"] == {"objectType": "annotation", "classification": {"name": "cell"}}
            kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
            kinds.append(kind)
            mask = np.zeros((H, W), bool)
            for rings in coordinates if kind == "MultiPolygon" else [coordinates]:
                assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
                outline, *holes = (polygon_mask(np.array(ring[:-1]), H, W) for ring in rings)
                mask |= outline & ~np.any([np.zeros_like(outline), *holes], axis=0)
            masks.append(mask)
        assert_kept(masks, labels)
    assert kinds == ["Polygon", "Polygon", "MultiPolygon", "Polygon"]


# Polygons


@pytest.mark.parametrize("seed", range(6))
def test_polygons_give_any_mask_back_exactly(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((11 + seed, 17)) < (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)[seed]
    parts = parts_of(mask, simplify=False)
    together = np.zeros_like(mask)
    for part in parts:
        assert not (together & part.mask(*mask.shape)).any()
        together |= part.mask(*mask.shape)
    np.testing.assert_array_equal(together, mask)
    np.testing.assert_array_equal(polygon_mask(bridged(parts), *mask.shape), mask)


def test_fewer_points_keep_the_mask_also_for_other_programs() -> None:
    for mask in (disc(40, 30, 25), disc(30, 20, 6), disc(0, 0, 12), disc(40, 30, 20) & ~disc(36, 30, 12)):
        (exact,), (simple,) = parts_of(mask, simplify=False), parts_of(mask)
        assert len(simple.outline) < len(exact.outline) / 2
        assert iou(simple.mask(H, W), mask) >= 0.98
        rings = [simple.outline, *simple.holes]
        by_coco = [oracle.decode(oracle.frPyObjects([ring.ravel().tolist()], H, W))[..., 0] > 0 for ring in rings]
        by_pillow = []
        for ring in rings:
            canvas = Image.new("1", (W, H))
            ImageDraw.Draw(canvas).polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in ring], fill=1)
            by_pillow.append(np.array(canvas))
        for outline, *holes in (by_coco, by_pillow):  # which round otherwise: no more than a pixel at the border
            for hole in holes:
                outline = outline & ~hole
            assert not (outline & ~ndimage.binary_dilation(mask, np.ones((3, 3)))).any()
            assert not (ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1) & ~outline).any()


# The command


def test_the_command_tells_what_is_next(segmented: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["export", str(segmented), "--to", "cvat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 objects in 3 images, for cvat: {segmented}/cvat"
    assert lines[1].endswith(f"upload {segmented}/cvat/annotations.xml as 'CVAT 1.1'")
    assert main.run(["export", str(segmented), "--to", "labelme"]) == 0
    pictures = segmented.parent / "pictures"
    assert capsys.readouterr().out.splitlines()[1] == f"next: labelme {pictures} --output {segmented}/labelme"


def test_the_same_again_replaces_its_own_files_and_no_others(segmented: Path) -> None:
    out = segmented / "yolo"
    export(segmented, "yolo")
    before = {path.relative_to(out) for path in out.rglob("*")}
    content = json.loads((segmented / "coco.json").read_text())
    content["images"] = content["images"][:2]
    (segmented / "coco.json").write_text(json.dumps(content))
    (out / "labels" / "mine.txt").write_text("keep")
    export(segmented, "yolo")
    gone = before - {path.relative_to(out) for path in out.rglob("*")}
    assert gone == {Path("labels/none.txt"), Path("images/none.png")}
    (out / "export.json").unlink()
    with pytest.raises(UserError, match="is there already: choose another folder with --out"):
        export(segmented, "yolo")
    assert (out / "labels" / "mine.txt").read_text() == "keep"
    assert not list(out.rglob("*.part"))


def test_what_is_refused(segmented: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not made by 'astseg segment'"):
        export(tmp_path, "cvat")
    with pytest.raises(UserError, match="is no format of export"):
        export(segmented, "voc")
    with pytest.raises(UserError, match="expected a word such as"):
        export(segmented, "cvat", label=" ")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        export(segmented, "cvat", segmented / "segment.json")
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copy(segmented / "segment.json", stopped)
    with pytest.raises(UserError, match=r"no coco.json, since its 'astseg segment' was stopped"):
        export(stopped, "cvat")
    text = (segmented / "coco.json").read_text()
    for broken in (
        "{",
        "[]",
        text.replace('"counts": "', '"counts": "~'),
        re.sub('"mask": "masks', '"mask": "..', text),
    ):
        (segmented / "coco.json").write_text(broken)
        for to in ("cvat", "labelme", "yolo"):
            with pytest.raises(UserError, match="segment again"):
                export(segmented, to)


def test_pictures_that_are_gone_are_told(segmented: Path) -> None:
    (segmented.parent / "pictures" / "none.png").unlink()
    summary = export(segmented, "labelme")
    assert summary.images == 2
    assert summary.skipped == ("'none.png' is not there any more: put it back where it was",)
    assert export(segmented, "cvat").images == 3  # which needs no pictures
