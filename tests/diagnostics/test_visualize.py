import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astseg.data import load_scenes
from astseg.data.formats.pictures import read_label_numbers
from astseg.data.formats.png import PALETTE, colour_labels, save_label_png, save_picture
from astseg.diagnostics.visualize import match_colours, panel
from astseg.errors import UserError
from astseg.inference.writers.overlay import overlay
from astseg.runs.atomic import write_whole
from astseg.types import ObjectLatents, SceneOutput

B, K, H, W = 2, 3, 20, 28


def make_output(labels: np.ndarray, slots: int = K) -> SceneOutput:
    """What a model that predicts these labels (B x H x W) would give."""
    b, height, width = labels.shape
    weights = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), slots + 1).permute(0, 3, 1, 2).float()
    attention = torch.nn.functional.avg_pool2d(weights[:, 1:], 4) + 1e-3
    return SceneOutput(
        latents=ObjectLatents(*[torch.zeros(b, slots, 2)] * 4),
        attention=attention / attention.sum(dim=(2, 3), keepdim=True),
        background=torch.full((b, 3, height, width), 0.25),
        layers=torch.zeros(b, slots, 3, height, width),
        masks=weights[:, 1:],
        weights=weights,
        reconstruction=torch.full((b, 3, height, width), 0.75),
    )


def two_objects() -> np.ndarray:
    labels = np.zeros((B, H, W), np.uint8)
    labels[:, 3:9, 2:10] = 1
    labels[:, 8:18, 15:25] = 3
    return labels


def test_palette_keeps_colours_apart() -> None:
    assert PALETTE.shape == (256, 3)
    assert PALETTE[0].tolist() == [0, 0, 0]
    first = PALETTE[1:65].astype(int)
    distance = np.abs(first[:, None] - first).sum(axis=2)
    assert distance[~np.eye(64, dtype=bool)].min() >= 30
    spread = first.max(axis=1) - first.min(axis=1)
    assert spread.min() >= 30  # greys mean something else
    np.testing.assert_array_equal(colour_labels(np.array([[0, 5]])), PALETTE[[[0, 5]]])


def test_true_objects_take_the_colours_of_their_matches() -> None:
    predicted = two_objects()[0]
    true = np.select([predicted == 3, predicted == 1], [1, 7], 0).astype(np.uint8)
    true[0, 20:24] = 4  # missed by the prediction
    colours = match_colours(true, predicted)
    np.testing.assert_array_equal(colours[[0, 1, 7]], PALETTE[[0, 3, 1]])
    assert len(set(colours[4].tolist())) == 1  # grey
    assert colours[4].min() > 100


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_panel_holds_every_view_in_its_place(labelled: bool, named: bool) -> None:
    predicted = two_objects()
    true = np.where(predicted == 3, 2, 0).astype(np.uint8)
    images = np.full((B, H, W, 3), 200, np.uint8)
    names = ["a", "a name that is far too long for its column"] if named else None
    sheet = panel(images, make_output(predicted), labels=true if labelled else None, scale=2, names=names)
    cell_height, cell_width, gap = 2 * H, 2 * W, 4
    rows = 6 if labelled else 5
    top = sheet.height - rows * (cell_height + gap)
    left = sheet.width - B * (cell_width + gap)
    assert top == (22 if named else 4)
    pixels = np.asarray(sheet)

    def cell(row: int, column: int) -> np.ndarray:
        y, x = top + row * (cell_height + gap), left + column * (cell_width + gap)
        return pixels[y : y + cell_height, x : x + cell_width]

    doubled = predicted[1].repeat(2, axis=0).repeat(2, axis=1)
    assert (cell(0, 1) == 200).all()
    if labelled:
        np.testing.assert_array_equal(cell(1, 1), PALETTE[np.where(doubled == 3, 3, 0)])
    np.testing.assert_array_equal(cell(rows - 3, 1), PALETTE[doubled])
    assert (cell(rows - 4, 1) == 191).all()
    assert (cell(rows - 2, 1) == 64).all()
    looked_at = cell(rows - 1, 1)[26, 40].astype(int)  # in the middle of object 3
    assert np.abs(looked_at - PALETTE[3]).max() < 40
    assert (pixels[top:, :left] < 128).any()  # titles


def test_panel_takes_tensors_and_draws_no_more_than_the_limit() -> None:
    predicted = two_objects()
    images = torch.rand(B, 3, H, W)
    one = panel(images, make_output(predicted), limit=1)
    both = panel(images, make_output(predicted))
    assert both.width - one.width == round(128 / W) * W + 4
    assert panel(images[:1], make_output(predicted)).size == one.size


def test_large_scenes_are_reduced() -> None:
    labels = np.zeros((1, 200, 320), np.uint8)
    sheet = panel(np.zeros((1, 200, 320, 3), np.uint8), make_output(labels))
    assert sheet.height == 4 + 5 * (80 + 4)


def test_overlay_draws_on_objects_only() -> None:
    labels = two_objects()[0]
    image = np.full((H, W, 3), 100, np.uint8)
    picture = np.asarray(overlay(image, labels))
    assert picture.shape == (H * 10, W * 10, 3)
    assert (picture[30, 20] == PALETTE[1]).all()  # the corner of an outline
    assert (picture[~labels.astype(bool).repeat(10, axis=0).repeat(10, axis=1)] == 100).all()
    assert overlay(image, labels, smallest=1).size == (W, H)
    assert (np.asarray(overlay(image, np.zeros_like(labels))) == 100).all()


def test_label_png_stores_labels_and_shows_colours(tmp_path: Path) -> None:
    labels = two_objects()[0].astype(np.int32)
    labels[0, 0] = 255
    save_label_png(labels, tmp_path / "deep" / "a.png")
    stored = Image.open(tmp_path / "deep" / "a.png")
    assert stored.mode == "P"
    np.testing.assert_array_equal(np.asarray(stored), labels)
    np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), PALETTE[labels])
    assert os.listdir(tmp_path / "deep") == ["a.png"]


def test_labels_above_255_become_16_bit_grey(tmp_path: Path) -> None:
    labels = np.array([[0, 300, 65535], [1, 64, 320]])
    save_label_png(labels, tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_numbers(tmp_path / "a.png", "a.png"), labels)
    np.testing.assert_array_equal(colour_labels(labels)[1, 1], colour_labels(labels)[1, 2])
    assert colour_labels(labels)[0, 1:].any(axis=1).all()


@pytest.mark.parametrize(
    "labels", [np.full((2, 3), 65536), np.full((2, 3), -1), np.zeros((2, 3)), np.zeros((1, 2, 3), np.uint8)]
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png"):
        save_label_png(labels, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(UserError, match="cannot be written"):
        save_picture(Image.new("RGB", (3, 2)), path / "b.png")


@pytest.mark.dataset
def test_panel_of_real_scenes(dataset_root: Path) -> None:
    scenes = load_scenes(dataset_root / "objects_room" / "objects_room_64.npz", size=64, limit=8)
    assert scenes.labels is not None
    sheet = panel(scenes.images, make_output(scenes.labels, slots=7), labels=scenes.labels, names=scenes.names)
    pixels = np.asarray(sheet)
    truth, prediction = (pixels[22 + row * 132 :][:128, -132:-4] for row in (1, 3))
    np.testing.assert_array_equal(truth, prediction)
