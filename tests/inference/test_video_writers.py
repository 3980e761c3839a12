"""Videos: ids that stay in every file, a video of overlays, damaged files."""

import csv
import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from astseg.data import Reading
from astseg.data.sources.video import VideoSource
from astseg.data.synthetic.video import render_video
from astseg.errors import UserError
from astseg.export import export
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.run import segment_folder
from astseg.inference.writers.videos import OverlayVideo

COUNT = 23


@pytest.fixture(scope="module")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


def write(path: Path, *, seed: int = 0, rate: int = 12, codec: str = "mpeg4") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.asarray(render_video(seed=seed, frames=COUNT, size=(36, 50), objects=2).images)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 50, 36, "yuv420p", 2_000_000
        stream.gop_size = 5
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], Fraction]:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], Fraction(rate)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "objects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def segmented(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "in" / "a.mp4")
    write(folder / "in" / "b c.mkv", seed=5, rate=20)
    summary = segment_folder(segmenter, folder / "in", folder / "out", batch_size=6)
    assert (summary.images, summary.skipped) == (2 * COUNT, ())
    assert summary.written == ("masks/", "videos/", "mot/", "coco.json", "objects.csv", "counts.csv")
    return folder / "out"


def test_ids_are_the_same_in_every_file_and_begin_anew_with_each_video(segmented: Path) -> None:
    coco = json.loads((segmented / "coco.json").read_text())
    rows = rows_of(segmented)
    assert [image["file_name"] for image in coco["images"]][:2] == ["a.mp4/000000", "a.mp4/000001"]
    by_file = defaultdict(set)
    for row in rows:
        by_file[row["file"]].add(int(row["id"]))
    for image in coco["images"]:
        labels = np.asarray(Image.open(segmented / image["mask"]))
        ids = {ann["label"] for ann in coco["annotations"] if ann["image_id"] == image["id"]}
        assert ids == by_file[image["file_name"]] == set(np.unique(labels).tolist()) - {0}
    for video in ("a.mp4", "b c.mkv"):
        first = [ids for name, ids in by_file.items() if name.startswith(video)][0]
        assert first == set(range(1, len(first) + 1))


def test_the_overlay_is_a_video(segmented: Path) -> None:
    assert sorted(path.name for path in (segmented / "videos").iterdir()) == ["a.mp4", "b c.mkv.mp4"]
    for name, expected in (("a.mp4", 12), ("b c.mkv.mp4", 20)):
        frames, rate = frames_of(segmented / "videos" / name)
        assert (len(frames), rate, frames[0].shape) == (COUNT, expected, (216, 300, 3))
    assert not (segmented / "overlays").exists()


def test_some_frames_at_their_own_speed(segmenter: Segmenter, tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4")
    summary = segment_folder(
        segmenter, video, tmp_path / "out", reading=Reading(stride=3, frames=5), write=("cutouts",)
    )
    assert summary.images == 5
    assert sorted(path.stem for path in (tmp_path / "out" / "masks" / "a.mp4").iterdir()) == [
        f"{number:06d}" for number in (0, 3, 6, 9, 12)
    ]
    assert not (tmp_path / "out" / "videos").exists()
    assert VideoSource(tmp_path, ["a.mp4"], stride=3).rate("a.mp4") == 4
    # Again, with other results: those before are removed.
    segment_folder(segmenter, video, tmp_path / "out", reading=Reading(frames=2))
    files = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*") if path.is_file()
    }
    assert files == {
        *("masks/a.mp4/000000.png", "masks/a.mp4/000001.png", "videos/a.mp4"),
        *("coco.json", "counts.csv", "mot.txt", "objects.csv", "segment.json"),
    }


def test_a_damaged_video_is_used_up_to_its_damage(segmenter: Segmenter, tmp_path: Path) -> None:
    damaged = write(tmp_path / "in" / "a.mp4")
    write(tmp_path / "in" / "b.mp4", seed=2)
    data = bytearray(damaged.read_bytes())
    half, length = len(data) // 2, len(data) // 6
    data[half : half + length] = bytes(length)
    damaged.write_bytes(data)
    summary = segment_folder(segmenter, tmp_path / "in", tmp_path / "out", batch_size=5)
    used = sorted(path.stem for path in (tmp_path / "out" / "masks" / "a.mp4").iterdir())
    assert 3 < len(used) < COUNT
    assert summary.images == len(used) + COUNT
    (told,) = summary.skipped
    assert told.startswith("'a.mp4' is damaged")
    assert told.endswith(f"(its frames from a.mp4/{len(used):06d} on)")
    assert len(frames_of(tmp_path / "out" / "videos" / "a.mp4")[0]) == len(used)
    assert len(frames_of(tmp_path / "out" / "videos" / "b.mp4")[0]) == COUNT


def test_a_stopped_run_leaves_no_half_video(segmenter: Segmenter, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StoppedError

    video = write(tmp_path / "a.mp4")
    with pytest.raises(StoppedError):
        segment_folder(segmenter, video, tmp_path / "out", batch_size=4, progress=stop)
    assert not list((tmp_path / "out").rglob("*.mp4*")) or all(
        path.is_dir() for path in (tmp_path / "out").rglob("*.mp4*")
    )


def test_frames_of_odd_and_changing_size(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "deep" / "a.mp4", rate=Fraction(30000, 1001)) as video:
        for size in ((33, 47), (33, 47), (20, 90)):
            video.add(np.full((*size, 3), 130, np.uint8))
        assert not (tmp_path / "deep" / "a.mp4").exists()
    frames, rate = frames_of(tmp_path / "deep" / "a.mp4")
    assert ([frame.shape for frame in frames], rate) == ([(34, 48, 3)] * 3, Fraction(30000, 1001))
    assert abs(int(frames[2].mean()) - 130) < 4
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        OverlayVideo(tmp_path / "file" / "a.mp4", rate=Fraction(9)).__enter__()


def test_frames_are_handed_over_as_pictures(segmented: Path, tmp_path: Path) -> None:
    assert export(segmented, "yolo", tmp_path / "yolo").images == 2 * COUNT
    assert len(list((tmp_path / "yolo" / "images").rglob("*.png"))) == 2 * COUNT
    assert len(list((tmp_path / "yolo" / "labels").rglob("*.txt"))) == 2 * COUNT
    export(segmented, "labelme", tmp_path / "labelme")
    content = json.loads((tmp_path / "labelme" / "b c.mkv" / "000004.json").read_text())
    assert (tmp_path / "labelme" / "b c.mkv" / content["imagePath"]).is_file()
