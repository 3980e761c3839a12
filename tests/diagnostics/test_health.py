"""Health without labels: every fault is found on a model that truly has it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.cli import main
from astseg.config import BackgroundConfig, Config, ModelConfig, ObjectsConfig
from astseg.diagnostics.health import Health, early_warning, examine, judge
from astseg.errors import UserError
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import AstSeg, build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter
from astseg.training.loop import train
from astseg.types import SceneArrays

MODEL = ModelConfig(
    image_size=(28, 48),
    slots=2,
    appearance=8,
    glimpse_width=2,
    backbone="cnn",
    glimpse_crop=8,
    refinement="residual",
    transformer_width=32,
    transformer_heads=2,
    transformer_layers=1,
    transformer_feedforward=32,
    dropout=0.0,
    background_width="small",
    background_form="fixed",
)
CONFIG = Config(
    model=MODEL,
    background=BackgroundConfig(steps=30, batch=8),
    objects=ObjectsConfig(
        steps=240, frozen_steps=235, pseudo_label_steps=170, batch=16, learning_rate=3e-3, warmup=10, decay="cosine",
        entropy_ramp=60, pseudo_label_weight=0.5, pseudo_label_decay=400,
    ),
)  # fmt: skip
COLOURS = [(230, 40, 40), (40, 60, 230), (230, 220, 30)]


def scenes(count: int, *, objects: int = 3) -> SceneArrays:
    """Squares of three colours, each in its own third of a still ground."""
    rows, columns = np.mgrid[:28, :48]
    ground = 110 + 30 * np.sin(rows / 5) + 20 * columns / 48
    images = np.repeat(ground[None, :, :, None], 3, axis=3).repeat(count, axis=0).astype(np.uint8)
    generator = np.random.default_rng(0)
    for image in images:
        for place in range(objects):
            top, left = int(generator.integers(1, 20)), 16 * place + int(generator.integers(1, 9))
            image[top : top + 7, left : left + 7] = COLOURS[place]
    return SceneArrays(images, None, [str(number) for number in range(count)], "squares")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> AstSeg:
    """A model with two slots, trained on scenes of three objects."""
    run = RunFolder(tmp_path_factory.mktemp("health") / "run")
    return train(CONFIG, scenes(240), run=run, seed=0, reporter=Reporter(), device=torch.device("cpu"))


def fresh() -> AstSeg:
    torch.manual_seed(0)
    return build(MODEL).eval()


def names(health: Health) -> set[str]:
    return {finding.name for finding in judge(health) if finding.wrong}


def words(health: Health, name: str) -> str:
    return next(str(finding) for finding in judge(health) if finding.name == name)


def test_too_few_slots(trained: AstSeg) -> None:
    health, each = examine(Pipeline(trained), scenes(40))
    assert health.used == pytest.approx(each["used"].mean())
    assert health.full > 0.9
    assert "full" in names(health)
    assert "try --model.slots 4" in words(health, "full")
    assert health.background_error < 8
    assert health.shifted > 0.5
    assert "nothing learnt" not in names(health)


def test_an_untrained_model() -> None:
    health, _ = examine(Pipeline(fresh()), scenes(20))
    assert (health.used, health.empty, health.foreground) == (0, 1, 0)
    assert {"nothing learnt", "background"} <= names(health)
    assert "no object is found in 100 % of the pictures" in words(health, "nothing learnt")
    assert np.isnan(health.object_error)
    assert health.summary()["object_error"] is None


def test_two_slots_on_one_object(trained: AstSeg) -> None:
    model = fresh()
    model.load_state_dict(trained.state_dict())
    last = [module for module in model.encoder.backbone.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():  # slot 2 looks where slot 1 looks, if not quite as sharply
        last.weight[1] = 0.97 * last.weight[0]
        if last.bias is not None:
            last.bias[1] = 0.97 * last.bias[0]
    health, each = examine(Pipeline(model), scenes(30))
    assert health.doubled > 0.5
    assert each["doubled"].mean() == health.doubled
    assert "doubled" in names(health)
    # Of a twin that is the same in everything, no pixel is left over. Equal weights are not enough: some processors
    # round each channel of a convolution in its own way, and each slot.
    refine = model.encoder.refinement.forward
    model.encoder.refinement.forward = lambda pooled: refine(pooled)[:, :1].expand_as(pooled)
    model.encoder.backbone.register_forward_hook(lambda *call: call[-1][:, [0, 0, *range(2, call[-1].shape[1])]])
    assert examine(Pipeline(model), scenes(30))[0].doubled < 0.1
    assert examine(Pipeline(trained), scenes(30))[0].doubled < 0.2


def test_slots_that_stand_still_and_cover_everything() -> None:
    model = fresh()
    last = [module for module in model.encoder.backbone.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.zero_()  # each slot looks at everything, whatever is there
        model.renderer.background_log_activation.fill_(-12)
        projection = model.encoder.refinement.projection
        assert isinstance(projection, nn.Linear)
        projection.weight.zero_()
        projection.bias.zero_()
        projection.bias[2:4] = -9.0  # as large as can be
    health, _ = examine(Pipeline(model), scenes(20))
    assert health.still
    assert health.foreground > 0.5
    assert {"still", "foreground"} <= names(health)


class Copying(nn.Module):
    """A background model that paints everything."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, torch.zeros_like(images[:, :1])


def test_a_background_that_takes_over_objects() -> None:
    model = fresh()
    model.background_model = Copying()  # type: ignore[assignment]
    health, _ = examine(Pipeline(model), scenes(20))
    assert health.absorbed > 0.9
    assert "absorbed" in names(health)
    assert health.unexplained < 0.01
    assert "nothing learnt" not in names(health)  # everything is explained
    varied = scenes(20)
    noise = np.random.default_rng(1).integers(0, 255, varied.images.shape).astype(np.uint8)
    assert np.isnan(
        examine(Pipeline(model), replace(varied, images=noise))[0].absorbed
    )  # no common background, no saying


def test_every_figure_has_its_words() -> None:
    fine = Health(
        images=50, slots=6, background_error=3.0, object_error=9.0, unexplained=0.002, used=2.5, full=0.0, empty=0.1,
        doubled=0.02, entropy=0.03, foreground=0.1, shifted=0.9, flipped=0.8, still=(), missed=0.1, absorbed=0.0,
    )  # fmt: skip
    assert names(fine) == set()
    assert judge(fine)[0].name == "fine"
    assert names(replace(fine, entropy=0.4)) == {"undecided"}
    assert names(replace(fine, shifted=0.3, flipped=0.2)) == {"unstable"}
    assert names(replace(fine, flipped=0.2)) == set()  # a fixed background looks different in a mirror
    assert names(replace(fine, unexplained=0.05)) == {"unexplained"}
    assert names(replace(fine, full=0.31)) == {"full"}
    told = judge(replace(fine, missed=0.7))
    assert [finding.wrong for finding in told] == [False, False]
    assert "the encoder missed 70 % of the objects" in told[1].words
    assert len(judge(replace(fine, missed=float("nan")))) == 1
    assert str(judge(replace(fine, full=0.31))[0]) == "K is full in 31 % of the pictures: try --model.slots 9"
    assert not any(finding.wrong for finding in judge(replace(fine, empty=0.7)))  # perhaps they are empty


def test_the_model_stays_as_it_was(trained: AstSeg) -> None:
    trained.train()
    examine(Pipeline(trained), scenes(9), batch_size=4)
    assert trained.training
    trained.eval()
    one, other = (examine(Pipeline(trained), scenes(9), batch_size=size)[0] for size in (4, 9))
    assert one.background_error == pytest.approx(other.background_error, rel=1e-4)
    with pytest.raises(UserError, match="no pictures"):
        examine(Pipeline(trained), SceneArrays(np.zeros((0, 28, 48, 3), np.uint8), None, (), "none"))


def test_early_warnings() -> None:
    nothing, much, fine = (
        {"slots_used": used, "foreground": share} for used, share in ((0.0, 0.0), (5, 0.8), (3, 0.1))
    )
    assert early_warning("objects", [nothing]) is None
    assert "no slot shows anything" in (early_warning("objects", [fine, nothing, nothing]) or "")
    assert "take over the background" in (early_warning("joint", [much, much]) or "")
    assert early_warning("objects", [nothing, fine]) is None
    assert early_warning("pseudo_labels", [nothing, nothing]) is None


def test_the_command(trained: AstSeg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(scenes(12).images):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    run = RunFolder(tmp_path / "run")
    run.save_config(CONFIG, RunInfo("small", data=str(tmp_path / "pictures")))
    run.save_weights(trained)
    assert main.run(["health", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "12 pictures: " in said
    assert "! K is full in" in said
    assert (run.path / "health.json").is_file()
    assert main.run(["health", str(run.path), str(tmp_path / "pictures"), "--split", ":5"]) == 0
    assert "5 pictures: " in capsys.readouterr().out
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert main.run(["health", str(run.path)]) == 2
    assert "are not there: name others" in capsys.readouterr().err


def test_an_early_word_where_nothing_differs_from_the_background(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from astseg.training.monitor import TrainingMonitor

    run = RunFolder(tmp_path / "run")
    console = Console(file=io.StringIO(), soft_wrap=True, markup=False, highlight=False)
    empty = scenes(20, objects=0)
    with Reporter(console=console) as reporter:
        watch = TrainingMonitor(run, empty, reporter)
        short = replace(CONFIG, objects=replace(CONFIG.objects, steps=6, frozen_steps=6, pseudo_label_steps=3))
        train(short, empty, run=run, seed=0, reporter=reporter, watch=watch, device=torch.device("cpu"))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("warning: anything differs from the learnt background in only 0 of 20 pictures") == 1
