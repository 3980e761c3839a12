"""Pictures and figures during training, so that one watches objects appear and knows whether it works."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray
from torch import nn

from astseg.config import DiscoveryConfig, InferenceConfig
from astseg.data.arrays import images_to_tensor
from astseg.data.formats.png import save_picture
from astseg.diagnostics.health import early_warning
from astseg.diagnostics.visualize import panel
from astseg.discovery.background_subtraction import find_components
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline, inference
from astseg.model.astseg import AstSeg
from astseg.runs.folder import RunFolder
from astseg.training.logging import Reporter
from astseg.types import SceneArrays

__all__ = ["TrainingMonitor", "few"]

WATCHED_SCENES = 64

FIRST_PICTURES = (5.0, 20.0, 45.0, *range(90, 600, 60))
"""Seconds after the start at which pictures are due; after the last of them, every PICTURE_SECONDS."""

PICTURE_SECONDS = 120.0

LEAST_FOUND = 0.1
"""Part of the pictures that should show something besides their background."""


class TrainingMonitor:
    """Draws a panel of some scenes now and then, and measures them where they have labels.

    It goes by the clock and leaves the training as it is: modes and random state are put back.
    """

    def __init__(
        self,
        run: RunFolder,
        scenes: SceneArrays,
        reporter: Reporter,
        config: InferenceConfig | None = None,
        discovery: DiscoveryConfig | None = None,
    ) -> None:
        """Watch a run.

        Args:
            run: Where ``panels/`` goes.
            scenes: Some dozen scenes at the model's size.
            reporter: Where the figures are told.
            config: How the output becomes masks; None: as in the paper.
            discovery: What foreground components are; None: the defaults.
        """
        self.run = run
        self.scenes = scenes
        self.reporter = reporter
        self.config = config
        self.discovery = discovery or DiscoveryConfig()
        self.begin = time.monotonic()
        self.due = [*FIRST_PICTURES]
        self.rendered: list[dict[str, float]] = []
        self.warned: set[str] = set()

    def __call__(self, model: nn.Module, phase: str, step: int, seconds: float) -> None:
        """After a step: draw, if a picture is due."""
        if phase == "pseudo_labels" and not self.rendered and "pseudo_labels" not in self.warned:
            self.warned.add("pseudo_labels")
            assert isinstance(model, AstSeg)
            self._look_for_regions(model)
        now = time.monotonic() - self.begin
        if now < self.due[0]:
            return
        self.due = [due for due in self.due if due > now] or [now + PICTURE_SECONDS]
        assert isinstance(model, AstSeg)
        name = f"{phase}_{step:06d}"
        figures = self.draw(model, name)
        if phase in ("objects", "joint"):
            self.rendered.append(figures)
        self._warn(early_warning(phase, self.rendered))
        self.reporter.note({"phase": phase, "step": step, "seconds": round(seconds, 3), "picture": name, **figures})

    def _look_for_regions(self, model: AstSeg) -> None:
        """Whether there is anything to be guided by."""
        images = images_to_tensor(np.asarray(self.scenes.images[:]), device=next(model.parameters()).device)
        with inference(model):
            background, predicted_error = model.background_model(images)
        components = find_components(images, background, predicted_error, limit=1, config=self.discovery)
        found = int(components.present.any(dim=1).sum())
        if found < LEAST_FOUND * len(images):
            self._warn(
                f"anything differs from the learnt background in only {found} of {len(images)} pictures, so there is"
                " little to learn objects from; see astseg health afterwards"
            )

    def _warn(self, words: str | None) -> None:
        """Say it, once."""
        if words is not None and words not in self.warned:
            self.warned.add(words)
            self.reporter.say(f"warning: {words}")

    def draw(self, model: AstSeg, name: str) -> dict[str, float]:
        """Draw ``panels/NAME.png`` and ``panels/latest.png``, and tell the figures; returns the finite ones by name."""
        result = evaluate(Pipeline(model, self.config, discovery=self.discovery), self.scenes)
        picture = panel(self.scenes.images[:8], result.first_output, labels=_first(self.scenes))
        file = self.run.panels / f"{name}.png"
        for path in (file, self.run.panels / "latest.png"):
            save_picture(picture, path)
        means = {key: value for key, value in result.mean.items() if math.isfinite(value)}
        names = {"ari_fg": "ARI-FG", "miou": "mIoU", "mse": "MSE", "slots_used": "slots used"}
        figures = "  ".join(f"{spelled} {means[key]:.3g}" for key, spelled in names.items() if key in means)
        self.reporter.say(f"picture {file}  ({len(self.scenes)} scenes: {figures})")
        return means


def _first(scenes: SceneArrays) -> NDArray[np.uint8] | None:
    return None if scenes.labels is None else scenes.labels[:8]


def few(scenes: SceneArrays, count: int = WATCHED_SCENES) -> SceneArrays:
    """Some of the scenes, evenly spread, to be watched."""
    step = max(1, len(scenes) // count)
    chosen = slice(0, step * count, step)
    labels = None if scenes.labels is None else scenes.labels[chosen]
    return SceneArrays(scenes.images[chosen], labels, scenes.names[chosen], scenes.source)
