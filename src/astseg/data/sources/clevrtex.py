"""Folders laid out as CLEVRTEX: ``clevrtex_full/0/CLEVRTEX_full_000000{.png,_flat.png,.json}``.

Source: the CLEVRTEX data set and its generator (Karazija, Laina and Rupprecht, NeurIPS 2021), which writes CLEVR the
same way. A thousand scenes a subfolder; the image is RGB or RGBA; the mask ``_flat.png`` is a palette image whose
indices are the labels, 0 = background; the ``.json`` is written last, so an image without one is unfinished. Other
passes of the renderer (depth, normals, ...) may lie in the same folder and are ignored.

Scenes are counted from the first number to the last one present, so that a gap has an index, is reported by name, and
does not move the splits.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.benchmark import Benchmark
from astseg.data.formats.pictures import check_mask_size, read_labels, read_rgb
from astseg.data.source import NoSplitError, SceneSource
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CLEVR", "CLEVRTEX", "ClevrtexSource", "find_clevrtex"]

_FILE = re.compile(r"([A-Za-z0-9]+)_([A-Za-z0-9]+)_([0-9]{6})(\.png|_flat\.png|\.json)")
_SPLITS = {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)}

CLEVR = Benchmark("CLEVR", 10, (128, 128), True, 0.8, (0,), "clevr-ct")
CLEVRTEX = Benchmark("CLEVRTEX", 10, (128, 128), False, 0.8, (0,), "clevrtex-ct")
"""240x320, centre crop of 192, to 128x128; all variants."""

_BENCHMARKS = {"CLEVR": CLEVR, "CLEVRTEX": CLEVRTEX}


@dataclass
class _Listing:
    """Files of one data set: number -> subfolder, for each of the three suffixes."""

    found: dict[str, dict[int, Path]] = field(default_factory=lambda: {".png": {}, "_flat.png": {}, ".json": {}})

    @property
    def rendered(self) -> bool:
        """Whether there are masks, or descriptions beside images: an ordinary folder of images has neither."""
        return bool(self.found["_flat.png"] or (self.found[".png"] and self.found[".json"]))


class ClevrtexSource(SceneSource):
    """Scenes of a folder in the CLEVRTEX layout."""

    def __init__(self, root: Path, prefix: str, variant: str, listing: _Listing) -> None:
        """Take the files that :func:`find_clevrtex` listed."""
        self._path = root
        self._variant = variant
        self._stem = f"{prefix}_{variant}"
        self._images, self._masks, self._descriptions = (listing.found[end] for end in (".png", "_flat.png", ".json"))
        numbers = self._images.keys() | self._masks.keys() | self._descriptions.keys()
        self._numbers = range(min(numbers), max(numbers) + 1)
        self.name = f"CLEVRTEX layout, {self._stem}"
        self.has_labels = bool(self._masks)
        self.benchmark = _BENCHMARKS.get(prefix.upper())

    def __len__(self) -> int:
        """Number of scenes, gaps included."""
        return len(self._numbers)

    def scene_name(self, index: int) -> str:
        """Name such as ``CLEVRTEX_full_000012``."""
        return f"{self._stem}_{self._numbers[index]:06d}"

    def problem(self, index: int) -> str | None:
        """Which file of a scene is missing, or None."""
        number, name = self._numbers[index], self.scene_name(index)
        if number not in self._images:
            return f"'{name}.png' is missing"
        if self.has_labels and number not in self._masks:
            return f"mask '{name}_flat.png' is missing"
        if self._descriptions and number not in self._descriptions:
            return f"'{name}' is unfinished, its .json is missing"
        return None

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Image and labels of a scene."""
        if problem := self.problem(index):
            raise UserError(problem)
        number, name = self._numbers[index], self.scene_name(index)
        image = read_rgb(self._images[number] / f"{name}.png", f"{name}.png", upright=False)
        if not self.has_labels:
            return image, None
        labels = read_labels(self._masks[number] / f"{name}_flat.png", f"{name}_flat.png")
        check_mask_size(labels, image, f"mask '{name}_flat.png'")
        return image, labels

    def split(self, name: str) -> list[int]:
        """Indices of a split: the first tenth is test, the next one val, the rest train.

        Raises:
            UserError: The variant is ``outd``, which is a test set as a whole and has no splits.
        """
        if self._variant == "outd":
            raise NoSplitError(f"'{self._path}' is the outd variant, which has no '{name}' split: use 'all'")
        start, stop = (int(fraction * len(self)) for fraction in _SPLITS[name])
        return list(range(start, stop))


def find_clevrtex(path: Path) -> ClevrtexSource | None:
    """Recognise the layout in ``path``: the data set's folder, the folder above it or one of its subfolders.

    Returns:
        The data set, or None where there is none.

    Raises:
        UserError: There are several data sets, or one number appears twice.
    """
    listings: dict[tuple[str, str], _Listing] = {}
    for folder in _subfolders(path):
        for file in os.scandir(folder):
            if match := _FILE.fullmatch(file.name):
                prefix, variant, number, end = match.groups()
                files = listings.setdefault((prefix, variant), _Listing()).found[end]
                other = files.setdefault(int(number), folder)
                if other != folder:
                    raise UserError(f"'{file.name}' lies in both '{other}' and '{folder}': remove one of them")
    rendered = {key: listing for key, listing in listings.items() if listing.rendered}
    if len(rendered) > 1:
        names = ", ".join(sorted(f"{prefix}_{variant}".lower() for prefix, variant in rendered))
        raise UserError(f"'{path}' holds {len(rendered)} data sets ({names}): name the folder of one of them")
    for (prefix, variant), listing in rendered.items():
        return ClevrtexSource(path, prefix, variant, listing)
    return None


def _subfolders(path: Path) -> list[Path]:
    """Where files of the layout may lie: ``path``, ``path/0``, ``path/1``, ..., ``path/clevrtex_full/0``, ..."""
    folders = [path]
    for inside in _folders_in(path):
        folders += [inside] if inside.name.isdigit() else [deep for deep in _folders_in(inside) if deep.name.isdigit()]
    return folders


def _folders_in(path: Path) -> list[Path]:
    """Folders directly inside ``path``, sorted; those that may not be listed count as empty."""
    try:
        return sorted(
            Path(entry.path) for entry in os.scandir(path) if os.path.isdir(entry.path)
        )  # a link may be a loop
    except PermissionError:
        return []
