"""A GPU gives what the CPU gives: images, gradients, labels, and runs that go on where they stood; replayed or not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from astseg.config import BackgroundConfig, Config, InferenceConfig, ModelConfig, ObjectsConfig
from astseg.data.arrays import images_to_tensor
from astseg.data.synthetic.generate import render_scenes
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline
from astseg.inference.segmenter import Segmenter
from astseg.model.astseg import AstSeg, build
from astseg.model.fast.compositing import draw_and_blend
from astseg.runs.folder import RunFolder, load_model
from astseg.runs.info import RunInfo
from astseg.training.cuda_graphs import Recorded, RenderStep
from astseg.training.logging import Reporter
from astseg.training.loop import Watch, train
from astseg.training.losses import pixel_entropy_loss, reconstruction_loss
from astseg.types import SceneArrays
from tiny import MODEL, PAPER_FORM

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
GLIMPSE_ENCODER = replace(MODEL, glimpse_crop=8)
INFERENCE = InferenceConfig(colour_std=0.15, proposals=True)
PALETTE = replace(GLIMPSE_ENCODER, background_form="varying")
SEGFORMER = replace(GLIMPSE_ENCODER, backbone="segformer-b0")
OBJECTS = ObjectsConfig(
    steps=12,
    frozen_steps=8,
    pseudo_label_steps=4,
    batch=6,
    learning_rate=1e-3,
    warmup=2,
    entropy_ramp=4,
    parsimony_weight=0.02,
    pseudo_label_weight=1.0,
    pseudo_label_decay=12,
    pruning_margin=3.0,
    copy_paste=0.5,
    flip=True,
)


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=14, size=MODEL.image_size)


class StoppedError(Exception):
    """Ends a run, as a kill would."""


def trained(
    config: Config, scenes: SceneArrays, folder: Path, device: torch.device, *, watch: Watch | None = None
) -> AstSeg:
    run = RunFolder(folder)
    folder.mkdir(exist_ok=True)
    run.save_config(config, RunInfo("small"))
    return train(config, scenes, run=run, seed=0, reporter=Reporter(), device=device, watch=watch)


def fresh(config: ModelConfig) -> AstSeg:
    """A model in float64 some of whose objects are on, without anything drawn at random."""
    torch.manual_seed(4)
    model = build(replace(config, dropout=0.0, background_log_activation=0.5)).double()
    with torch.no_grad():
        model.encoder.refinement.get_submodule("projection").get_parameter("bias").normal_(0, 0.4)
    return model


@pytest.mark.parametrize(
    "config", [PAPER_FORM.model, GLIMPSE_ENCODER, PALETTE], ids=["paper", "second look", "varying"]
)
def test_a_step_has_the_same_result_and_gradients(gpu: torch.device, scenes: SceneArrays, config: ModelConfig) -> None:
    images = images_to_tensor(scenes.images).double()
    model = fresh(config)

    def step(device: torch.device) -> tuple[Tensor, list[Tensor]]:
        model.to(device).zero_grad(set_to_none=True)
        seen = images.to(device)
        output = model(seen, layers=False)
        loss = reconstruction_loss(output.reconstruction, seen) + 0.1 * pixel_entropy_loss(output.weights)
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return output.reconstruction.detach().cpu(), [
            gradient.cpu().clone() for gradient in gradients
        ]  # moving the model moves them too

    (here, ours), (there, theirs) = step(CPU), step(gpu)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-8)
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7 * max(1.0, float(one.abs().max())))


@pytest.mark.parametrize("windows", [False, True])
def test_objects_are_drawn_alike_in_windows_and_on_whole_images(gpu: torch.device, windows: bool) -> None:
    torch.manual_seed(2)
    b, k, size = 3, 5, (23, 31)
    given = [
        torch.rand(b, k, 4, 8, 8, dtype=torch.float64),
        torch.rand(b, k, 2, dtype=torch.float64) * 2 - 1,
        torch.rand(b, k, 2, dtype=torch.float64) * 6 + 1,
        torch.randn(b, k, dtype=torch.float64),
        torch.rand(b, 3, *size, dtype=torch.float64),
        torch.tensor(0.3, dtype=torch.float64),
    ]

    def run(device: torch.device, windows: bool) -> list[Tensor]:
        leaves = [one.to(device).requires_grad_() for one in given]
        weights, image = draw_and_blend(*leaves, windows=windows)
        found = torch.autograd.grad(weights.square().sum() + image.pow(3).sum(), leaves)
        return [one.detach().cpu() for one in (weights, image, *found)]

    for one, other in zip(run(gpu, windows), run(CPU, True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [GLIMPSE_ENCODER, PALETTE, SEGFORMER])
def test_every_phase_trains(
    gpu: torch.device, scenes: SceneArrays, tmp_path: Path, model: ModelConfig, precision: str
) -> None:
    config = Config(
        model=model,
        background=BackgroundConfig(steps=5, batch=4, ramp=(0.3, 0.7), precision=precision),
        objects=replace(OBJECTS, precision=precision),
    )
    last = trained(config, scenes, tmp_path / "run", gpu)
    assert all(parameter.isfinite().all() for parameter in last.parameters())
    assert next(last.parameters()).is_cuda
    read, _, _ = load_model(tmp_path / "run")  # written from there, read anywhere
    there, here = (evaluate(Pipeline(one, INFERENCE), scenes) for one in (last, read.to(CPU)))
    for name in ("mse", "miou", "slots_used"):
        assert there.mean[name] == pytest.approx(here.mean[name], rel=2e-2, abs=2e-2), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [PAPER_FORM.model, PALETTE, SEGFORMER], ids=["paper", "varying", "segformer"])
def test_a_replayed_step_is_the_step(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, config: ModelConfig, precision: str
) -> None:
    """Result, gradients and running means of three steps, the same dropout included."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 11 bits of 24, or not, as the convolution chosen
    torch.manual_seed(4)
    model = build(replace(config, background_log_activation=0.5)).to(gpu).train()
    model.background_model.requires_grad_(False)
    before = [buffer.clone() for buffer in model.buffers()]
    batches = torch.rand(3, 4, 2, 3, *config.image_size, device=gpu)

    def steps(graphs: bool) -> list[Tensor]:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        forward = Recorded(RenderStep(model), precision=precision, graphs=graphs)
        found = []
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            output = RenderStep.output(forward(batch[:, 0], batch[:, 1]))
            model.zero_grad(set_to_none=True)
            (reconstruction_loss(output.reconstruction, batch[:, 0]) + output.weights.square().mean()).backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            found += [one.detach().clone() for one in (output.reconstruction, *gradients, *model.buffers())]
        return found

    eager, again, replayed = steps(graphs=False), steps(graphs=False), steps(graphs=True)
    assert len(eager) == len(replayed) > 60
    close = 1e-4 if precision == "float32" else 2e-2
    for one, same, other in zip(eager, again, replayed, strict=True):
        spread, apart = (float((one - two).float().norm()) for two in (same, other))
        assert apart <= 10 * spread + close * float(one.float().norm()) + 1e-7


def test_a_stopped_run_goes_on(gpu: torch.device, scenes: SceneArrays, tmp_path: Path) -> None:
    """A GPU adds in another order each time: two runs differ by rounding, and one that was stopped by no more."""
    objects = replace(OBJECTS, eps=1e-3)  # else Adam makes as much of a rounding as of a gradient
    config = Config(model=GLIMPSE_ENCODER, background=BackgroundConfig(steps=5, batch=4), objects=objects)

    def stop(model: nn.Module, phase: str, step: int, seconds: float) -> None:
        if (phase, step) == ("objects", 6):
            raise StoppedError

    one, other = (trained(config, scenes, tmp_path / name, gpu) for name in ("one", "other"))
    with pytest.raises(StoppedError):
        trained(config, scenes, tmp_path / "stopped", gpu, watch=stop)
    again = trained(config, scenes, tmp_path / "stopped", gpu)

    @torch.no_grad()
    def apart(a: nn.Module, b: nn.Module) -> float:
        return max(float((p - q).abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))

    assert apart(one, again) <= 10 * apart(one, other) + 1e-5


def test_labels_are_those_of_the_cpu(gpu: torch.device, spread_run: Path) -> None:
    pictures = [torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy() for _ in range(5)]
    there, here = (Segmenter.from_pretrained(spread_run, device).predict(pictures) for device in (gpu, CPU))
    for one, other in zip(there, here, strict=True):
        assert float((one.labels != other.labels).mean()) < 1e-3
