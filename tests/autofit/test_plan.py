"""From what was seen to settings: what is chosen, what is refused, what the user says."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from astseg.autofit.budget import budget
from astseg.autofit.components import Foreground
from astseg.autofit.pace import Pace, phase_steps
from astseg.autofit.plan import Plan, decide
from astseg.autofit.survey import Survey, survey
from astseg.cli import main
from astseg.cli.arguments import Fit, parse
from astseg.config import device, override
from astseg.config.presets import preset
from astseg.data import open_source
from astseg.data.benchmark import Benchmark
from astseg.errors import UserError

Folder = Callable[..., Path]
BASE = preset("small")
PACE = Pace({"background": 0.05, "pseudo_labels": 0.1, "objects": 0.2, "joint": 0.3}, 500_000_000)


@pytest.fixture
def seen(folder: Folder) -> Survey:
    source = open_source(folder(30))
    return survey(source, range(30))


def found(*, count: int = 3, side: float = 0.2, learnt: bool = False) -> Foreground:
    sides = np.full((30 * count, 2), side, np.float32)
    return Foreground(np.full(30, count), sides, np.full(30 * count, side**2, np.float32), learnt)


def value(plan: Plan, option: str) -> tuple[str, str]:
    return next((row.value, row.reason) for row in plan.rows if row.option == option)


@pytest.mark.parametrize(("count", "slots"), [(1, 8), (3, 8), (5, 10), (9, 18), (30, 24)])
def test_slots_are_twice_the_objects_of_a_full_picture(seen: Survey, count: int, slots: int) -> None:
    plan = decide(seen, found(count=count), BASE)
    assert plan.config.model.slots == slots
    assert str(count) in value(plan, "--model.slots")[1]


def test_what_cannot_be_counted_is_left_usual(seen: Survey) -> None:
    plan = decide(seen, found(count=9, side=0.9, learnt=True), BASE)
    assert plan.config.model.slots == BASE.model.slots
    assert (plan.config.model.scale_min, plan.config.model.scale_max) == (1.3, 24.0)
    assert "cannot be counted" in value(plan, "--model.slots")[1]


def test_what_the_paper_says_of_its_data_sets_is_used_where_objects_cannot_be_counted(seen: Survey) -> None:
    for most, slots in ((3, 12), (10, 15)):
        known = replace(seen, benchmark=Benchmark("ROOMS", most, (64, 64), False, 0.8, (0,), "small"))
        assert decide(known, found(learnt=True), BASE).config.model.slots == slots
        assert decide(known, found(count=5), BASE).config.model.slots == 10


def test_the_scale_range_reaches_all_objects(seen: Survey) -> None:
    assert decide(seen, found(side=0.2), BASE).config.model.scale_min == 1.3
    large = decide(seen, found(side=0.7), BASE).config.model
    assert large.scale_min == pytest.approx(0.8 / (1.25 * 0.7), abs=0.01)
    small = decide(seen, found(side=0.03), BASE).config.model
    assert small.scale_max == pytest.approx(1.25 / (1.25 * 0.03), abs=0.1)


def test_small_objects_get_larger_pictures_where_there_are_pixels(seen: Survey) -> None:
    tiny = found(side=0.05)
    assert decide(seen, tiny, BASE).config.model.image_size == (40, 48)  # there are no more
    frame = replace(seen.frame, size=(64, 80))
    photographs = replace(seen, sizes=type(seen.sizes)({(480, 600): 30}), frame=frame)
    assert decide(photographs, tiny, BASE).config.model.image_size == (128, 160)
    assert decide(photographs, found(side=0.08), BASE).config.model.image_size == (96, 120)
    assert decide(photographs, found(side=0.2), BASE).config.model.image_size == (64, 80)


def test_more_pictures_are_made_of_few(seen: Survey) -> None:
    """On one background and on many."""
    for kind in ("fixed", "varied"):
        few = replace(seen, background=replace(seen.background, kind=kind))
        assert decide(few, found(), BASE).config.objects.copy_paste == 0.5
        assert decide(replace(few, count=2_000), found(), BASE).config.objects.copy_paste == 0.0


def test_what_the_user_says_is_kept(seen: Survey) -> None:
    said = override(BASE, {"model": {"slots": 12, "scale_min": 2.0}, "objects": {"flip": False}})
    plan = decide(seen, found(), said, given=("model.slots", "model.scale_min", "objects.flip"))
    assert (plan.config.model.slots, plan.config.model.scale_min, plan.config.objects.flip) == (12, 2.0, False)
    assert value(plan, "--model.slots") == ("12", "as you say")


def test_what_is_given_is_known_by_its_name_whatever_its_value(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("objects: {batch: 4}\n")
    settings = "--model.slots=12 --objects.no-flip --model.image-size 64 64"
    command = parse(f"fit data --out run {settings} --config {tmp_path}/own.yaml".split())
    assert isinstance(command, Fit)
    assert command.given == ("model.image_size", "model.slots", "objects.batch", "objects.flip")
    assert parse(["fit", "data", "--out", "run", "--minutes", "3", "--dry-run"]).given == ()


def test_minutes_are_divided(seen: Survey) -> None:
    plan = decide(seen, found(), BASE)
    times = budget(plan, PACE, count=30, minutes=10, steps=None, spent=20)
    assert times.minutes == pytest.approx((600 - 20 - 18) / 60)
    assert times.seconds == pytest.approx(600, rel=0.03)
    assert times.config.background.steps == 800
    left = times.minutes * 60 - 800 * 0.05
    assert PACE.objects(times.config) == pytest.approx(2 * left, rel=0.01)  # twice what fits: the clock ends it
    assert times.config.objects.pseudo_label_steps / times.config.objects.steps == pytest.approx(0.5, abs=0.01)
    shown = int(times.rows[1].value.replace(",", ""))
    assert shown == pytest.approx(times.config.objects.steps / 2, abs=1)
    with pytest.raises(UserError, match="0.5 minutes are too few: looking at the pictures took 0:20 of them"):
        budget(plan, PACE, count=30, minutes=0.5, steps=None, spent=20)


def test_backgrounds_that_differ_take_their_share_of_the_time(seen: Survey) -> None:
    varied = replace(seen, background=replace(seen.background, kind="varied"))
    plan = decide(varied, found(learnt=True), BASE)
    assert plan.config.model.background_form == "varying"
    assert decide(seen, found(learnt=True), BASE).config.model.background_form == "fixed"
    times = budget(plan, PACE, count=30, minutes=10, steps=None, spent=20)
    assert times.minutes is not None
    assert int(times.rows[0].value.replace(",", "")) == pytest.approx(0.2 * times.minutes * 60 / 0.05, abs=1)
    unlimited = budget(plan, PACE, count=30, minutes=None, steps=None, spent=20)
    assert (unlimited.config.background.steps, unlimited.config.objects.steps) == (1500, 4000)
    assert unlimited.minutes is None


def test_steps_that_are_given_stay(seen: Survey) -> None:
    plan = decide(seen, found(), BASE)
    times = budget(plan, PACE, count=30, minutes=None, steps=400, spent=1)
    assert (times.config.objects.steps, times.config.objects.pseudo_label_steps) == (400, 200)
    assert times.seconds == pytest.approx(1 + 40 + 200 * 0.1 + 180 * 0.2 + 20 * 0.3 + 6, abs=1)
    assert sum(phase_steps(times.config).values()) == 400


@pytest.mark.parametrize(
    ("asked", "given", "quick", "row"),
    [
        ("auto", (), True, ("bfloat16", "this machine has units for it")),
        ("auto", (), False, ("float32", "this machine has no units for bfloat16")),
        ("float32", (), True, ("float32", "of the preset")),
        ("bfloat16", ("objects.precision",), False, ("bfloat16", "as you say")),
    ],
)
def test_the_precision_is_told(
    seen: Survey,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    given: tuple[str, ...],
    quick: bool,
    row: tuple[str, str],
) -> None:
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _: quick)
    plan = decide(seen, found(), override(BASE, {"objects": {"precision": asked}}), given=given)
    times = budget(plan, PACE, count=30, minutes=None, steps=None, spent=1, given=given)
    assert (times.rows[2].value, times.rows[2].reason) == row
    assert times.config.objects.precision == row[0]


def test_memory_grows_with_the_pictures() -> None:
    few, many = (PACE.memory(BASE, count) for count in (100, 1100))
    assert many - few == 1000 * 64 * 64 * 3 * 4
    assert PACE.memory(BASE, 1_000_000) == PACE.resident  # these are read from disk


# Folders as they come --------------------------------------------------------------------------------------------


def dry_run(path: Path, *words: str) -> int:
    return main.run(["fit", str(path), "--out", str(path.parent / "run"), "--dry-run", *words])


def test_three_pictures_are_refused(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(folder(3)) == 2
    assert "3 pictures are too few, expected 20 at the very least" in capsys.readouterr().err


def test_five_thousand_times_the_same_picture_is_refused(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(1, size=(18, 22))
    for number in range(1, 5000):
        shutil.copyfile(path / "0000.png", path / f"{number:04d}.png")
    assert dry_run(path) == 2
    assert "all 400 pictures looked at are the same one" in capsys.readouterr().err


def test_nothing_but_background_is_refused(
    tmp_path: Path, draw: Callable[..., NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    noise = np.random.default_rng(0)
    for number in range(25):
        picture = draw(number, objects=0, size=(20, 28)) + noise.integers(0, 3, (20, 28, 3))
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "empty" / f"{number}.png")
    assert dry_run(tmp_path / "empty") == 2
    assert "nothing differs from the background in any of 25 pictures" in capsys.readouterr().err


def test_dim_pictures_of_16_bits_are_refused(
    tmp_path: Path, draw: Callable[..., NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dim").mkdir()
    for number in range(25):
        Image.fromarray(draw(number)[:, :, 0].astype(np.uint16) * 16).save(tmp_path / "dim" / f"{number}.tif")
    assert dry_run(tmp_path / "dim") == 2
    assert "stretch the brightness first" in capsys.readouterr().err


def test_ten_sizes_get_a_plan(
    tmp_path: Path, draw: Callable[..., NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sizes").mkdir()
    for number in range(30):
        scene = Image.fromarray(draw(number, size=(20, 28), side=5))
        more = number % 10
        scene.resize((28 + 3 * more, 20 + 2 * more)).save(tmp_path / "sizes" / f"{number}.png")
    assert dry_run(tmp_path / "sizes") == 0
    said = capsys.readouterr().out
    assert "and 7 other sizes" in said
    assert not (tmp_path / "run").exists()


def test_one_broken_file_in_a_hundred_is_told(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(100, size=(20, 28), side=5)
    (path / "0042.png").write_bytes(b"")
    assert dry_run(path) == 0
    assert "1 of 100 pictures looked at cannot be read and are left out; the first: '0042.png'" in (
        " ".join(capsys.readouterr().out.split())
    )
    for number in range(10, 20):
        (path / f"00{number}.png").write_bytes(b"")
    assert dry_run(path) == 2
    assert "11 of 100 pictures looked at cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("flip", [False, True])
def test_a_switch_is_told_as_it_is_typed_to_have_it_otherwise(seen: Survey, flip: bool) -> None:
    plan = decide(seen, found(), override(BASE, {"objects": {"flip": flip}}), given=("objects.flip",))
    row = next(row for row in plan.rows if row.name == "mirror images")
    assert (row.value, row.option) == (("yes", "--objects.no-flip") if flip else ("no", "--objects.flip"))
