"""ShapeStacks in its own folders: ``recordings``, ``iseg`` and ``splits``.

Source: Groth, Fuchs, Posner and Vedaldi, ECCV 2018, and its reader. Below ``recordings/SCENARIO`` lie images
``rgb-w=W-f=F-l=L-c=C-cam_N-mono-0.png``, below ``iseg/SCENARIO`` masks
``iseg-w=0-f=0-l=0-c=original-cam_N-mono-0.map``: they belong together by scenario and camera alone, and cameras are
numbers (``cam_2`` before ``cam_10``). The masks are PNG files under another name whose grey is 32 times the label.
``splits/NAME/train.txt`` and others name one scenario a line.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.benchmark import Benchmark
from astseg.data.formats.pictures import check_mask_size, read_rgb
from astseg.data.source import NoSplitError, SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SHAPESTACKS", "ShapeStacksSource", "find_shapestacks", "read_map"]

SHAPESTACKS = Benchmark("ShapeStacks", 6, (64, 64), True, 196 / 224, (0,), "shapestacks-ct")
"""224x224, centre crop of 196, to 64x64."""

_IMAGE = re.compile(r"rgb-.*-cam_([0-9]+)-mono-[0-9]+\.png")
_MASK = re.compile(r"iseg-.*-cam_([0-9]+)-mono-[0-9]+\.map")
_STEP = 32
_SPLIT_FILES = {"train": ("train.txt",), "val": ("eval.txt", "val.txt"), "test": ("test.txt", "eval.txt")}


@dataclass(frozen=True, order=True)
class _Scene:
    scenario: str
    camera: int


class ShapeStacksSource(SceneSource):
    """One image for each scenario and camera."""

    benchmark = SHAPESTACKS

    def __init__(self, root: Path, camera: int | None = None) -> None:
        """List images and masks.

        Args:
            root: The folder with ``recordings`` in it.
            camera: Only this one; None: all.

        Raises:
            UserError: No images, or two of one scenario and camera.
        """
        self._path = root
        self._images = _list_files(root / "recordings", _IMAGE)
        self._masks = _list_files(root / "iseg", _MASK)
        self.has_labels = bool(self._masks)
        known = self._images.keys() | self._masks.keys()
        self._scenes = sorted(scene for scene in known if camera is None or scene.camera == camera)
        if not self._scenes:
            cameras = sorted({scene.camera for scene in known})
            which = f"of camera {camera} (there are {_short(cameras)})" if cameras else "'rgb-...-cam_1-mono-0.png'"
            raise UserError(f"'{root}/recordings' holds no pictures {which}: check the path")
        self.name = "ShapeStacks" + ("" if camera is None else f", camera {camera}")

    def __len__(self) -> int:
        """Number of images, those that only have a mask included."""
        return len(self._scenes)

    def scene_name(self, index: int) -> str:
        """Scenario and camera, such as ``env_ccs-easy-h=4-vcom=2-vpsf=0-v=1/cam_2``."""
        scene = self._scenes[index]
        return f"{scene.scenario}/cam_{scene.camera}"

    def problem(self, index: int) -> str | None:
        """Which file of a scene is missing, or None."""
        scene = self._scenes[index]
        if scene not in self._images:
            return f"the picture of '{self.scene_name(index)}' is missing"
        if self.has_labels and scene not in self._masks:
            return f"the mask of '{self.scene_name(index)}' is missing"
        return None

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        if problem := self.problem(index):
            raise UserError(problem)
        scene = self._scenes[index]
        file = self._images[scene]
        image = read_rgb(file, f"{scene.scenario}/{file.name}", upright=False)
        if not self.has_labels:
            return image, None
        file = self._masks[scene]
        name = f"{scene.scenario}/{file.name}"
        labels = read_map(file, name)
        check_mask_size(labels, image, f"mask '{name}'")
        return image, labels

    def split(self, name: str) -> list[int]:
        """Indices of a split; where there is no ``test.txt``, ``eval.txt`` serves as ``test`` too.

        Raises:
            UserError: No such file, or one that names a scenario that is not there.
        """
        folders = sorted((self._path / "splits").glob("*/")) if (self._path / "splits").is_dir() else []
        folders.sort(key=lambda folder: folder.name != "default")
        file = next((f / end for f in folders for end in _SPLIT_FILES[name] if (f / end).is_file()), None)
        if file is None:
            raise NoSplitError(f"'{self._path}' has no '{name}' split: expected splits/default/{_SPLIT_FILES[name][0]}")
        scenarios = {line.strip() for line in file.read_text().splitlines()} - {""}
        missing = sorted(scenarios - {scene.scenario for scene in self._scenes})
        if missing:
            raise UserError(
                f"'{file}' names {len(missing)} scenarios that are not there ({_short(missing)}): fetch them"
            )
        return [index for index, scene in enumerate(self._scenes) if scene.scenario in scenarios]


def find_shapestacks(path: Path, camera: int | None = None) -> ShapeStacksSource | None:
    """Recognise the folder that holds ``recordings``, where its images are named as ShapeStacks names them."""
    if not (path / "recordings").is_dir() or not ((path / "iseg").is_dir() or (path / "splits").is_dir()):
        return None
    return ShapeStacksSource(path, camera)


def read_map(path: Path, name: str) -> NDArray[np.uint8]:
    """A mask: the grey of each pixel is 32 times its label, H x W, uint8.

    Raises:
        UserError: The file is no image, or its grey levels are no multiples of 32.
    """
    rgb = read_rgb(path, name, upright=False)
    if (rgb != rgb[:, :, :1]).any():
        raise UserError(f"mask '{name}' holds colours, expected grey levels of {_STEP} times the label")
    grey = rgb[:, :, 0]
    labels: NDArray[np.uint8] = ((grey.astype(np.uint16) + _STEP // 2) // _STEP).astype(np.uint8)
    off = np.abs(labels.astype(np.int16) * _STEP - grey)
    if off.max() > _STEP // 4:
        level = grey.ravel()[off.argmax()]
        raise UserError(f"mask '{name}' holds grey level {level}, expected multiples of {_STEP}: fetch the file again")
    return labels


def _list_files(folder: Path, pattern: re.Pattern[str]) -> dict[_Scene, Path]:
    """Files below a folder by scenario and camera."""
    found: dict[_Scene, Path] = {}
    for inside in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        for file in os.scandir(inside.path) if inside.is_dir() else ():
            if match := pattern.fullmatch(file.name):
                scene = _Scene(inside.name, int(match[1]))
                other = found.setdefault(scene, Path(file.path))
                if other.name != file.name:
                    raise UserError(f"'{other}' and '{file.name}' are of one scenario and camera: remove one of them")
    return found


def _short(values: list[str] | list[int]) -> str:
    """The first few of a list, in words."""
    return ", ".join([str(value) for value in values[:5]] + ["..."] * (len(values) > 5))
