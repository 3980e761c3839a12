"""Videos, written here with PyAV."""

from pathlib import Path

import av
import numpy as np
import pytest

from astseg.data import load_scenes, open_source
from astseg.data.open import Reading
from astseg.errors import UserError

HEIGHT, WIDTH = 48, 64


def frame(number: int) -> np.ndarray:
    """Grey, brighter with each frame; a white bar tells left from right."""
    picture = np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8)
    picture[:, :8] = 255
    return picture


def write(path: Path, count: int = 13) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_every_frame_of_a_video(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.mp4"))
    assert (source.name, len(source), source.has_labels) == ("video", 13, False)
    assert source.scene_name(12) == "a.mp4/000012"
    for index in (0, 1, 12, 3, 4, 11):
        image, labels = source.read(index)
        assert labels is None and image.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(image.astype(int) - frame(index)).mean() < 4
    with pytest.raises(UserError, match=r"\(video\) has no 'val' split"):
        source.split("val")


def test_stride_limit_and_several_videos(tmp_path: Path) -> None:
    write(tmp_path / "b" / "two.mkv", 7)
    write(tmp_path / "one.avi", 13)
    source = open_source(tmp_path, Reading(stride=3, frames=4))
    assert source.name == "2 videos"
    names = [source.scene_name(index) for index in range(len(source))]
    assert names == [f"b/two.mkv/{n:06d}" for n in (0, 3, 6)] + [f"one.avi/{n:06d}" for n in (0, 3, 6, 9)]
    arrays = load_scenes(tmp_path, size=(24, 32), reading=Reading(stride=3, frames=4))
    grey = arrays.images[:, 12, 20, 0].astype(int)
    assert np.abs(grey - [0, 30, 60, 0, 30, 60, 90]).max() < 6


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match="'a.mp4' is no readable video"):
        open_source(tmp_path / "a.mp4")
    write(tmp_path / "b.mkv")
    data = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mkv").write_bytes(data[: len(data) // 2])
    source = open_source(tmp_path / "b.mkv")  # cut off: what is there can be read
    assert 0 < len(source) < 13 and source.read(0)[0].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UserError, match="stride is 0, expected at least 1"):
        Reading(stride=0)


def test_videos_and_pictures_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b.mkv", 2)
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="holds both videos and pictures"):
        open_source(tmp_path)
