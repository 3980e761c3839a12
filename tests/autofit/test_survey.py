"""What a look at the pictures finds, on folders whose truth is known."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from astseg.autofit.components import find
from astseg.autofit.survey import Survey, frame_for, survey
from astseg.config.presets import preset
from astseg.data import open_source
from astseg.errors import UserError

Draw = Callable[..., NDArray[np.uint8]]
Folder = Callable[..., Path]


def look(path: Path, **how: object) -> Survey:
    source = open_source(path)
    return survey(source, range(len(source)), **how)  # type: ignore[arg-type]


def test_a_still_camera(folder: Folder) -> None:
    seen = look(folder(30))
    assert (seen.count, seen.sampled, seen.distinct, seen.broken) == (30, 30, 30, ())
    assert seen.sizes == Counter({(40, 52): 30})
    assert seen.background.kind == "fixed"
    assert seen.background.light < 0.01
    assert seen.background.symmetry > 0.01  # the ground gets brighter to the right
    assert not seen.grey
    found = find(seen, preset("small"), seed=0, say=pytest.fail)
    assert (found.counts == 3).all()
    assert not found.learnt
    assert np.median(found.sides[:, 0]) == pytest.approx(8 / 40, abs=0.03)
    assert np.median(found.sides[:, 1]) == pytest.approx(8 / 52, abs=0.03)
    assert found.share == pytest.approx(3 * 64 / (40 * 52), rel=0.2)


def test_objects_in_changing_light_are_found(tmp_path: Path, draw: Draw) -> None:
    for number in range(40):
        scene = draw(number, size=(64, 88), side=9, light=0.7 + 0.015 * number)
        Image.fromarray(scene).save(tmp_path / f"{number}.png")
    found = find(look(tmp_path), preset("small"), seed=0, say=pytest.fail)
    assert np.median(found.counts) == 3
    assert (np.abs(found.counts - 3) <= 1).all()


def test_backgrounds_that_differ_are_learnt_in_a_short_run(tmp_path: Path, draw: Draw) -> None:
    generator = np.random.default_rng(0)
    for number in range(24):
        tint = generator.uniform(0.3, 1, (2, 1, 3)).repeat(10, axis=0)  # another one above than below
        Image.fromarray((draw(number, size=(20, 28), side=5) * tint).astype(np.uint8)).save(tmp_path / f"{number}.png")
    said: list[str] = []
    seen = look(tmp_path)
    found = find(seen, preset("small"), seed=0, say=said.append)
    assert seen.background.kind == "varied"
    assert said == ["no common background: a short run learns one"]
    assert found.learnt
    assert found.counts.shape == (24,)


def test_sizes_become_one(folder: Folder) -> None:
    source = open_source(folder(1))
    one = frame_for(source, Counter({(240, 320): 5}), side=64)
    assert (one.size, one.resize) == ((64, 88), "crop")
    assert one.cut == pytest.approx(1 - (320 * 64 / 88) / 240, abs=0.01)
    tall = frame_for(source, Counter({(320, 240): 5}), side=64)
    assert tall.size == (88, 64)
    both = frame_for(source, Counter({(240, 320): 5, (320, 240): 4}), side=64)
    assert both.resize == "letterbox"
    assert both.cut == 0
    assert frame_for(source, Counter({(40, 52): 5}), side=64).size == (40, 48)  # never enlarged
    assert frame_for(source, Counter({(50, 50): 5}), side=64).size == (50, 50)
    assert frame_for(source, Counter({(240, 320): 5}), side=64, size=(32, 48)).size == (32, 48)
    assert frame_for(source, Counter({(240, 320): 5}), side=64, size=(200, 300)).size == (64, 96)
    with pytest.raises(UserError, match="12 pixels on the short side, expected at least 16"):
        frame_for(source, Counter({(12, 30): 5}), side=64)


def test_large_pictures_are_reduced_as_they_are_read(tmp_path: Path, draw: Draw) -> None:
    for number in range(20):
        Image.fromarray(draw(number)).resize((416, 320)).save(tmp_path / f"{number}.png")
    seen = look(tmp_path)
    assert seen.sizes == Counter({(320, 416): 20})
    assert seen.images.shape == (20, 64, 80, 3)
    assert np.median(find(seen, preset("small"), seed=0, say=pytest.fail).counts) == 3


def test_grey_pictures_of_16_bits(tmp_path: Path, draw: Draw) -> None:
    for number in range(24):
        grey = draw(number)[:, :, 0].astype(np.uint16) * 257
        Image.fromarray(grey).save(tmp_path / f"{number}.tiff")
    seen = look(tmp_path)
    assert seen.grey
    assert seen.background.kind == "fixed"
    found = find(seen, preset("small"), seed=0, say=pytest.fail)
    assert found.is_informative


def test_broken_ones_are_counted(folder: Folder) -> None:
    path = folder(40)
    (path / "0007.png").write_bytes(b"no picture")
    seen = look(path)
    assert (len(seen.images), seen.sampled) == (39, 40)
    assert "0007.png" in seen.broken[0]
    for file in path.iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the 40 pictures looked at can be read"):
        look(path)
