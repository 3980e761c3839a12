"""The times of a video's frames, as its own stream has them, in every file; rotation; other containers and codecs."""

import csv
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from astseg.data.sources.video import VideoSource
from astseg.data.synthetic.video import render_video
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.run import segment_folder

DROPPED = [number for number in range(30) if number % 7 != 6]
VARIABLE = [0, 1, 2, 10, 11, 30, 31, 75]


@pytest.fixture(scope="module")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


def write(path: Path, at: list[int], *, codec: str = "mpeg4", pixels: str = "yuv420p", unit: int = 25) -> Path:
    """A video whose frames are shown at multiples of 1 / ``unit`` seconds."""
    images = np.asarray(render_video(seed=1, frames=len(at), size=(36, 50), objects=2).images)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=unit)
        stream.width, stream.height, stream.pix_fmt = 50, 36, pixels
        stream.bit_rate = 2_000_000
        for number, image in zip(at, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, unit)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def shown(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


@pytest.mark.parametrize("at", [DROPPED, VARIABLE])
def test_every_table_and_the_overlay_have_the_times_of_the_source(
    segmenter: Segmenter, tmp_path: Path, at: list[int]
) -> None:
    video = write(tmp_path / "a.mp4", at)
    times = [number / 25 for number in at]
    assert shown(video) == pytest.approx(times, abs=1e-3)
    segment_folder(segmenter, video, tmp_path / "out")
    counts = rows(tmp_path / "out" / "counts.csv")
    assert [int(row["frame"]) for row in counts] == list(range(len(at)))
    assert [float(row["seconds"]) for row in counts] == pytest.approx(times, abs=1e-3)
    objects = rows(tmp_path / "out" / "objects.csv")
    assert objects
    for row in objects:
        assert float(row["seconds"]) == pytest.approx(times[int(row["frame"])], abs=1e-3)
        assert row["file"] == f"a.mp4/{int(row['frame']):06d}"
    of_frame = [row["file"] for row in objects]
    assert [of_frame.count(row["name"]) for row in counts] == [int(row["count"]) for row in counts]
    assert shown(tmp_path / "out" / "videos" / "a.mp4") == pytest.approx(times, abs=1e-3)
    lines = [line.split(",") for line in (tmp_path / "out" / "mot.txt").read_text().splitlines()]
    assert [line[:6] for line in lines] == [
        [str(int(row["frame"]) + 1), row["id"], str(int(row["x"]) + 1), str(int(row["y"]) + 1), row["w"], row["h"]]
        for row in objects
    ]
    assert {len(line) for line in lines} == {10}


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.avi", "mjpeg", "yuvj420p"), ("a.webm", "libvpx-vp9", "yuv420p"), ("a.mkv", "libx264", "yuv420p")],
)
def test_codecs_and_containers(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec} here")
    write(tmp_path / name, list(range(9)), codec=codec, pixels=pixels)
    source = VideoSource(tmp_path, [name], stride=2)
    assert len(source) == 5 and source.read(4)[0].shape == (36, 50, 3)
    assert [source.seconds(index) for index in range(5)] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32], abs=2e-3)


def test_a_rotated_video_is_upright_in_frames_and_overlay(segmenter: Segmenter, tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", list(range(4)))
    plain = VideoSource(tmp_path, ["a.mp4"]).read(0)[0]
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after version, times, track, duration, layer, volume
    numbers = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 36 << 16, 0, 1 << 30]  # a quarter turn clockwise
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big") for number in numbers)
    video.write_bytes(data)
    assert np.array_equal(VideoSource(tmp_path, ["a.mp4"]).read(0)[0], np.rot90(plain, -1))
    segment_folder(segmenter, video, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "videos" / "a.mp4")) as container:
        height, width = next(container.decode(video=0)).to_ndarray(format="rgb24").shape[:2]
    assert height > width


def test_pictures_have_counts_without_times(segmenter: Segmenter, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (50, 36), (90, 90, 90)).save(tmp_path / "in" / "a.png")
    segment_folder(segmenter, tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "counts.csv")
    assert (row["name"], row["frame"], row["seconds"]) == ("a.png", "", "")
    assert not (tmp_path / "out" / "mot.txt").exists()
