"""Some of the images that a run learnt from, as it saw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from astseg.data import Reading, SceneSource, open_source, select
from astseg.data.loading import fitted
from astseg.data.open import evenly_spaced
from astseg.data.resize import Preprocess
from astseg.data.sources.cached import CachedSource
from astseg.errors import UserError
from astseg.runs.info import RunInfo
from astseg.types import SceneArrays

__all__ = ["preprocess_for", "preprocess_of_run", "reading_of", "some_scenes"]


def preprocess_for(
    source: SceneSource, size: tuple[int, int], *, resize: str | None = None, crop: float | None = None
) -> Preprocess:
    """How the images of a source come to a size: as they were prepared, as asked for, or as the source declares.

    Args:
        source: The data set.
        size: (H, W).
        resize: One of :data:`astseg.data.resize.RESIZE_MODES`; None: ``crop``.
        crop: The share that ``crop`` keeps; None: what the source declares.

    Raises:
        UserError: An unknown mode, or a crop outside (0, 1].
    """
    if isinstance(source, CachedSource):
        return Preprocess(size, source.prepared["resize"], source.prepared["crop"])
    if (resize or "crop") != "crop":
        return Preprocess(size, resize or "crop")
    return Preprocess(size, "crop", source.crop if crop is None else crop)


def preprocess_of_run(size: tuple[int, int], info: RunInfo) -> Preprocess:
    """What a run was trained with; where its metadata do not say what was cropped (format 1), what its data declare."""
    if info.crop is not None or info.resize != "crop" or info.data is None:
        return Preprocess.of_run(size, info)
    try:
        return Preprocess.of_run(size, info, declared_crop=open_source(info.data, reading_of(info)).crop)
    except UserError:  # the data are not there any more
        return Preprocess.of_run(size, info)


def reading_of(info: RunInfo) -> Reading:
    """What a run takes of its source: camera, stride and frames."""
    return Reading(info.camera, info.stride, info.frames)


def some_scenes(
    info: RunInfo, size: tuple[int, int], *, data: Path | None = None, split: str | None = None, count: int = 200
) -> SceneArrays:
    """Scenes of a source, evenly spread, with the preprocessing of a run; broken ones are passed over.

    Args:
        info: The run's metadata.
        size: (H, W) of its model.
        data: Anything :func:`astseg.data.open_source` recognises; None: what the run learnt from, its camera, stride
            and frames alone.
        split: Which scenes; None: those that the run learnt from, or all of other data.
        count: The most scenes.

    Raises:
        UserError: The run does not know its data, no such source, or not one of the chosen scenes can be read.
    """
    if data is None and info.data is None:
        raise UserError("the run does not know what it learnt from: name images")
    path = Path(info.data or "") if data is None else data
    source = open_source(path, reading_of(info)) if data is None else open_source(path)
    indices = select(source, split or (info.split if data is None else "all"))
    preprocess = Preprocess.of_run(size, info, declared_crop=source.crop)
    if isinstance(source, CachedSource):  # it was cropped when it was prepared
        preprocess = Preprocess(size, preprocess.resize)
    count = min(count, len(indices))
    images, labels, names, problems = [], [], [], []
    for index in (indices[number] for number in evenly_spaced(count, len(indices))):
        try:
            image, mask = fitted(source, index, size, resize=preprocess.resize, crop=preprocess.crop)
        except UserError as error:
            problems.append(str(error))
            continue
        images.append(image)
        labels.append(mask)
        names.append(source.scene_name(index))
    if not images:
        raise UserError(f"none of {count} scenes in '{path}' can be read; the first: {problems[0]}")
    masks = [mask for mask in labels if mask is not None]
    return SceneArrays(
        np.stack(images),
        np.stack(masks) if len(masks) == len(images) else None,
        tuple(names),
        f"{path} ({source.name}): {len(images)} of {len(source)} scenes",
    )
