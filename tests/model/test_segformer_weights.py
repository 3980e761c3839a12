"""Pretrained weights by hub id and by folder: a hub on this machine, served over HTTP, and what it answers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from astseg.cli import main

COMMIT = "0" * 40
PROGRAM = """
import sys
import torch
from astseg.model.backbones.segformer import Segformer
from astseg.errors import UserError
for weights in sys.argv[1:]:
    try:
        body = Segformer("b0", out_channels=5, weights=weights).complete_model.segformer
        print("loaded", weights, body.stages[0].layer_norm.weight.sum().item())
    except UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Segformer of size b0 with random values, as transformers saves it."""
    import transformers

    folder = tmp_path_factory.mktemp("weights") / "mit-b0"
    torch.manual_seed(0)
    model = transformers.SegformerModel(transformers.SegformerConfig())
    torch.nn.init.normal_(model.stages[0].layer_norm.weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub(checkpoint: Path) -> Iterator[str]:
    """A hub that has nvidia/mit-b0, keeps nvidia/gated behind a licence and knows nothing else; its address."""

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
            file = checkpoint / path.rpartition("/")[2]
            if path.startswith("nvidia/gated"):
                self.answer(403, X_Error_Code="GatedRepo")
            elif not path.startswith("nvidia/mit-b0"):
                self.answer(404, X_Error_Code="RepoNotFound")
            elif "/resolve/" not in path:
                self.answer(200, json.dumps({"id": "nvidia/mit-b0", "sha": COMMIT, "siblings": []}).encode())
            elif file.is_file():
                self.answer(200, file.read_bytes(), ETag=f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"')
            else:
                self.answer(404, X_Error_Code="EntryNotFound")

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(home: Path, *weights: str, **environment: str) -> list[str]:
    """What comes of asking for weights, a line each; the hub's address is settled when its package is imported."""
    variables = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    command = [sys.executable, "-c", PROGRAM, *weights]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout.splitlines()


def test_weights_by_hub_id(hub: str, checkpoint: Path, tmp_path: Path) -> None:
    """Fetched once, they are there without a connection; every failure is one line that says what to do."""
    gated, unknown, loaded = ask(tmp_path, "nvidia/gated", "nvidia/unknown", "nvidia/mit-b0", HF_ENDPOINT=hub)
    assert gated.startswith("backbone weights 'nvidia/gated' are gated: accept their licence at https://")
    assert "hf auth login" in gated
    assert unknown.startswith("backbone weights 'nvidia/unknown' are not on the hub, or private: check the name")
    expected = load_file(checkpoint / "model.safetensors")["encoder.layer_norm.0.weight"].sum().item()
    assert loaded.startswith("loaded nvidia/mit-b0 ")
    assert float(loaded.split()[-1]) == pytest.approx(expected)

    cached, missing = ask(tmp_path, "nvidia/mit-b0", "nvidia/mit-b3", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert cached == loaded
    assert missing.startswith("backbone weights 'nvidia/mit-b3' cannot be fetched, since the hub does not answer")
    assert "give a folder that holds config.json and model.safetensors" in missing


def test_a_run_from_a_folder_prints_the_licence_once_and_keeps_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(f"scenes {tmp_path}/desk --count 4 --size 32 --processes 1".split()) == 0
    settings = {
        "model": {"image_size": [32, 36], "slots": 6, "backbone_weights": str(checkpoint)},
        "background": {"steps": 1, "batch": 2},
        "objects": {"steps": 2, "frozen_steps": 1, "batch": 2, "scenario": "curriculum"},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    capsys.readouterr()
    words = f"train {tmp_path}/desk --out {tmp_path}/run --preset clevr-ct-b0 --config {tmp_path}/settings.json"
    assert main.run(words.split()) == 0
    assert capsys.readouterr().out.count("not for commercial use") == 1
    assert (tmp_path / "run" / "README.md").read_text().count("not for commercial use") == 1
