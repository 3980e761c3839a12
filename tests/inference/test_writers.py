"""From folders to files: every file says the same, nothing is fatal, nothing is half written, memory stays."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from astseg.cli import main
from astseg.errors import UserError
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers import job
from astseg.inference.writers.read_ahead import ahead
from astseg.inference.writers.run import segment_folder

NAMES = ["plain.png", "line\nbreak.png", "猫と犬.jpg", "пример.png", "a b'\"[c].png", "deep/ünder/x.png", "d,e;f.png"]


@pytest.fixture(scope="module")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


def picture(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.fixture(scope="module")
def hard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 pictures of ten sizes, some of 16-bit grey, with names of every kind; one of them is broken."""
    folder = tmp_path_factory.mktemp("hard") / "pictures"
    for seed in range(100):
        path = folder / (NAMES[seed] if seed < len(NAMES) else f"{seed:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = picture(20 + 7 * (seed % 10), 30 + 5 * (seed % 10), seed)
        if seed == 50:
            path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        elif seed % 10 == 8:
            Image.fromarray(image[:, :, 1].astype(np.uint16) << 8).save(path.with_suffix(".tif"))
        else:
            Image.fromarray(image).save(path, quality=95)
    Image.fromarray(picture(25, 35, 7)).save(os.path.join(os.fsencode(folder), b"no\xfftext.png"), format="PNG")
    return folder


@pytest.fixture(scope="module")
def segmented(segmenter: Segmenter, hard_folder: Path) -> Path:
    out = hard_folder.parent / "out"
    summary = segment_folder(segmenter, hard_folder, out, batch_size=7)
    assert (summary.images, len(summary.skipped)) == (100, 1)
    assert "'50.png' is not a complete picture" in summary.skipped[0]
    return out


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "objects.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_tables_and_label_maps_agree(segmented: Path, hard_folder: Path) -> None:
    """Every count, box and area in CSV and COCO is that of the label PNG."""
    coco = COCO(segmented / "coco.json")
    rows = rows_of(segmented)
    assert len(coco.imgs) == 100
    assert len(coco.anns) == len(rows) > 100
    assert [row["file"] for row in rows] == [coco.imgs[ann["image_id"]]["file_name"] for ann in coco.anns.values()]
    for image in coco.imgs.values():
        labels = np.asarray(Image.open(segmented / image["mask"]))
        with Image.open(hard_folder / image["file_name"]) as given:
            assert given.size == (image["width"], image["height"]) == labels.shape[::-1]
        annotations = coco.imgToAnns[image["id"]]
        mine = [row for row in rows if row["file"] == image["file_name"]]
        assert {ann["label"] for ann in annotations} == set(np.unique(labels).tolist()) - {0}
        assert [int(row["id"]) for row in mine] == [ann["label"] for ann in annotations]
        assert [ann["order"] for ann in annotations] == list(range(len(annotations)))
        for ann, row in zip(annotations, mine, strict=True):
            mask = labels == ann["label"]
            np.testing.assert_array_equal(coco.annToMask(ann), mask)
            down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [across[0], down[0], across[-1] - across[0] + 1, down[-1] - down[0] + 1]
            assert ann["bbox"] == [int(row[key]) for key in "xywh"] == box
            assert ann["area"] == int(row["area"]) == mask.sum()
            assert 0 < ann["score"] <= 1
            assert ann["score"] == pytest.approx(float(row["score"]), abs=1e-5)


def test_names_of_every_kind_come_through(segmented: Path) -> None:
    files = {row["file"] for row in rows_of(segmented)} | {
        image["file_name"] for image in json.loads((segmented / "coco.json").read_text())["images"]
    }
    assert {*NAMES, os.fsdecode(b"no\xfftext.png"), "08.tif"} <= files
    for kind in ("masks", "overlays", "backgrounds"):
        assert (segmented / kind / "line\nbreak.png").is_file()
        assert (segmented / kind / "deep" / "ünder" / "x.png").is_file()
    about = json.loads((segmented / "segment.json").read_text())
    assert (about["complete"], about["images"], about["kind"]) == (True, 100, "pictures")
    assert not list(segmented.rglob("*.part"))


def test_names_as_long_as_file_systems_take(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for letter in "ab":
        Image.fromarray(picture(25, 35, 3)).save(tmp_path / "in" / ("猫" * 80 + letter * 10 + ".png"))
    assert segment_folder(segmenter, tmp_path / "in", tmp_path / "out").images == 2
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2


def test_only_what_is_asked_for_is_written(segmenter: Segmenter, hard_folder: Path, tmp_path: Path) -> None:
    one = hard_folder / "plain.png"
    expected = {
        (): {"masks"},
        ("layers",): {"masks", "layers"},
        None: {"masks", "overlays", "backgrounds", "cutouts"},
    }
    for number, (write, folders) in enumerate(expected.items()):
        out = tmp_path / str(number)
        segment_folder(segmenter, one, out, write=write)
        assert {path.name for path in out.iterdir()} == folders | {
            "coco.json",
            "counts.csv",
            "objects.csv",
            "segment.json",
        }
    with pytest.raises(UserError, match="'pictures' cannot be written, choose from overlays"):
        segment_folder(segmenter, one, tmp_path / "new", write=("pictures",))


def test_pictures_of_which_much_is_cropped_off_are_counted(segmenter: Segmenter, tmp_path: Path) -> None:
    """The model is 32x48: of 32x52 pixels 4/52 are lost, less than a tenth, and of 32x96 half."""
    (tmp_path / "in").mkdir()
    for width in (48, 52, 96):
        Image.fromarray(picture(32, width, 3)).save(tmp_path / "in" / f"{width}.png")
    assert segment_folder(segmenter, tmp_path / "in", tmp_path / "out", resize="crop").cropped == 1
    prepared = json.loads((tmp_path / "out" / "segment.json").read_text())["preprocess"]
    assert prepared == {"size": [32, 48], "resize": "crop", "crop": 1.0}
    assert segment_folder(segmenter, tmp_path / "in", tmp_path / "out").cropped == 0  # as trained: squeezed


def test_results_are_never_taken_for_pictures(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(25, 35, 3)).save(tmp_path / "in" / "a.png")
    out = tmp_path / "in" / "out"
    assert segment_folder(segmenter, tmp_path / "in" / "*.png", out).images == 1
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="holds some of the pictures that are named"):
        segment_folder(segmenter, tmp_path / "in" / "**" / "*.png", out)
    with pytest.raises(UserError, match="resize is 'stretch'"):
        segment_folder(segmenter, tmp_path / "in" / "*.png", out, resize="stretch")
    assert sorted(out.rglob("*")) == before


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, StoppedError])
def test_what_a_stopped_run_leaves_is_whole(
    segmenter: Segmenter, hard_folder: Path, tmp_path: Path, kind: type[BaseException]
) -> None:
    def stop(done: int, total: int) -> None:
        if done > 20:
            raise kind

    out = tmp_path / "out"
    with pytest.raises(kind):
        segment_folder(segmenter, hard_folder, out, batch_size=5, progress=stop)
    check_whole(out)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["segment.json"]
    assert not list(out.rglob("*.part"))
    segment_folder(segmenter, hard_folder / "plain.png", out)
    assert [path.name for path in (out / "masks").rglob("*.png")] == ["plain.png"]


KILLED = """
import os, signal, sys
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.run import segment_folder

def die(done, total):
    if done > 30:
        os.kill(os.getpid(), signal.SIGKILL)

segment_folder(Segmenter.from_pretrained(sys.argv[1], "cpu"), sys.argv[2], sys.argv[3], batch_size=5, progress=die)
"""


def test_what_a_killed_run_leaves_is_whole(
    spread_run: Path, segmenter: Segmenter, hard_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, str(spread_run), str(hard_folder), str(out)]
    assert subprocess.run(words, timeout=120, check=False).returncode == -signal.SIGKILL
    check_whole(out)
    assert not (out / "coco.json").exists() and not (out / "objects.csv").exists()
    segment_folder(segmenter, hard_folder / "plain.png", out)
    left = {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and "cutouts" not in str(path)
    }
    assert left == {
        *(f"{kind}/plain.png" for kind in ("masks", "overlays", "backgrounds")),
        *("coco.json", "counts.csv", "objects.csv", "segment.json"),
    }


def check_whole(out: Path) -> None:
    """Every file that has its final name can be read to its end."""
    assert json.loads((out / "segment.json").read_text())["complete"] is False
    pictures = list(out.rglob("*.png"))
    assert len(pictures) > 20
    for path in pictures:
        with Image.open(path) as image:
            image.load()


FULL = """
import resource, signal, sys
from astseg.cli.main import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
main(sys.argv[2:])
"""


@pytest.mark.parametrize("largest", [300, 6000])
def test_a_full_disk_is_told_and_leaves_nothing_half(
    spread_run: Path, hard_folder: Path, tmp_path: Path, largest: int
) -> None:
    """At 300 bytes nothing can be written, at 6,000 the tables cannot."""
    out = tmp_path / "out"
    words = ["segment", str(spread_run), str(hard_folder), "--out", str(out), "--write"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(largest), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written (File too large): choose another folder or free space" in done.stderr
    assert not [
        path for path in out.rglob("*") if path.suffix in (".part", ".images", ".csv") or path.name == "coco.json"
    ]


MEMORY = """
import resource, sys
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.run import segment_folder

segmenter = Segmenter.from_pretrained(sys.argv[1], "cpu")
for folder, out in zip(sys.argv[2::2], sys.argv[3::2]):
    segment_folder(segmenter, folder, out, write=("overlays",), batch_size=8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_pictures(spread_run: Path, tmp_path: Path) -> None:
    """20 times as many: all label maps alone would take 110 MB more."""
    first = tmp_path / "20" / "0.png"
    first.parent.mkdir()
    (tmp_path / "400").mkdir()
    Image.fromarray(picture(240, 320, 0)).save(first)
    for count in (20, 400):
        for number in range(1, count):
            os.link(first, tmp_path / str(count) / f"{number}.png")
    words = [spread_run, *(path for count in ("20", "400") for path in (tmp_path / count, tmp_path / f"out-{count}"))]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, words)], capture_output=True, text=True, timeout=300, check=True
    )
    few, many = map(int, done.stdout.split())
    assert many - few < 40, f"{few} MiB at 20 pictures, {many} at 400"


# The command


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main.run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    yield run


def test_the_command_tells_where_things_are_and_what_is_next(
    spread_run: Path, hard_folder: Path, tmp_path: Path, told: Any
) -> None:
    out = tmp_path / "out"
    code, text = told("segment", spread_run, hard_folder / "[0-9]*.png", hard_folder / "line\nbreak.png", "--out", out)
    lines = text.splitlines()
    assert code == 3
    assert "skipped: '50.png' is not a complete picture" in lines[0]
    assert lines[1] == "1 could not be read and were skipped"
    assert "images a second" in lines[2]
    assert lines[3] == f"{out} holds masks/, overlays/, backgrounds/, cutouts/, coco.json, objects.csv, counts.csv"
    assert lines[4] == f"look at {out}/overlays"
    assert lines[5] == f"next, to mend them or to train with them: astseg export {out} --to labelme"
    assert len(lines) == 6


def test_a_broken_name_is_told_in_one_line(spread_run: Path, hard_folder: Path, tmp_path: Path, told: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes((hard_folder / "plain.png").read_bytes())
    (folder / "broken\nname.png").write_bytes(b"nothing")
    code, text = told("segment", spread_run, folder, "--out", tmp_path / "out", "--write")
    assert code == 3
    assert text.splitlines()[0].startswith("skipped: 'broken\\nname.png' is not a complete picture")


CTRL_C = """
import os, signal, sys
from astseg.cli import main
from astseg.inference.writers import job
from astseg.inference.writers.read_ahead import ahead

written = []

def write(*arguments, whole=job.write_images):
    whole(*arguments)
    written.append(arguments)
    if len(written) == 10:
        os.kill(os.getpid(), signal.SIGINT)

job.write_images = write
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
main.main(sys.argv[1:])
"""


def test_ctrl_c_is_told_honestly(spread_run: Path, hard_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["segment", str(spread_run), str(hard_folder), "--out", str(out), "--batch-size", "1"]
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "stopped: the masks that are there are whole" in done.stdout
    assert not list(out.rglob("*.part"))
    assert not (out / "coco.json").exists()


def test_a_batch_is_read_ahead_and_few_large_pictures() -> None:
    """What is asked for of a source, for each picture that is handed on."""
    asked = 0

    def numbers() -> Iterator[int]:
        nonlocal asked
        for number in range(60):
            asked += 1
            yield number

    with ThreadPoolExecutor(2) as pool:
        read = ahead(pool, lambda number: number, numbers(), lambda number: 8 if number < 30 else 3)
        given = []
        for number in read:
            given.append(number)
            most = 2 if not number else 8 if number <= 35 else 3
            assert asked <= number + 1 + most
            assert number == 0 or number > 30 or asked == number + 9
    assert given == list(range(60))


@pytest.mark.parametrize(("write", "model"), [(None, 3), ((), 5)])
def test_the_model_leaves_cores_to_the_files_if_there_are_many(
    segmenter: Segmenter, hard_folder: Path, tmp_path: Path, write: tuple[str, ...] | None, model: int
) -> None:
    before, used = torch.get_num_threads(), []
    torch.set_num_threads(5)
    try:
        segment_folder(
            segmenter,
            hard_folder,
            tmp_path / "out",
            write=write,
            progress=lambda *_: used.append(torch.get_num_threads()),
        )
        assert set(used) == {model}
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def test_what_may_not_wait_any_longer_is_written_at_once(
    segmenter: Segmenter, hard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that come to nothing while pictures are looked at: the results are the same."""
    threads: list[bool] = []
    free = threading.Event()
    usual = job.write_images

    def slow(*given: Any) -> None:
        here = threading.current_thread() is threading.main_thread()
        threads.append(here)
        if here:
            free.set()
        else:
            free.wait(60)
        usual(*given)

    segment_folder(segmenter, hard_folder, tmp_path / "usual", batch_size=2)
    monkeypatch.setattr(job, "_BEHIND", 2)
    monkeypatch.setattr(job, "write_images", slow)
    segment_folder(segmenter, hard_folder, tmp_path / "slow", batch_size=2)
    assert set(threads) == {True, False}
    written = [path.relative_to(tmp_path / "usual") for path in (tmp_path / "usual").rglob("*.png")]
    assert written
    assert all((tmp_path / "slow" / one).read_bytes() == (tmp_path / "usual" / one).read_bytes() for one in written)
