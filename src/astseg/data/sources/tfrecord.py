"""ObjectsRoom and CLEVR with masks, in the TFRecord files in which DeepMind distributes them. Without TensorFlow.

Source: DeepMind's Multi-Object Datasets (Kabra et al., 2019). A record holds ``image`` (H x W x 3 bytes) and ``mask``
(entities x H x W x 1 bytes, each 0 or 255, one-hot over the entities; absent objects all zero), both as lists of
one-byte strings. The first entities are background: 0 to 3 (sky, floor, walls) in ObjectsRoom, 0 in CLEVR.

Which scenes are for testing is not said in the paper or with the files. Ours, by index, as CLEVRTEX does it: the first
tenth ``test``, the next ``val``, the rest ``train``. The variants of ObjectsRoom other than train are test sets as a
whole.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.benchmark import Benchmark
from astseg.data.source import NoSplitError, SceneSource
from astseg.data.sources.example import BrokenExampleError, byte_list, features
from astseg.data.sources.forward import Forward
from astseg.data.sources.records import Record, count_records, read_records
from astseg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CLEVR_WITH_MASKS", "OBJECTS_ROOM", "TFRecordSource", "find_records", "scene_from"]

CLEVR_WITH_MASKS = Benchmark("CLEVR", 10, (128, 128), True, 0.8, (0,), "clevr-ct")
"""240x320, centre crop of 192, to 128x128."""

OBJECTS_ROOM = Benchmark("ObjectsRoom", 3, (64, 64), False, 1.0, (0, 1, 2, 3), "objects-room-ct")
"""64x64, as it is."""

_SIZES = {64 * 64 * 3: ((64, 64), OBJECTS_ROOM), 240 * 320 * 3: ((240, 320), CLEVR_WITH_MASKS)}
_ENDS = (".tfrecord", ".tfrecords")
_TEST_VARIANTS = ("six_objects", "identical_color", "empty_room")


class TFRecordSource(SceneSource):
    """Scenes of one TFRecord file, which is read forward: fast where their numbers rise."""

    has_labels = True

    def __init__(self, path: Path) -> None:
        """Look at the first record.

        Raises:
            UserError: The file is damaged, empty, or of another data set.
        """
        self._path = path
        self._records = Forward(partial(read_records, path))
        try:
            first = self._records[0]
        except IndexError:
            raise UserError(f"'{path}' holds no records: fetch the file again") from None
        except OSError as error:
            raise UserError(f"'{path}' cannot be read ({error.strerror}): check its permissions") from error
        self._size, benchmark = _kind(path, first)
        self.benchmark = self._protocol = benchmark
        entities = scene_from(first, self._size, benchmark)[2]
        self.name = f"TFRecord, {benchmark.name}, {entities} entities"
        self._variant = next((variant for variant in _TEST_VARIANTS if variant in path.name), None)

    def __len__(self) -> int:
        """Number of scenes, by a pass over the file once in a process. Raises UserError for a damaged file."""
        return count_records(self._path)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and labels of a scene."""
        image, mask, _ = scene_from(self._records[index], self._size, self._protocol)
        return image, mask

    def split(self, name: str) -> list[int]:
        """Indices of a split: the first tenth is test, the next one val, the rest train.

        Raises:
            UserError: The file is a test set as a whole and another split is asked for.
        """
        count = len(self)
        if self._variant is not None:
            if name == "test":
                return list(range(count))
            raise NoSplitError(
                f"'{self._path}' is the test set {self._variant}, which has no '{name}' split: use 'all'"
            )
        start, stop = {"test": (0, 1), "val": (1, 2), "train": (2, 10)}[name]
        return list(range(count * start // 10, count * stop // 10))


def find_records(path: Path) -> TFRecordSource | None:
    """Recognise a TFRecord file, or a folder that holds one.

    Raises:
        UserError: The folder holds several.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(_ENDS))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"'{path}' holds {len(files)} TFRecord files ({names}): name one of them")
        return TFRecordSource(files[0]) if files else None
    return TFRecordSource(path) if path.name.endswith(_ENDS) else None


def scene_from(
    record: Record, size: tuple[int, int], benchmark: Benchmark
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Decode a record.

    Args:
        record: The record.
        size: (H, W).
        benchmark: Which entities are background.

    Returns:
        Image H x W x 3 uint8; labels H x W uint8, 0 = background, the other entities 1, 2, ... in their order; the
        number of entities.

    Raises:
        UserError: The record is damaged or holds something else; the line names the file and the offset.
    """
    height, width = size
    data = record.checked()
    try:
        places = features(data)
        for name in ("image", "mask"):
            if name not in places:
                raise BrokenExampleError(0, f"begins an Example without '{name}'")
        image, mask = (byte_list(data, places[name]) for name in ("image", "mask"))
        if len(image) != height * width * 3:
            expected = f"{len(image)} bytes, expected {height * width * 3}"
            raise BrokenExampleError(places["image"].start, f"begins an image of {expected}")
        if not len(mask) or len(mask) % (height * width) or len(mask) > 255 * height * width:
            expected = f"{height} x {width} bytes for each of at most 255 entities"
            raise BrokenExampleError(places["mask"].start, f"begins a mask of {len(mask)} bytes, expected {expected}")
        planes = mask.reshape(-1, height * width)
        labels = _labels(planes, benchmark.background_labels, places["mask"].start)
    except BrokenExampleError as error:
        raise record.damaged(12 + error.offset, error.what) from None
    return image.reshape(height, width, 3).copy(), labels.reshape(height, width), len(planes)


def _labels(planes: NDArray[np.uint8], background: tuple[int, ...], offset: int) -> NDArray[np.uint8]:
    """One-hot masks E x HW, each 0 or 255, to labels HW; the first entity wins where several claim a pixel."""
    labels = np.zeros(planes.shape[1], np.uint8)
    objects = [entity for entity in range(len(planes)) if entity not in background]
    for label, entity in reversed(list(enumerate(objects, start=1))):
        plane = np.ascontiguousarray(planes[entity])
        inside = plane == 255
        if np.count_nonzero(plane) != np.count_nonzero(inside):
            wrong = plane[(plane != 0) & ~inside][0]
            raise BrokenExampleError(offset, f"begins a mask with value {wrong} in entity {entity}, expected 0 or 255")
        labels[inside] = label
    return labels


def _kind(path: Path, record: Record) -> tuple[tuple[int, int], Benchmark]:
    """Size and data set, by the number of bytes of the first image."""
    data = record.checked()
    try:
        places = features(data)
        count = len(byte_list(data, places["image"])) if "image" in places else 0
    except BrokenExampleError as error:
        raise UserError(f"'{path}' holds no scenes: byte {12 + error.offset} {error.what}") from None
    if count not in _SIZES:
        expected = " or ".join(f"{h}x{w} ({about.name})" for (h, w), about in _SIZES.values())
        raise UserError(f"'{path}' has images of {count} bytes, expected RGB of {expected}: write it as .npz instead")
    return _SIZES[count]
