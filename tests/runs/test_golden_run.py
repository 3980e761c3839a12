"""Run folders as every version of the format wrote them are read by this one, with the same outputs.

``tests/golden/run-v1`` and ``run-v2`` are never written anew. Their weights follow a formula with a short period, so
that the files are small when packed. A new version of the format gets a folder of its own:
``python tests/runs/test_golden_run.py FOLDER``.
"""

import gzip
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, InferenceConfig, ModelConfig, ObjectsConfig
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import AstSeg, build
from astseg.runs.folder import FORMAT, RunFolder, TrainingState, load_model
from astseg.runs.info import RunInfo

GOLDEN = Path(__file__).parents[1] / "golden"
STATE = TrainingState("joint", 7, 3.5, 1.25, 3)
CONFIG = Config(
    model=ModelConfig(
        image_size=(16, 20),
        slots=3,
        appearance=5,
        backbone="cnn",
        glimpse_crop=8,
        refinement="residual",
        transformer_width=8,
        transformer_heads=2,
        transformer_layers=1,
        transformer_feedforward=12,
        background_width="small",
        background_form="fixed",
        background_log_activation=0.5,
    ),
    background=BackgroundConfig(steps=5, batch=4),
    objects=ObjectsConfig(steps=9, frozen_steps=4, batch=3),
)
INFOS = {
    "run-v1": RunInfo("small", seed=3, fingerprint="abc", data="scenes", versions={}),
    "run-v2": RunInfo(
        "small",
        seed=3,
        data="scenes",
        split=":-5",
        resize="letterbox",
        crop=0.75,
        camera=2,
        stride=3,
        frames=40,
        images=17,
        fingerprint="abc",
        versions={"astseg": "0.2.0"},
    ),
}


@torch.no_grad()
def fill(tensors: dict[str, Tensor]) -> None:
    """Values of the position in the tensor, with a period of 61."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        i = torch.arange(tensor.numel(), dtype=torch.float64) % 61
        scale = (tensor.numel() / tensor.shape[0]) ** 0.5 if tensor.ndim > 1 else 1.0
        flat = 1 + 0.1 * torch.sin(i) if "norm" in name or name.endswith("running_var") else torch.sin(0.7 * i + 0.3)
        if name.startswith("encoder.refinement"):
            scale *= 50  # so that objects stay in the picture
        tensor.copy_((flat / scale).view(tensor.shape))


def picture() -> Tensor:
    """1 x 3 x 16 x 20 in [0, 1]."""
    x, y = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    return torch.stack([torch.sin(0.5 * x + 0.2 * y), torch.cos(0.3 * y), torch.sin(0.1 * x * y)])[None] / 2 + 0.5


def outputs(model: AstSeg, config: InferenceConfig) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """What the network says, and the mask posterior that follows."""
    with torch.no_grad():
        output = model.eval()(picture())
    posterior = Pipeline(model, config)(picture()).responsibilities
    names = ("attention", "background", "weights", "reconstruction")
    return (
        {name: getattr(output, name).numpy() for name in names}
        | {
            name: getattr(output.latents, name).numpy()
            for name in ("position", "scale", "log_activation", "appearance")
        }
        | {"posterior": posterior.numpy()}
    )


def moments_of(model: nn.Module) -> torch.optim.Optimizer:
    """An optimiser after one step of plain gradients; the weights stay as they are."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    optimizer.step()
    return optimizer


def write(folder: Path) -> None:
    """What the golden folder was made with."""
    model = build(CONFIG.model)
    fill(model.state_dict())
    run = RunFolder(folder)
    run.begin(CONFIG, INFOS[f"run-v{FORMAT}"])
    run.log_path.write_text('{"phase": "joint", "step": 7, "seconds": 3.5, "reconstruction": 0.5}\n')
    run.save_state(STATE, model, moments_of(model))
    run.save_weights(model)
    np.savez_compressed(folder / "expected.npz", **outputs(model, CONFIG.inference))
    for file in folder.rglob("*.safetensors"):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
        file.unlink()


@pytest.fixture(params=[f"run-v{version}" for version in range(1, FORMAT + 1)])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(version: str, tmp_path: Path) -> Path:
    """A golden run folder, unpacked."""
    folder = Path(shutil.copytree(GOLDEN / version, tmp_path / "run"))
    for packed in folder.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


def test_its_model_gives_the_same_outputs(run: Path, version: str) -> None:
    model, config, info = load_model(run)
    assert config == CONFIG
    assert info == INFOS[version]
    found = outputs(model, config.inference)
    expected = {}
    for folder in ("run-v2", version):  # format 1 was kept without a posterior
        with np.load(GOLDEN / folder / "expected.npz") as arrays:
            expected |= arrays
    assert set(expected) == set(found)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_it_goes_on(run: Path, version: str) -> None:
    folder = RunFolder(run)
    assert folder.begin(CONFIG, INFOS[version]) == CONFIG
    assert folder.load_state() == STATE
    assert len(folder.log_path.read_text().splitlines()) == 1
    model, expected = build(CONFIG.model), build(CONFIG.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    folder.restore(model, optimizer)
    fill(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-6)
    states = moments_of(expected).state_dict()["state"]
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(value, states[number][name], rtol=1e-6, atol=0)
    assert RunFolder(run).load_config() == (CONFIG, INFOS[version])  # written anew, in this format


if __name__ == "__main__":
    write(Path(sys.argv[1]))
