"""Programs compiled ahead of time say what the model says, and are kept for the processes that follow."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import astseg.predict.compiled as module
from astseg import evaluate
from astseg.config import ModelConfig
from astseg.evaluate import inference
from astseg.model.scene import AstSeg, build
from astseg.predict import Segmenter
from astseg.predict.compiled import CompiledModel, cache_folder
from astseg.types import SceneOutput, UserError
from tiny import MODEL

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None
    or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
    or not sys.platform.startswith("linux"),
    reason="needs torch 2.6 or newer and a C++ compiler",
)

LIKE_SMALL = replace(MODEL, slots=4, look=8, colour_noise=0.1, proposals=True, background_log_activation=0.0)
LIKE_PAPER = replace(MODEL, slots=2, refinement="paper", background_form="paper", background_log_activation=0.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for this file, so that nothing is compiled twice and none of the user's is touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def spread(config: ModelConfig) -> AstSeg:
    """A model with fresh weights, but for objects that lie apart and are on, or off, by what is seen."""
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.encoder.refinement.projection.parameters():
            parameter.normal_(0, 0.5)
    return model


def pictures(count: int) -> Tensor:
    """Images count x 3 x 20 x 28: rectangles on a plain ground."""
    rng = np.random.default_rng(0)
    images = torch.full((count, 3, 20, 28), 0.5)
    for image in images:
        for _ in range(3):
            y, x = rng.integers(0, 14), rng.integers(0, 20)
            image[:, y : y + 6, x : x + 7] = torch.from_numpy(rng.random((3, 1, 1)))
    return images


def both(model: AstSeg, compiled: CompiledModel, images: Tensor) -> tuple[SceneOutput, SceneOutput]:
    with inference(model):
        return model(images, layers=False), compiled(images)


def check_same(one: SceneOutput, other: SceneOutput) -> None:
    """All numbers but for rounding; labels of all pixels but one in a hundred."""
    for name in ("attention", "background", "weights", "reconstruction"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-3, atol=1e-4)
    for name in ("position", "scale", "log_activation", "appearance"):
        torch.testing.assert_close(getattr(other.latents, name), getattr(one.latents, name), rtol=1e-3, atol=1e-4)
    for name in ("posterior", "overlooked"):
        assert (getattr(one, name) is None) == (getattr(other, name) is None)
    differ = one.ownership.argmax(dim=1) != other.ownership.argmax(dim=1)
    assert differ.float().mean() < 0.01
    assert one.layers is other.layers is one.masks is other.masks is None


def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled: what would be is run layer by layer."""
    monkeypatch.setattr(module, "_program", lambda part, *_, **__: part)


def on(model: AstSeg, output: SceneOutput) -> int:
    with torch.no_grad():
        return int(model.renderer.drawn(output.latents.log_activation).sum())


def check_single_images(config: ModelConfig) -> None:
    model = spread(config)
    compiled = CompiledModel(model, 1)
    counts = set()
    for image in pictures(16):
        one, other = both(model, compiled, image[None])
        check_same(one, other)
        counts.add(on(model, one))
    assert not config.proposals or min(counts) <= config.slots // 2 < max(counts)  # several programs draw


@pytest.mark.parametrize("config", [LIKE_SMALL, LIKE_PAPER])
def test_the_halves_make_the_whole(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is(monkeypatch)
    check_single_images(config)


@pytest.mark.parametrize("config", [LIKE_SMALL, LIKE_PAPER])
def test_in_batches(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is(monkeypatch)
    model = spread(config)
    check_same(*both(model, CompiledModel(model, 5), pictures(5)))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("config", [LIKE_SMALL, LIKE_PAPER, replace(LIKE_PAPER, backbone="segformer-b0")])
def test_single_images_by_programs(config: ModelConfig) -> None:
    check_single_images(config)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("backbone", ["cnn", "unet", "segformer-b0"])
def test_a_backbone_in_bfloat16(backbone: str) -> None:
    """Programs round as the model does, but not the same numbers: both are as far from what is not rounded."""
    model = spread(replace(LIKE_SMALL, backbone=backbone, proposals=False))
    model.encoder.precision = "bfloat16"
    compiled = CompiledModel(model, 1)
    off = []
    for image in pictures(8):
        rounded, by_programs = both(model, compiled, image[None])
        model.encoder.precision = "float32"
        exact, _ = both(model, compiled, image[None])
        model.encoder.precision = "bfloat16"
        off.append([float((one.attention - exact.attention).abs().max()) for one in (rounded, by_programs)])
    of_model, of_programs = np.mean(off, axis=0)
    assert 0 < of_programs < 2 * of_model


@pytest.mark.slow
@needs_compiler
def test_batches_by_programs() -> None:
    model = spread(LIKE_SMALL)
    compiled = CompiledModel(model, 5)
    for images in pictures(20).split(5):
        check_same(*both(model, compiled, images.contiguous(memory_format=torch.channels_last)))


def test_the_model_is_taken_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is(monkeypatch)
    model = spread(LIKE_SMALL).train()
    compiled = CompiledModel(model, 1)
    assert all(part.training for part in model.modules())
    with torch.inference_mode():
        before = compiled(pictures(1))
        model.proposals = False
        for parameter in model.parameters():
            parameter.zero_()
        check_same(before, compiled(pictures(1)))


def test_a_segmenter_cuts_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is(monkeypatch)
    passes: list[int] = []
    forward = CompiledModel.__call__

    def counted(self: CompiledModel, images: Tensor) -> SceneOutput:
        passes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(CompiledModel, "__call__", counted)
    monkeypatch.setattr(evaluate, "PIXELS_AT_ONCE", 4.5 * 20 * 28 / torch.get_num_threads())  # of 10, the model takes 4
    segmenter = Segmenter(spread(LIKE_SMALL).eval())
    images = (pictures(12).permute(0, 2, 3, 1) * 255).byte().numpy()
    without = segmenter.predict(images)
    segmenter.compile(4)
    segmenter.predict(images[:11], batch_size=10)
    assert passes == [4, 4]  # and 2 and 1 by the model itself
    segmenter.compile()
    passes.clear()
    predictions = segmenter.predict(images[:11], batch_size=10)
    assert passes == [4, 4, 1, 1, 1]
    passes.clear()
    segmenter.predict(images[:3], batch_size=10)
    assert not passes  # what is compiled for one image takes longer for three
    for one, other in zip(without[:11], predictions, strict=True):
        assert (one.labels != other.labels).mean() < 0.01
        assert len(one.objects) == len(other.objects)
        assert one.layers.shape == other.layers.shape


class Small(nn.Sequential):
    """A part that is compiled in seconds."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.requires_grad_(False)

    def forward(self, given: Tensor) -> tuple[Tensor]:
        return (super().forward(given),)


def parts(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@needs_compiler
def test_programs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    part = Small(nn.Linear(3, 4), nn.CELU())
    given = [torch.rand(2, 3)]
    with torch.no_grad():
        program = module._program(part, given)
        torch.testing.assert_close(program(*given), list(part(*given)))
        (kept,) = parts(cache_folder())
        assert cache_folder().is_relative_to(tmp_path)
        assert str(tmp_path) not in os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")

        def never(*_: object) -> None:
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(module, "_compile", never)
            module._program(part, given)
            for other in (Small(nn.Linear(3, 4), nn.CELU()), Small(part[0], nn.ReLU())):
                with pytest.raises(AssertionError):  # other weights, other operations
                    module._program(other, given)
            patch.setattr(module, "_processor", lambda: "another")
            with pytest.raises(AssertionError):
                module._program(part, given)
        content = (cache_folder() / kept).read_bytes()
        for broken in (content[: len(content) // 2], b"", b"no zip file"):
            (cache_folder() / kept).write_bytes(broken)
            assert module._loaded(cache_folder() / kept) is None
        module._program(part, given)  # compiled anew
        assert parts(cache_folder()) == [kept]


def refused(message: str, make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("second", [False, True])
def test_what_does_something_else_is_not_used(second: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program may be wrong at once, or spoil its own weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    part = Small(nn.Linear(3, 4))
    offsets = iter([0.0, 0.01] if second else [0.01])
    monkeypatch.setattr(module, "_compile", lambda _, path: write(path))
    monkeypatch.setattr(
        module, "_loaded", lambda path: (lambda x: [part(x)[0] + next(offsets)]) if path.is_file() else None
    )

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")

    refused("does not do what the model does: do without", lambda: module._program(part, [torch.rand(2, 3)]))
    assert parts(cache_folder()) == []


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("no C\\+\\+ compiler 'no-such-compiler' is there", lambda: CompiledModel(spread(LIKE_PAPER), 1))
    assert parts(tmp_path) == []


@needs_compiler
def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": (None, shutil.which("false"))}):
        refused("cannot be compiled", lambda: module._program(Small(nn.Linear(3, 4)), [torch.rand(2, 3)]))
    assert parts(cache_folder()) == []


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "astseg").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", sys.executable)
    refused("cannot be written", lambda: module._program(Small(nn.Linear(3, 4)), [torch.rand(2, 3)]))


def test_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = spread(LIKE_PAPER)
    refused("batch_size is 0, expected at least 1", lambda: CompiledModel(model, 0))
    refused("only for the CPU", lambda: CompiledModel(spread(LIKE_PAPER).to("meta"), 1))
    monkeypatch.delattr(torch._inductor, "aoti_load_package", raising=False)
    refused("takes 2.6 or newer", lambda: CompiledModel(model, 1))


def test_room_is_made_for_the_newest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 250)
    for age, name in enumerate(["newest", "last", "before", "oldest"]):
        file = tmp_path / f"{name}.pt2"
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "another").write_bytes(bytes(300))
    module._make_room(tmp_path / "newest.pt2")
    assert parts(tmp_path) == ["another", "last.pt2", "newest.pt2"]
