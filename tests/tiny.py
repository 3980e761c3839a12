"""Settings of models that are built and trained within a second, for the tests that need no others."""

from typing import Any

import torch

from astseg.config import Config, ModelConfig

ROUNDS_ALIKE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""Whether torch rounds a picture alike alone and in a batch, as the locked version does; older ones do not always."""

MODEL = ModelConfig(
    image_size=(20, 28),
    slots=3,
    appearance=5,
    backbone="cnn",
    refinement="residual",
    transformer_width=16,
    transformer_heads=2,
    transformer_layers=1,
    transformer_feedforward=12,
    background_width="small",
    background_form="fixed",
)

PAPER_FORM = Config(
    model=ModelConfig(
        image_size=(20, 28),
        slots=3,
        appearance=5,
        backbone="cnn",
        transformer_width=8,
        transformer_heads=2,
        transformer_layers=1,
        transformer_feedforward=12,
        background_width="small",
    )
)
"""Refinement and background as published."""

MODEL_SETTINGS: dict[str, Any] = {
    "image_size": [20, 28],
    "slots": 6,
    "appearance": 5,
    "transformer_width": 16,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "transformer_feedforward": 12,
}
"""The part ``model`` of a file of settings, to be laid over the preset ``small``."""
