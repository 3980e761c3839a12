"""Streams and folders that are watched: what comes in is segmented, and whenever it ends the results are whole."""

import csv
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from astseg.cli import main
from astseg.data.sources.stream import StreamSource, is_stream
from astseg.data.sources.watched import WatchedFolder
from astseg.data.synthetic.video import render_video
from astseg.errors import UserError
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.live import segment_live

COUNT = 23


@pytest.fixture(scope="module")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of ``served``, where a video lies."""
    folder = tmp_path / "served"
    folder.mkdir()
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 50, 36, "yuv420p"
        for image in np.asarray(render_video(seed=0, frames=COUNT, size=(36, 50), objects=2).images):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    (folder / "text.mp4").write_text("no video")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def counted(out: Path) -> dict[str, int]:
    with (out / "counts.csv").open(newline="") as file:
        return {row["name"]: int(row["count"]) for row in csv.DictReader(file)}


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to that")


def cells_of(table: Path) -> tuple[list[str], list[float]]:
    """The cells of a table: words, and numbers."""
    words, numbers = [], []
    for cell in table.read_text().replace("\n", ",").split(","):
        try:
            numbers.append(float(cell))
        except ValueError:
            words.append(cell)
    return words, numbers


def test_a_stream_gives_what_its_file_gives(
    server: str, spread_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{server}/a.mp4?key=secret"
    for given, name in ((address, "stream"), (str(tmp_path / "served" / "a.mp4"), "file")):
        assert main.run(["segment", str(spread_run), given, "--out", str(tmp_path / name)]) == 0
    for file in ("objects.csv", "counts.csv", "mot.txt"):
        (words, numbers), (same_words, same_numbers) = (cells_of(tmp_path / name / file) for name in ("stream", "file"))
        assert words == same_words
        assert numbers == pytest.approx(same_numbers, rel=1e-3, abs=1e-3)  # batches differ, and with them last digits
    assert len(counted(tmp_path / "stream")) == COUNT
    with av.open(str(tmp_path / "stream" / "videos" / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == COUNT
    about = json.loads((tmp_path / "stream" / "segment.json").read_text())
    assert about["complete"] and about["images"] == COUNT
    assert "secret" not in json.dumps(about) + capsys.readouterr().out
    # Again with fewer frames: what was there is replaced.
    words = ["segment", str(spread_run), address, "--out", str(tmp_path / "stream"), "--frames", "3", "--stride", "2"]
    assert main.run(words) == 0
    assert [path.name for path in sorted((tmp_path / "stream" / "masks" / "a.mp4").iterdir())] == [
        "000000.png",
        "000002.png",
        "000004.png",
    ]


def test_streams_that_are_none(
    server: str, spread_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for words, told in (
        ([f"{server}/text.mp4"], "is no readable video"),
        ([f"{server}/missing.mp4"], "is no readable video"),
        (["rtsp://me:secret@127.0.0.1:9/1"], "'rtsp://127.0.0.1:9/1' is no readable video"),
        (["/dev/null"], "is no readable video"),
        ([f"{server}/a.mp4", "more.png"], "name it in a call of its own"),
        ([f"{server}/a.mp4", "--watch"], "leave --watch out"),
        ([str(tmp_path / "nowhere"), "--watch"], "is no folder"),
    ):
        assert main.run(["segment", str(spread_run), *words, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert told in said and "secret" not in said and said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert is_stream("RTSP://camera/1") and not is_stream(tmp_path)


def test_a_stream_is_whole_when_it_is_stopped(server: str, segmenter: Segmenter, tmp_path: Path) -> None:
    done: list[int] = []
    summary = segment_live(
        segmenter,
        StreamSource(f"{server}/a.mp4"),
        tmp_path / "out",
        stopped=lambda: bool(done),
        batch_size=4,
        progress=lambda count, _: done.append(count),
    )
    assert 0 < summary.images < COUNT
    assert len(counted(tmp_path / "out")) == summary.images == len(list((tmp_path / "out" / "masks").rglob("*.png")))
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["complete"]
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_folder_is_watched_until_it_is_told_to_end(spread_run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    picture = io.BytesIO()
    Image.fromarray(np.asarray(render_video(seed=3, frames=1, size=(36, 50), objects=2).images)[0]).save(picture, "PNG")
    (folder / "a.png").write_bytes(picture.getvalue())
    command = [sys.executable, "-m", "astseg", "segment", str(spread_run), str(folder), "--watch", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: (out / "counts.csv").exists() and set(counted(out)) == {"a.png"})
            assert len(json.loads((out / "coco.json").read_text())["images"]) == 1
            half = len(picture.getvalue()) // 2
            (folder / "b.png").write_bytes(picture.getvalue()[:half])
            (folder / "c.png").write_bytes(picture.getvalue())
            until(lambda: set(counted(out)) == {"a.png", "c.png"})  # the half-written one is waited for
            with (folder / "b.png").open("ab") as file:
                file.write(picture.getvalue()[half:])
            until(lambda: len(counted(out)) == 3)
            assert {path.name for path in (out / "masks").iterdir()} == {f"{name}.png.png" for name in "abc"}
            process.send_signal(signal.SIGTERM)
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert "in 3 images" in said
    assert json.loads((out / "segment.json").read_text())["complete"]
    assert list(counted(out)) == ["a.png", "c.png", "b.png"]
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.now"))


def test_what_stays_unreadable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astseg.data.sources import watched

    monkeypatch.setattr(watched, "_GIVEN_UP", 0.0)
    monkeypatch.setattr(watched, "_PAUSE", 0.01)
    (tmp_path / "a.png").write_bytes(b"no picture")
    source = WatchedFolder(tmp_path)
    for _ in source.arrivals(lambda: bool(source.skipped)):
        pass
    assert len(source.skipped) == 1 and "'a.png'" in source.skipped[0]
    with pytest.raises(UserError, match="is no folder"):
        WatchedFolder(tmp_path / "a.png")
