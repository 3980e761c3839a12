"""A model and a data set to numbers: every metric of every image, and their means over all images.

Source of the protocol: Sauvalle and de La Fortelle, WACV 2023, section 4; the metrics themselves and what they assume
are in :mod:`astseg.evaluation.metrics`. What differs from the reference: every image counts, none is dropped with a
last batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from astseg.data.arrays import images_to_tensor
from astseg.errors import UserError
from astseg.evaluation.metrics import clevrtex_metrics, segmentation_metrics, squared_error
from astseg.inference.pipeline import Pipeline
from astseg.runs.distributed import SINGLE, World
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.types import SceneArrays

__all__ = ["PROTOCOLS", "Evaluation", "evaluate"]

PROTOCOLS = ("astseg", "reference", "clevrtex", "genesis")
"""How labels above K, ties of mIoU and mSC are treated: see docs/evaluation.md and :mod:`astseg.evaluation.metrics`."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of a pipeline on a data set.

    Attributes:
        mean: Mean over all images by metric. Always ``mse`` (summed over channels and pixels, as the paper has it),
            ``slots_used`` (slots with a pixel in the label map) and ``foreground`` (share of the pixels that belong to
            slots); with labels also those of :func:`~astseg.evaluation.metrics.segmentation_metrics` (or, in the
            protocol ``clevrtex``, of :func:`~astseg.evaluation.metrics.clevrtex_metrics`) and ``background_mse`` (mean
            per pixel and channel, of the background image against the input where the true label is background;
            images without such pixels are left out).
        per_image: The same for each image: N values, float64.
        names: Names of the N images.
        source: Where the scenes come from, in words.
        protocol: One of :data:`PROTOCOLS`.
        first_output: The model's output for the first few images, on the CPU, to draw them.
    """

    mean: dict[str, float]
    per_image: dict[str, NDArray[np.float64]]
    names: tuple[str, ...]
    source: str
    protocol: str
    first_output: SceneOutput = field(repr=False)

    @property
    def count(self) -> int:
        """Number of images, N."""
        return len(self.names)

    def summary(self) -> dict[str, int | float | None]:
        """``count`` and the means, ready for JSON; None where a mean is not a number."""
        return {"count": self.count, **{name: _finite(value) for name, value in self.mean.items()}}


def evaluate(
    pipeline: Pipeline,
    scenes: SceneArrays,
    *,
    batch_size: int = 64,
    protocol: str = "astseg",
    keep: int = 8,
    progress: Callable[[int, int], None] | None = None,
    world: World = SINGLE,
) -> Evaluation:
    """Measure a pipeline on all scenes. The model's modes and the random state stay as they are.

    Args:
        pipeline: The model and how its output becomes masks.
        scenes: The data, at the model's image size; without labels only the label-free metrics are given.
        batch_size: Images a forward pass, at most (:meth:`Pipeline.batch_size`); the result depends on it by rounding
            alone.
        protocol: One of :data:`PROTOCOLS`.
        keep: Images whose whole output is kept.
        progress: Called with the number of images done and their total.
        world: The processes that share the batches; each gets the whole result.

    Raises:
        UserError: No scenes, scenes of another size, an unknown protocol, a batch size below 1.
    """
    _check(pipeline, scenes, batch_size, protocol)
    measured: list[tuple[int, dict[str, Tensor]]] = []
    first_outputs: list[SceneOutput] = []
    together = pipeline.batch_size(batch_size)
    for start in range(0, len(scenes), together):
        mine = start // together % world.size == world.rank
        if not mine and start >= keep:  # every process sees the first ones, to draw them
            continue
        stop = min(start + together, len(scenes))
        labels = None if scenes.labels is None else torch.tensor(scenes.labels[start:stop], device=pipeline.device)
        images = images_to_tensor(scenes.images[start:stop], device=pipeline.device)
        output = pipeline(images)
        with torch.inference_mode():
            if mine:
                values = _measure(images, output, labels, protocol)
                measured.append((start, {name: value.double().cpu() for name, value in values.items()}))
            if start < keep or not start:
                first_outputs.append(_convert(lambda value, most=keep - start: value[:most].cpu(), output))
        if progress is not None:
            progress(stop, len(scenes))
    batches = [values for _, values in sorted(world.gather(measured), key=lambda one: one[0])]
    per_image = {name: torch.cat([values[name] for values in batches]).numpy() for name in batches[0]}
    first_output = _convert(lambda *values: torch.cat(values), *first_outputs)
    return Evaluation(_means(per_image), per_image, tuple(scenes.names), scenes.source, protocol, first_output)


def _means(per_image: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over all images; NaN where one is, except of ``background_mse``, which some images do not have."""
    means = {name: float(values.mean()) for name, values in per_image.items()}
    if "background_mse" in means:
        known = per_image["background_mse"][~np.isnan(per_image["background_mse"])]
        means["background_mse"] = float(known.mean()) if known.size else math.nan
    return means


def _check(pipeline: Pipeline, scenes: SceneArrays, batch_size: int, protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol is '{protocol}', choose from {', '.join(PROTOCOLS)}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    if not len(scenes):
        raise UserError(f"there are no scenes in {scenes.source}: choose at least one")
    size = pipeline.image_size
    if scenes.images.shape[1:3] != size:
        got = "{}x{}".format(*scenes.images.shape[1:3])
        raise UserError(f"scenes are {got}, expected the model's {size[0]}x{size[1]} (height x width): load them so")


def _measure(images: Tensor, output: SceneOutput, labels: Tensor | None, protocol: str) -> dict[str, Tensor]:
    """B values by metric, for one batch."""
    slots = output.weights.shape[1] - 1
    predicted = output.responsibilities.argmax(dim=1)  # B x H x W
    used = (predicted[:, None] == torch.arange(1, slots + 1, device=predicted.device)[:, None, None]).flatten(2).any(2)
    values = {
        "mse": squared_error(output.reconstruction, images),
        "slots_used": used.sum(dim=1),
        "foreground": (predicted > 0).float().mean(dim=(1, 2)),
    }
    if labels is None:
        return values
    if protocol == "clevrtex":
        values |= clevrtex_metrics(labels, predicted, slots=slots)
    else:
        values |= segmentation_metrics(labels, predicted, slots=slots if protocol == "reference" else None)
        if protocol == "genesis":
            del values["miou"]  # GENESIS has none
    return {**values, "background_mse": _background_error(images, output.background, labels)}


def _background_error(images: Tensor, background: Tensor, labels: Tensor) -> Tensor:
    """B values: mean squared error per pixel and channel on the true background; NaN where there is none."""
    error = (background - images).square().mean(dim=1)  # B x H x W
    visible = labels == 0
    return (error * visible).sum(dim=(1, 2)) / visible.sum(dim=(1, 2))


def _convert(change: Callable[..., Tensor], *several: T) -> T:
    """One dataclass, each tensor made of those of several, nested ones included; what is None stays so."""
    changed: dict[str, Any] = {}
    for part in fields(several[0]):  # type: ignore[arg-type]
        values = [getattr(one, part.name) for one in several]
        changed[part.name] = (
            change(*values) if isinstance(values[0], Tensor) else values[0] and _convert(change, *values)
        )
    return type(several[0])(**changed)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
