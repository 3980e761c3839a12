"""Settings of scenes that are looked at in full: their background, the working scale, and the finder of objects."""

from __future__ import annotations

from dataclasses import dataclass

from astseg.config.setting import OFF, Settings, setting

__all__ = ["BACKGROUNDS", "POLARITIES", "SceneConfig"]

BACKGROUNDS = ("none", "fixed", "smooth", "given")
POLARITIES = ("any", "darker", "brighter")

SEEN = "ours; chosen on the training pictures of six real scenes, by what was found in them by eye"


@dataclass(frozen=True)
class SceneConfig(Settings, part="scene"):
    """Pictures of one place or on a plain ground, at their own resolution (:mod:`astseg.discovery.scene_background`).

    Errors are those expected of each pixel; lengths are in pixels at the working scale unless another is named.
    """

    background: str = setting(
        "none",
        "What the background is: fixed, one camera, whose pictures share a template; given, the same from pictures"
        " without objects; smooth, a slowly varying field in each picture; none, what the background model learns,"
        " and the whole picture is seen at the size of the model.",
        source=OFF,
        choices=BACKGROUNDS,
    )
    working_scale: float = setting(
        1.0, "Factor by which pictures are reduced before objects are looked for.", source=OFF, above=0, high=1
    )
    object_width: float = setting(
        20.0, "Width of the median object, the square root of its area, that fit aims at.", source=SEEN, low=4
    )
    narrow_width: float = setting(
        8.0, "And that of the narrowest tenth, at least, unless the picture is too small for it.", source=SEEN, low=2
    )
    objects: str = setting(
        "any", "Whether objects are darker than their background, brighter, or either.", source=OFF, choices=POLARITIES
    )
    high_errors: float = setting(
        8.0, "Where a region begins: errors by which smoothed pixels differ from the background.", source=SEEN, above=0
    )
    low_errors: float = setting(5.0, "The same as far as a region reaches.", source=SEEN, above=0)
    strength: float = setting(
        12.0, "Mean difference, in errors, of regions that surely are objects, at least.", source=SEEN, above=0
    )
    shift: int = setting(
        2, "Pixels by which the background may be off; what that explains is no region.", source=SEEN, low=0, high=16
    )
    block: float = setting(
        4.0, "Side of the blocks within which light does not vary, in widths of the median object.", source=SEEN, low=1
    )
    width: int = setting(
        16,
        "Channels of the finder at full resolution; deeper levels have up to four times as many.",
        source=SEEN,
        low=8,
    )
    steps: int = setting(1500, "Training steps of the finder.", source=SEEN, low=0)
    batch: int = setting(5, "Training pictures a step.", source=SEEN, low=1)
    side: int = setting(160, "Side of the training pictures; a multiple of 16.", source=SEEN, low=32)
    learning_rate: float = setting(2e-3, "Of AdamW; warm-up, then half a cosine.", source=SEEN, above=0)
    again: float = setting(
        0.5,
        "After this fraction of the steps, what the finder finds is cut out and pasted instead of the first regions.",
        source=SEEN,
        above=0,
        high=1,
    )
    threshold: float = setting(
        0.5, "Probability from which on a pixel belongs to an object.", source=SEEN, above=0, below=1
    )
    least_score: float = setting(0.5, "Objects of a lower score, in [0, 1], are left out.", source=SEEN, low=0, high=1)
    smallest: float = setting(
        0.0, "Area in pixels of the picture below which objects are left out; 0: what fit has seen.", source=SEEN, low=0
    )
    largest: float = setting(
        0.0, "Area in pixels of the picture above which objects are left out; 0: none.", source=SEEN, low=0
    )
