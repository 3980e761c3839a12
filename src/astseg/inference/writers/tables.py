"""The objects of all pictures in two files, a CSV and a COCO json, written as they come: memory does not grow.

Source of the second: the COCO data format (cocodataset.org). Beside what it asks for, a picture has ``mask``, its label
map, and an annotation ``label``, its number there, ``order``, 0 for the front-most, and
``visibility``.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from astseg import __version__
from astseg.data.formats.rle import label_runs, runs_to_text
from astseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction

__all__ = ["Tables"]

_COLUMNS = ("file", "id", "x", "y", "w", "h", "area", "position_x", "position_y", "scale_x", "scale_y", "activation")
_MORE_COLUMNS = ("order", "visibility", "score")


class Tables:
    """``objects.csv`` and ``coco.json`` of a folder; under these names only once they are whole."""

    def __init__(self, out: Path, *, appearance_size: int) -> None:
        """Begin.

        Args:
            out: Folder, made if it is not there.
            appearance_size: Z.

        Raises:
            UserError: Files cannot be written there.
        """
        self.images = 0
        self.objects = 0
        self._csv, self._coco = out / "objects.csv", out / "coco.json"
        self._files: list[IO[str]] = []
        with _told(out):
            out.mkdir(parents=True, exist_ok=True)
            # Names of files need not be valid text; what they hold instead goes through unchanged.
            table = self._opened(_part(self._csv), errors="surrogateescape", newline="")
            self._annotations = self._opened(_part(self._coco))
            self._images = self._opened(self._coco.with_suffix(".json.images"))
        self._writer = csv.writer(table)
        self._writer.writerow([*_COLUMNS, *_MORE_COLUMNS, *(f"a_{index}" for index in range(appearance_size))])
        info = {"description": "objects found without labels", "version": f"astseg {__version__}"}
        head = {"info": info, "licenses": [], "categories": [{"id": 1, "name": "object", "supercategory": ""}]}
        self._annotations.write(json.dumps(head)[:-1] + ',\n"annotations": [')
        self._images.write('],\n"images": [')

    def __enter__(self) -> Tables:
        """Return the tables."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the files their names if all went well, and leave nothing of them otherwise.

        Raises:
            UserError: The files cannot be written to their end.
        """
        try:
            if kind is None:
                with _told(self._coco):
                    self._finish()
        finally:
            for file in self._files:
                with suppress(OSError):  # what could not be written is thrown away
                    file.close()
                Path(file.name).unlink(missing_ok=True)

    def add(
        self, name: str, mask: str, labels: NDArray[np.int32], objects: Sequence[tuple[int, ObjectPrediction]]
    ) -> None:
        """Add a picture.

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
        with _told(self._coco):
            self._append(self._images, image, first=self.images == 0)
            self.images += 1
            runs = label_runs(labels, [label for label, _ in objects])
            for (label, found), counts in zip(objects, runs, strict=True):
                self._writer.writerow(_row(name, label, found))
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
                    "segmentation": {"size": [height, width], "counts": runs_to_text(counts)},
                }
                self._append(self._annotations, annotation, first=self.objects == 0)
                self.objects += 1

    def _opened(self, path: Path, **options: Any) -> IO[str]:
        self._files.append(path.open("w", encoding="utf-8", **options))
        return self._files[-1]

    def _append(self, file: IO[str], entry: dict[str, Any], *, first: bool) -> None:
        file.write(("\n" if first else ",\n") + json.dumps(entry))

    def _finish(self) -> None:
        """Put the json together and rename both files."""
        self._images.write("]}\n")
        for file in self._files:
            file.flush()
        with Path(self._images.name).open(encoding="utf-8") as images:
            shutil.copyfileobj(images, self._annotations)
        for file in self._files:
            file.close()
        os.replace(_part(self._csv), self._csv)
        os.replace(_part(self._coco), self._coco)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Faults of the file system as mistakes of the user."""
    try:
        yield
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror}): choose another folder or free space") from None


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
