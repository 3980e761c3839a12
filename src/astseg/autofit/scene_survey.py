"""A look at pictures in full: what their background is, how large objects are, at which scale to look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from astseg.data.open import evenly_spaced
from astseg.data.resize import reduced
from astseg.discovery.regions import Region, find_regions, region_map, strong_regions
from astseg.discovery.scene_background import SceneBackground, fixed_background, smooth_background
from astseg.discovery.scene_model import SceneModel, Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.config import SceneConfig

__all__ = ["SceneSurvey", "background_of", "scaled_size", "scene_from", "survey_scene"]

LOOKED_AT = 30
"""Pictures."""

LARGEST = 6e5
"""Pixels at which they are looked at, at most."""

PIXELS, ENOUGH = 4e7, (15, 80)
"""Pixels of all pictures that a background is made from, and how many these are at least and at most."""

FIRST_BLOCK = 96.0
"""Side of the blocks of equal light before the size of objects is known, in pixels."""

PLENTY = 1.5e5
"""Pixels below which a smaller scale saves no time worth mentioning."""

NOISIEST = 0.04
"""There is no fixed background where the typical pixel is further from it, in [0, 1]."""

MOVED = 0.25
"""What lies on a plain ground is no part of a fixed background if it differs from that by this part of its contrast."""

HIDDEN = 0.3
"""Objects hardly move where a fixed background hides more than this fraction of them."""

PLAIN = 0.25
"""A ground is plain where a smooth field explains all but this fraction of the typical picture."""


@dataclass(frozen=True)
class SceneSurvey:
    """What was seen of pictures of one size.

    Attributes:
        kind: ``fixed``, ``smooth`` or ``none``: neither.
        reason: Why, in words.
        sizes: Of objects at the pictures' own resolution; None where none stand out.
        count: Mean number of objects in a picture.
        scale: The working scale.
    """

    kind: str
    reason: str
    sizes: Sizes | None
    count: float
    scale: float


def survey_scene(
    pictures: Sequence[NDArray[np.uint8]], config: SceneConfig, empty: Sequence[NDArray[np.uint8]] = ()
) -> SceneSurvey:
    """Look at some pictures.

    Args:
        pictures: N of H x W x 3, of one size.
        config: The thresholds, and the background where the user names one.
        empty: Pictures of that size without objects: the background is theirs.
    """
    height, width = pictures[0].shape[:2]
    scale = min(1.0, (LARGEST / (height * width)) ** 0.5)
    small = [reduced(one, scaled_size((height, width), scale)) for one in pictures]
    without = [reduced(one, scaled_size((height, width), scale)) for one in empty]
    if empty:
        kind, reason = "given", f"{len(empty)} pictures without objects"
        seen = _seen(small, background_of(kind, small, FIRST_BLOCK, without), config)
    elif config.background != "none":
        kind, reason = config.background, "as you say"
        seen = _seen(small, background_of(kind, small, FIRST_BLOCK), config)
    else:
        kind, reason, seen = _chosen(small, config)
    if kind == "none":
        return SceneSurvey("none", reason, None, 0.0, 1.0)
    sure = [one for one in seen.strong(config) if one.whole]
    if len(sure) < len(small) / 10:
        return SceneSurvey(kind, reason, None, len(sure) / len(small), 1.0)
    widths = np.sqrt([one.area for one in sure]) / scale
    sizes = Sizes(float(np.median(widths)), float(np.percentile(widths, 10)))
    needed = max(config.object_width / sizes.width, config.narrow_width / sizes.narrow)
    working = min(1.0, max(needed, (PLENTY / (height * width)) ** 0.5))
    return SceneSurvey(kind, reason, sizes, len(sure) / len(small), round(working, 3))


def scene_from(
    seen: SceneSurvey,
    pictures: Sequence[NDArray[np.uint8]],
    config: SceneConfig,
    full: Sequence[NDArray[np.uint8]],
    empty: Sequence[NDArray[np.uint8]] = (),
) -> SceneModel:
    """The scene of pictures, without a finder yet.

    Args:
        seen: What was seen of them.
        pictures: N of h x w x 3, at the working scale.
        config: The settings.
        full: Some of them at their own resolution, H x W x 3.
        empty: Pictures at their own resolution without objects.
    """
    assert seen.sizes is not None
    sizes = Sizes(seen.sizes.width * seen.scale, seen.sizes.narrow * seen.scale)
    block = max(64.0, config.block * sizes.width)
    without = [reduced(one, pictures[0].shape[:2]) for one in empty]
    background = background_of(seen.kind, pictures, block, without)
    config = replace(config, background=seen.kind, working_scale=seen.scale)
    template = None
    if seen.kind != "smooth" and seen.scale < 1:
        template = _full_template(empty or full)
    return SceneModel(background, None, sizes, full[0].shape[:2], config, template)


def _full_template(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The median picture, H x W x 3, some rows at a time."""
    height = pictures[0].shape[0]
    parts = [np.median(np.stack([one[top : top + 64] for one in pictures]), axis=0) for top in range(0, height, 64)]
    return np.round(np.concatenate(parts)).astype(np.uint8)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) of pictures of (H, W) at a scale; 16 pixels at least."""
    height, width = (max(16, round(side * scale)) for side in size)
    return height, width


def background_of(
    kind: str, pictures: Sequence[NDArray[np.uint8]], block: float, empty: Sequence[NDArray[np.uint8]] = ()
) -> SceneBackground:
    """The background of pictures; of ``fixed`` and ``given`` ones, that of the empty ones where there are some."""
    most = int(np.clip(PIXELS / (pictures[0].shape[0] * pictures[0].shape[1]), *ENOUGH))
    some = [pictures[k] for k in evenly_spaced(min(most, len(pictures)), len(pictures))]
    if kind == "smooth":
        return smooth_background(some, block=block)
    return fixed_background(some, block=block, empty=empty)


@dataclass(frozen=True)
class _Seen:
    """Regions of each picture, and the fraction of the typical picture's pixels that differs."""

    regions: list[list[Region]]
    differing: float

    def strong(self, config: SceneConfig) -> list[Region]:
        return strong_regions([region for regions in self.regions for region in regions], config)


def _seen(pictures: Sequence[NDArray[np.uint8]], scene: SceneBackground, config: SceneConfig) -> _Seen:
    found, shares = [], []
    for picture in pictures:
        regions = find_regions(picture, scene.of(picture), scene, config)
        found.append(regions)
        shares.append(sum(region.area for region in regions) / (picture.shape[0] * picture.shape[1]))
    return _Seen(found, float(np.median(shares)))


def _chosen(pictures: Sequence[NDArray[np.uint8]], config: SceneConfig) -> tuple[str, str, _Seen]:
    """The background that explains the pictures, why, and what was seen by it."""
    fixed, smooth = (background_of(kind, pictures, FIRST_BLOCK) for kind in ("fixed", "smooth"))
    seen_fixed, seen_smooth = (_seen(pictures, one, config) for one in (fixed, smooth))
    kind, reason = _kind(pictures, fixed, smooth, seen_fixed, seen_smooth, config)
    return kind, reason, seen_smooth if kind == "smooth" else seen_fixed


def _kind(
    pictures: Sequence[NDArray[np.uint8]],
    fixed: SceneBackground,
    smooth: SceneBackground,
    seen_fixed: _Seen,
    seen_smooth: _Seen,
    config: SceneConfig,
) -> tuple[str, str]:
    """Which background explains the pictures, and why."""
    plain = seen_smooth.differing < PLAIN and bool(seen_smooth.strong(config))
    if float(np.median(fixed.noise)) > NOISIEST:
        return ("smooth", "a slowly varying ground in each picture") if plain else ("none", "no common background")
    one_camera = "one camera: the typical pixel stays as it is"
    whole = [sum(region.whole for region in seen.strong(config)) for seen in (seen_fixed, seen_smooth)]
    if not plain or whole[1] < whole[0]:
        return "fixed", one_camera
    # Both explain the pictures. Where objects hardly move, the median picture holds them, and hides them.
    sure = {id(region) for region in seen_smooth.strong(config)}
    changing = hidden = 0
    for picture, regions, others in zip(pictures, seen_smooth.regions, seen_fixed.regions, strict=True):
        values = picture.astype(np.float32) / np.float32(255)
        off_fixed, off_smooth = (np.abs(values - one.of(picture)).max(axis=2) for one in (fixed, smooth))
        seen = region_map(others, picture.shape[:2]) > 0
        for region in regions:
            if id(region) not in sure:
                continue
            contrast, moved = (float(np.median(off[region.window][region.mask])) for off in (off_smooth, off_fixed))
            if moved > MOVED * contrast or np.any(seen[region.window] & region.mask):
                changing += 1
                hidden += bool(np.mean(seen[region.window][region.mask]) < 0.5)
    share = hidden / max(1, changing)
    if share > HIDDEN:
        return "smooth", f"objects hardly move: the median picture holds {100 * share:.0f} % of them"
    return "fixed", one_camera
