"""What is replayed on a GPU is the module itself elsewhere; what goes in and out as tensors keeps its names."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from astseg.model.astseg import AstSeg, build
from astseg.training.cuda_graphs import LocateStep, Recorded, RenderStep
from astseg.types import ObjectLatents
from tiny import MODEL

B, (H, W) = 2, MODEL.image_size


@pytest.fixture
def model() -> AstSeg:
    torch.manual_seed(0)
    return build(replace(MODEL, glimpse_crop=8, dropout=0.0))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(B, 3, H, W)


def assert_same_latents(one: ObjectLatents, other: ObjectLatents) -> None:
    for field in fields(ObjectLatents):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_a_step_in_tensors_is_that_of_the_model(model: AstSeg, images: Tensor) -> None:
    background = torch.rand(B, 3, H, W)
    output = RenderStep.output(Recorded(RenderStep(model), precision="float32", graphs=True)(images, background))
    expected = model(images, background, layers=False)
    assert_same_latents(output.latents, expected.latents)
    for name in ("attention", "background", "weights", "reconstruction"):
        assert torch.equal(getattr(output, name), getattr(expected, name)), name
    assert output.layers is None and output.masks is None


def test_locating_in_tensors_is_locating(model: AstSeg, images: Tensor) -> None:
    latents, attention = LocateStep.output(
        Recorded(LocateStep(model.encoder), precision="float32", graphs=True)(images)
    )
    expected, attended = model.encoder.locate(images)
    assert_same_latents(latents, expected)
    assert torch.equal(attention, attended)


def test_low_precision_is_that_of_the_module_and_not_of_its_gradients(model: AstSeg, images: Tensor) -> None:
    seen = []
    generator = model.renderer.generator
    generator.register_forward_hook(lambda module, given, glimpses: seen.append(glimpses.dtype))
    output = RenderStep.output(Recorded(RenderStep(model), precision="bfloat16", graphs=True)(images, images))
    assert seen == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")
    output.reconstruction.sum().backward()
    assert all(one.grad is not None and one.grad.dtype == torch.float32 for one in generator.parameters())


def test_where_no_slot_is_active_all_are_drawn(model: AstSeg, images: Tensor) -> None:
    """Fresh slots are far below the background, and everything is still to be learnt."""
    with torch.no_grad():
        model.renderer.background_log_activation.fill_(30.0)
    weights = RenderStep.output(RenderStep(model, pruning_margin=5.0)(images, images)).weights
    assert (weights[:, 1:].amax(dim=(2, 3)) > 0).all()
