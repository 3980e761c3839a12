"""The HTTP interface, over real connections: answers, limits, strangers, slow clients, the end."""

import base64
import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import astseg
from astseg.cli import main
from astseg.inference.segmenter import Segmenter
from astseg.serve.limits import Limits
from astseg.serve.server import listening
from serve.conftest import Serving

HERE = {**os.environ, "PYTHONPATH": str(Path(astseg.__file__).parents[1])}


def picture(seed: int = 0, size: tuple[int, int] = (40, 60), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def post(server: str, *files: bytes, **parameters: Any) -> httpx.Response:
    named = [("pictures", (f"{number}.png", content)) for number, content in enumerate(files)]
    return httpx.post(f"{server}/segment", files=named, params=parameters, timeout=60)


def pixels_of(address: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


# Answers ---------------------------------------------------------------------------------------------------------


def test_pictures_get_what_the_segmenter_says(server: str, segmenter: Segmenter) -> None:
    files = [picture(1), picture(2, (64, 32), "WEBP"), picture(3, (32, 48), "BMP"), picture(4, kind="TIFF")]
    parts = ["labels", "background", "reconstruction", "layers", "attention"]
    answers = post(server, *files, part=parts).json()["pictures"]
    assert [answer["name"] for answer in answers] == ["0.png", "1.png", "2.png", "3.png"]
    for file, answer in zip(files, answers, strict=True):
        expected = segmenter.predict(Image.open(io.BytesIO(file)))
        assert expected.objects
        assert np.mean(pixels_of(answer["labels"]) != expected.labels) < 0.01  # a batch may round otherwise
        for part in ("background", "reconstruction"):
            assert np.abs(pixels_of(answer[part]).astype(int) - getattr(expected, part)).max() <= 1
        assert [one["id"] for one in answer["objects"]] == [found.id for found in expected.objects]
        assert [tuple(one["box"]) for one in answer["objects"]] == [found.box for found in expected.objects]
        assert [pixels_of(layer).shape for layer in answer["layers"]] == [(*expected.labels.shape, 4)] * len(
            expected.objects
        )
        assert all(abs(int(pixels_of(one).max()) - 255) < 30 for one in answer["attention"])


def test_tables_are_those_of_segment(server: str) -> None:
    coco = post(server, picture(1), picture(2), form="coco").json()
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png"]
    assert coco["annotations"]
    rows = list(csv.DictReader(io.StringIO(post(server, picture(1), picture(2), form="csv").text)))
    assert [int(row["id"]) for row in rows] == [annotation["label"] for annotation in coco["annotations"]]


def test_many_at_once_get_their_own_answers(server: str) -> None:
    files = [picture(seed) for seed in range(12)]
    alone = [post(server, file).json()["pictures"][0]["objects"] for file in files]
    with ThreadPoolExecutor(12) as pool:
        together = [answer.json()["pictures"][0]["objects"] for answer in pool.map(lambda f: post(server, f), files)]
    for one, other in zip(alone, together, strict=True):
        assert [found["box"] for found in one] == [found["box"] for found in other]
    measures = httpx.get(f"{server}/metrics").text
    batches = float(measures.partition("astseg_batch_pictures_count ")[2].partition("\n")[0])
    pictures = float(measures.partition("astseg_batch_pictures_sum ")[2].partition("\n")[0])
    assert batches < pictures  # some came together
    assert "astseg_waiting_pictures 0.0" in measures


def test_openapi_names_every_address(server: str) -> None:
    paths = httpx.get(f"{server}/openapi.json").json()["paths"]
    assert {"/segment", "/render", "/runs", "/healthz", "/metrics"} <= set(paths)
    assert httpx.get(f"{server}/healthz").json()["status"] == "ok"


# Scenes ----------------------------------------------------------------------------------------------------------


def test_a_scene_is_drawn_as_the_picture_was(server: str, segmenter: Segmenter) -> None:
    file = picture(1, (32, 48))
    scene = post(server, file, part="scene").json()["pictures"][0]["scene"]
    drawn = httpx.post(f"{server}/render", json=scene).json()
    expected = segmenter.predict(Image.open(io.BytesIO(file))).drawing.reconstruction.astype(int)
    assert len(scene["objects"]) > 1
    assert np.abs(pixels_of(drawn["picture"]) - expected).mean() < 2  # without the slots that own no pixel
    scene["objects"] = []
    assert httpx.post(f"{server}/render", json=scene).json()["picture"] == scene["background"]


def test_an_object_that_moves_takes_its_labels_along(server: str) -> None:
    scene = post(server, picture(1, (32, 48)), part="scene").json()["pictures"][0]["scene"]
    scene["objects"] = [{**scene["objects"][0], "scale": [4, 4], "activation": 50.0}]
    columns = []
    for x in (-0.5, 0.5):
        scene["objects"][0]["position"] = [x, 0]
        labels = pixels_of(httpx.post(f"{server}/render", json=scene).json()["labels"])
        assert set(np.unique(labels)) == {0, 1}
        columns.append(np.nonzero(labels)[1].mean())
    assert columns[1] - columns[0] == pytest.approx(24, abs=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"background": "data:image/png;base64,AAAA"}, "no picture"),
        ({"background": "file:///etc/passwd"}, "no PNG"),
        ({"objects": [{"position": [0, 0], "scale": [1, 1], "activation": 1, "appearance": [0]}]}, "another model"),
        ({"objects": [{"position": [0, 0], "scale": [0, 1], "activation": 1, "appearance": [0] * 5}]}, ""),
        ({"objects": [{"position": [0, 99], "scale": [1, 1], "activation": 1, "appearance": [0] * 5}]}, ""),
    ],
)
def test_what_is_no_scene_is_refused(server: str, change: dict[str, Any], words: str) -> None:
    scene = post(server, picture(1, (32, 48)), part="scene").json()["pictures"][0]["scene"]
    answer = httpx.post(f"{server}/render", json={**scene, **change})
    assert answer.status_code in (415, 422)
    assert words in str(answer.json()["detail"])


# Limits ----------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG that says that it has 400 million pixels, in 60 bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status"), [(b"text", 415), (b"", 415), (bomb(), 413), (picture()[:-2000], 422), (b"%!PS-Adobe", 415)]
)
def test_what_is_no_picture_is_refused_and_stops_nobody(server: str, content: bytes, status: int) -> None:
    answer = post(server, picture(), content)
    assert answer.status_code == status
    assert "1.png" in answer.json()["detail"]
    assert post(server, picture()).status_code == 200


def test_limits_are_held(serving: Serving, segmenter: Segmenter) -> None:
    small = Limits(body_bytes=60_000, pictures=3, pixels=3000, upload_seconds=0.3)
    with serving(segmenter=segmenter, limits=small) as server:
        assert post(server, picture()).status_code == 200
        assert post(server, *[picture()] * 4).status_code == 413
        assert post(server, picture(size=(60, 60))).status_code == 413
        assert post(server, b"x" * 70_000).status_code == 413
        unspoken = httpx.post(f"{server}/render", content=iter([b" " * 40_000] * 2))  # in chunks, of unknown length
        assert unspoken.status_code == 413
        host, port = server.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = "POST /segment HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n"
            slow.sendall(f"{head}content-type: multipart/form-data; boundary=b\r\n\r\n--b".encode())
            assert post(server, picture()).status_code == 200  # meanwhile
            assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_too_much_waiting_and_too_long_are_told(serving: Serving, segmenter: Segmenter) -> None:
    release = threading.Event()

    class Held(Segmenter):
        """A model that works only once it may."""

        def predictions(self, *arguments: Any, **settings: Any) -> Any:
            release.wait()
            return super().predictions(*arguments, **settings)

    held = Held(segmenter.pipeline, segmenter.preprocess)
    limits = Limits(seconds=1.0, queue_pixels=3000, batch=1)
    with serving(segmenter=held, limits=limits) as server, ThreadPoolExecutor(8) as pool:
        codes = [answer.status_code for answer in pool.map(lambda seed: post(server, picture(seed)), range(8))]
        release.set()
        assert set(codes) == {503, 504}
        assert post(server, picture()).status_code == 200


# Strangers -------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for(serving: Serving, segmenter: Segmenter) -> None:
    with serving(segmenter=segmenter, token="secret123") as server:
        for path in ("/runs", "/metrics", "/openapi.json", "/runs/x"):
            assert httpx.get(server + path).status_code == 401
            assert httpx.get(server + path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert post(server, picture()).status_code == 401
        assert httpx.get(f"{server}/runs", headers={"authorization": "Bearer secret123"}).status_code == 200
        assert httpx.get(f"{server}/runs", headers={"cookie": "astseg_token=secret123"}).status_code == 200
        for path in ("/", "/healthz", "/page/main.js"):
            assert httpx.get(server + path).status_code == 200


def test_pages_of_other_sites_are_refused(server: str) -> None:
    assert httpx.get(f"{server}/healthz", headers={"host": "evil.example"}).status_code == 403
    assert httpx.post(f"{server}/render", headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.get(f"{server}/healthz", headers={"origin": server}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/../../etc/passwd"]
    + ["/runs/..%2f..%2fetc/panel", "/runs/%2e%2e", "/runs/%2fetc"],
)
def test_no_path_leads_out(server: str, path: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as plain:  # clients tidy paths up
        plain.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 400"))
    assert b"import" not in answer and b"root:" not in answer


# The command -----------------------------------------------------------------------------------------------------


def test_sigterm_finishes_what_is_under_way(spread_run: Path) -> None:
    command = [sys.executable, "-m", "astseg", "serve", str(spread_run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=HERE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1].rstrip(";/")
        host, port = address.removeprefix("http://").split(":")
        file = picture()
        body = (
            b'--b\r\ncontent-disposition: form-data; name="pictures"; filename="a.png"\r\n\r\n'
            + file
            + b"\r\n--b--\r\n"
        )
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /segment HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
            slow.sendall(f"{head}content-type: multipart/form-data; boundary=b\r\n\r\n".encode() + body[:100])
            assert httpx.get(f"{address}/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)
            while True:  # until nobody else is let in
                try:
                    httpx.get(f"{address}/healthz")
                except httpx.TransportError:
                    break
            slow.sendall(body[100:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["pictures"][0]["width"] == 60
        assert process.wait(30) == 0


def test_answers_are_sent_at_once() -> None:
    with listening("127.0.0.1", 0) as one:  # asyncio sets TCP_NODELAY where the protocol is named, and nowhere else
        assert one.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to serve"),
        (["nowhere"], "'nowhere' is not there"),
        (["--runs", "nowhere"], "'nowhere' is not there"),
        (["--runs", ".", "--port", "70000"], "port is 70000"),
        (["--runs", ".", "--token", "a b"], "token is not made of"),
        (["--runs", ".", "--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
    ],
)
def test_mistakes_are_told_in_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
