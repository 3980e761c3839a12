"""Made-up scenes: same pixels everywhere, honest labels, a folder any CLEVRTEX reader takes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import astseg
from astseg.data.synthetic.exact import RandomStream, hue_colour, lattice_noise, square_wave
from astseg.data.synthetic.generate import FAMILIES, render_scene, render_scenes, write_scenes
from astseg.data.synthetic.paint import outline, paint
from astseg.data.synthetic.shapes import SHAPES, PlacedObject, Raster, hidden_shares
from astseg.errors import UserError
from astseg.types import SceneArrays

# SHA-256 of image, labels and background bytes of one scene. They may change only together with a line in the changelog
# that says that made-up scenes differ from those of earlier versions.
PINNED = {
    ("desk", 0, 0, 64): "03edd80af9fbd5192022c9c2495557357ea2809407f8a7ff2979f4269d1cdd6e",
    ("desk", 7, 1234, (20, 28)): "73ff4ca7ab8027ab21373442edf732185ad313ec0ed96bb52fa0362c5622e56d",
    ("desk", 2**64 - 1, 5, (45, 31)): "fdc622618d241921b633b95a09142ba19fab4bbc0ff02dcbe919bcd6076715a5",
    ("rooms", 0, 0, 64): "4df97064189297fc914cab41e688809659ff0bb6272dce95751ee97e64f56793",
    ("rooms", 7, 1234, (20, 28)): "799f259231daa2dfe2b3d4e736895725aa2994bf8884d4a817f61c0b7d69bdac",
    ("rooms", 3, 2, (31, 45)): "deae6e2eb7f9ad2a0b05537525834debaf67187fddefee11beb240a717ed41eb",
    ("rooms", 3, 13, 128): "e87d9b358dd5bc8e5fa512b85f44d949e2706cf0fd1e467304230c4d13e84eb6",
}


def digest(family, seed, index, size):
    scene = render_scene(family, seed=seed, index=index, size=size)
    pixels = scene.image.tobytes() + scene.labels.tobytes() + scene.background.tobytes()
    return hashlib.sha256(pixels).hexdigest()


@pytest.mark.parametrize(("scene", "expected"), PINNED.items(), ids=str)
def test_pixels_are_the_same_on_every_machine(scene, expected):
    assert digest(*scene) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_types(family):
    scene = render_scene(family, seed=1, index=3, size=(20, 28))
    assert scene.image.shape == scene.background.shape == (20, 28, 3)
    assert scene.labels.shape == (20, 28)
    assert {array.dtype for array in (scene.image, scene.labels, scene.background)} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [16, (20, 28), (45, 31), 64])
def test_every_object_has_its_label_and_no_label_is_left_over(family, size):
    for index in range(60):
        scene = render_scene(family, seed=5, index=index, size=size)
        assert np.unique(scene.labels).tolist() in (
            list(range(len(scene.objects) + 1)),
            list(range(1, len(scene.objects) + 1)),
        )


@pytest.mark.parametrize(("family", "index", "left_out"), [("desk", 221, 1), ("rooms", 238, 1)])
def test_an_object_without_a_pixel_is_left_out(family, index, left_out):
    tiny = render_scene(family, seed=1, index=index, size=16, max_objects=12)
    whole = render_scene(family, seed=1, index=index, size=96, max_objects=12)
    assert len(tiny.objects) == len(whole.objects) - left_out
    assert set(range(1, len(tiny.objects) + 1)) == set(np.unique(tiny.labels).tolist()) - {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_number_of_objects_is_uniform(family):
    counts = [len(render_scene(family, seed=2, index=index, size=48).objects) for index in range(420)]
    histogram = np.bincount(counts, minlength=7)
    assert len(histogram) == 7
    assert (histogram > 35).all()  # 60 expected, 7 the standard deviation
    assert (histogram < 85).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_image_without_objects_is_the_background_and_far_pixels_always_are(family):
    empty = render_scene(family, seed=0, index=4, size=33, max_objects=0)
    assert empty.objects == ()
    assert not empty.labels.any()
    np.testing.assert_array_equal(empty.image, empty.background)
    for index in range(10):
        scene = render_scene(family, seed=8, index=index, size=(50, 70))
        rows, columns = np.mgrid[:50, :70] + 0.5
        near = np.zeros((50, 70), bool)
        for each in scene.objects:  # the shadow of a standing object reaches farthest: twice its radius to the side
            near |= np.hypot(columns - each.x, rows - each.y) < 2.2 * each.radius
        np.testing.assert_array_equal(scene.image[~near], scene.background[~near])


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_differ_from_the_background_and_lie_where_they_say(family):
    for index in range(30):
        scene = render_scene(family, seed=9, index=index, size=64)
        difference = np.abs(scene.image.astype(int) - scene.background.astype(int)).sum(2)
        for number, each in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(scene.labels == number)
            assert np.median(difference[rows, columns]) > 40
            assert np.hypot(columns + 0.5 - each.x, rows + 0.5 - each.y).max() <= each.radius + 1.0
            assert 0.075 * 64 < each.radius < 0.155 * 64
            assert each.shape in SHAPES
            assert 0.0 <= each.rotation < 360.0


def test_desk_stays_and_rooms_change():
    def ratio_spread(family):
        first, second = (render_scene(family, seed=0, index=i, size=40).background.astype(float) for i in (0, 1))
        quotient = (first + 1.0) / (second + 1.0)
        # light is a slope over the image: what is left after taking out a plane is a difference in texture
        rows, columns = np.mgrid[:40, :40] / 40.0
        plane = np.stack([np.ones(1600), rows.ravel(), columns.ravel()], 1)
        values = quotient.reshape(1600, 3)
        return float(np.std(values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]))

    assert ratio_spread("desk") < 0.02 < ratio_spread("rooms")


@pytest.mark.parametrize("family", FAMILIES)
def test_same_scene_at_another_size_looks_the_same(family):
    for index in range(8):
        small = render_scene(family, seed=4, index=index, size=(40, 56))
        large = render_scene(family, seed=4, index=index, size=(160, 224))
        assert [each.shape for each in small.objects] == [each.shape for each in large.objects]
        assert all(a.x * 4.0 == pytest.approx(b.x) for a, b in zip(small.objects, large.objects, strict=True))
        reduced = large.image.reshape(40, 4, 56, 4, 3).mean((1, 3))
        assert np.abs(reduced - small.image).mean() < 4.0
        assert (large.labels[2::4, 2::4] == small.labels).mean() > 0.98


def test_no_object_is_more_than_half_hidden():
    square = PlacedObject("box", (0.5, 0.5, 0.5), 0.3, 0.5, 0.5, 0.1, 1.0, 0.0)
    beside = PlacedObject("box", (0.5, 0.5, 0.5), 0.3, 0.9, 0.5, 0.1, 1.0, 0.0)
    half = PlacedObject("box", (0.5, 0.5, 0.5), 0.3, 0.576, 0.5, 0.1, 1.0, 0.0)  # shifted by half its width of 0.152
    assert hidden_shares([square, beside]) == [0.0, 0.0]
    assert hidden_shares([square, square])[0] == 1.0
    assert hidden_shares([square, half])[0] == pytest.approx(0.5, abs=0.06)
    assert hidden_shares([square, half])[1] == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_covers_what_a_fine_grid_counts(shape):
    placed = PlacedObject(shape, (0.5, 0.5, 0.5), 0.3, 0.47, 0.52, 0.15, 0.8, 0.6)
    coarse, fine = outline(placed, Raster(48, 60)), outline(placed, Raster(480, 600))
    assert coarse.coverage.sum() == pytest.approx((fine.coverage >= 0.5).sum() / 100.0, rel=0.03)
    top, bottom, left, right = coarse.box
    assert not coarse.coverage[[0, -1]].any()
    assert not coarse.coverage[:, [0, -1]].any()
    assert (bottom - top, right - left) == coarse.coverage.shape
    # Distances are lengths: away from creases the gradient has length one in units of the radius.
    step = 1.0 / (0.15 * 480)
    down, across = np.gradient(fine.distance, step)
    edge = np.abs(fine.distance) < 0.03
    assert np.median(np.hypot(down, across)[edge]) == pytest.approx(1.0, abs=0.02)


def test_light_comes_from_above_left():
    ball = PlacedObject("ball", (0.6, 0.2, 0.2), 0.5, 0.5, 0.5, 0.4, 1.0, 0.0)
    canvas, raster = np.zeros((3, 65, 65)), Raster(65, 65)
    paint(canvas, ball, raster, outline(ball, raster))
    assert canvas[0, 22, 22] > canvas[0, 32, 32] > canvas[0, 45, 45] > 0.05


def test_exact_arithmetic():
    stream = RandomStream(family_number=1, seed=3, index=2)
    numbers = [stream.unit() for _ in range(300)]
    assert len(set(numbers)) == 300
    assert all(0.0 <= number < 1.0 and (number * 2.0**53).is_integer() for number in numbers)
    other = RandomStream(family_number=1, seed=3, index=3)
    assert not set(numbers) & {other.unit() for _ in range(300)}
    x, y = stream.direction()
    assert x * x + y * y == pytest.approx(1.0)
    assert hue_colour(0.0, 1.0, 0.8) == pytest.approx((0.8, 0.0, 0.0))
    assert hue_colour(1 / 3, 0.5, 1.0) == pytest.approx((0.5, 1.0, 0.5))
    wave = square_wave(np.array([0.0, 1.0, 2.0, 0.5]), 0.25)
    np.testing.assert_allclose(wave, [0.5, -0.5, 0.5, 0.0])
    # noise is continuous over lattice lines, also where coordinates are negative
    near = lattice_noise(np.array([-1e-6, 1e-6, -3.0 - 1e-6, -3.0 + 1e-6]), np.array([0.3]), salt=5)
    assert near[0] == pytest.approx(near[1], abs=1e-4)
    assert near[2] == pytest.approx(near[3], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_render_scenes_is_the_same_for_any_number_of_processes(family):
    wanted = {"seed": 6, "start": 95, "count": 110, "size": (17, 22), "backgrounds": True}
    one, two = render_scenes(family, **wanted), render_scenes(family, **wanted, processes=2)
    assert isinstance(one, SceneArrays)
    assert len(one) == 110
    assert one.names[0] == f"{family.upper()}_full_000095"
    assert one.names == two.names
    for field in ("images", "labels", "backgrounds"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    alone = render_scene(family, seed=6, index=97, size=(17, 22))
    np.testing.assert_array_equal(one.images[2], alone.image)
    np.testing.assert_array_equal(one.labels[2], alone.labels)
    np.testing.assert_array_equal(one.backgrounds[2], alone.background)
    assert render_scenes(family, seed=6, count=1, size=16).backgrounds is None


def test_a_script_without_main_guard_may_use_processes(tmp_path):
    if sys.platform != "linux":
        pytest.skip("elsewhere Python itself needs the guard")
    script = tmp_path / "script.py"
    script.write_text(
        "from astseg.data.synthetic.generate import render_scenes\n"
        "print(len(render_scenes('desk', seed=0, count=101, size=16, processes=2)))\n"
    )
    paths = os.pathsep.join([str(Path(astseg.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.stdout == "101\n"


def test_written_folder_has_the_layout_of_clevrtex(tmp_path):
    out, reports = tmp_path / "new" / "scenes", []
    write_scenes(
        out, "rooms", count=104, size=(20, 28), seed=11, start=950, processes=2, progress=lambda n: reports.append(n)
    )
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "rooms_full", "scenes.json"]
    assert [path.name for path in out.parent.iterdir()] == ["scenes"]  # nothing temporary left
    assert reports == sorted(reports)
    assert reports[-1] == 104
    assert json.loads((out / "scenes.json").read_text()) == {
        "family": "rooms",
        "seed": 11,
        "start": 950,
        "count": 104,
        "size": [20, 28],
        "max_objects": 6,
    }
    assert "104 scenes of 20x28" in (out / "README.md").read_text()
    assert len(list(out.glob("rooms_full/0/ROOMS_full_??????.png"))) == 50
    assert len(list(out.glob("rooms_full/1/ROOMS_full_??????.png"))) == 54
    for index in (950, 999, 1000, 1053):
        stem = f"rooms_full/{index // 1000}/ROOMS_full_{index:06d}"
        scene = render_scene("rooms", seed=11, index=index, size=(20, 28))
        with Image.open(out / f"{stem}.png") as image, Image.open(out / f"{stem}_flat.png") as mask:
            assert (image.mode, mask.mode) == ("RGB", "P")
            np.testing.assert_array_equal(np.asarray(image), scene.image)
            np.testing.assert_array_equal(np.asarray(mask), scene.labels)
        described = json.loads((out / f"{stem}.json").read_text())
        assert described["image_index"] == index
        assert described["image_filename"] == f"ROOMS_full_{index:06d}.png"
        assert described["num_objects"] == len(described["objects"]) == len(scene.objects)
        for number, (entry, each) in enumerate(zip(described["objects"], scene.objects, strict=True), start=1):
            assert entry["index"] == number
            assert entry["shape"] == each.shape
            assert entry["pixel_coords"] == [int(each.x), int(each.y), len(scene.objects) - number + 1]
            assert entry["size"] in ("small", "medium", "large")


def test_an_empty_folder_is_taken_and_a_filled_one_or_a_file_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    write_scenes(empty, "desk", count=1, size=16, seed=0)
    before = sorted(path.name for path in empty.rglob("*"))
    assert "DESK_full_000000.json" in before
    with pytest.raises(UserError, match="not empty"):
        write_scenes(empty, "desk", count=1, size=16, seed=1)
    assert sorted(path.name for path in empty.rglob("*")) == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        write_scenes(file, "desk", count=1, size=16, seed=0)


def test_nothing_is_left_when_writing_stops_halfway(tmp_path):
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", "desk", count=60, size=16, seed=0, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "dsk"}, "unknown family 'dsk'.*did you mean 'desk'"),
        ({"family": "Rooms"}, "did you mean 'rooms'"),
        ({"count": 0}, "count is 0: expected 1 or more"),
        ({"size": 15}, "size 15x15 is too small"),
        ({"size": (64, 8)}, "size 64x8 is too small"),
        ({"seed": -1}, "seed is -1"),
        ({"start": -3}, "start at -3"),
        ({"max_objects": 13}, "max_objects is 13: expected 0 to 12"),
        ({"processes": 0}, "processes is 0"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, change, message):
    wanted = {"family": "desk", "count": 2, "size": 16, "seed": 0, "start": 0, "processes": 1} | change
    family = wanted.pop("family")
    with pytest.raises(UserError, match=message) as raised:
        write_scenes(tmp_path / "out", family, **wanted)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=message):
        render_scenes(family, **wanted)
