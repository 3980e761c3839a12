"""How many pictures a second ``astseg serve`` takes, how long each waits, and whether memory stays flat.

    python benchmarks/serving.py RUN
    python benchmarks/serving.py RUN --soak 10

Clients send one desk scene after another as PNG, each over a connection of its own, and read the label map. The server
has a process of its own. The last row is the same model called in a loop, from PNG to PNG, without a server.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from astseg.data.synthetic.generate import render_scenes
from astseg.inference.segmenter import Segmenter
from astseg.serve.answers import answer_of
from astseg.serve.pictures import decoded
from measuring import machine, print_table

CLIENTS = (1, 8, 64)
SIZE = (240, 320)
WARM_SECONDS = 3.0


def main() -> None:
    """Measure and print a table, and what the soak says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes with 8 clients, after the table")
    options = parser.parse_args()
    files = pictures(64)
    print(machine("cpu"))
    rows = []
    with served(options.run) as (port, process):
        send(port, files, 8, WARM_SECONDS)
        for clients in CLIENTS:
            rows.append([f"{clients} clients", *figures(send(port, files, clients, options.seconds), options.seconds)])
        rows.append(["in a loop", *figures(loop(options.run, files, options.seconds), options.seconds)])
        print_table(["", "pictures/s", "p50 ms", "p99 ms"], rows)
        if options.soak:
            soak(port, process, files, options.soak)


def pictures(count: int) -> list[bytes]:
    """Desk scenes as PNG files."""
    found = []
    for scene in render_scenes("desk", count=count, size=64, seed=0).images:
        file = io.BytesIO()
        Image.fromarray(scene).resize(SIZE[::-1]).save(file, format="PNG")
        found.append(file.getvalue())
    return found


@contextmanager
def served(run: Path) -> Iterator[tuple[int, int]]:
    """A server; its port and the number of its process."""
    command = [sys.executable, "-m", "astseg", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield int(line.partition("127.0.0.1:")[2].partition("/")[0]), process.pid
        finally:
            process.terminate()


def send(port: int, files: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds of each request of so many clients."""
    taken: list[float] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\ncontent-disposition: form-data; name="pictures"; filename="a.png"\r\n\r\n'
        while time.monotonic() < end:
            number += 1
            start = time.perf_counter()
            connection.request("POST", "/segment", head + files[number % len(files)] + b"\r\n--b--\r\n", headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            taken.append(time.perf_counter() - start)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def loop(run: Path, files: list[bytes], seconds: float) -> list[float]:
    """Seconds of each picture without a server."""
    segmenter = Segmenter.from_pretrained(run, "cpu")
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        image = decoded(files[len(taken) % len(files)], "a.png", pixels=10**7)
        answer_of("a.png", segmenter.predict(image, layers=False), ["labels"])
        taken.append(time.perf_counter() - start)
    return taken


def figures(taken: list[float], seconds: float) -> list[float]:
    """Pictures a second, and milliseconds that half of them and 99 of 100 took at most."""
    return [len(taken) / seconds, *(1000 * float(np.quantile(taken, share)) for share in (0.5, 0.99))]


def soak(port: int, process: int, files: list[bytes], minutes: float) -> None:
    """Print the memory of the server, once a tenth of the time."""
    for part in range(11):
        if part:
            send(port, files, 8, 60 * minutes / 10)
        status = Path(f"/proc/{process}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1e3
        print(f"after {part * minutes / 10:.1f} minutes: {resident:.0f} MB", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "2"))))
    main()
