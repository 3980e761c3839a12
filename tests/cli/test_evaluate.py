"""Twenty masks made by hand are enough to measure on, in every form they come in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as oracle

from astseg.cli import main
from astseg.data.synthetic.generate import render_scenes
from astseg.export.polygons import parts_of

COUNT, LABELLED = 26, 20


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    made = render_scenes("desk", seed=3, count=COUNT, size=(36, 54), max_objects=5)
    return np.asarray(made.images), np.asarray(made.labels)


@pytest.fixture
def run(spread_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(spread_run, tmp_path / "run"))


def write_pictures(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02d}.png")


def figures(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, float], str]:
    assert main.run(["evaluate", str(run), str(data)]) == 0
    values = json.loads((run / "metrics.json").read_text())
    return {name: values[name] for name in ("count", "ari_fg", "miou", "msc_fg")}, capsys.readouterr().out


def coco(images: int, labels: np.ndarray, *, polygons: bool) -> dict[str, object]:
    annotations = []
    for number, label_map in enumerate(labels):
        for label in np.unique(label_map[label_map > 0]):
            mask = label_map == label
            rings = [part.outline.ravel().tolist() for part in parts_of(mask, simplify=False)]
            runs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
            runs = {"size": list(mask.shape), "counts": runs["counts"].decode()}
            annotations.append(
                {"id": len(annotations), "image_id": number, "segmentation": rings if polygons else runs}
            )
    names = [{"id": n, "file_name": f"{n:02d}.png", "height": 36, "width": 54} for n in range(images)]
    return {"images": names, "annotations": annotations}


def test_every_form_of_twenty_masks_gives_the_same_figures(
    run: Path, scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = scenes[0], scenes[1][:LABELLED]
    beside, apart, runs, polygons = (tmp_path / name for name in ("beside", "apart", "runs", "polygons"))
    write_pictures(beside, images)
    write_pictures(apart / "images", images)
    (apart / "masks").mkdir()
    for number, label_map in enumerate(labels):
        Image.fromarray(label_map).save(beside / f"{number:02d}_mask.png")
        Image.fromarray(label_map.astype(np.uint16) * 100).save(apart / "masks" / f"{number:02d}.png")
    for folder in (runs, polygons):
        write_pictures(folder, images)
        (folder / "labels.json").write_text(json.dumps(coco(LABELLED, labels, polygons=folder is polygons)))
    told = {folder.name: figures(run, folder, capsys) for folder in (beside, apart, runs, polygons)}
    expected = told["beside"][0]
    assert expected["count"] == LABELLED
    for name, (values, text) in told.items():
        # Outlines do not say what lies in a hole: rings are discs there.
        tolerance = 0.03 if name == "polygons" else 1e-9
        assert values == pytest.approx(expected, abs=tolerance), name
        assert ("6 of 26 are left out: the mask of" in text) == (name in ("beside", "apart"))
        assert "images have more objects than 3 slots" in text
        assert "images have no object in their masks and count so" in text


def test_pictures_that_the_json_lists_and_nobody_has(
    run: Path, scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "in", scenes[0][:4])
    (tmp_path / "in" / "labels.json").write_text(json.dumps(coco(7, scenes[1][:7], polygons=False)))
    values, text = figures(run, tmp_path / "in", capsys)
    assert values["count"] == 4
    assert "3 of 7 are left out: '04.png' is missing" in text


def test_a_json_far_from_its_pictures_is_refused(
    run: Path, scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(coco(3, scenes[1][:3], polygons=True)))
    assert main.run(["evaluate", str(run), str(tmp_path / "labels.json")]) == 2
    assert "none of 3 images can be measured ('00.png' is missing): put images" in capsys.readouterr().err
