"""Preparing caches: whole or not there, resumable, and the same scenes as the source."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from astseg.data import cache, fingerprint, load_scenes, open_source, select, source_hash
from astseg.data.cache import prepare
from astseg.data.open import Reading
from astseg.data.sources.cached import CachedSource, StoredRows
from astseg.errors import UserError

HEIGHT, WIDTH, COUNT = 20, 28, 23
GENERATOR = np.random.default_rng(4)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(
        tmp_path / "scenes.npz",
        images=GENERATOR.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3)).astype(np.uint8),
        masks=GENERATOR.integers(0, 5, (COUNT, HEIGHT, WIDTH)),
        split=np.arange(COUNT) % 3 == 1,
        names=np.array([f"scene {index}" for index in range(COUNT)]),
    )
    return tmp_path / "scenes.npz"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PART_BYTES", 5 * 12 * 16 * 4)


SIZE = (12, 16)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cache_holds_what_the_source_gives(archive: Path, tmp_path: Path, processes: int) -> None:
    seen: list[tuple[int, int]] = []
    made = prepare(archive, tmp_path / "cache", size=SIZE, processes=processes, progress=lambda *two: seen.append(two))
    direct = load_scenes(archive, size=SIZE)
    found = open_source(tmp_path / "cache")
    assert isinstance(found, CachedSource) and found.name == "cache of .npz arrays"
    assert (len(found), found.has_labels, found.size, found.highest_label) == (COUNT, True, SIZE, 4)
    assert [found.scene_name(index) for index in (0, 4, 5, 22)] == ["scene 0", "scene 4", "scene 5", "scene 22"]
    for memory in (2**30, 0):
        cached = load_scenes(tmp_path / "cache", size=SIZE, memory=memory)
        assert isinstance(cached.images, np.ndarray) == bool(memory)
        np.testing.assert_array_equal(cached.images[:], direct.images[:])
        assert cached.labels is not None and direct.labels is not None
        np.testing.assert_array_equal(cached.labels[:], direct.labels[:])
        assert list(cached.names) == list(direct.names)
        assert fingerprint(cached) == fingerprint(direct)
    assert seen == sorted(seen) and seen[-1] == (COUNT, COUNT) and len(seen) >= 5
    files = {"images.npy", "labels.npy", "scenes.npy", "manifest.json"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == files
    assert np.load(tmp_path / "cache" / "images.npy", mmap_mode="r").shape == (COUNT, *SIZE, 3)
    assert not made.verify()


def test_the_manifest_tells_what_was_done(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "cache", size=SIZE, crop=0.5, selection="3:20")
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["count"] == 17 and manifest["source"]["path"] == str(archive.resolve())
    assert manifest["preprocessing"] == {"size": [12, 16], "resize": "crop", "crop": 0.5}
    assert manifest["source"]["selection"] == "3:20" and manifest["splits"] == ["train", "val", "test"]
    assert {name: len(digest) for name, digest in manifest["sha256"].items()} == dict.fromkeys(
        ("images.npy", "labels.npy", "scenes.npy"), 64
    )
    np.testing.assert_array_equal(
        load_scenes(tmp_path / "cache", size=None).images[:],
        load_scenes(archive, size=SIZE, crop=0.5, selection="3:20").images[:],
    )


def test_splits_and_their_hashes_are_those_of_the_source(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "all", size=SIZE)
    prepare(archive, tmp_path / "train", size=SIZE, selection="train")
    source, whole, part = (open_source(path) for path in (archive, tmp_path / "all", tmp_path / "train"))
    for name in ("train", "val", "test"):
        assert select(whole, name) == select(source, name)
        assert source_hash(whole, select(whole, name)) == source_hash(source, select(source, name))
    assert select(part, "train") == list(range(15))
    assert source_hash(part, select(part, "all")) == source_hash(source, select(source, "train"))
    for memory in (0, 2**30):
        cached = load_scenes(tmp_path / "all", size=SIZE, selection="test", memory=memory)
        np.testing.assert_array_equal(cached.images[:], load_scenes(archive, size=SIZE, selection="test").images[:])
        assert list(cached.names) == [f"scene {index}" for index in range(1, COUNT, 3)]


def test_broken_scenes_are_all_named_and_what_is_whole_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for index in range(12):
        image = GENERATOR.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    whole = [(tmp_path / f"{index}.png").read_bytes() for index in range(12)]
    for index in (6, 11):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    out = tmp_path.with_name(tmp_path.name + "-cache")
    with pytest.raises(UserError, match=r"2 problems in .*'6.png' is not a complete picture.*'11.png'"):
        prepare(tmp_path, out, size=SIZE)
    with pytest.raises(UserError, match="is a cache that is not finished: run the same astseg prepare again"):
        open_source(out)
    assert (out / "part-00000000.json").is_file() and not (out / "part-00000005.json").exists()
    for index in (6, 11):
        (tmp_path / f"{index}.png").write_bytes(whole[index])
    read = []
    fitted = cache.fitted
    monkeypatch.setattr(
        cache, "fitted", lambda source, index, *rest, **more: read.append(index) or fitted(source, index, *rest, **more)
    )
    prepare(tmp_path, out, size=SIZE)
    assert read == list(range(5, 12))  # the first part is not read again
    np.testing.assert_array_equal(load_scenes(out, size=SIZE).images[:], load_scenes(tmp_path, size=SIZE).images[:])


def test_the_same_call_again_does_nothing_and_another_is_refused(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    prepare(archive, out, size=SIZE)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(prepare(archive, out, size=SIZE)) == COUNT
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    for options in ({"size": (12, 18)}, {"selection": ":3"}, {"resize": "letterbox"}, {"crop": 0.5}):
        with pytest.raises(UserError, match="holds a cache with other"):
            prepare(archive, out, **{"size": SIZE, **options})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds something else than a cache"):
        prepare(archive, tmp_path, size=SIZE)
    with pytest.raises(UserError, match="is a cache already"):
        prepare(out, tmp_path / "more")
    for options, told in (
        ({"size": (0, 4)}, "size is"),
        ({"crop": 2.0}, "crop is"),
        ({"processes": 0}, "processes is"),
    ):
        with pytest.raises(UserError, match=told):
            prepare(archive, tmp_path / "new", **options)  # type: ignore[arg-type]


def test_sizes_that_nobody_asked_for(rooms_file: Path, archive: Path, tmp_path: Path) -> None:
    assert prepare(rooms_file, tmp_path / "rooms").size == (64, 64)
    assert prepare(archive, tmp_path / "own", selection=":2").size == (HEIGHT, WIDTH)
    np.savez(tmp_path / "wide.npz", images=np.zeros((1, 20, 129, 3), np.uint8))
    assert prepare(tmp_path / "wide.npz", tmp_path / "wide").size == (128, 128)
    found = open_source(tmp_path / "rooms")
    assert found.benchmark is not None and found.benchmark == open_source(rooms_file).benchmark
    np.testing.assert_array_equal(found.read(7)[0], open_source(rooms_file).read(7)[0])


def test_caches_of_forward_sources_do_not_depend_on_the_processes(rooms_file: Path, tmp_path: Path) -> None:
    one, two = (prepare(rooms_file, tmp_path / str(n), size=SIZE, processes=n) for n in (1, 2))
    np.testing.assert_array_equal(one.images[:], two.images[:])


def test_what_a_cache_is_asked_for(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "cache", size=SIZE)
    with pytest.raises(UserError, match="was cropped when it was prepared, expected no crop"):
        load_scenes(tmp_path / "cache", size=SIZE, crop=0.8)
    assert load_scenes(tmp_path / "cache", size=(6, 8)).images.shape == (COUNT, 6, 8, 3)
    with pytest.raises(UserError, match=r"label 4 in 'scene [0-9]+' is above the 3 slots"):
        load_scenes(tmp_path / "cache", size=SIZE, max_label=3)
    assert len(load_scenes(tmp_path / "cache", size=SIZE, max_label=4)) == COUNT


def test_damaged_caches(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    prepare(archive, out, size=SIZE)
    manifest = (out / "manifest.json").read_text()
    for name in ("labels.npy", "scenes.npy"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        found = open_source(out)
        assert isinstance(found, CachedSource)
        assert found.verify() == [f"'{name}' does not have the SHA-256 of the manifest: prepare the cache again"]
        (out / name).write_bytes(data)
    assert not found.verify()
    data = (out / "labels.npy").read_bytes()
    (out / "labels.npy").write_bytes(data[:-700])
    with pytest.raises(UserError, match=r"labels.npy' cannot be read .*: prepare the cache again"):
        open_source(out)
    np.save(out / "labels.npy", np.zeros((COUNT, 2, 2), np.uint8))
    with pytest.raises(UserError, match="labels.npy' is not as large as its manifest says"):
        open_source(out)
    (out / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"labels.npy' cannot be read \(No such file"):
        open_source(out)
    for text, message in [
        ("{", "is broken"),
        (manifest.replace('"format": 2', '"format": 9'), "is a cache made by another version of astseg: prepare it"),
        (manifest.replace('"format": 2', '"format": 1'), "is a cache made by an earlier version of astseg: prepare it"),
        (manifest.replace('"splits"', '"slits"'), "is broken"),
    ]:
        (out / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_source(out)


def test_rows_that_are_read_when_they_are_indexed(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "cache", size=SIZE)
    found = load_scenes(tmp_path / "cache", size=SIZE, memory=0).images
    assert isinstance(found, StoredRows)
    expected = load_scenes(archive, size=SIZE).images
    slices = [slice(3, 17, 4), slice(None, None, -5), slice(9, 3)]
    for key in (0, -1, np.int64(7), *slices, [22, 0, 5, 5], np.array([4, 9])):
        assert type(found[key]) is np.ndarray and found[key].flags.writeable
        np.testing.assert_array_equal(found[key], expected[key])
    some = load_scenes(tmp_path / "cache", size=SIZE, selection="20:2:-3", memory=0).images
    np.testing.assert_array_equal(some[1:3], expected[[17, 14]])
    assert some.shape == (6, *SIZE, 3)
    with pytest.raises(IndexError):
        found[COUNT]


def test_a_full_disk_is_one_line(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            prepare(archive, tmp_path / "cache", size=SIZE)
    assert not prepare(archive, tmp_path / "cache", size=SIZE).verify()


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """A process is killed while it writes; the same call then finishes the cache."""
    np.savez(tmp_path / "a.npz", images=GENERATOR.integers(0, 256, (400, 40, 40, 3)).astype(np.uint8))
    program = (
        "from astseg.data import cache; cache.PART_BYTES = 100_000\n"
        f"cache.prepare({str(tmp_path / 'a.npz')!r}, {str(tmp_path / 'cache')!r}, size=(36, 44))"
    )
    running = subprocess.Popen([sys.executable, "-c", program])
    while not (tmp_path / "cache" / "part-00000030.json").exists() and running.poll() is None:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    if not (tmp_path / "cache" / "manifest.json").exists():
        with pytest.raises(UserError, match="not finished"):
            open_source(tmp_path / "cache")
    subprocess.run([sys.executable, "-c", program], check=True)
    found = load_scenes(tmp_path / "cache", size=None)
    np.testing.assert_array_equal(found.images[:], load_scenes(tmp_path / "a.npz", size=(36, 44)).images[:])


def test_reading_options_are_part_of_the_plan(archive: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "cache", size=SIZE, reading=Reading(stride=2))
    with pytest.raises(UserError, match="with other source"):
        prepare(archive, tmp_path / "cache", size=SIZE)
