"""The metrics of health: what a model does on images without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from astseg.data.arrays import images_to_tensor
from astseg.data.open import evenly_spaced
from astseg.discovery.median_background import median_background
from astseg.errors import UserError
from astseg.evaluation.metrics import segmentation_metrics
from astseg.inference.pipeline import Pipeline
from astseg.types import SceneOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.types import SceneArrays

__all__ = ["Health", "examine"]

SHIFT = 1 / 32
"""Fraction of the sides by which images are shifted."""

DOUBLED = 0.5
"""Two slots in front of the background are on one object if their own masks overlap by this much (IoU)."""

UNEXPLAINED = 0.12
"""A pixel is unexplained where the reconstruction is off by more than this, of 1, mean over RGB."""

STILL = 0.03
"""A slot stands still if the standard deviation of its position, in [-1, 1], is below."""

ALWAYS = 0.9
"""Fraction of the images in which a slot that is always there is seen."""

SAME_PLACE = 0.15
"""A pixel that is off the median image by more shows an object there, where the background is one and the same."""

_AVERAGED = ("unexplained", "used", "doubled", "entropy", "foreground", "shifted", "flipped")
"""Metrics that are plain means over the images."""


@dataclass(frozen=True)
class Health:
    """The metrics; shares are in [0, 1], errors mean absolute ones of 255 levels.

    Attributes:
        images: Number of images, N.
        slots: K.
        background_error: Of the reconstruction on the typical pixel of the background (the median of each image, so
            that missed objects do not count); NaN where there is none.
        object_error: The same on all pixels of objects; NaN where there are none.
        unexplained: Share of the pixels that neither background nor objects explain.
        used: Mean number of slots that are seen in an image.
        full: Share of the images in which all K are.
        empty: Share of the images in which none is.
        doubled: Share of the images in which two slots are on one object, and share its pixels.
        entropy: Mean over pixels of - sum w log w, in nats.
        foreground: Share of the pixels that belong to objects.
        shifted: mIoU of the masks with those of the shifted images.
        flipped: The same with mirror images.
        still: Slots, counted from 1, that are seen in nearly every image at one place.
        missed: Of the objects that are seen, the share that the encoder missed and proposals found; NaN without
            proposals.
        absorbed: Of the pixels that differ from the median image, the share that the background has taken over;
            NaN where the images have no common background.
    """

    images: int
    slots: int
    background_error: float
    object_error: float
    unexplained: float
    used: float
    full: float
    empty: float
    doubled: float
    entropy: float
    foreground: float
    shifted: float
    flipped: float
    still: tuple[int, ...]
    missed: float
    absorbed: float

    def summary(self) -> dict[str, Any]:
        """The metrics by name, ready for JSON: None where there is none."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def examine(
    pipeline: Pipeline,
    scenes: SceneArrays,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Health, dict[str, NDArray[np.float64]]]:
    """Measure what a model does; its modes stay as they are.

    Args:
        pipeline: The model and how its output becomes masks.
        scenes: N images at its size; some hundreds are enough. Labels are not used.
        batch_size: Images a forward pass, at most.
        progress: Called with the number of images done and their total.

    Returns:
        The metrics, and those of each image by name: N values, ``used`` (slots), ``error`` (of 255 levels), ...

    Raises:
        UserError: No scenes, or scenes of another size.
    """
    if not len(scenes):
        raise UserError("there are no pictures to examine: choose at least one")
    median, common = _median(scenes)
    parts: list[dict[str, Tensor]] = []
    device = pipeline.device
    batch_size = pipeline.batch_size(batch_size)
    for start in range(0, len(scenes), batch_size):
        images = images_to_tensor(scenes.images[start : start + batch_size], device=device)
        parts.append(_measure(pipeline, images, median.to(device)))
        if progress is not None:
            progress(min(start + batch_size, len(scenes)), len(scenes))
    each = {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}
    each["used"] = each["seen"].sum(axis=1)
    health = _summary(each, common=common, proposals=pipeline.config.proposals)
    names = ("used", "error", "unexplained", "foreground", "shifted", "doubled", "entropy")
    return health, {name: each[name] for name in names}


def _summary(each: dict[str, NDArray[np.float64]], *, common: bool, proposals: bool) -> Health:
    """The metrics of all images from those of each; ``common``: the images have one background."""
    used, slots = each["used"], each["seen"].shape[1]
    means = {name: float(each[name].mean()) for name in _AVERAGED}
    return Health(
        images=len(used),
        slots=slots,
        background_error=_mean(each["background_error"]),
        object_error=_ratio(each["object_error"], each["objects"]),
        full=float((used == slots).mean()),
        empty=float((used == 0).mean()),
        still=_still(each["seen"], each["position"]),
        missed=_ratio(each["missed"], used) if proposals else float("nan"),
        absorbed=_ratio(each["absorbed"], each["differing"]) if common else float("nan"),
        **means,
    )


def _median(scenes: SceneArrays) -> tuple[Tensor, bool]:
    """The median image, 3 x H x W, and whether all images have that background in common."""
    background = median_background(np.asarray(scenes.images[evenly_spaced(256, len(scenes))]))
    return torch.from_numpy(background.median).permute(2, 0, 1), background.kind == "fixed"


def _measure(pipeline: Pipeline, images: Tensor, median: Tensor) -> dict[str, Tensor]:
    """B values by name, of one batch; of ``seen`` and ``position`` B x K and B x K x 2."""
    output = pipeline(images, layers=True)
    labels = output.responsibilities.argmax(dim=1)  # B x H x W
    slots = output.weights.shape[1] - 1
    off = (output.reconstruction - images).abs().mean(dim=1)  # B x H x W
    objects = labels > 0
    seen = (labels[:, None] == torch.arange(1, slots + 1, device=labels.device)[:, None, None]).flatten(2).any(2)
    differing = (images - median).abs().mean(dim=1) > SAME_PLACE
    taken_over = differing & ~objects & ((output.background - images).abs().mean(dim=1) < SAME_PLACE / 3)
    entropy = -(output.weights * output.weights.clamp_min(1e-12).log()).sum(dim=1)
    missed = torch.zeros_like(seen) if output.missed is None else output.missed & seen
    return {
        "seen": seen,
        "missed": missed.sum(dim=1),
        "position": output.latents.position,
        "error": 255 * off.mean(dim=(1, 2)),
        "background_error": 255 * off.masked_fill(objects, float("nan")).flatten(1).nanmedian(dim=1).values,
        "object_error": 255 * (off * objects).sum(dim=(1, 2)),
        "objects": objects.sum(dim=(1, 2)),
        "unexplained": (off > UNEXPLAINED).float().mean(dim=(1, 2)),
        "doubled": _doubled(output, seen),
        "entropy": entropy.mean(dim=(1, 2)),
        "foreground": objects.float().mean(dim=(1, 2)),
        "shifted": _shifted(pipeline, images, labels),
        "flipped": _agreement(labels, _labels(pipeline, images.flip(-1)).flip(-1)),
        "differing": differing.sum(dim=(1, 2)),
        "absorbed": taken_over.sum(dim=(1, 2)),
    }


def _doubled(output: SceneOutput, seen: Tensor) -> Tensor:
    """B, whether two slots that are both seen (B x K) have nearly the same mask.

    Slots without pixels do no harm: the other one is responsible for them (:mod:`astseg.inference.mask_posterior`).
    """
    assert output.masks is not None
    masks = (output.masks > 0.5).flatten(2).float() * seen[:, :, None]  # B x K x HW
    both = masks @ masks.mT
    area = masks.sum(dim=2)
    union = area[:, :, None] + area[:, None] - both
    overlap = both / union.clamp_min(1)
    return (overlap.triu(1) > DOUBLED).flatten(1).any(dim=1)


def _labels(pipeline: Pipeline, images: Tensor) -> Tensor:
    return pipeline(images).responsibilities.argmax(dim=1)


def _shifted(pipeline: Pipeline, images: Tensor, labels: Tensor) -> Tensor:
    """B, how well masks agree with those of the images shifted right and down, where both see the same."""
    down, right = (max(1, round(SHIFT * side)) for side in images.shape[-2:])
    moved = torch.nn.functional.pad(images, (right, 0, down, 0), mode="replicate")[
        ..., : -down or None, : -right or None
    ]
    found = _labels(pipeline, moved)[:, down:, right:]
    return _agreement(labels[:, :-down, :-right], found)


def _agreement(labels: Tensor, others: Tensor) -> Tensor:
    """B, mIoU of two label maps."""
    return segmentation_metrics(labels.contiguous(), others.contiguous(), slots=None)["miou"]


def _still(seen: NDArray[np.float64], positions: NDArray[np.float64]) -> tuple[int, ...]:
    """Slots, counted from 1, that are seen in nearly every image at one place."""
    found = []
    for slot in range(seen.shape[1]):
        there = seen[:, slot] > 0
        if len(there) >= 8 and there.mean() >= ALWAYS and positions[there, slot].std(axis=0).max() < STILL:
            found.append(slot + 1)
    return tuple(found)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of those that are numbers; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """Sum over sum; NaN of nothing."""
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")
