"""Masks for tools in which people correct labels or train with them: CVAT, labelme, YOLO.

::

    OUT/annotations.xml                                     CVAT for images 1.1
    OUT/NAME.json                                           labelme; OUT/images/NAME.png only for frames of videos
    OUT/labels/NAME.txt, OUT/images/NAME.jpg, OUT/data.yaml     YOLO; images are links, or copies where there are none
    OUT/annotations.json                                    COCO with polygons; file names are as seen from OUT
    OUT/NAME.geojson                                        GeoJSON, as QuPath reads it
    OUT/export.json                                         which of these files are ours
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from PIL import Image

from astseg.data.paths import open_given
from astseg.errors import UserError
from astseg.export.formats import coco_annotations, cvat_image, geojson_file, labelme_file, yolo_lines
from astseg.export.segmented import Segmented, SegmentedImage, relative
from astseg.runs.atomic import write_whole

if TYPE_CHECKING:
    from astseg.data import SceneSource

__all__ = ["FORMATS", "ExportSummary", "export"]

FORMATS = ("cvat", "labelme", "yolo", "coco", "geojson")

_MARK = "export.json"


@dataclass(frozen=True)
class ExportSummary:
    """What was done.

    Attributes:
        out: The folder.
        pictures: The folder of the images that the labels are of.
        images: Number of images exported.
        objects: Number of their objects.
        skipped: For each image that was left out, why, in a line that names it.
    """

    out: Path
    pictures: Path
    images: int
    objects: int
    skipped: tuple[str, ...]


def export(
    segmented: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    label: str = "object",
    progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Write the objects of a folder of results for another tool.

    Args:
        segmented: What ``astseg segment`` made.
        to: One of :data:`FORMATS`.
        out: Where to; None: a folder of that name in ``segmented``. Files that lie there are left alone.
        label: What the objects are called.
        progress: Called with the number of images done and their total.

    Raises:
        UserError: No such folder, an unknown format, an empty label, or files in ``out`` that would be overwritten and
            are not of an earlier call.
    """
    if to not in FORMATS:
        raise UserError(f"'{to}' is no format of export, choose from {', '.join(FORMATS)}")
    if not label.strip() or not label.isprintable():
        raise UserError(f"label is '{label!r}', expected a word such as 'object'")
    source = Segmented(Path(segmented).expanduser())
    folder = source.folder / to if out is None else Path(out).expanduser()
    with _Files(folder, to) as files:
        writer = _Writer(source, files, label)
        write: Callable[[], Iterator[None]] = getattr(writer, to)
        for done, _ in enumerate(write(), start=1):
            if progress is not None:
                progress(done, len(source))
    drawn = folder / "images"
    pictures = drawn if drawn.is_dir() else source.root
    return ExportSummary(folder, pictures, writer.images, writer.objects, tuple(writer.skipped))


class _Files:
    """The files of an export, listed in a file of its own, so that a later one may replace them."""

    def __init__(self, folder: Path, to: str) -> None:
        self.folder = folder
        self._to = to
        self._earlier: set[str] = set()
        self._written: list[str] = []

    def __enter__(self) -> _Files:
        mark = self.folder / _MARK
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"'{self.folder}' is a file, expected a folder or a new name")
        if mark.is_file():
            try:
                self._earlier = {str(name) for name in json.loads(mark.read_text(encoding="utf-8"))["files"]}
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(f"'{mark}' is broken: remove it, or choose another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        if not self._written:
            return
        for name in sorted(self._earlier - set(self._written)):
            if ".." not in Path(name).parts and not Path(name).is_absolute():
                (self.folder / name).unlink(missing_ok=True)
        text = json.dumps({"to": self._to, "files": self._written}) + "\n"
        self.write(_MARK, lambda part: part.write_text(text, encoding="utf-8"), listed=False)

    def write(self, name: str, write: Callable[[Path], object], *, listed: bool = True) -> None:
        """Have a file written to a temporary name and renamed.

        Raises:
            UserError: It is there already and not of an earlier call, or cannot be written.
        """
        path = self.folder / name
        if listed and name not in self._earlier and os.path.lexists(path):
            raise UserError(f"'{path}' is there already: choose another folder with --out")
        write_whole(path, write)
        if listed:
            self._written.append(name)


class _Writer:
    """The formats; each yields after each image."""

    def __init__(self, source: Segmented, files: _Files, label: str) -> None:
        self.images = self.objects = 0
        self.skipped: list[str] = []
        self._source = source
        self._files = files
        self._label = label
        self._frames: SceneSource | None = None
        self._number_of: dict[str, int] = {}

    def cvat(self) -> Iterator[None]:
        """One XML."""
        part = self._files.folder / "annotations.xml.images"
        self._files.folder.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8") as file:
                names = f"<label><name>{escape(self._label)}</name></label>"
                file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
                file.write(f"  <meta><task><labels>{names}</labels></task></meta>\n")
                for image in self._images():
                    file.write(cvat_image(image, self._label) + "\n")
                    yield
                file.write("</annotations>\n")
            self._files.write("annotations.xml", lambda beside: os.replace(part, beside))
        finally:
            part.unlink(missing_ok=True)

    def labelme(self) -> Iterator[None]:
        """A JSON an image."""
        for image in self._images():
            file = self._source.file_of(image) or self._draw(image)
            if file is not None:
                here = (self._files.folder / image.result).parent
                content = json.dumps(labelme_file(image, self._label, relative(file, here)), indent=2)
                self._write_text(f"{image.result}.json", content + "\n")
            yield

    def yolo(self) -> Iterator[None]:
        """A text an image, with the image beside it in ``images``, and ``data.yaml``."""
        for image in self._images():
            file = self._source.file_of(image)
            if file is not None:
                self._link(image, file)
            if file is not None or self._draw(image) is not None:
                self._write_text(f"labels/{image.result}.txt", yolo_lines(image))
            yield
        # Without a path in it, folders are looked for beside the yaml.
        names = json.dumps(self._label, ensure_ascii=False)
        self._write_text("data.yaml", f"train: images\nval: images\nnames:\n  0: {names}\n")

    def coco(self) -> Iterator[None]:
        """One JSON."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in self._images():
            file = self._source.file_of(image) or self._draw(image)
            if file is not None:
                name = relative(file, self._files.folder)
                size = {"width": image.width, "height": image.height}
                images.append({"id": image.index + 1, "file_name": name, **size})
                for annotation in coco_annotations(image):
                    annotations.append({"id": len(annotations) + 1, **annotation})
            yield
        categories = [{"id": 1, "name": self._label, "supercategory": ""}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        self._write_text("annotations.json", json.dumps(content) + "\n")

    def geojson(self) -> Iterator[None]:
        """A GeoJSON an image."""
        for image in self._images():
            self._write_text(f"{image.result}.geojson", json.dumps(geojson_file(image, self._label)) + "\n")
            yield

    def _images(self) -> Iterator[SegmentedImage]:
        """All images whose names are text; they are counted."""
        for index in range(len(self._source)):
            image = self._source[index]
            if not image.is_text:
                self.skipped.append(f"'{image.name}' has a name that is no text: rename it and segment again")
                continue
            self.images += 1
            self.objects += len(image.objects)
            yield image

    def _link(self, image: SegmentedImage, file: Path) -> None:
        """Put a link to an image file, or a copy of it, into ``images``."""
        name = f"images/{image.result}{file.suffix}"
        target = file.absolute()
        self._files.write(name, lambda part: _link_or_copy(target, part))

    def _draw(self, image: SegmentedImage) -> Path | None:
        """Write a frame of a video, or a scene of a file of scenes, as a PNG; None where it cannot be read."""
        if self._frames is None:
            self._frames, _ = open_given(self._source.given)
            names = (self._frames.scene_name(index) for index in range(len(self._frames)))
            self._number_of = {name: index for index, name in enumerate(names)}
        try:
            if image.name not in self._number_of:
                raise UserError(f"'{image.name}' is not there any more: put it back where it was")
            pixels, _ = self._frames.read(self._number_of[image.name])
        except UserError as error:
            self.skipped.append(str(error))
            self.images -= 1
            self.objects -= len(image.objects)
            return None
        name = f"images/{image.result}.png"
        self._files.write(name, lambda part: Image.fromarray(pixels).save(part, format="PNG", compress_level=1))
        return self._files.folder / name

    def _write_text(self, name: str, text: str) -> None:
        self._files.write(name, lambda part: part.write_text(text, encoding="utf-8"))


def _link_or_copy(target: Path, link: Path) -> None:
    """Link to a file, or copy it where the system or the disk allows no links (Windows, exFAT).

    Raises:
        OSError: The copy cannot be written.
    """
    try:
        link.symlink_to(target)
    except (OSError, NotImplementedError):
        shutil.copyfile(target, link)
