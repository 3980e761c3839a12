"""From the network's output to masks: what is pruned, rounded and passed at once changes nothing that is seen."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from astseg.config import InferenceConfig
from astseg.errors import UserError
from astseg.inference import pipeline as module
from astseg.inference.pipeline import Pipeline, inference, invisible_margin
from astseg.model.astseg import AstSeg, build
from astseg.types import ObjectLatents
from tiny import MODEL

B, K, H, W = 2, 4, 24, 36
SMALL = replace(MODEL, image_size=(H, W), slots=K, dropout=0.0, background_log_activation=0.0)
BY_COLOUR = InferenceConfig(colour_std=0.2)


def made(glimpse_crop: int = 8) -> AstSeg:
    torch.manual_seed(0)
    return build(replace(SMALL, glimpse_crop=glimpse_crop))


def with_activations(model: AstSeg, log_activation: Tensor) -> None:
    """The encoder says what it says, but for the activations."""
    locate = model.encoder.locate

    def located(images: Tensor) -> tuple[ObjectLatents, Tensor]:
        latents, attention = locate(images)
        return replace(latents, log_activation=log_activation.expand(len(images), -1).clone()), attention

    model.encoder.locate = located  # type: ignore[method-assign]


def test_by_default_the_masks_are_the_paper_s() -> None:
    model, images = made(), torch.rand(B, 3, H, W)
    found, network = Pipeline(model)(images, layers=True), model.eval()(images)
    assert found.posterior is None
    assert found.missed is None
    torch.testing.assert_close(found.weights, network.weights)
    torch.testing.assert_close(found.layers, network.layers)
    assert torch.equal(found.responsibilities, found.weights)


@pytest.mark.parametrize("glimpse_crop", [0, 8])
@pytest.mark.parametrize("on", [[[0, 3], [3]], [[], [1]], [[], []]])
def test_active_slots_alone_give_the_planes_of_all(glimpse_crop: int, on: list[list[int]]) -> None:
    """As many slots are encoded, drawn and compared as are active in one image at most."""
    model, images = made(glimpse_crop), torch.rand(B, 3, H, W)
    activations = torch.full((B, K), -20.0)
    for image, slots in zip(activations, on, strict=True):
        image[slots] = 1.0
    with_activations(model, activations)
    pipeline = Pipeline(model, BY_COLOUR)
    some, every = pipeline(images), pipeline(images, layers=True)
    for name in ("position", "scale", "log_activation", "appearance"):
        torch.testing.assert_close(getattr(some.latents, name), getattr(every.latents, name))
    for name in ("attention", "background", "reconstruction", "weights", "posterior"):
        torch.testing.assert_close(getattr(some, name), getattr(every, name), rtol=1e-4, atol=1e-5)
    assert (some.weights[:, 1:].amax(dim=(2, 3)) > 0).tolist() == [[slot in slots for slot in range(K)] for slots in on]


def test_all_pruned_slots_at_one_place_change_no_pixel_by_half_a_grey_level() -> None:
    """White glimpses on black, as many as there are slots, each just too weak to be drawn."""
    slots = 12
    torch.manual_seed(0)
    model = build(replace(SMALL, slots=slots, pixel_activation=True))
    with torch.no_grad():
        model.renderer.generator[-2].weight.zero_()
        model.renderer.generator[-2].bias.fill_(20.0)
    behind = model.renderer.background_activation().min().item()
    latents = ObjectLatents(
        position=torch.zeros(1, slots, 2),
        scale=torch.full((1, slots, 2), 1.5),
        log_activation=torch.full((1, slots), behind - invisible_margin(slots) - 1e-4),
        appearance=torch.zeros(1, slots, 5),
    )
    assert not model.renderer.active(latents.log_activation, invisible_margin(slots)).any()
    with torch.no_grad():
        drawn = model.renderer(latents, torch.zeros(1, 3, H, W), layers=True).reconstruction
    assert 0.3 / 255 < drawn.max() < 0.5 / 255


def test_only_the_backbone_is_rounded() -> None:
    model, images = made(), torch.rand(B, 3, H, W)
    exact, rounded = Pipeline(model)(images), Pipeline(model, precision="bfloat16")(images)
    assert not torch.equal(rounded.attention, exact.attention)
    torch.testing.assert_close(rounded.attention, exact.attention, rtol=0.05, atol=0)
    assert torch.equal(rounded.background, exact.background)
    assert rounded.attention.dtype == rounded.reconstruction.dtype == torch.float32


def test_modes_come_back_and_training_goes_on() -> None:
    model, images = made().train(), torch.rand(B, 3, H, W)
    model.background_model.eval()  # as in phase 2 of the curriculum
    before = [one.training for one in model.modules()]
    Pipeline(model)(images)
    assert [one.training for one in model.modules()] == before
    with pytest.raises(RuntimeError), inference(model):
        assert not any(one.training for one in model.modules())
        raise RuntimeError
    assert [one.training for one in model.modules()] == before
    model(images).reconstruction.sum().backward()


def test_a_processor_takes_equal_parts_that_fit_its_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(made())
    threads = torch.get_num_threads()
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2.5 * H * W / threads)
    assert [pipeline.batch_size(most) for most in (1, 2, 3, 5, 6, 7, 100)] == [1, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 5.5 * H * W / threads)
    assert [pipeline.batch_size(most) for most in (5, 6, 7, 11)] == [5, 3, 4, 4]
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 1)
    assert pipeline.batch_size(7) == 1


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=f"images are 20x28, but the model was built for {H}x{W}"):
        Pipeline(made())(torch.rand(1, 3, 20, 28))


def test_the_margin_grows_with_the_slots() -> None:
    assert invisible_margin(1) == pytest.approx(math.log(510))
    assert invisible_margin(24) == pytest.approx(math.log(510) + math.log(24))
