"""Whatever is handed over: one clear line, exit code 2 (or 3: the rest was done), nothing half-made.

Each case prepares its files in a folder of its own and gives a command; ``OUT`` stands for a place that must not exist
afterwards. Everything else in the folder must be as the case left it. What the parser itself refuses is in
``test_arguments.py``.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from astseg.cli import main
from astseg.runs.lock import LOCK_NAME, FolderLock
from tiny import MODEL_SETTINGS

SETTINGS: dict[str, Any] = {
    "model": MODEL_SETTINGS,
    "background": {"steps": 2, "batch": 4},
    "objects": {
        "steps": 2,
        "frozen_steps": 1,
        "batch": 2,
        "pseudo_label_steps": 0,
        "pseudo_label_weight": 0.0,
        "parsimony_weight": 0.0,
    },
}


class Owned:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG file of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def encoded(image: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form)
    return buffer.getvalue()


def saved(values: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """What a case works with.

    Attributes:
        shared: Scenes, settings and a trained run, for reading only.
        here: The folder of the case.
        guards: What lasts until the command has ended: rights, limits, locks.
    """

    shared: Path
    here: Path
    guards: contextlib.ExitStack
    read_only: Any
    limited_files: Any
    limited_memory: Any

    # Commands

    def train(self, data: object = None, *more: object) -> list[str]:
        """``astseg train`` with tiny settings."""
        data = self.shared / "desk" if data is None else data
        return ["train", str(data), "--out", "OUT", "--config", str(self.shared / "tiny.json"), *map(str, more)]

    def segment(self, data: object = None, run: object = None, out: object = "OUT") -> list[str]:
        data = self.shared / "picture.png" if data is None else data
        return ["segment", str(self.shared / "run" if run is None else run), str(data), "--out", str(out)]

    def config(self, file: object) -> list[str]:
        return ["train", str(self.shared / "desk"), "--out", "OUT", "--config", str(file)]

    def train_in(self, out: Path) -> list[str]:
        return [word.replace("OUT", str(out)) for word in self.train()]

    def evaluate(self, *more: object) -> list[str]:
        return ["evaluate", str(self.here / "run"), str(self.shared / "desk"), *map(str, more)]

    # What they are given

    def guarded(self, path: Path, command: list[str], mode: int = 0o555) -> list[str]:
        """The command, without the rights to the path."""
        self.guards.enter_context(self.read_only(path, mode))
        return command

    def file(self, content: bytes | str = b"", name: str = "a.yaml") -> Path:
        (self.here / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self.here / name

    def pictures(self, *names: str) -> Path:
        """A folder of good pictures."""
        folder = self.here / "pictures"
        folder.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(self.shared / "picture.png", folder / name)
        return folder

    def broken(self, content: bytes, name: str = "b.png") -> Path:
        """A folder of a good picture and a broken one."""
        folder = self.pictures("a.png")
        Path(os.fsdecode(bytes(folder) + b"/" + os.fsencode(name))).write_bytes(content)
        return folder

    def linked(self, target: str) -> Path:
        """A folder of a good picture and a link."""
        (self.pictures("a.png") / "b.png").symlink_to(target)
        return self.here / "pictures"

    def run(self) -> Path:
        """A copy of the trained run."""
        return Path(shutil.copytree(self.shared / "run", self.here / "run"))

    def changed_config(self, **changes: Any) -> list[str]:
        """``astseg segment`` with a run whose configuration was changed."""
        file = self.run() / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return self.segment(run=self.here / "run")

    def other_config(self, text: str) -> list[str]:
        (self.run() / "config.json").write_text(text)
        return self.segment(run=self.here / "run")

    def weights(self, content: bytes | None) -> list[str]:
        """``astseg segment`` with a run that has other weights."""
        file = self.run() / "model.safetensors"
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        return self.segment(run=self.here / "run")

    @property
    def good_weights(self) -> bytes:
        return (self.shared / "run" / "model.safetensors").read_bytes()

    def desk(self, change: Callable[[Path], object]) -> list[str]:
        """``astseg train`` with a copy of the scenes, one of whose masks is changed."""
        data = Path(shutil.copytree(self.shared / "desk", self.here / "desk"))
        change(data / "desk_full" / "0" / "DESK_full_000004_flat.png")
        return self.train(data)

    def arrays(self, **values: Any) -> list[str]:
        with contextlib.suppress(ValueError):
            np.savez(self.here / "a.npz", **values)
        return self.train(self.here / "a.npz")

    def coco(self, file_name: str, segmentation: Any = None) -> list[str]:
        images = [{"id": 1, "file_name": file_name, "height": 24, "width": 36}]
        annotations = [{"image_id": 1, "segmentation": segmentation}] if segmentation is not None else []
        file = self.pictures("a.png") / "a.json"
        file.write_text(json.dumps({"images": images, "annotations": annotations}))
        return self.train(file)

    def cache(self, pattern: str, change: Callable[[bytes], bytes]) -> list[str]:
        """``astseg train`` with a cache, some of whose files are changed."""
        out = self.here / "cache"
        words = ["prepare", str(self.shared / "desk"), str(out), "--size", "20", "28", "--processes", "1"]
        assert main.run(words) == 0
        for file in out.rglob(pattern):
            file.write_bytes(change(file.read_bytes()))
        return self.train(out)

    def other_run(self, change: Callable[[Path], object]) -> list[str]:
        """``astseg train`` that goes on with a changed copy of the run."""
        change(self.run())
        return self.train_in(self.here / "run")

    def reference(self, content: bytes | None) -> list[str]:
        if content is not None:
            self.file(content, "a.pth")
        return ["import-reference", str(self.here / "a.pth"), "OUT"]


Prepare = Callable[[Place], list[str]]
CASES: dict[str, tuple[str, Prepare]] = {}

TRAIN = "train SHARED/desk --out OUT --config SHARED/tiny.json"

for _words, _message in {
    f"{TRAIN} --seed -1": "seed is -1, expected 0 to 4294967295",
    f"{TRAIN} --seed 4294967296": "seed is 4294967296, expected 0 to 4294967295",
    f"{TRAIN} --minutes 0": "minutes is 0, expected more than 0",
    f"{TRAIN} --minutes nan": "minutes is nan, expected more than 0",
    f"{TRAIN} --minutes inf": "minutes is inf, expected more than 0",
    f"{TRAIN} --steps 0": "steps is 0, expected at least 1",
    f"{TRAIN} --preset smal": "did you mean 'small'?",
    f"{TRAIN} --preset=clevr": "'clevr' is not a preset: did you mean 'clevr-",
    "presets clevrr-ct": "did you mean 'clevr-ct'?",
    f"{TRAIN} --split some": "use all, train, val, test or a slice",
    f"{TRAIN} --split 400:": "chooses none of the 6 scenes: choose at least one",
    f"{TRAIN} --split ::0": "has step 0: use a step of 1 or more",
    f"{TRAIN} --split {'9' * 5000}:": "selection '9999",
    f"{TRAIN} --crop 0": "crop is 0.0, expected a part of the short side",
    f"{TRAIN} --crop nan": "crop is nan, expected a part of the short side",
    f"{TRAIN} --stride 0": "stride is 0, expected at least 1",
    f"{TRAIN} --frames -2": "frames is -2, expected at least 1",
    f"{TRAIN} --model.slots 0": "slots is 0, expected at least 1",
    f"{TRAIN} --model.slots 300": "slots is 300",
    f"{TRAIN} --model.image-size 8 8": "model.image_size is (8, 8), expected at least 16",
    f"{TRAIN} --model.transformer-heads 3": "heads",
    f"{TRAIN} --model.dropout 1.5": "dropout is 1.5",
    f"{TRAIN} --model.backbone cn": "backbone is 'cn': did you mean 'cnn'?",
    f"{TRAIN} --model.backbone-weights a/b": "backbone cnn has none: leave them out",
    f"{TRAIN} --objects.precision float16": "objects.precision is 'float16': did you mean 'bfloat16'?",
    f"{TRAIN} --objects.learning-rate nan": "learning_rate' is nan, expected a number",
    f"{TRAIN} --objects.learning-rate -1": "learning_rate is -1",
    f"{TRAIN} --background.beta inf": "beta' is inf, expected a number",
    f"{TRAIN} --tensorboard --model.slots 0": "slots is 0",
    "train-background SHARED/desk --out OUT --steps -5": "steps is -5, expected at least 1",
    "segment SHARED/run SHARED/picture.png --out OUT --batch-size 0": "batch_size is 0",
    "evaluate SHARED/run SHARED/desk --batch-size 0": "batch_size is 0",
    "evaluate SHARED/run SHARED/desk --split 50:": "chooses none",
    "evaluate SHARED/run SHARED/run SHARED/desk": "a run is named twice",
    "scenes OUT --count 0": "count is 0: expected 1 or more scenes",
    "scenes OUT --size 3": "size",
    "scenes OUT --processes 0": "processes",
    "scenes OUT --seed -1": "seed",
    "demo --out OUT --scenes 0": "scenes is 0, expected at least 1",
    "demo --out OUT --test-scenes 0": "test_scenes is 0, expected at least 1",
    "demo --out OUT --minutes 0": "minutes is 0, expected more than 0",
    "demo --out OUT --steps 0": "steps is 0, expected at least 1",
    "demo --out OUT --seed -1": "seed is -1",
    "fit SHARED/desk --out OUT --preset clevr-ct": "use astseg train",
    "prepare SHARED/desk OUT --size 0 0": "size is (0, 0), expected 1 pixel or more a side",
    "train a\0b --out OUT": "a\\x00b' does not exist",
    f"train {'a' * 300} --out OUT": "File name too long",
    "train nothing --out OUT": "'nothing' does not exist",
    "train 図形/фото --out OUT": "'図形/фото' does not exist",
}.items():
    CASES[_words.replace(TRAIN, "train")[:50]] = (
        _message,
        lambda p, words=_words: words.replace("SHARED", str(p.shared)).split(),
    )  # type: ignore

LAUGHS = "".join(f", &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))

for _content, _message in {
    "model: {slotz: 3}": "'model.slotz' is not a setting: did you mean 'slots'?",
    "modle: {slots: 3}": "'modle' is not a setting: did you mean 'model'?",
    "model: 3": "model is 3, expected names and values",
    "model: {slots: 0}": "slots is 0, expected at least 1",
    "model: {slots: many}": "'model.slots' is 'many', expected a whole number",
    "model: {slots: true}": "'model.slots' is True, expected a whole number",
    "model: {slots: 2.5}": "'model.slots' is 2.5, expected a whole number",
    "objects: {learning_rate: .nan}": "'objects.learning_rate' is nan, expected a number",
    "objects: {learning_rate: 1e400}": "expected a number",
    f"objects: {{learning_rate: {'9' * 4000}}}": "expected a number",
    f"model: {{slots: {'9' * 9000}}}": "a.yaml' is broken",
    "model: {image_size: [1, 2, 3]}": "expected a list of 2 numbers",
    "model: {slots: 2026-01-01}": "expected a whole number",
    "model: {slots: 3\nobjects: [": "a.yaml' is broken",
    "- 1\n- 2": "holds list, expected names and values",
    "model": "holds str, expected names and values",
    b"\xff\xfe\x00": "a.yaml' is no text",
    "1: {2: 3}": "'1' is not a setting",
    "model: null": "model is None, expected names and values",
    "model: !!python/object/apply:os.system ['touch owned']": "could not determine a constructor",
    "[" * 1_000: "a.yaml' is broken",
    "&a [*a]": "holds list, expected names and values",
    "model: &a {slots: *a}": "expected a whole number",
    f"[&a0 [x, x]{LAUGHS}]": "holds list, expected names and values",
    f"model: {{slots: [&a0 [x, x]{LAUGHS}]}}": "'model.slots' is",
}.items():
    CASES[f"settings {_content[:40]!r}"] = (_message, lambda p, text=_content: p.config(p.file(text)))  # type: ignore

for _name, _content in {
    "empty": b"",
    "cut off": encoded(np.full((24, 36, 3), 90, np.uint8), "PNG")[:60],
    "a page": b"<html><body>404</body></html>",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "half a photograph": encoded(np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8), "JPEG")[:900],
    "a bomb": png(60_000, 60_000, b"\0" * (7501 * 60_000 // 100)),
    "impossible size": png(2**31 - 1, 2**31 - 1, b"\0"),
    "no pixels": png(0, 0, b""),
}.items():
    CASES[f"picture: {_name}"] = (
        "'b.png' is not a complete picture",
        lambda p, content=_content: p.train(p.broken(content)),  # type: ignore[misc]
    )

for _name in ("a.npz", "a.hdf5", "a.parquet", "a.tfrecords", "a.mp4", "a.json", "a.png"):
    CASES[f"garbage {_name}"] = (_name, lambda p, name=_name: p.train(p.file(b"garbage" * 30, name)))  # type: ignore


def pipe(file: Path) -> Path:
    os.mkfifo(file)
    return file


def link(file: Path, target: str) -> Path:
    file.symlink_to(target)
    return file


def a_socket(place: Place) -> list[str]:
    listening = place.guards.enter_context(socket.socket(socket.AF_UNIX))
    folder = place.pictures("a.png")
    with contextlib.chdir(folder):  # the name of a socket is short
        listening.bind("b.png")
    return place.train(folder)


def label_nine(mask: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[3:9, 2:20] = 9
    picture = Image.fromarray(labels)
    picture.putpalette([0] * 768)
    picture.save(mask)


def inner_folder(place: Place) -> Path:
    (place.pictures("a.png") / "inner").mkdir()
    return place.here / "pictures" / "inner"


def picture_folder(place: Place) -> Path:
    (place.pictures() / "b.png").mkdir()
    return place.here / "pictures"


def a_bomb_of_zeros(place: Place) -> list[str]:
    """A member that says it has 100 GB."""
    header = io.BytesIO()
    shape = (8_000_000, 64, 64, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(place.here / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", header.getvalue() + b"\0" * 10_000_000)
    return place.train(place.here / "a.npz")


def half_an_archive(place: Place) -> list[str]:
    command = place.arrays(images=np.zeros((3, 20, 28, 3), np.uint8))
    place.file((place.here / "a.npz").read_bytes()[:-50], "a.npz")
    return command


def limited(place: Place, guard: Any, command: list[str]) -> list[str]:
    place.guards.enter_context(guard)
    return command


def flipped_bit(place: Place) -> list[str]:
    data = bytearray(place.good_weights)
    data[-4] ^= 2
    return place.weights(bytes(data))


def pipe_for_weights(place: Place) -> list[str]:
    command = place.weights(None)
    pipe(place.here / "run" / "model.safetensors")
    return command


def nothing_whole(place: Place) -> Path:
    (place.broken(b"\x89PNG") / "a.png").unlink()
    return place.here / "pictures"


def not_finite(place: Place) -> list[str]:
    tensors = load_file(place.shared / "run" / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, place.here / "a.safetensors")
    return place.weights((place.here / "a.safetensors").read_bytes())


def something_else(place: Place) -> list[str]:
    save_file({"a": torch.ones(3)}, place.here / "a.safetensors")
    return place.weights((place.here / "a.safetensors").read_bytes())


def broken_notes(run: Path) -> None:
    for folder in run.glob("training_state*"):
        shutil.rmtree(folder)
    (run / "divergence").mkdir()
    (run / "divergence" / "rollbacks.json").write_text("{")
    (run / "log.jsonl").write_text("")


def edited_states(run: Path) -> None:
    for file in run.glob("training_state*/state.json"):
        file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))


def states_without_files(run: Path) -> None:
    for file in run.glob("training_state*/*.safetensors"):
        file.unlink()


def held(place: Place) -> list[str]:
    place.guards.enter_context(FolderLock(place.run()))
    return place.train_in(place.here / "run")


def a_holiday(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "holiday.jpg").touch()
    return folder


INCOMPLETE = "'b.png' is not a complete picture"
NO_LISTING = "cannot be listed (Permission denied): check its permissions"
NO_WRITING = "cannot be written (Permission denied)"

CASES |= {
    "a newline in a name": ("'a\\nb' does not exist", lambda p: p.train("a\nb")),
    # Files of settings
    "broken json": ("a.json' is broken", lambda p: p.config(p.file('{"model": ', "a.json"))),
    "deep json": ("a.json' is broken", lambda p: p.config(p.file("[" * 100_000, "a.json"))),
    "no settings": ("a.yaml' cannot be read (No such file or directory)", lambda p: p.config(p.here / "a.yaml")),
    "a folder of settings": ("cannot be read", lambda p: p.config(p.here)),
    "settings without rights": (
        "a.yaml' cannot be read (Permission denied)",
        lambda p: p.guarded(p.file("model: {slots: 3}"), p.config(p.here / "a.yaml"), 0),
    ),
    "a pipe of settings": ("cannot be read (it is no file)", lambda p: p.config(pipe(p.here / "a.yaml"))),
    "endless settings": ("'/dev/zero' cannot be read (it is no file)", lambda p: p.config("/dev/zero")),
    "linked settings": (
        "cannot be read (Too many levels of symbolic links)",
        lambda p: p.config(link(p.here / "a.yaml", "a.yaml")),
    ),
    # Pictures
    "an empty folder": ("holds no pictures: expected PNG", lambda p: p.train(p.pictures())),
    "a text": ("is of no known format", lambda p: p.train(p.file("hello", "a.txt"))),
    "the null device": ("expected a folder of pictures", lambda p: p.train("/dev/null")),
    "fractions": (
        "expected 8 or 16 bits: save it as 8-bit",
        lambda p: p.train(p.broken(encoded(np.zeros((20, 20), np.float32), "TIFF"), "b.tif")),
    ),
    "a pipe": (INCOMPLETE, lambda p: p.train(pipe(p.pictures("a.png") / "b.png").parent)),
    "a socket": (INCOMPLETE, a_socket),
    "a link to itself": (INCOMPLETE, lambda p: p.train(p.linked("b.png"))),
    "a link to nothing": (INCOMPLETE, lambda p: p.train(p.linked("gone.png"))),
    "a link to the endless": (INCOMPLETE, lambda p: p.train(p.linked("/dev/zero"))),
    "a picture without rights": (
        f"{INCOMPLETE} ([Errno 13] Permission denied: 'b.png')",
        lambda p: p.guarded(p.pictures("a.png", "b.png") / "b.png", p.train(p.here / "pictures"), 0),
    ),
    "a folder without rights": (NO_LISTING, lambda p: p.guarded(p.pictures("a.png"), p.train(p.here / "pictures"), 0)),
    "a subfolder without rights": (NO_LISTING, lambda p: p.guarded(inner_folder(p), p.train(p.here / "pictures"), 0)),
    "a folder that links to itself": (
        "a' does not exist: expected a folder of pictures",
        lambda p: p.train(link(p.here / "a", "a")),
    ),
    "folders that link to each other": (
        "holds no pictures",
        lambda p: p.train(link(p.pictures() / "again", str(p.here / "pictures")).parent),
    ),
    "a folder with the name of a picture": ("holds no pictures", lambda p: p.train(picture_folder(p))),
    "a name that would colour the screen": (
        "'line\\nbreak \\x1b[31m.png' is not a complete picture",
        lambda p: p.train(p.broken(b"", "line\nbreak \x1b[31m.png")),
    ),
    "a name in another script": ("'図形 é.png' is not a complete", lambda p: p.train(p.broken(b"", "図形 é.png"))),
    "a name that is no text": ("\\udcff.png' is not a complete", lambda p: p.train(p.broken(b"", "\udcff.png"))),
    # Masks
    "a mask of another size": (
        "mask 'DESK_full_000004_flat.png' is 31x30 but its image is 32x32",
        lambda p: p.desk(lambda mask: Image.new("P", (30, 31)).save(mask)),
    ),
    "a mask that is missing": ("DESK_full_000004_flat.png' is missing", lambda p: p.desk(Path.unlink)),
    "a mask of colours": ("holds colours", lambda p: p.desk(lambda mask: Image.new("RGB", (32, 32)).save(mask))),
    "a label above the slots": (
        "label 9 in 'DESK_full_000004' is above the 6 slots: use 9 slots or more",
        lambda p: p.desk(label_nine),
    ),
    "scenes inside other files": (
        "holds a labelled data set",
        lambda p: [word.replace(str(p.here / "desk"), str(p.here)) for word in p.desk(lambda mask: None)],
    ),
    # Other files of scenes
    "arrays without images": ("a.npz'", lambda p: p.arrays(pictures=np.zeros((2, 20, 28, 3), np.uint8))),
    "arrays of fractions": ("a.npz'", lambda p: p.arrays(images=np.full((2, 20, 28, 3), np.nan))),
    "arrays of too few sides": ("a.npz'", lambda p: p.arrays(images=np.zeros((2, 20), np.uint8))),
    "arrays without scenes": ("a.npz'", lambda p: p.arrays(images=np.zeros((0, 20, 28, 3), np.uint8))),
    "arrays of other counts": (
        "a.npz'",
        lambda p: p.arrays(images=np.zeros((3, 20, 28, 3), np.uint8), masks=np.zeros((2, 20, 28), np.uint8)),
    ),
    "arrays that would run code": ("a.npz'", lambda p: p.arrays(images=np.array([Owned()], dtype=object))),
    "a bomb of zeros": ("a.npz'", a_bomb_of_zeros),
    "half an archive": ("a.npz'", half_an_archive),
    "a bomb of records": ("a.tfrecords", lambda p: p.train(p.file(gzip.compress(b"\0" * 50_000_000), "a.tfrecords"))),
    "an annotation that leads out": ("a.json'", lambda p: p.coco("../../../../etc/passwd")),
    "an annotation of nonsense": ("a.json'", lambda p: p.coco("a.png", {"size": [24, 36], "counts": [10**12]})),
    "an annotation of nothing": ("nothing.png", lambda p: p.coco("nothing.png")),
    "a cache that says it is larger": (
        "is not as large as its manifest says: prepare the cache again",
        lambda p: p.cache("*.json", lambda data: data.replace(b": 6", b": 600")),
    ),
    "a cache cut off": ("cache", lambda p: p.cache("*.npy", lambda data: data[:-1000])),
    # Run folders
    "no run": ("is not there, expected a run folder made by 'astseg train'", lambda p: p.segment(run=p.here / "no")),
    "a file for a run": ("is a file, expected a run folder", lambda p: p.segment(run=p.shared / "picture.png")),
    "a folder that is no run": ("has no config.json", lambda p: p.segment(run=p.here)),
    "half a configuration": ("config.json' is broken", lambda p: p.other_config('{"format": 2, "run": ')),
    "a deep configuration": ("config.json' is broken", lambda p: p.other_config("[" * 100_000)),
    "a format that is no number": (
        "config.json' is broken (format is 'x'",
        lambda p: p.changed_config(format="x"),
    ),
    "a run of the future": ("is of a later format than", lambda p: p.changed_config(format=99)),
    "an unknown setting": ("'model.colour' is not a setting", lambda p: p.changed_config(model={"colour": 3})),
    "impossible slots": ("slots is -3, expected at least 1", lambda p: p.changed_config(model={"slots": -3})),
    "other slots": (
        "does not fit the model that config.json describes",
        lambda p: p.changed_config(model={**SETTINGS["model"], "slots": 5}, inference={}),
    ),
    "all memory": (
        "out of memory: take a smaller batch",
        lambda p: limited(
            p,
            p.limited_memory(2**30),
            p.changed_config(model={**SETTINGS["model"], "transformer_feedforward": 2**31}, inference={}),
        ),
    ),
    "no weights": ("has no model.safetensors", lambda p: p.weights(None)),
    "half the weights": ("model.safetensors' is broken", lambda p: p.weights(p.good_weights[:-100])),
    "a flipped bit": ("is broken (truncated or changed after it was written)", flipped_bit),
    "a pickle for weights": ("model.safetensors' is broken", lambda p: p.weights(pickle.dumps(Owned()))),
    "an endless header": ("model.safetensors' is broken", lambda p: p.weights((2**62).to_bytes(8, "little") + b"{}")),
    "weights that are not finite": ("holds numbers that are not finite", not_finite),
    "weights of something else": ("does not fit the model that config.json describes", something_else),
    "a pipe for weights": ("has no model.safetensors", pipe_for_weights),
    "weights without rights": (
        "model.safetensors' is broken (Permission denied)",
        lambda p: p.guarded(p.run() / "model.safetensors", p.segment(run=p.here / "run"), 0),
    ),
    # Runs that go on
    "another seed": (
        "differs in seed (0, now 1): choose another folder",
        lambda p: [*p.other_run(lambda run: None), "--seed", "1"],
    ),
    "other data": ("differs in fingerprint", lambda p: [*p.other_run(lambda run: None), "--split", ":3"]),
    "other settings": (
        "differs in objects.batch (2, now 5)",
        lambda p: [*p.other_run(lambda run: None), "--objects.batch", "5"],
    ),
    "edited states": ("state.json' is broken", lambda p: p.other_run(edited_states)),
    "states without files": ("to start afresh", lambda p: p.other_run(states_without_files)),
    "edited notes of rollbacks": ("rollbacks.json' is broken", lambda p: p.other_run(broken_notes)),
    "a run that another process trains": ("is being trained by process", held),
    "a run without rights": (NO_WRITING, lambda p: p.guarded(p.run(), p.train_in(p.here / "run"))),
    "a folder without rights to write": (NO_WRITING, lambda p: p.guarded(p.here, p.train())),
    "no room for a run": (
        "cannot be written (File too large): choose another folder or free space",
        lambda p: limited(p, p.limited_files(100), p.train()),
    ),
    "a run where a file is": (
        "is a file, expected a run folder or a new name",
        lambda p: p.train_in(p.file(name="a.txt")),
    ),
    "a run below a file": ("cannot be written", lambda p: p.train_in(p.file(name="a.txt") / "run")),
    "a run among other files": (
        "is not empty and holds no run: choose another folder",
        lambda p: p.train_in(a_holiday(p.here / "run")),
    ),
    "a run that links to itself": (
        "cannot be written (File exists)",
        lambda p: p.train_in(link(p.here / "run", "run")),
    ),
    "a run of a long name": ("File name too long", lambda p: p.train_in(p.here / ("a" * 300))),
    # Results and the rest
    "metrics without rights": (NO_WRITING, lambda p: p.guarded(p.run(), p.evaluate())),
    "metrics into a folder": ("is a folder, expected a file", lambda p: p.evaluate("--json", p.run())),
    "results among other files": (
        "is not empty and was not made by this command",
        lambda p: p.segment(out=a_holiday(p.here)),
    ),
    "results into a file": ("is a file", lambda p: p.segment(out=p.file(name="a.txt"))),
    "results among the pictures": (
        "lie in each other, expected separate folders",
        lambda p: p.segment(p.pictures("a.png"), out=p.here / "pictures" / "masks"),
    ),
    "nothing to segment": ("none of the 1 pictures in", lambda p: p.segment(nothing_whole(p))),
    "results without rights": (NO_WRITING, lambda p: p.guarded(p.here, p.segment())),
    "no room for results": (
        "cannot be written (File too large): choose another folder or free space",
        lambda p: limited(p, p.limited_files(20), p.segment()),
    ),
    "no data to check": ("does not exist", lambda p: ["check-data", str(p.here / "no")]),
    "broken data to check": (f"wrong: {INCOMPLETE}", lambda p: ["check-data", str(p.broken(b""))]),
    "a cache among other files": (
        "holds something else than a cache",
        lambda p: ["prepare", str(p.shared / "desk"), str(a_holiday(p.here)), "--processes", "1"],
    ),
    "scenes among other files": ("is not empty", lambda p: ["scenes", str(a_holiday(p.here)), "--count", "1"]),
    "scenes into a file": ("is a file", lambda p: ["scenes", str(p.file(name="a.txt")), "--count", "1"]),
    "scenes without rights": (
        "(Permission denied): give another name",
        lambda p: p.guarded(p.here, ["scenes", "OUT", "--count", "1", "--processes", "1"]),
    ),
    "no reference": ("a.pth'", lambda p: p.reference(None)),
    "a reference that would run code": ("a.pth'", lambda p: p.reference(pickle.dumps(Owned()))),
    "half a reference": ("a.pth'", lambda p: p.reference(saved({"model": {"a": torch.ones(30)}})[:200])),
    "another reference": ("a.pth'", lambda p: p.reference(saved({"model": {"a": torch.ones(30)}}))),
    # The rest is done, with exit code 3
    "skipped: a broken picture": (f"skipped: {INCOMPLETE}", lambda p: p.segment(p.broken(b""))),
    "skipped: a bomb": (
        f"skipped: {INCOMPLETE}",
        lambda p: p.segment(p.broken(png(60_000, 60_000, b"\0" * 1_000_000))),
    ),
    "skipped: a name that is no text": (
        "skipped: '\\udcff.png' is not a complete picture",
        lambda p: p.segment(p.broken(b"", "\udcff.png")),
    ),
    "skipped: a name with a newline": (
        "skipped: 'b\\nc.png' is not a complete picture",
        lambda p: p.segment(p.broken(b"", "b\nc.png")),
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    assert main.run(f"scenes {folder}/desk --count 6 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    assert main.run(f"train {folder}/desk --out {folder}/run --config {folder}/tiny.json".split()) == 0
    Image.fromarray(np.full((24, 36, 3), 90, np.uint8)).save(folder / "picture.png")
    return folder


@pytest.fixture
def place(shared: Path, tmp_path: Path, read_only: Any, limited_files: Any, limited_memory: Any) -> Iterator[Place]:
    with contextlib.ExitStack() as guards:
        yield Place(shared, tmp_path, guards, read_only, limited_files, limited_memory)


def tree(folder: Path) -> dict[str, bytes | int]:
    """Every file below a folder with its content, everything else with its kind."""
    found: dict[str, bytes | int] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        readable = stat.S_ISREG(mode) and os.access(path, os.R_OK, effective_ids=True) and path.name != LOCK_NAME
        found[str(path)] = path.read_bytes() if readable else stat.S_IFMT(mode)
    return found


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message, prepare = CASES[name]
    is_done = message.startswith("skipped: ")
    is_listed = is_done or message.startswith("wrong: ")
    out = place.here / "out"
    (place.here / "empty").mkdir()
    monkeypatch.chdir(place.here / "empty")
    with place.guards:
        command = [word.replace("OUT", str(out)) for word in prepare(place)]
        capsys.readouterr()
        before = tree(place.here)
        assert main.run(command) == (3 if is_done else 2)
        after = tree(place.here)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert any(message in line for line in (printed.out if is_listed else printed.err).splitlines()), printed
    if not is_listed:
        (line,) = printed.err.splitlines()
        assert line.startswith("astseg: ")
        assert len(line) < 1200
        assert not out.exists()
        assert after == before
    assert not (place.here / "empty" / "owned").exists()


# As a person would run it


def test_in_processes_of_their_own(shared: Path, tmp_path: Path) -> None:
    """No stack trace at start-up, odd surroundings."""
    out = tmp_path / "out"
    for command, environment in [
        (["train", "図形", "--out", str(out)], {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}),
        (["nonsense"], {"COLUMNS": "1"}),
    ]:
        result = subprocess.run(
            [sys.executable, "-m", "astseg", *command],
            capture_output=True,
            timeout=120,
            check=False,
            env={**os.environ, **environment},
        )
        assert result.returncode == 2
        assert result.stdout == b""
        assert result.stderr.startswith(b"astseg: ")
        assert result.stderr.count(b"\n") == 1
    assert not out.exists()


def test_a_full_disk_in_the_middle_of_a_training(shared: Path, tmp_path: Path, limited_files: Any) -> None:
    """The state that was there stays, and the same command goes on when there is room."""
    words = f"train {shared}/desk --out {tmp_path}/run --config {shared}/tiny.json".split()
    background = ["train-background", *words[1:]]
    assert main.run(background) == 0
    state = tree(tmp_path / "run" / "training_state")
    with limited_files(50_000):
        assert main.run(words) == 2
    assert tree(tmp_path / "run" / "training_state") == state
    assert not (tmp_path / "run" / "training_state.part").exists()
    assert main.run(words) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (shared / "run" / "model.safetensors").read_bytes()
