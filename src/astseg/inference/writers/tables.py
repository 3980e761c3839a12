"""The objects of all images in a CSV and a COCO json, and their counts, written as they come: memory does not grow.

Source of the second: the COCO data format (cocodataset.org). Beside what it asks for, an image has ``mask``, its label
map, and an annotation ``label``, its number there, ``order``, 0 for the front-most, and ``visibility``.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from astseg import __version__
from astseg.data.formats.rle import label_runs, runs_to_text
from astseg.runs.atomic import atomic_path, write_whole, writing_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction
    from astseg.inference.writers.read_ahead import Picture

__all__ = ["Tables"]

_COLUMNS = ("file", "id", "x", "y", "w", "h", "area", "position_x", "position_y", "scale_x", "scale_y", "activation")
_MORE_COLUMNS = ("order", "visibility", "score")
_COUNT_COLUMNS = ("name", "frame", "seconds", "count")


class Tables:
    """``objects.csv``, ``counts.csv`` and ``coco.json``, written while this is entered; so named only once whole."""

    def __init__(self, out: Path, *, appearance_size: int, of_videos: bool = False) -> None:
        """Nothing is written yet.

        Args:
            out: Folder, made if it is not there.
            appearance_size: Z.
            of_videos: Whether the images are frames, whose objects have their times in the CSV.
        """
        self.images = 0
        self.objects = 0
        self._csv, self._counts, self._coco = out / "objects.csv", out / "counts.csv", out / "coco.json"
        self._of_videos = of_videos
        times = ("frame", "seconds") if of_videos else ()
        self._columns = [
            _COLUMNS[0],
            *times,
            *_COLUMNS[1:],
            *_MORE_COLUMNS,
            *(f"a_{index}" for index in range(appearance_size)),
        ]
        self._files: list[IO[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Tables:
        """Begin the files.

        Raises:
            UserError: Files cannot be written there.
        """
        with ExitStack() as stack:
            csv_part, counts_part, coco_part = (
                stack.enter_context(atomic_path(path)) for path in (self._csv, self._counts, self._coco)
            )
            stack.push(self._close)
            with writing_errors(self._coco):
                self._writer, self._counter = (self._csv_writer(part) for part in (csv_part, counts_part))
                self._annotations = coco_part.open("w", encoding="utf-8")
                self._files.append(self._annotations)
                self._images = tempfile.TemporaryFile("w+", encoding="utf-8", dir=coco_part.parent)
                self._files.append(self._images)
            self._writer.writerow(self._columns)
            self._counter.writerow(_COUNT_COLUMNS)
            info = {"description": "objects found without labels", "version": f"astseg {__version__}"}
            head = {"info": info, "licenses": [], "categories": [{"id": 1, "name": "object", "supercategory": ""}]}
            self._annotations.write(json.dumps(head)[:-1] + ',\n"annotations": [')
            self._images.write('],\n"images": [')
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Give the files their names if all went well, and leave nothing of them otherwise.

        Raises:
            UserError: The files cannot be written to their end.
        """
        self._stack.__exit__(*error)

    def add(self, picture: Picture, labels: NDArray[np.int32], objects: Sequence[tuple[int, ObjectPrediction]]) -> None:
        """Add an image.

        Args:
            picture: The image.
            labels: H x W label map.
            objects: Its objects with their numbers in the map.

        Raises:
            UserError: The files cannot be written.
        """
        height, width = labels.shape
        name, mask = picture.name, f"masks/{picture.result}.png"
        image = {"id": self.images + 1, "file_name": name, "width": width, "height": height, "mask": mask}
        times = ("", "") if picture.seconds is None else (picture.frame, f"{picture.seconds:.6f}")
        with writing_errors(self._coco):
            self._counter.writerow([name, *times, len(objects)])
            self._append(self._images, image, first=self.images == 0)
            self.images += 1
            runs = label_runs(labels, [label for label, _ in objects])
            for (label, found), counts in zip(objects, runs, strict=True):
                self._writer.writerow([name, *(times if self._of_videos else ()), *_row(label, found)])
                segmentation = {"size": [height, width], "counts": runs_to_text(counts)}
                annotation = {
                    "id": self.objects + 1,
                    "image_id": self.images,
                    "category_id": 1,
                    "label": label,
                    "bbox": list(found.box),
                    "area": found.area,
                    "score": round(found.score, 6),
                    "order": found.order,
                    "visibility": round(found.visibility, 6),
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
                self._append(self._annotations, annotation, first=self.objects == 0)
                self.objects += 1

    def publish(self) -> None:
        """Put what there is so far under the names of the files, and go on.

        Raises:
            UserError: The files cannot be written.
        """
        with writing_errors(self._coco):
            for file in self._files:
                file.flush()
            for path in (self._csv, self._counts):
                write_whole(_beside(path), partial(shutil.copyfile, path.with_name(path.name + ".part")))
            write_whole(_beside(self._coco), self._coco_so_far)
            for path in (self._csv, self._counts, self._coco):
                _beside(path).replace(path)

    def _coco_so_far(self, path: Path) -> None:
        """Copy both halves of the json, whole."""
        with path.open("w", encoding="utf-8") as whole:
            with self._coco.with_name(self._coco.name + ".part").open(encoding="utf-8") as annotations:
                shutil.copyfileobj(annotations, whole)
            end = self._images.tell()
            self._images.seek(0)
            shutil.copyfileobj(self._images, whole)
            self._images.seek(end)
            whole.write("]}\n")

    def _csv_writer(self, part: Path) -> Any:
        # Names of files need not be valid text; what they hold instead goes through unchanged.
        file = part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._files.append(file)
        return csv.writer(file)

    def _append(self, file: IO[str], entry: dict[str, Any], *, first: bool) -> None:
        file.write(("\n" if first else ",\n") + json.dumps(entry))

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the json together where all went well; close the files."""
        try:
            if kind is None:
                with writing_errors(self._coco):
                    self._images.write("]}\n")
                    self._images.seek(0)
                    shutil.copyfileobj(self._images, self._annotations)
                    for file in self._files:
                        file.flush()
        finally:
            for file in self._files:
                with suppress(OSError):  # what could not be written is thrown away
                    file.close()


def _beside(path: Path) -> Path:
    """Where a table is put together while its own name is taken by the one before."""
    return path.with_name(path.name + ".now")


def _row(label: int, found: ObjectPrediction) -> list[Any]:
    """What a line of the CSV says of an object; numbers to six digits."""
    return [
        label,
        *found.box,
        found.area,
        *(f"{number:.6g}" for number in (*found.position, *found.scale, found.activation)),
        found.order,
        *(f"{number:.6g}" for number in (found.visibility, found.score, *found.appearance)),
    ]
