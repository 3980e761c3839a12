"""Whatever is handed over: one clear line, exit code 2 (or 3: the rest was done), within 10 seconds, nothing half-made.

Each case prepares its files in a folder of its own and gives a command; ``OUT`` stands for a place that must not exist
afterwards. Everything else in the folder must be as the case left it.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import signal
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
SECONDS = 10


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

    def train(self, data: object = None, *more: object) -> list[str]:
        """``astseg train`` with tiny settings."""
        data = self.shared / "desk" if data is None else data
        return ["train", str(data), "--out", "OUT", "--config", str(self.shared / "tiny.json"), *map(str, more)]

    def segment(self, data: object, run: object = None) -> list[str]:
        return ["segment", str(self.shared / "run" if run is None else run), str(data), "--out", "OUT"]

    def evaluate(self, run: object, *more: object) -> list[str]:
        return ["evaluate", str(run), str(self.shared / "desk"), *map(str, more)]

    def config(self, content: str | bytes, name: str = "a.yaml") -> list[str]:
        """``astseg train`` with a file of settings."""
        file = self.here / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["train", str(self.shared / "desk"), "--out", "OUT", "--config", str(file)]

    def pictures(self, *names: str) -> Path:
        """A folder of good pictures."""
        folder = self.here / "pictures"
        folder.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(self.shared / "picture.png", folder / name)
        return folder

    def run(self) -> Path:
        """A copy of the trained run."""
        return Path(shutil.copytree(self.shared / "run", self.here / "run"))

    def desk(self) -> Path:
        """A copy of the scenes."""
        return Path(shutil.copytree(self.shared / "desk", self.here / "desk"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    assert main.run(f"scenes {folder}/desk --count 6 --size 32 --seed 5 --processes 1".split()) == 0
    (folder / "tiny.json").write_text(json.dumps(SETTINGS))
    assert main.run(f"train {folder}/desk --out {folder}/run --config {folder}/tiny.json".split()) == 0
    Image.fromarray(np.full((24, 36, 3), 90, np.uint8)).save(folder / "picture.png")
    return folder


Prepare = Callable[[Place], list[str]]
CASES: dict[str, tuple[Prepare, str, int]] = {}


def case(message: str, *, code: int = 2) -> Callable[[Prepare], Prepare]:
    """Add a case: what it does, what must stand in its line, the exit code."""

    def add(prepare: Prepare) -> Prepare:
        assert prepare.__name__ not in CASES
        CASES[prepare.__name__] = (prepare, message, code)
        return prepare

    return add


def words(name: str, line: str, message: str) -> None:
    """Add a case that is a command alone; SHARED is the folder of scenes, settings and run."""
    assert name not in CASES
    CASES[name] = (lambda place: line.replace("SHARED", str(place.shared)).split(), message, 2)


def settings_file(name: str, content: str | bytes, message: str, file: str = "a.yaml") -> None:
    """Add a case that is a file of settings."""
    assert name not in CASES
    CASES[name] = (lambda place: place.config(content, file), message, 2)


TRAIN = "train SHARED/desk --out OUT --config SHARED/tiny.json"

# Flags

words("no_command", "", "Expected one of {demo, scenes")
words("unknown_command", "trian", "Unrecognized options: trian")
words("train_without_anything", "train", "Missing from astseg train: PATH")
words("train_without_out", "train data", "Missing from astseg train: --out")
words("unknown_flag", f"{TRAIN} --modle.slots 3", "Perhaps you meant: --model.slots")
words("flag_without_value", f"{TRAIN} --model.slots", "Missing value for argument '--model.slots'")
words("words_too_many", f"{TRAIN} more", "Unrecognized options: more")
words("seed_half", f"{TRAIN} --seed 0.5", "Error parsing --seed")
words("seed_negative", f"{TRAIN} --seed -1", "seed is -1, expected 0 to 4294967295")
words("seed_large", f"{TRAIN} --seed 4294967296", "seed is 4294967296, expected 0 to 4294967295")
words("minutes_zero", f"{TRAIN} --minutes 0", "minutes is 0, expected more than 0")
words("minutes_nan", f"{TRAIN} --minutes nan", "minutes is nan, expected more than 0")
words("minutes_infinite", f"{TRAIN} --minutes inf", "minutes is inf, expected more than 0")
words("steps_zero", f"{TRAIN} --steps 0", "steps is 0, expected at least 1")
words("steps_text", f"{TRAIN} --steps many", "Error parsing --steps")
words("preset_unknown", f"{TRAIN} --preset smal", "did you mean 'small'?")
words("preset_unknown_sheet", "presets clevrr-ct", "did you mean 'clevr-ct'?")
words("split_words", f"{TRAIN} --split some", "use all, train, val, test or a slice")
words("split_empty", f"{TRAIN} --split 400:", "chooses none of the 6 scenes: choose at least one")
words("split_step_zero", f"{TRAIN} --split ::0", "has step 0: use a step of 1 or more")
words("split_huge", f"{TRAIN} --split {'9' * 5000}:", "selection '9999")
words("crop_zero", f"{TRAIN} --crop 0", "crop is 0.0, expected a part of the short side")
words("crop_nan", f"{TRAIN} --crop nan", "crop is nan, expected a part of the short side")
words("fit_unknown", f"{TRAIN} --fit stretch", "invalid choice 'stretch'")
words("stride_zero", f"{TRAIN} --stride 0", "stride is 0, expected at least 1")
words("frames_negative", f"{TRAIN} --frames -2", "frames is -2, expected at least 1")
words("slots_zero", f"{TRAIN} --model.slots 0", "slots is 0, expected at least 1")
words("slots_above_255", f"{TRAIN} --model.slots 300", "slots is 300")
words("sides_too_small", f"{TRAIN} --model.image-size 8 8", "expected sides of at least 16")
words("one_side", f"{TRAIN} --model.image-size 64", "--model.image-size")
words("heads_that_do_not_divide", f"{TRAIN} --model.transformer-heads 3", "heads")
words("dropout_above_1", f"{TRAIN} --model.dropout 1.5", "dropout is 1.5")
words("rate_nan", f"{TRAIN} --objects.learning-rate nan", "learning_rate is nan")
words("rate_negative", f"{TRAIN} --objects.learning-rate -1", "learning_rate is -1")
words("beta_infinite", f"{TRAIN} --background.beta inf", "beta is inf")
words("entropy_weight_nan", f"{TRAIN} --objects.entropy-weight nan", "entropy_weight is nan")
words("batch_size_zero", "segment SHARED/run SHARED/picture.png --out OUT --batch-size 0", "batch_size is 0")
words("protocol_unknown", "evaluate SHARED/run SHARED/desk --protocol ours", "invalid choice 'ours'")
words("evaluate_one_path", "evaluate SHARED/run", "evaluate wants a run folder (or several) and then the scenes")
words("evaluate_a_run_twice", "evaluate SHARED/run SHARED/run SHARED/desk", "a run is named twice")
words("scenes_none", "scenes OUT --count 0", "count is 0: expected 1 or more scenes")
words("scenes_too_small", "scenes OUT --size 3", "size")
words("scenes_of_no_family", "scenes OUT --family kitchen", "Expected one of ('desk', 'rooms')")
words("scenes_of_nobody", "scenes OUT --processes 0", "processes")
words("demo_without_scenes", "demo --out OUT --scenes 0", "scenes is 0, expected at least 1")
words("prepare_to_nothing", "prepare SHARED/desk OUT --size 0 0", "size is (0, 0), expected 1 pixel or more a side")
words("nul_in_a_path", "train a\0b --out OUT", "a\\x00b' does not exist")
words("name_too_long", f"train {'a' * 300} --out OUT", "File name too long")
words("nothing_there", "train nothing --out OUT", "'nothing' does not exist")
words("names_in_other_scripts", "train 図形/фото --out OUT", "'図形/фото' does not exist")


@case("'a\\nb' does not exist")
def name_with_a_newline(place: Place) -> list[str]:
    return place.train("a\nb")


# Files of settings

settings_file("unknown_setting", "model: {slotz: 3}", "'model.slotz' is not a setting: did you mean 'slots'?")
settings_file("unknown_part", "modle: {slots: 3}", "'modle' is not a setting: did you mean 'model'?")
settings_file("a_number_for_a_part", "model: 3", "model is 3, expected names and values")
settings_file("text_for_a_number", "model: {slots: many}", "'model.slots' is 'many', expected a whole number")
settings_file("true_for_a_number", "model: {slots: true}", "'model.slots' is True, expected a whole number")
settings_file("part_of_a_slot", "model: {slots: 2.5}", "'model.slots' is 2.5, expected a whole number")
settings_file("nan_for_a_rate", "objects: {learning_rate: .nan}", "'objects.learning_rate' is nan, expected a number")
settings_file("huge_rate", "objects: {learning_rate: 1e400}", "expected a number")
settings_file("huge_whole_number", f"objects: {{learning_rate: {'9' * 4000}}}", "expected a number")
settings_file("longer_than_python_reads", f"model: {{slots: {'9' * 9000}}}", "a.yaml' is broken")
settings_file("three_sides", "model: {image_size: [1, 2, 3]}", "expected a list of 2 numbers")
settings_file("a_date", "model: {slots: 2026-01-01}", "expected a whole number")
settings_file("broken_yaml", "model: {slots: 3\nobjects: [", "a.yaml' is broken")
settings_file("broken_json", '{"model": ', "a.json' is broken", "a.json")
settings_file("a_list", "- 1\n- 2", "holds list, expected names and values")
settings_file("a_word", "model", "holds str, expected names and values")
settings_file("no_text", b"\xff\xfe\x00", "a.yaml' is no text")
settings_file("numbers_for_names", "1: {2: 3}", "'1' is not a setting")
settings_file("null_for_a_part", "model: null", "model is None, expected names and values")
settings_file(
    "python_tag", "model: !!python/object/apply:os.system ['touch owned']", "could not determine a constructor"
)
settings_file("deep_json", "[" * 100_000, "a.json' is broken", "a.json")
settings_file("deep_yaml", "[" * 3_000, "a.yaml' is broken")
settings_file("a_list_in_itself", "&a [*a]", "holds list, expected names and values")
settings_file("a_part_in_itself", "model: &a {slots: *a}", "expected a whole number")
settings_file(
    "a_thousand_million_laughs",
    "a0: &a0 [x, x]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    + "model: {slots: *a39}",
    "is not a setting",
)
settings_file(
    "laughs_for_a_value",
    "model: {slots: " + "[" + "&a0 [x, x]" + "".join(f", &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)) + "]}",
    "'model.slots' is",
)


@case("a.yaml' cannot be read (No such file or directory)")
def settings_that_are_not_there(place: Place) -> list[str]:
    return [*place.train(), "--config", str(place.here / "a.yaml")][:4] + ["--config", str(place.here / "a.yaml")]


@case("cannot be read")
def a_folder_of_settings(place: Place) -> list[str]:
    return ["train", str(place.shared / "desk"), "--out", "OUT", "--config", str(place.here)]


@case("a.yaml' cannot be read (Permission denied)")
def settings_that_may_not_be_read(place: Place) -> list[str]:
    command = place.config("model: {slots: 3}")
    place.guards.enter_context(place.read_only(place.here / "a.yaml", 0))
    return command


@case("a.yaml' cannot be read (it is no file)")
def a_pipe_of_settings(place: Place) -> list[str]:
    os.mkfifo(place.here / "a.yaml")
    return ["train", str(place.shared / "desk"), "--out", "OUT", "--config", str(place.here / "a.yaml")]


@case("'/dev/zero' cannot be read (it is no file)")
def endless_settings(place: Place) -> list[str]:
    return ["train", str(place.shared / "desk"), "--out", "OUT", "--config", "/dev/zero"]


@case("cannot be read (Too many levels of symbolic links)")
def settings_that_link_to_themselves(place: Place) -> list[str]:
    (place.here / "a.yaml").symlink_to("a.yaml")
    return ["train", str(place.shared / "desk"), "--out", "OUT", "--config", str(place.here / "a.yaml")]


# Pictures


@case("holds no pictures: expected PNG")
def an_empty_folder(place: Place) -> list[str]:
    return place.train(place.pictures())


@case("is of no known format")
def a_text(place: Place) -> list[str]:
    (place.here / "a.txt").write_text("hello")
    return place.train(place.here / "a.txt")


@case("expected a folder of pictures")
def the_null_device(place: Place) -> list[str]:
    return place.train("/dev/null")


def one_broken(place: Place, content: bytes, name: str = "b.png") -> list[str]:
    folder = place.pictures("a.png")
    (folder / name).write_bytes(content)
    return place.train(folder)


@case("'b.png' is not a complete picture")
def an_empty_picture(place: Place) -> list[str]:
    return one_broken(place, b"")


@case("'b.png' is not a complete picture")
def half_a_picture(place: Place) -> list[str]:
    return one_broken(place, (place.shared / "picture.png").read_bytes()[:60])


@case("'b.png' is not a complete picture")
def a_page_instead_of_a_picture(place: Place) -> list[str]:
    return one_broken(place, b"<html><body>404</body></html>")


@case("'b.jpg' is not a complete picture")
def a_drawing(place: Place) -> list[str]:
    return one_broken(place, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "b.jpg")


@case("'b.jpg' is not a complete picture")
def half_a_photograph(place: Place) -> list[str]:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG")
    return one_broken(place, buffer.getvalue()[:900], "b.jpg")


@case("expected 8 or 16 bits: save it as 8-bit")
def a_picture_of_fractions(place: Place) -> list[str]:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.float32)).save(buffer, format="TIFF")
    return one_broken(place, buffer.getvalue(), "b.tif")


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG file of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@case("'b.png' is not a complete picture")
def a_bomb(place: Place) -> list[str]:
    return one_broken(place, png(60_000, 60_000, b"\0" * (7501 * 60_000 // 100)))


@case("'b.png' is not a complete picture")
def a_picture_of_impossible_size(place: Place) -> list[str]:
    return one_broken(place, png(2**31 - 1, 2**31 - 1, b"\0"))


@case("'b.png' is not a complete picture")
def a_picture_without_pixels(place: Place) -> list[str]:
    return one_broken(place, png(0, 0, b""))


@case("'b.png' is not a complete picture")
def a_pipe_among_pictures(place: Place) -> list[str]:
    os.mkfifo(place.pictures("a.png") / "b.png")
    return place.train(place.here / "pictures")


@case("'b.png' is not a complete picture")
def a_socket_among_pictures(place: Place) -> list[str]:
    listening = place.guards.enter_context(socket.socket(socket.AF_UNIX))
    folder = place.pictures("a.png")
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is short
    listening.bind("b.png")
    os.chdir(here)
    return place.train(folder)


@case("'b.png' is not a complete picture")
def a_picture_that_links_to_itself(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").symlink_to("b.png")
    return place.train(place.here / "pictures")


@case("'b.png' is not a complete picture")
def a_picture_that_links_to_nothing(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").symlink_to("gone.png")
    return place.train(place.here / "pictures")


@case("'b.png' is not a complete picture")
def a_picture_that_links_to_the_endless(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").symlink_to("/dev/zero")
    return place.train(place.here / "pictures")


@case("'b.png' is not a complete picture ([Errno 13] Permission denied: 'b.png')")
def a_picture_that_may_not_be_read(place: Place) -> list[str]:
    folder = place.pictures("a.png", "b.png")
    place.guards.enter_context(place.read_only(folder / "b.png", 0))
    return place.train(folder)


@case("cannot be listed (Permission denied): check its permissions")
def a_folder_that_may_not_be_listed(place: Place) -> list[str]:
    folder = place.pictures("a.png")
    place.guards.enter_context(place.read_only(folder, 0))
    return place.train(folder)


@case("cannot be listed (Permission denied): check its permissions")
def a_subfolder_that_may_not_be_listed(place: Place) -> list[str]:
    inner = place.pictures("a.png") / "inner"
    inner.mkdir()
    place.guards.enter_context(place.read_only(inner, 0))
    return place.train(place.here / "pictures")


@case("'a' does not exist")
def a_folder_that_links_to_itself(place: Place) -> list[str]:
    (place.here / "a").symlink_to("a")
    return [word.replace(str(place.here) + "/", "") for word in place.train("a")]


@case("holds no pictures")
def folders_that_link_to_each_other(place: Place) -> list[str]:
    folder = place.pictures()
    (folder / "again").symlink_to(folder)
    return place.train(folder)


@case("holds no pictures")
def a_folder_with_the_name_of_a_picture(place: Place) -> list[str]:
    (place.pictures() / "b.png").mkdir()
    return place.train(place.here / "pictures")


@case("'line\\nbreak \\x1b[31m.png' is not a complete picture")
def a_name_that_would_colour_the_screen(place: Place) -> list[str]:
    return one_broken(place, b"", "line\nbreak \x1b[31m.png")


@case("'図形 é.png' is not a complete picture")
def a_name_in_another_script(place: Place) -> list[str]:
    return one_broken(place, b"", "図形 é.png")


@case("\\udcff.png' is not a complete picture")
def a_name_that_is_no_text(place: Place) -> list[str]:
    folder = place.pictures("a.png")
    Path(os.fsdecode(bytes(folder) + b"/\xff.png")).write_bytes(b"")
    return place.train(folder)


@case("mask 'DESK_full_000004_flat.png' is 31x30 but its image is 32x32")
def a_mask_of_another_size(place: Place) -> list[str]:
    data = place.desk()
    Image.new("P", (30, 31)).save(mask_of(data, 4))
    return place.train(data)


@case("DESK_full_000004_flat.png' is missing")
def a_mask_that_is_missing(place: Place) -> list[str]:
    data = place.desk()
    mask_of(data, 4).unlink()
    return place.train(data)


@case("holds colours")
def a_mask_of_colours(place: Place) -> list[str]:
    data = place.desk()
    Image.new("RGB", (32, 32)).save(mask_of(data, 4))
    return place.train(data)


@case("label 9 in 'DESK_full_000004' is above the 6 slots: use 9 slots or more")
def a_label_above_the_slots(place: Place) -> list[str]:
    data = place.desk()
    labels = np.zeros((32, 32), np.uint8)
    labels[3:9, 2:20] = 9
    picture = Image.fromarray(labels)
    picture.putpalette([0] * 768)
    picture.save(mask_of(data, 4))
    return place.train(data)


def mask_of(data: Path, number: int) -> Path:
    return data / "desk_full" / "0" / f"DESK_full_{number:06d}_flat.png"


@case("holds a labelled data set")
def scenes_inside_other_files(place: Place) -> list[str]:
    data = place.desk()
    (data / "desk_full" / "0" / "more").mkdir()
    return place.train(data.parent)


# Other files of scenes


def arrays(place: Place, **values: Any) -> list[str]:
    file = place.here / "a.npz"
    with contextlib.suppress(ValueError):
        np.savez(file, **values)
    return place.train(file)


@case("a.npz'")
def arrays_without_images(place: Place) -> list[str]:
    return arrays(place, pictures=np.zeros((2, 20, 28, 3), np.uint8))


@case("a.npz'")
def arrays_of_fractions(place: Place) -> list[str]:
    return arrays(place, images=np.full((2, 20, 28, 3), np.nan))


@case("a.npz'")
def arrays_of_too_few_sides(place: Place) -> list[str]:
    return arrays(place, images=np.zeros((2, 20), np.uint8))


@case("a.npz'")
def arrays_without_scenes(place: Place) -> list[str]:
    return arrays(place, images=np.zeros((0, 20, 28, 3), np.uint8))


@case("a.npz'")
def arrays_of_other_counts(place: Place) -> list[str]:
    images, labels = np.zeros((3, 20, 28, 3), np.uint8), np.zeros((2, 20, 28), np.uint8)
    return arrays(place, images=images, masks=labels)


class Owned:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


@case("a.npz'")
def arrays_that_would_run_code(place: Place) -> list[str]:
    return arrays(place, images=np.array([Owned()], dtype=object))


@case("a.npz'")
def a_bomb_of_zeros(place: Place) -> list[str]:
    """A member that says it has 100 GB."""
    header = io.BytesIO()
    shape = (8_000_000, 64, 64, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(place.here / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", header.getvalue() + b"\0" * 10_000_000)
    return place.train(place.here / "a.npz")


@case("a.npz'")
def half_an_archive(place: Place) -> list[str]:
    command = arrays(place, images=np.zeros((3, 20, 28, 3), np.uint8))
    file = place.here / "a.npz"
    file.write_bytes(file.read_bytes()[:-50])
    return command


def garbage(name: str) -> None:
    def prepare(place: Place) -> list[str]:
        (place.here / name).write_bytes(b"garbage" * 30)
        return place.train(place.here / name)

    CASES[f"garbage_{name}"] = (prepare, name, 2)


for suffix in ("a.npz", "a.hdf5", "a.parquet", "a.tfrecords", "a.mp4", "a.json", "a.png"):
    garbage(suffix)


@case("a.tfrecords")
def a_bomb_of_records(place: Place) -> list[str]:
    (place.here / "a.tfrecords").write_bytes(gzip.compress(b"\0" * 50_000_000))
    return place.train(place.here / "a.tfrecords")


def coco(place: Place, file_name: str, segmentation: Any = None) -> list[str]:
    folder = place.pictures("a.png")
    images = [{"id": 1, "file_name": file_name, "height": 24, "width": 36}]
    annotations = [{"image_id": 1, "segmentation": segmentation}] if segmentation is not None else []
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return place.train(folder / "a.json")


@case("a.json'")
def an_annotation_that_leads_out(place: Place) -> list[str]:
    return coco(place, "../../../../etc/passwd")


@case("a.json'")
def an_annotation_of_nonsense(place: Place) -> list[str]:
    return coco(place, "a.png", {"size": [24, 36], "counts": [10**12]})


@case("nothing.png")
def an_annotation_of_nothing(place: Place) -> list[str]:
    return coco(place, "nothing.png")


def cache(place: Place) -> Path:
    out = place.here / "cache"
    assert main.run(["prepare", str(place.shared / "desk"), str(out), "--size", "20", "28", "--processes", "1"]) == 0
    return out


@case("is not as large as its manifest says: prepare the cache again")
def a_cache_that_says_it_is_larger(place: Place) -> list[str]:
    out = cache(place)
    for file in out.glob("*.json"):
        file.write_text(file.read_text().replace(": 6", ": 600"))
    return place.train(out)


@case("cache")
def a_cache_cut_off(place: Place) -> list[str]:
    out = cache(place)
    for file in out.rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1000])
    return place.train(out)


# Run folders


def edited(place: Place, **changes: Any) -> list[str]:
    run = place.run()
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, **changes}))
    return place.segment(place.shared / "picture.png", run)


@case("is not there, expected a run folder made by 'astseg train'")
def no_run(place: Place) -> list[str]:
    return place.segment(place.shared / "picture.png", place.here / "no")


@case("is a file, expected a run folder")
def a_file_for_a_run(place: Place) -> list[str]:
    return place.segment(place.shared / "picture.png", place.shared / "picture.png")


@case("has no config.json")
def a_folder_that_is_no_run(place: Place) -> list[str]:
    return place.segment(place.shared / "picture.png", place.here)


@case("config.json' is broken")
def a_run_with_half_a_configuration(place: Place) -> list[str]:
    command = edited(place)
    file = place.here / "run" / "config.json"
    file.write_text(file.read_text()[:200])
    return command


@case("config.json' is broken")
def a_run_with_a_deep_configuration(place: Place) -> list[str]:
    command = edited(place)
    (place.here / "run" / "config.json").write_text("[" * 100_000)
    return command


@case("config.json' is broken (format is 'x'")
def a_run_of_a_format_that_is_no_number(place: Place) -> list[str]:
    return edited(place, format="x")


@case("is of format 99, and this astseg reads up to 1: install a newer astseg")
def a_run_of_the_future(place: Place) -> list[str]:
    return edited(place, format=99)


@case("'model.colour' is not a setting")
def a_run_with_an_unknown_setting(place: Place) -> list[str]:
    return edited(place, model={"colour": 3})


@case("slots is -3, expected at least 1")
def a_run_with_impossible_slots(place: Place) -> list[str]:
    return edited(place, model={"slots": -3})


@case("does not fit the model that config.json describes")
def a_run_with_other_slots(place: Place) -> list[str]:
    return edited(place, model={**SETTINGS["model"], "slots": 5})


@case("out of memory: take a smaller batch")
def a_run_that_asks_for_all_memory(place: Place) -> list[str]:
    place.guards.enter_context(place.limited_memory(2**30))
    return edited(place, model={**SETTINGS["model"], "transformer_feedforward": 2**31})


def other_weights(place: Place, content: bytes | None) -> list[str]:
    run = place.run()
    file = run / "model.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    return place.segment(place.shared / "picture.png", run)


@case("has no model.safetensors")
def a_run_without_weights(place: Place) -> list[str]:
    return other_weights(place, None)


@case("model.safetensors' is broken")
def a_run_with_half_its_weights(place: Place) -> list[str]:
    return other_weights(place, (place.shared / "run" / "model.safetensors").read_bytes()[:-100])


@case("its SHA-256 is not that of its header")
def a_run_with_a_flipped_bit(place: Place) -> list[str]:
    data = bytearray((place.shared / "run" / "model.safetensors").read_bytes())
    data[-4] ^= 2
    return other_weights(place, bytes(data))


@case("model.safetensors' is broken")
def a_pickle_for_weights(place: Place) -> list[str]:
    return other_weights(place, pickle.dumps(Owned()))


@case("model.safetensors' is broken")
def weights_with_an_endless_header(place: Place) -> list[str]:
    return other_weights(place, (2**62).to_bytes(8, "little") + b"{}")


@case("holds numbers that are not finite")
def weights_that_are_not_finite(place: Place) -> list[str]:
    tensors = load_file(place.shared / "run" / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, place.here / "nan.safetensors")
    return other_weights(place, (place.here / "nan.safetensors").read_bytes())


@case("does not fit the model that config.json describes")
def weights_of_something_else(place: Place) -> list[str]:
    save_file({"a": torch.ones(3)}, place.here / "a.safetensors")
    return other_weights(place, (place.here / "a.safetensors").read_bytes())


@case("has no model.safetensors")
def a_pipe_for_weights(place: Place) -> list[str]:
    command = other_weights(place, None)
    os.mkfifo(place.here / "run" / "model.safetensors")
    return command


@case("model.safetensors' is broken (Permission denied)")
def weights_that_may_not_be_read(place: Place) -> list[str]:
    command = other_weights(place, (place.shared / "run" / "model.safetensors").read_bytes())
    place.guards.enter_context(place.read_only(place.here / "run" / "model.safetensors", 0))
    return command


def go_on(place: Place, *more: str) -> list[str]:
    return [word.replace("OUT", str(place.here / "run")) for word in place.train(None, *more)]


def unfinished(place: Place) -> Path:
    """A run that has a state to go on from."""
    run = place.run()
    (run / "model.safetensors").unlink()
    return run


@case("differs in seed (0, now 1): choose another folder")
def another_seed(place: Place) -> list[str]:
    place.run()
    return go_on(place, "--seed", "1")


@case("differs in fingerprint")
def other_data(place: Place) -> list[str]:
    place.run()
    return go_on(place, "--split", ":3")


@case("differs in objects.batch (2, now 5)")
def other_settings(place: Place) -> list[str]:
    place.run()
    return go_on(place, "--objects.batch", "5")


@case("state.json' is broken")
def states_edited_by_hand(place: Place) -> list[str]:
    run = place.run()
    for file in run.glob("training_state*/state.json"):
        file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    return go_on(place)


@case("to start afresh")
def states_without_files(place: Place) -> list[str]:
    run = place.run()
    for file in run.glob("training_state*/*.safetensors"):
        file.unlink()
    return go_on(place)


@case("rollbacks.json' is broken")
def notes_of_trouble_edited_by_hand(place: Place) -> list[str]:
    run = place.run()
    for folder in run.glob("training_state*"):
        shutil.rmtree(folder)
    (run / "divergence").mkdir()
    (run / "divergence" / "rollbacks.json").write_text("{")
    (run / "log.jsonl").write_text("")
    return go_on(place)


@case("is being trained by process")
def a_run_that_another_process_trains(place: Place) -> list[str]:
    place.run()
    place.guards.enter_context(FolderLock(place.here / "run"))
    return go_on(place)


@case("cannot be written (Permission denied)")
def a_run_that_may_not_be_written(place: Place) -> list[str]:
    place.guards.enter_context(place.read_only(place.run()))
    return go_on(place)


@case("cannot be written (Permission denied)")
def a_run_where_nothing_may_be_made(place: Place) -> list[str]:
    place.guards.enter_context(place.read_only(place.here))
    return place.train()


@case("cannot be written (File too large): choose another folder or free space")
def no_room_for_a_run(place: Place) -> list[str]:
    place.guards.enter_context(place.limited_files(100))
    return place.train()


@case("is a file, expected a run folder or a new name")
def a_run_where_a_file_is(place: Place) -> list[str]:
    (place.here / "run").touch()
    return go_on(place)


@case("is not empty and holds no run: choose another folder")
def a_run_among_other_files(place: Place) -> list[str]:
    (place.here / "run").mkdir()
    (place.here / "run" / "holiday.jpg").touch()
    return go_on(place)


@case("cannot be written (File exists)")
def a_run_that_links_to_itself(place: Place) -> list[str]:
    (place.here / "run").symlink_to("run")
    return go_on(place)


@case("File name too long")
def a_run_of_a_long_name(place: Place) -> list[str]:
    return [word.replace("OUT", str(place.here / ("a" * 300))) for word in place.train()]


@case("cannot be written (Permission denied)")
def figures_that_may_not_be_written(place: Place) -> list[str]:
    place.guards.enter_context(place.read_only(place.run()))
    return place.evaluate(place.here / "run")


@case("is a folder, expected a file")
def figures_into_a_folder(place: Place) -> list[str]:
    place.run()
    return place.evaluate(place.here / "run", "--json", place.here)


# Results and the rest


@case("is not empty and was not made by this command")
def results_among_other_files(place: Place) -> list[str]:
    (place.here / "holiday.jpg").touch()
    return ["segment", str(place.shared / "run"), str(place.shared / "picture.png"), "--out", str(place.here)]


@case("lie in each other, expected separate folders")
def results_among_the_pictures(place: Place) -> list[str]:
    folder = place.pictures("a.png")
    return ["segment", str(place.shared / "run"), str(folder), "--out", str(folder / "masks")]


@case("none of the 1 pictures in")
def nothing_to_segment(place: Place) -> list[str]:
    folder = place.pictures()
    (folder / "a.png").write_bytes(b"\x89PNG")
    return place.segment(folder)


@case("cannot be written (Permission denied)")
def results_that_may_not_be_written(place: Place) -> list[str]:
    place.guards.enter_context(place.read_only(place.here))
    return place.segment(place.shared / "picture.png")


@case("cannot be written (File too large): choose another folder or free space")
def no_room_for_results(place: Place) -> list[str]:
    place.guards.enter_context(place.limited_files(20))
    return place.segment(place.shared / "picture.png")


@case("skipped: 'b.png' is not a complete picture", code=3)
def a_broken_picture_among_others(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").write_bytes(b"")
    return place.segment(place.here / "pictures")


@case("skipped: 'b.png' is not a complete picture", code=3)
def a_bomb_among_others(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").write_bytes(png(60_000, 60_000, b"\0" * 1_000_000))
    return place.segment(place.here / "pictures")


@case("skipped: '\\udcff.png' is not a complete picture", code=3)
def a_name_that_is_no_text_among_others(place: Place) -> list[str]:
    folder = place.pictures("a.png")
    Path(os.fsdecode(bytes(folder) + b"/\xff.png")).write_bytes(b"")
    return place.segment(folder)


@case("skipped: 'b\\nc.png' is not a complete picture", code=3)
def a_name_with_a_newline_among_others(place: Place) -> list[str]:
    (place.pictures("a.png") / "b\nc.png").write_bytes(b"")
    return place.segment(place.here / "pictures")


@case("does not exist")
def data_to_check_that_is_not_there(place: Place) -> list[str]:
    return ["check-data", str(place.here / "no")]


@case("wrong: 'b.png' is not a complete picture")
def data_to_check_that_is_broken(place: Place) -> list[str]:
    (place.pictures("a.png") / "b.png").write_bytes(b"")
    return ["check-data", str(place.here / "pictures")]


@case("holds something else than a cache")
def a_cache_among_other_files(place: Place) -> list[str]:
    (place.here / "holiday.jpg").touch()
    return ["prepare", str(place.shared / "desk"), str(place.here), "--processes", "1"]


@case("is not empty")
def scenes_among_other_files(place: Place) -> list[str]:
    (place.here / "holiday.jpg").touch()
    return ["scenes", str(place.here), "--count", "1", "--processes", "1"]


@case("(Permission denied): give another name")
def scenes_that_may_not_be_written(place: Place) -> list[str]:
    place.guards.enter_context(place.read_only(place.here))
    return ["scenes", "OUT", "--count", "1", "--size", "16", "--processes", "1"]


def reference(place: Place, content: bytes | None) -> list[str]:
    file = place.here / "a.pth"
    if content is not None:
        file.write_bytes(content)
    return ["import-reference", str(file), "OUT"]


@case("a.pth'")
def no_weights_of_the_reference(place: Place) -> list[str]:
    return reference(place, None)


@case("a.pth'")
def weights_of_the_reference_that_would_run_code(place: Place) -> list[str]:
    return reference(place, pickle.dumps(Owned()))


@case("a.pth'")
def half_the_weights_of_the_reference(place: Place) -> list[str]:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.ones(30)}}, buffer)
    return reference(place, buffer.getvalue()[:200])


@case("a.pth'")
def other_weights_for_the_reference(place: Place) -> list[str]:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.ones(30)}}, buffer)
    return reference(place, buffer.getvalue())


# The table is run


def tree(folder: Path) -> dict[str, bytes | int]:
    """Every file below a folder with its content, everything else with its kind."""
    found: dict[str, bytes | int] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        readable = stat.S_ISREG(mode) and os.access(path, os.R_OK, effective_ids=True) and path.name != LOCK_NAME
        found[str(path)] = path.read_bytes() if readable else stat.S_IFMT(mode)
    return found


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise AssertionError(f"it took more than {seconds} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def place(shared: Path, tmp_path: Path, read_only: Any, limited_files: Any, limited_memory: Any) -> Iterator[Place]:
    with contextlib.ExitStack() as guards:
        yield Place(shared, tmp_path, guards, read_only, limited_files, limited_memory)


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 120


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, message, code = CASES[name]
    out = place.here / "out"
    (place.here / "empty").mkdir()
    monkeypatch.chdir(place.here / "empty")
    with place.guards:
        command = [word.replace("OUT", str(out)) for word in prepare(place)]
        capsys.readouterr()
        before = tree(place.here)
        with time_limit(SECONDS):
            assert main.run(command) == code
        after = tree(place.here)
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    lines = told.out.splitlines() if message.startswith(("skipped: ", "wrong: ")) else told.err.splitlines()
    fitting = [line for line in lines if message in line]
    assert fitting, told
    if code == 2 and not message.startswith("wrong: "):
        (line,) = told.err.splitlines()
        assert line.startswith("astseg: ")
        assert len(line) < 1200
        assert not out.exists()
        assert after == before
    assert not (place.here / "empty" / "owned").exists()


# As a person would run it


def test_in_processes_of_their_own(shared: Path, tmp_path: Path) -> None:
    """No stack trace at start-up, closed pipes, odd surroundings."""
    script = Path(sys.executable).with_name("astseg")
    base = [str(script)] if script.exists() else [sys.executable, "-c", "from astseg.cli.main import main; main()"]
    out = tmp_path / "out"
    for command, environment in [
        (["train", "図形", "--out", str(out)], {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}),
        (["segment", str(shared / "run"), str(tmp_path / "no"), "--out", str(out)], {}),
        (["nonsense"], {"COLUMNS": "1"}),
    ]:
        result = subprocess.run(
            [*base, *command], capture_output=True, timeout=60, check=False, env={**os.environ, **environment}
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
