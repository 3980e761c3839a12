"""Into the frame and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astseg.data.resize import Preprocess, place
from astseg.errors import UserError
from astseg.runs.info import RunInfo

SIDES = st.integers(1, 90)


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squeeze"])
def test_what_has_the_size_of_the_frame_is_left_alone(resize: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3)).astype(np.uint8)
    where = place((20, 28), (20, 28), resize=resize)
    assert where.is_whole and where.image(image) is image and where.restore(image) is image


def test_letterbox_keeps_the_whole_picture_between_black_bars() -> None:
    image = np.full((40, 20, 3), 200, np.uint8)
    where = place((40, 20), (20, 28), resize="letterbox")
    framed = where.image(image)
    assert framed.shape == (20, 28, 3)
    assert (framed[:, 9:19] == 200).all() and not framed[:, :9].any() and not framed[:, 19:].any()


@pytest.mark.parametrize(("resize", "back"), [("letterbox", 40 * 60), ("squeeze", 40 * 60), ("crop", 30 * 30)])
def test_masks_come_back_at_their_own_size(resize: str, back: int) -> None:
    """Blocks of 10 pixels survive a frame that is half as large, or larger."""
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6).repeat(10, axis=0).repeat(10, axis=1) + 1
    for frame in ((20, 30), (40, 60), (80, 120), (20, 20)):
        where = place((40, 60), frame, resize=resize, crop=0.75 if resize == "crop" else 1)
        found = where.restore(where.labels(labels))
        assert found.shape == (40, 60) and found.dtype == np.uint8
        kept = found > 0
        assert kept.sum() >= (30 * 30 if frame == (20, 20) and resize == "crop" else back)
        assert (found == labels)[kept].mean() > 0.8


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "letterbox", "squeeze"]), st.floats(0.01, 1))
def test_any_sizes(height: int, width: int, h: int, w: int, resize: str, crop: float) -> None:
    where = place((height, width), (h, w), resize=resize, crop=crop)
    image = np.full((height, width, 3), 200, np.uint8)
    framed = where.image(image)
    assert framed.shape == (h, w, 3)
    left, top, right, bottom = where.inner
    assert (framed[top:bottom, left:right] == 200).all() and 0 <= left < right <= w and 0 <= top < bottom <= h
    assert 0 <= where.box[0] < where.box[2] <= width and 0 <= where.box[1] < where.box[3] <= height
    back = where.restore(where.labels(np.ones((height, width), np.uint8)))
    assert back.shape == (height, width)
    assert back.all() or resize == "crop"


def test_unknown_fit() -> None:
    with pytest.raises(UserError, match="resize is 'stretch', choose from crop, letterbox, squeeze"):
        place((3, 4), (5, 6), resize="stretch")


def test_the_share_of_the_image_that_is_kept() -> None:
    assert place((40, 80), (20, 20)).kept == pytest.approx(0.5)
    assert place((60, 20), (20, 20), crop=0.5).kept == pytest.approx(1 / 12)
    for mode in ("squeeze", "letterbox"):
        assert place((40, 80), (20, 20), resize=mode).kept == 1


def test_preprocessing_of_a_run() -> None:
    info = RunInfo(preset="small", resize="crop", crop=0.5)
    preprocess = Preprocess.of_run((20, 28), info, declared_crop=0.8)
    assert preprocess == Preprocess((20, 28), "crop", 0.5)
    assert preprocess.place((40, 56)).box == (14, 10, 42, 30)
    assert Preprocess.of_run((20, 28), RunInfo(preset="small"), declared_crop=0.8).crop == 0.8
    assert preprocess.instead(None) == preprocess.instead("crop") == preprocess
    assert preprocess.instead("letterbox") == Preprocess((20, 28), "letterbox", 1.0)
    for wrong in ({"resize": "stretch"}, {"crop": 0.0}, {"crop": 1.5}):
        with pytest.raises(UserError):
            Preprocess((20, 28), **wrong)
