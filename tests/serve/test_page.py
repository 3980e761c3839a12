"""The page in a real browser: every button, by mouse and by keys, with nothing on its console."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astseg.inference.segmenter import Segmenter
from astseg.runs.folder import RunFolder
from astseg.serve.watch import WatchedRuns
from serve.conftest import Serving

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(params=["wide and light", "phone and dark"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """An empty tab, of which nothing may come on the console."""
    phone = request.param.startswith("phone")
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    context = browser.new_context(viewport=size, has_touch=phone, color_scheme="dark" if phone else "light")
    page = context.new_page()
    page.set_default_timeout(20_000)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    yield page
    refused = "Failed to load resource: the server responded with a status of 4"  # the browser's own words
    assert [line for line in told if not line.startswith(refused)] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    context.close()


@pytest.fixture(scope="module")
def address(serving: Serving, segmenter: Segmenter, spread_run: Path) -> Iterator[str]:
    with serving(segmenter=segmenter, runs=WatchedRuns(spread_run)) as server:
        yield server


def files(count: int) -> list[dict[str, Any]]:
    found = []
    for seed in range(count):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 48, 3)).astype(np.uint8)).save(file, "PNG")
        found.append({"name": f"{seed}.png", "mimeType": "image/png", "buffer": file.getvalue()})
    return found


def pixels(page: Any, canvas: str) -> bytes:
    """What a canvas shows, as far as it tells one drawing from another."""
    return bytes(page.locator(canvas).evaluate("canvas => canvas.toDataURL()"), "ascii")


def changes(page: Any, canvas: str, before: bytes) -> bytes:
    """Wait until a canvas shows something else."""
    for _ in range(200):
        now = pixels(page, canvas)
        if now != before:
            return now
        page.wait_for_timeout(50)
    raise AssertionError(f"{canvas} stays as it was")


def saved(page: Any, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def test_try(page: Any, address: str) -> None:
    page.goto(address)
    page.set_input_files("#files", files(3))
    page.locator("#try-strip img").nth(2).wait_for()
    assert [image.get_attribute("alt") for image in page.locator("#try-strip img").all()] == ["0.png", "1.png", "2.png"]
    seen = pixels(page, "#view")
    for view in ("Masks", "Boxes", "Background", "Layers", "Attention", "Outlines"):
        page.click(f"#views label:has-text('{view}')")
        seen = changes(page, "#view", seen)
    page.keyboard.press("ArrowRight")  # the views are a group of radio buttons
    seen = changes(page, "#view", seen)
    page.locator("#objects button").nth(1).click()
    seen = changes(page, "#view", seen)
    page.locator("#try-strip button").nth(1).click()
    seen = changes(page, "#view", seen)
    assert Image.open(io.BytesIO(saved(page, "#save-view"))).size == (768, 512)
    assert Image.open(io.BytesIO(saved(page, "#save-labels"))).size == (48, 32)
    assert len(json.loads(saved(page, "#save-coco"))["images"]) == 3
    assert saved(page, "#save-csv").startswith(b"file,id,")
    page.set_input_files("#more", [*files(1), {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}])
    page.locator("#status:has-text(\"'bad.png' is no picture\")").wait_for()
    page.locator("#try-strip img").nth(3).wait_for()
    page.click("#clear")
    page.locator("#drop").wait_for()


def test_pictures_are_dropped_and_pasted(page: Any, address: str) -> None:
    page.goto(address)
    page.locator("#drop").wait_for()
    give = """([bytes, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], `${name}.png`, {type: "image/png"}));
        const settings = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
        document.dispatchEvent(name === "drop" ? new DragEvent(name, settings) : new ClipboardEvent(name, settings));
    }"""
    for count, name in enumerate(("drop", "paste"), start=1):
        page.evaluate(give, [list(files(1)[0]["buffer"]), name])
        page.locator("#tried").wait_for()
        page.locator("#try-strip img").nth(count - 1).wait_for(state="attached")


def scene_of(page: Any) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(saved(page, "#save-scene"))["objects"]
    return objects


@pytest.mark.parametrize("page", ["wide and light"], indirect=True)
def test_edit(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}#edit")
    page.locator("#no-scene").wait_for()
    page.click("nav >> text=Try")
    page.set_input_files("#files", files(2))
    page.locator("#try-strip img").nth(1).wait_for()
    page.click("nav >> text=Edit")
    page.locator("#scene-view[aria-label]").wait_for()  # it is drawn
    seen = pixels(page, "#scene-view")
    begun = scene_of(page)
    assert len(begun) >= 2
    page.press("#scene-view", "n")
    seen = changes(page, "#scene-view", seen)

    page.keyboard.press("ArrowRight")
    seen = changes(page, "#scene-view", seen)
    assert scene_of(page)[0]["position"][0] > begun[0]["position"][0]
    page.press("#scene-view", "+")
    assert scene_of(page)[0]["scale"][0] < begun[0]["scale"][0]
    for _ in range(2):
        page.click("#tool-undo")
    assert scene_of(page) == begun
    page.click("#tool-redo")
    assert scene_of(page) != begun
    page.click("#tool-reset")
    assert scene_of(page) == begun

    page.press("#scene-view", "n")
    page.click("#tool-duplicate")
    assert len(scene_of(page)) == len(begun) + 1
    page.click("#tool-delete")
    assert scene_of(page) == begun
    page.press("#scene-view", "n")
    page.click("#tool-back")
    assert scene_of(page)[0]["activation"] == min(one["activation"] for one in scene_of(page))
    page.click("#tool-front")
    assert scene_of(page)[0]["activation"] == max(one["activation"] for one in scene_of(page))
    page.click("#tool-copy")
    page.locator("#edit-strip button").nth(1).click()
    count = len(scene_of(page))
    page.click("#tool-paste")
    assert scene_of(page)[count]["appearance"] == begun[0]["appearance"]
    assert Image.open(io.BytesIO(saved(page, "#save-picture"))).size == (48, 32)
    page.click("#tool-empty")
    assert scene_of(page) == []

    (tmp_path / "one_scene.json").write_text("{}")
    page.set_input_files("#open-other", tmp_path / "one_scene.json")
    page.locator("#status.wrong").wait_for()


@pytest.mark.parametrize("page", ["wide and light"], indirect=True)
def test_objects_are_dragged_scaled_and_swapped(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(address)
    page.set_input_files("#files", files(1))
    page.locator("#tried").wait_for()
    page.click("nav >> text=Edit")
    page.locator("#scene-view[aria-label]").wait_for()
    scene = json.loads(saved(page, "#save-scene"))
    ours = [{**one, "scale": [3, 3], "activation": 40.0} for one in scene["objects"][:2]]
    ours[0]["position"], ours[1]["position"] = [-0.5, 0], [0.5, 0]
    (tmp_path / "one_scene.json").write_text(json.dumps({**scene, "objects": ours}))
    before = pixels(page, "#scene-view")
    page.set_input_files("#open-other", tmp_path / "one_scene.json")
    seen = changes(page, "#scene-view", before)
    page.locator("#scene-view").scroll_into_view_if_needed()
    box = page.locator("#scene-view").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + (x + 1) / 2 * box["width"], box["y"] + (y + 1) / 2 * box["height"]

    page.mouse.click(*at(-0.5, 0))
    seen = changes(page, "#scene-view", seen)
    page.mouse.wheel(0, -100)
    seen = changes(page, "#scene-view", seen)
    page.mouse.move(*at(-0.5, 0))
    page.mouse.down()
    page.mouse.move(*at(-0.5, 0.3), steps=4)
    page.mouse.up()
    page.click("#tool-swap")
    page.mouse.click(*at(0.5, 0))
    now = scene_of(page)
    assert now[0]["position"] == pytest.approx([-0.5, 0.3], abs=0.02)
    assert now[0]["scale"][0] == pytest.approx(3 / 1.1)
    assert [one["appearance"] for one in now] == [ours[1]["appearance"], ours[0]["appearance"]]


def test_watch(page: Any, address: str, spread_run: Path) -> None:
    run = RunFolder(spread_run)
    lines = [{"phase": "background", "step": n, "seconds": n, "reconstruction": 1 / n} for n in (10, 20)]
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        page.goto(f"{address}#watch")
        page.locator("#charts svg").wait_for()
        assert page.inner_text("#run-name") == "rooms"
        assert "step 20" in page.inner_text("#run-state")
        lines.append({"phase": "background", "step": 30, "seconds": 30, "reconstruction": 1.0})
        run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        page.locator("#run-state:has-text('step 30')").wait_for()  # without a click
        assert not page.is_visible("#stop")
        assert page.is_visible("#go-on")
    finally:
        run.log_path.unlink()


def test_the_token_is_asked_for(browser: Any, serving: Serving, segmenter: Segmenter) -> None:
    with serving(segmenter=segmenter, token="secret123") as server:
        page = browser.new_page()
        page.goto(server)
        page.locator("#token").wait_for()
        assert not page.is_visible("nav")  # what cannot be used yet
        page.fill("#token", "secret123")
        page.click("text=Go on")
        page.locator("#drop").wait_for()
        page.context.clear_cookies()
        page.goto(f"{server}/?again#token=secret123")
        page.locator("#drop").wait_for()
        assert "secret" not in page.url
        page.close()
