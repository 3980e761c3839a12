from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astseg.data.inputs import image_from, separate
from astseg.errors import UserError

RGB = np.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def test_every_form_of_one_picture_gives_the_same_array(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    rgba = np.dstack([RGB, np.full((37, 53), 9, np.uint8)])
    forms = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        Image.open(tmp_path / "a.png"),
        RGB,
        RGB[:, ::-1].copy()[:, ::-1],
        rgba,
        Image.fromarray(rgba),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1).float() / 255,
        torch.from_numpy(RGB).permute(2, 0, 1).double().div(255).requires_grad_(),
        torch.from_numpy(rgba).permute(2, 0, 1),
    ]
    for form in forms:
        image = image_from(form, "x")
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, RGB)


def test_every_form_of_one_grey_picture_gives_the_same_array() -> None:
    forms = [
        GREY,
        GREY[:, :, None],
        GREY / 255,
        torch.from_numpy(GREY.copy()),
        torch.from_numpy(GREY.copy())[None],
        Image.fromarray(GREY),
        Image.fromarray(GREY.astype(np.uint16) * 257),
    ]
    for form in forms:
        np.testing.assert_array_equal(image_from(form, "x"), np.dstack([GREY] * 3))


def test_half_precision_is_near() -> None:
    tensor = torch.from_numpy(RGB).permute(2, 0, 1) / 255
    assert np.abs(image_from(tensor.bfloat16(), "x").astype(int) - RGB).max() <= 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((5, 7, 3), np.nan), "not finite"),
        (np.full((5, 7, 3), np.inf), "not finite"),
        (np.full((5, 7, 3), 200.0), r"floats from 200 to 200, expected \[0, 1\]: divide by 255"),
        (np.full((5, 7, 3), -0.1), "divide by 255"),
        (np.zeros((0, 7, 3), np.uint8), "empty"),
        (np.zeros((5, 7, 2), np.uint8), "array 5 x 7 x 2, expected H x W x 3"),
        (np.zeros((3, 5, 7), np.uint8), r"expected H x W x 3: transpose\(1, 2, 0\) it"),
        (np.zeros((5, 7, 3), np.int64), "int64, expected uint8 or floats"),
        (np.zeros(5, np.uint8), "array 5, expected"),
        (torch.zeros(5, 7, 3), r"tensor 5 x 7 x 3, expected 3 x H x W: permute\(2, 0, 1\) it"),
        (torch.zeros(2, 5, 7), "tensor 2 x 5 x 7, expected 3 x H x W"),
        (torch.zeros(3, 0, 7), "empty"),
        (torch.zeros(3, 5, 7, dtype=torch.complex64), "complex64"),
        (Image.new("F", (7, 5)), "32-bit"),
        ("/nowhere/a.png", "'/nowhere/a.png' does not exist"),
        (7, "is int, expected a path"),
        (None, "is NoneType, expected a path"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(value: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        image_from(value, "image 3")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert isinstance(value, str) or "image 3" in str(error.value)


def test_folders_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        image_from(tmp_path, "x")
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(UserError, match=r"broken\.png' is not a complete picture"):
        image_from(tmp_path / "broken.png", "x")
    with pytest.raises(UserError, match="image 2 is not a complete picture"):
        image_from(Image.open(tmp_path / "broken.png"), "image 2")


def test_one_is_told_from_many() -> None:
    for one in ("a.png", Path("a.png"), Image.new("RGB", (7, 5)), RGB, GREY, torch.zeros(3, 5, 7)):
        values, single = separate(one)
        assert single
        assert len(list(values)) == 1
    for many in ([RGB, "a.png"], (RGB, RGB), iter([RGB, RGB]), np.stack([RGB, RGB]), torch.zeros(2, 3, 5, 7)):
        values, single = separate(many)
        assert not single
        assert len(list(values)) == 2
    with pytest.raises(UserError, match="got int, expected a path"):
        separate(7)  # type: ignore[arg-type]
