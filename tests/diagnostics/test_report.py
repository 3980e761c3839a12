"""The page about a run: whole, safe, and looked at in a real browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from astseg.cli import main
from astseg.config import BackgroundConfig, Config, ModelConfig, ObjectsConfig
from astseg.data.synthetic.generate import write_scenes
from astseg.diagnostics.report.charts import curves, histogram, ticks
from astseg.diagnostics.report.page import marked_options
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
MODEL = ModelConfig(
    image_size=(20, 28), slots=3, appearance=5, backbone="cnn", refinement="residual", transformer_width=16,
    transformer_heads=2, transformer_layers=1, transformer_feedforward=12, background_width="small",
    background_form="fixed",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as a training leaves it, with a name that needs escaping, and its page."""
    place = tmp_path_factory.mktemp("report")
    write_scenes(place / "desk", "desk", count=10, size=32, seed=2, processes=1)
    torch.manual_seed(0)
    model = build(MODEL)
    with torch.no_grad():  # objects come to the front, large
        model.renderer.background_log_activation.fill_(-4)
        model.encoder.refinement.projection.bias[2:4] = -4  # type: ignore[union-attr,index,operator]
    run = RunFolder(place / "<b>run & co")
    config = Config(model=MODEL, background=BackgroundConfig(steps=30), objects=ObjectsConfig(steps=40))
    run.save_config(config, RunInfo("small", seed=3, data=str(place / "desk")))
    run.save_weights(model)
    lines = [{"phase": "background", "step": n, "seconds": n / 5, "reconstruction": 1 / n} for n in range(10, 40, 10)]
    lines += [{"phase": "objects", "step": n, "seconds": n / 3, "reconstruction": 2 / n, "miou": 0.1} for n in (10, 20)]
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "obj')  # cut off by a kill
    row = {"name": "slots", "value": "3", "reason": "as you say", "option": "--model.slots"}
    (run.path / "fit.json").write_text(json.dumps({"plan": [row], "data": {"background": "one, in one light"}}))
    assert main.run(["report", str(run.path)]) == 0
    return run.path


class Reader(HTMLParser):
    """Every address and every heading of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_asks_for_nothing(run: Path) -> None:
    page = (run / "report.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert len(reader.addresses) > 8 * 5
    assert all(address.startswith("data:") for address in reader.addresses)
    assert "http" not in page
    assert "url(" not in page
    text = " ".join(reader.text)
    for heading in ("Is it working?", "Held against true masks", "What it learnt", "Learning curves", "Worst pictures"):
        assert heading in text
    assert "<b>run & co" in text  # escaped, or it would be a tag
    assert "slots used" in text
    assert "--model.slots" in text
    assert page.count("<polyline") == 3  # two phases, and mIoU
    assert json.loads((run / "health.json").read_text())["images"] == 10


def test_without_labels_nothing_is_held_against_them(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "own").mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(noise.integers(0, 255, (20, 28, 3)).astype(np.uint8)).save(tmp_path / "own" / f"{number}.png")
    shutil.copytree(run, tmp_path / "run")
    assert main.run(["report", str(tmp_path / "run"), str(tmp_path / "own")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Held against true masks" not in page
    assert "true masks" not in page


def test_a_run_without_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "run").save_config(Config(model=MODEL), RunInfo("small", data="data"))
    assert main.run(["report", str(tmp_path / "run")]) == 2
    assert "has not saved any weights yet" in capsys.readouterr().err


def test_curves_by_hand() -> None:
    svg = curves({"a<b": [(0, 1.0), (1, 10.0), (2, 100.0)]}, title="t", across="minutes", logarithmic=True)
    first, middle, last = re.search(r'points="([^"]+)"', svg)[1].split()  # type: ignore[index]
    assert [float(point.split(",")[0]) for point in (first, middle, last)] == [46, 198, 350]
    heights = [float(point.split(",")[1]) for point in (first, middle, last)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert "a&lt;b" in svg
    assert curves({"a": [(0, 1.0)]}, title="t", across="x") == ""
    assert curves({"a": [(0, float("nan")), (1, -1.0)]}, title="t", across="x", logarithmic=True) == ""
    long = curves({"a": [(n, 1.0) for n in range(5000)]}, title="t", across="x")
    assert len(re.search(r'points="([^"]+)"', long)[1].split()) <= 240  # type: ignore[index]


def test_histograms_by_hand() -> None:
    svg = histogram(np.array([0.0, 2.0, 2.0, np.nan]), title="t", across="slots", whole=True)
    assert re.findall(r"<title>(\d: \d)</title>", svg) == ["0: 1", "1: 0", "2: 2"]
    assert histogram(np.array([np.nan]), title="t", across="x") == ""
    assert "<rect" in histogram(np.zeros(4), title="t", across="x")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7.3), (-3, 250), (0.001, 0.0034)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert low <= min(marks) <= max(marks) <= high + 1e-9


def test_options_are_set_as_code() -> None:
    assert str(marked_options("give <more> --minutes, or --model.slots 9")) == (
        "give &lt;more&gt; <code>--minutes</code>, or <code>--model.slots 9</code>"
    )


# In a browser ----------------------------------------------------------------------------------------------------

PROBE = """
<script>
const seen = [];
addEventListener("error", event => seen.push(event.message || event.target.tagName), true);
addEventListener("load", () => {
  const channels = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const shares = [.2126, .7152, .0722];
  const light = text => channels(text).reduce((sum, one, i) => sum + (one / 255) ** 2.2 * shares[i], 0);
  const back = node => { for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour; } return "rgb(255, 255, 255)"; };
  const contrast = node => { const [a, b] = [light(getComputedStyle(node).color), light(back(node))].sort();
    return (b + .05) / (a + .05); };
  const texts = [...document.querySelectorAll("h1, h2, h3, p, li, b, span, td, th, figcaption, pre, code, summary")];
  const result = {
    errors: seen,
    images: document.images.length,
    broken: [...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length,
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    contrast: Math.min(...texts.filter(node => node.textContent.trim()).map(contrast)),
    paper: light(getComputedStyle(document.body).backgroundColor),
    charts: [...document.querySelectorAll("svg")].filter(chart => chart.getBoundingClientRect().height > 60).length,
    requests: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:")),
  };
  const told = document.createElement("output");
  told.id = "probe";
  told.textContent = JSON.stringify(result);
  document.body.append(told);
}, {once: true});
</script>
"""


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> Iterator[str]:
    """Colours that the browser asks for."""
    yield request.param


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(run: Path, tmp_path: Path, scheme: str, width: int) -> None:
    assert CHROMIUM is not None
    page = (run / "report.html").read_text()
    # Headless windows have a smallest width, so that a phone is a frame of its width.
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{PROBE}", 1))
    frame = f'<iframe src="page.html" style="border:0;width:{width}px;height:800px"></iframe>'
    relay = (
        "<script>addEventListener('load', () => setTimeout(() => {"
        " const inside = frames[0].document.getElementById('probe').textContent;"
        " document.body.innerHTML = '<pre id=result></pre>';"
        " document.getElementById('result').textContent = inside; }, 300));</script>"
    )
    (tmp_path / "frame.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}{relay}")
    words = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path}/profile", "--allow-file-access-from-files"]
    words += [
        "--virtual-time-budget=5000",
        f"--window-size={max(width, 500)},900",
        "--dump-dom",
        "--enable-logging=stderr",
    ]
    words += ["--force-dark-mode"] if scheme == "dark" else []
    told = subprocess.run(
        [*words, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', told.stdout, re.DOTALL)
    assert found is not None, told.stdout[-2000:]
    result = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    console = [line for line in told.stderr.splitlines() if "CONSOLE" in line]
    assert result["errors"] == []
    assert console == []
    assert result["images"] > 40
    assert result["broken"] == 0
    assert result["requests"] == []
    assert result["width"] == width
    assert result["overflow"] <= 0
    assert result["charts"] >= 5
    assert result["contrast"] > 4.5  # WCAG AA
    assert (result["paper"] < 0.1) == (scheme == "dark")
