"""Every preset at its full size: two steps of each phase on made-up images, with weights loaded as for real."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from astseg.config import Config
from astseg.config.presets import PRESETS, VARIANTS, preset
from astseg.model.backbones.segformer import MIX_TRANSFORMERS
from astseg.runs.folder import RunFolder, load_model
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter
from astseg.training.loop import choose_background_width, train
from astseg.types import SceneArrays

NAMES = [*PRESETS, *(f"clevrtex-ct-{ending}" for ending in VARIANTS if ending != "b3")]
CPU = torch.device("cpu")

pytestmark = pytest.mark.slow


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    """Where checkpoints of random values lie in the place of NVIDIA's; what is written is removed, it is gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def checkpoint(folder: Path, name: str) -> str:
    """A checkpoint as transformers saves it, of the size that the hub id ``nvidia/mit-b3`` names."""
    import transformers

    size = MIX_TRANSFORMERS[name.removeprefix("nvidia/mit-")]
    config = transformers.SegformerConfig(
        depths=size.depths, hidden_sizes=size.widths, decoder_hidden_size=size.decoder_width
    )
    path = folder / name.removeprefix("nvidia/")
    transformers.SegformerModel(config).save_pretrained(path)
    return str(path)


def short(config: Config, folder: Path) -> Config:
    """Two steps of each phase and two images a step; nothing else is smaller."""
    model, objects = config.model, config.objects
    if model.backbone_weights is not None:
        model = replace(model, backbone_weights=checkpoint(folder, model.backbone_weights))
    guided = 2 if objects.pseudo_label_steps else 0
    frozen = 0 if objects.scenario == "baseline" else guided + 2
    steps = frozen if objects.frozen_steps >= objects.steps else frozen + 2
    return replace(
        config,
        model=model,
        background=replace(config.background, steps=2, batch=2),
        objects=replace(objects, steps=steps, frozen_steps=frozen, pseudo_label_steps=guided, batch=2),
    )


def last_steps(config: Config) -> dict[str, int]:
    """The phases that a run must come through, and the step that each ends with."""
    objects = config.objects
    if objects.scenario == "baseline":
        return {"joint": objects.steps}
    phases = {"background": 2, "pseudo_labels": objects.pseudo_label_steps, "objects": objects.frozen_steps}
    phases["joint"] = objects.steps if objects.steps > objects.frozen_steps else 0
    return {phase: step for phase, step in phases.items() if step}


def pictures(size: tuple[int, int]) -> SceneArrays:
    """Three pictures, smooth and all different."""
    rows, columns = (np.linspace(0, 6, side)[:, None] for side in size)
    waves = [np.sin(rows + k) + np.cos(columns.T * (k + 1)) for k in range(9)]
    images = np.stack(waves).reshape(3, 3, *size).transpose(0, 2, 3, 1)
    return SceneArrays((images * 60 + 128).clip(0, 255).astype(np.uint8), None, ("a", "b", "c"), "made up")


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_each_phase_at_full_size(name: str, weights: Path) -> None:
    config = short(preset(name), weights)
    scenes = pictures(config.model.image_size)
    if config.model.background_width == "auto":
        width = choose_background_width(config, scenes, seed=0, device=CPU)
        config = replace(config, model=replace(config.model, background_width=width))
    run = RunFolder(weights / "run")
    run.begin(config, RunInfo("small", fingerprint="made up"))
    with Reporter(run.log_path) as reporter:
        train(config, scenes, run=run, seed=0, reporter=reporter, device=CPU)
    steps = {}
    for line in run.log_path.read_text().splitlines():
        entry = json.loads(line)
        steps[entry["phase"]] = entry["step"]
    assert steps == last_steps(config)
    model, loaded, _ = load_model(run.path)
    assert loaded == config
    with torch.no_grad():
        output = model(torch.rand(1, 3, *config.model.image_size))
    assert output.weights.shape == (1, config.model.slots + 1, *config.model.image_size)
    assert output.reconstruction.isfinite().all()
