"""What a run learnt from and how its images were prepared: the metadata beside the settings in ``config.json``."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from astseg import __version__

__all__ = ["RunInfo", "versions"]


def versions() -> dict[str, str]:
    """The versions of what computes: astseg, Python, torch, NumPy."""
    found = {"astseg": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class RunInfo:
    """Where a run comes from.

    Attributes:
        preset: Name of the preset that its settings began with.
        seed: Seed of weights, batches and dropout.
        data: Path of the images, as it was given; None: unknown (imported weights).
        split: Which of them, as :func:`astseg.data.select` understands it.
        resize: How images are brought to the model's size: ``crop``, ``letterbox`` or ``squeeze``.
        crop: Share that ``crop`` keeps of the largest centred rectangle with the model's proportions, in (0, 1]; None:
            what the data set declares (runs of format 1).
        camera: ShapeStacks: this camera alone.
        stride: Videos: one frame of so many.
        frames: Videos: at most so many frames of each.
        images: Number of images.
        fingerprint: Hash of the images.
        imported: The file of weights that were trained elsewhere.
        versions: Of the programs that computed it.
    """

    preset: str
    seed: int = 0
    data: str | None = None
    split: str = "all"
    resize: str = "crop"
    crop: float | None = None
    camera: int | None = None
    stride: int = 1
    frames: int | None = None
    images: int = 0
    fingerprint: str = ""
    imported: str | None = None
    versions: dict[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunInfo:
        """What :meth:`to_dict` gave.

        Raises:
            TypeError: Unknown names, or missing ones.
        """
        return cls(**values)
