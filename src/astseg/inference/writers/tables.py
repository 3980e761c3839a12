"""The objects of all images in two files, a CSV and a COCO json, written as they come: memory does not grow.

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
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from astseg import __version__
from astseg.data.formats.rle import label_runs, runs_to_text
from astseg.runs.atomic import atomic_path, writing_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction

__all__ = ["Tables"]

_COLUMNS = ("file", "id", "x", "y", "w", "h", "area", "position_x", "position_y", "scale_x", "scale_y", "activation")
_MORE_COLUMNS = ("order", "visibility", "score")


class Tables:
    """``objects.csv`` and ``coco.json``, written while this is entered; under these names only once they are whole."""

    def __init__(self, out: Path, *, appearance_size: int) -> None:
        """Nothing is written yet.

        Args:
            out: Folder, made if it is not there.
            appearance_size: Z.
        """
        self.images = 0
        self.objects = 0
        self._csv, self._coco = out / "objects.csv", out / "coco.json"
        self._columns = [*_COLUMNS, *_MORE_COLUMNS, *(f"a_{index}" for index in range(appearance_size))]
        self._files: list[IO[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Tables:
        """Begin the files.

        Raises:
            UserError: Files cannot be written there.
        """
        with ExitStack() as stack:
            csv_part, coco_part = (stack.enter_context(atomic_path(path)) for path in (self._csv, self._coco))
            stack.push(self._close)
            with writing_errors(self._coco):
                # Names of files need not be valid text; what they hold instead goes through unchanged.
                table = csv_part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
                self._files.append(table)
                self._annotations = coco_part.open("w", encoding="utf-8")
                self._files.append(self._annotations)
                self._images = tempfile.TemporaryFile("w+", encoding="utf-8", dir=coco_part.parent)
                self._files.append(self._images)
            self._writer = csv.writer(table)
            self._writer.writerow(self._columns)
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

    def add(
        self, name: str, mask: str, labels: NDArray[np.int32], objects: Sequence[tuple[int, ObjectPrediction]]
    ) -> None:
        """Add an image.

        Args:
            name: Its name.
            mask: Name of its label map, below the folder.
            labels: H x W label map.
            objects: Its objects with their numbers in the map.

        Raises:
            UserError: The files cannot be written.
        """
        height, width = labels.shape
        image = {"id": self.images + 1, "file_name": name, "width": width, "height": height, "mask": mask}
        with writing_errors(self._coco):
            self._append(self._images, image, first=self.images == 0)
            self.images += 1
            runs = label_runs(labels, [label for label, _ in objects])
            for (label, found), counts in zip(objects, runs, strict=True):
                self._writer.writerow(_row(name, label, found))
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


def _row(name: str, label: int, found: ObjectPrediction) -> list[Any]:
    """A line of the CSV; numbers to six digits."""
    return [
        name,
        label,
        *found.box,
        found.area,
        *(f"{number:.6g}" for number in (*found.position, *found.scale, found.activation)),
        found.order,
        *(f"{number:.6g}" for number in (found.visibility, found.score, *found.appearance)),
    ]
