"""Some of the scenes that a run learnt from, as it saw them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from astseg.data import open_source, select
from astseg.data.loading import fitted
from astseg.data.sources.cached import CachedSource
from astseg.errors import UserError
from astseg.types import SceneArrays

__all__ = ["some_scenes"]


def some_scenes(
    data: Path, about: Mapping[str, Any], size: tuple[int, int], *, split: str | None = None, count: int = 200
) -> SceneArrays:
    """Scenes of a source, evenly spread, cropped and fitted as a run did; broken ones are passed over.

    Args:
        data: Anything :func:`astseg.data.open_source` recognises.
        about: What ``config.json`` of the run says besides the settings.
        size: (H, W) of its model.
        split: Which scenes; None: those that the run learnt from.
        count: The most scenes.

    Raises:
        UserError: No such source, or not one of the chosen scenes can be read.
    """
    source = open_source(data)
    indices = select(source, split or about.get("split", "all"))
    count = min(count, len(indices))
    crop = about.get("crop")
    if isinstance(source, CachedSource):  # cropped when it was prepared
        crop = 1.0
    kept = source.crop if crop is None else crop
    images, labels, names, problems = [], [], [], []
    for index in (indices[number * len(indices) // count] for number in range(count)):
        try:
            image, mask = fitted(source, index, size, resize=about.get("resize", "crop"), crop=kept)
        except UserError as error:
            problems.append(str(error))
            continue
        images.append(image)
        labels.append(mask)
        names.append(source.scene_name(index))
    if not images:
        raise UserError(f"none of {count} scenes in '{data}' can be read; the first: {problems[0]}")
    masks = [mask for mask in labels if mask is not None]
    return SceneArrays(
        np.stack(images),
        np.stack(masks) if len(masks) == len(images) else None,
        tuple(names),
        f"{data} ({source.name}): {len(images)} of {len(source)} scenes",
    )
