"""Panels and metrics during training, so that one sees objects appear and knows whether it works."""

from __future__ import annotations

import math
import time

import numpy as np
from torch import nn

from astseg.config import Config
from astseg.data.arrays import images_to_tensor
from astseg.data.formats.png import save_picture
from astseg.data.open import evenly_spaced
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

MONITORED_SCENES = 64

PANEL_SCENES = 8

FIRST_PANELS = (5.0, 20.0, 45.0, *range(90, 600, 60))
"""Seconds after the start at which panels are due; after the last of them, every PANEL_SECONDS."""

PANEL_SECONDS = 120.0

FEWEST_WITH_COMPONENTS = 0.1
"""Fraction of the images in which something should differ from the background."""

PRINTED = {"ari_fg": "ARI-FG", "miou": "mIoU", "mse": "MSE", "slots_used": "slots used"}


class TrainingMonitor:
    """Draws a panel of some scenes now and then, and evaluates them where they have labels.

    It goes by the clock and leaves the training as it is: modes and random state are put back.
    """

    def __init__(self, run: RunFolder, scenes: SceneArrays, reporter: Reporter, config: Config | None = None) -> None:
        """Monitor a run.

        Args:
            run: Where ``panels/`` goes.
            scenes: Some dozen scenes at the model's size.
            reporter: Where metrics are logged.
            config: Settings of inference and discovery; None: masks as in the paper.
        """
        self.run, self.scenes, self.reporter, self.config = run, scenes, reporter, config or Config()
        self.begin = time.monotonic()
        self.due = [*FIRST_PANELS]
        self.rendered: list[dict[str, float]] = []
        self.warned: set[str] = set()

    def __call__(self, model: nn.Module, phase: str, step: int, seconds: float) -> None:
        """After a step: draw a panel, if one is due."""
        if phase == "pseudo_labels" and not self.rendered and "pseudo_labels" not in self.warned:
            self.warned.add("pseudo_labels")
            assert isinstance(model, AstSeg)
            self._check_components(model)
        now = time.monotonic() - self.begin
        if now < self.due[0]:
            return
        self.due = [due for due in self.due if due > now] or [now + PANEL_SECONDS]
        assert isinstance(model, AstSeg)
        name = f"{phase}_{step:06d}"
        metrics = self.draw(model, name)
        if phase in ("objects", "joint"):
            self.rendered.append(metrics)
        self._warn(early_warning(phase, self.rendered))
        self.reporter.note({"phase": phase, "step": step, "seconds": round(seconds, 3), "picture": name, **metrics})

    def draw(self, model: AstSeg, name: str) -> dict[str, float]:
        """Draw ``panels/NAME.png`` and ``panels/latest.png``, and print the metrics; returns the finite ones."""
        result = evaluate(Pipeline(model, self.config.inference, discovery=self.config.discovery), self.scenes)
        labels = None if self.scenes.labels is None else self.scenes.labels[:PANEL_SCENES]
        drawn = panel(self.scenes.images[:PANEL_SCENES], result.first_output, labels=labels)
        file = self.run.panels / f"{name}.png"
        for path in (file, self.run.panels / "latest.png"):
            save_picture(drawn, path)
        means = {key: value for key, value in result.mean.items() if math.isfinite(value)}
        metrics = "  ".join(f"{spelled} {means[key]:.3g}" for key, spelled in PRINTED.items() if key in means)
        self.reporter.print(f"picture {file}  ({len(self.scenes)} scenes: {metrics})")
        return means

    def _check_components(self, model: AstSeg) -> None:
        """Warn if there is hardly anything to learn from."""
        images = images_to_tensor(np.asarray(self.scenes.images[:]), device=next(model.parameters()).device)
        with inference(model):
            background, predicted_error = model.background_model(images)
        components = find_components(images, background, predicted_error, limit=1, config=self.config.discovery)
        found = int(components.present.any(dim=1).sum())
        if found < FEWEST_WITH_COMPONENTS * len(images):
            self._warn(
                f"anything differs from the learnt background in only {found} of {len(images)} pictures, so there is"
                " little to learn objects from; see astseg health afterwards"
            )

    def _warn(self, warning: str | None) -> None:
        """Print it, once."""
        if warning is not None and warning not in self.warned:
            self.warned.add(warning)
            self.reporter.print(f"warning: {warning}")


def few(scenes: SceneArrays, count: int = MONITORED_SCENES) -> SceneArrays:
    """Some of the scenes, evenly spaced."""
    chosen = evenly_spaced(count, len(scenes))
    rows = np.array(chosen)
    labels = None if scenes.labels is None else scenes.labels[rows]
    return SceneArrays(scenes.images[rows], labels, tuple(scenes.names[index] for index in chosen), scenes.source)
