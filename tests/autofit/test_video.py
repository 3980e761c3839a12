"""A video of objects that move on a desk: what is planned for it, and the masks that come out."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from astseg.cli import main
from astseg.data.synthetic.generate import render_scenes
from astseg.evaluation.metrics import segmentation_metrics
from astseg.inference.segmenter import Segmenter
from astseg.runs.folder import RunFolder

FRAMES, SIDE = 160, 64


def moving(objects: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames N x H x W x 3 and labels: objects cut from desk scenes, that go to and fro over one of the desks."""
    scenes = render_scenes("desk", seed=11, count=40, size=SIDE, backgrounds=True, max_objects=1)
    assert scenes.labels is not None
    assert scenes.backgrounds is not None
    cut = []
    for image, label in zip(scenes.images, np.asarray(scenes.labels), strict=True):
        rows, columns = np.nonzero(label)
        inside = label.sum() and not label[[0, -1]].any() and not label[:, [0, -1]].any()
        if inside:
            box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            cut.append((image[box], label[box] > 0))
    frames = scenes.backgrounds[:1].repeat(FRAMES, axis=0)
    labels = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    for number, (sprite, mask) in enumerate(cut[:objects], start=1):
        height, width = mask.shape
        for time in range(FRAMES):
            phase = 2 * np.pi * (time / FRAMES * (number + 1) + number / objects)
            top = round((SIDE - height) * (0.5 + 0.48 * np.sin(phase)))
            left = round((SIDE - width) * (0.5 + 0.48 * np.cos(1.37 * phase + number)))
            place = time, slice(top, top + height), slice(left, left + width)
            frames[place][mask] = sprite[mask]
            labels[place][mask] = number
    return frames, labels


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames as a video."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "desk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = SIDE
        stream.bit_rate = 4_000_000
        for frame in moving()[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_plan(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["fit", str(video), "--out", str(tmp_path / "run"), "--minutes", "10", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pictures 160 (video)" in said
    assert "background one, in one light" in said
    assert "--model.image-size 64 64" in said
    assert 8 <= int(re.search(r"--model.slots (\d+)", said)[1]) <= 12  # type: ignore[index]


@pytest.mark.slow
def test_the_masks(video: Path, tmp_path: Path) -> None:
    assert main.run(["fit", str(video), "--out", str(tmp_path / "run"), "--steps", "1200"]) == 0
    segmenter = Segmenter.from_pretrained(tmp_path / "run")
    frames, labels = moving()
    found = np.stack([prediction.labels for prediction in segmenter.predict(frames[::4])])
    figures = segmentation_metrics(torch.from_numpy(labels[::4]).long(), torch.from_numpy(found).long(), slots=None)
    means = {name: float(values.mean()) for name, values in figures.items()}
    assert means["ari_fg"] > 0.75, means
    assert means["miou"] > 0.6, means
    assert RunFolder(tmp_path / "run").load_config()[1].images == FRAMES
