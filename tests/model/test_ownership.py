"""What pixels belong to: layer weights as the prior, colours as the likelihood."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from astseg import Segmenter
from astseg.evaluate import inference
from astseg.model.ownership import SMALLEST, owned, ownership
from astseg.model.scene import AstSeg, build
from tiny import MODEL

B, K, H, W = 2, 3, 20, 28


def errors(images: Tensor, background: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
    """Of the background, B x H x W, and of the objects, B x K x H x W."""
    return (background - images).square().sum(dim=1), (layers - images[:, None]).square().sum(dim=2)


def random_scene(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, background, layers, weights."""
    torch.manual_seed(seed)
    weights = torch.rand(B, K + 1, H, W) * (torch.rand(B, K + 1, H, W) < 0.6)
    weights[:, 0] += 0.01
    return (
        torch.rand(B, 3, H, W),
        torch.rand(B, 3, H, W),
        torch.rand(B, K, 3, H, W),
        weights / weights.sum(dim=1, keepdim=True),
    )


def test_bayes_rule_in_words() -> None:
    """Weight times density of the colour, shared out."""
    images, background, layers, weights = random_scene()
    found = ownership(weights, *errors(images, background, layers), torch.ones(B, K, dtype=torch.bool), noise=0.4)
    means = torch.cat([background[:, None], layers], dim=1).double()
    density = torch.distributions.Normal(means, 0.4).log_prob(images[:, None].double()).sum(dim=2).exp()
    product = weights * density
    torch.testing.assert_close(found.double(), product / product.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise", [1e-4, 0.01, 0.15, 3.0, 1e6])
def test_shares_of_a_pixel(noise: float) -> None:
    """They sum to one, none where there is no weight or the object is not to own anything; at any noise."""
    images, background, layers, weights = random_scene(1)
    objects = torch.tensor([[True, False, True], [False, False, False]])
    found = ownership(weights, *errors(images, background, layers), objects, noise=noise)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(B, H, W))
    assert (found[weights == 0] == 0).all()
    assert (found[0, 2] == 0).all()
    assert (found[1, 0] == 1).all()


def test_with_much_noise_the_weights_alone_decide() -> None:
    images, background, layers, weights = random_scene(2)
    found = ownership(weights, *errors(images, background, layers), torch.ones(B, K, dtype=torch.bool), noise=1e6)
    torch.testing.assert_close(found, weights)


def test_a_pixel_on_the_outline_goes_to_whom_it_looks_like() -> None:
    """A red object on grey whose weights end a column too early; and a column too late on the other side."""
    images, background = torch.full((1, 3, H, W), 0.5), torch.full((1, 3, H, W), 0.5)
    red = torch.tensor([0.8, 0.1, 0.1])
    images[0, :, 5:12, 6:15] = red[:, None, None]
    layers = red.view(1, 1, 3, 1, 1).expand(1, 1, 3, H, W)
    weights = torch.zeros(1, 2, H, W)
    weights[0, 1, 5:12, 7:16] = 0.9
    weights[0, 1, 5:12, 6] = 0.3
    weights[0, 1, 5:12, 15] = 0.7
    weights[:, 0] = 1 - weights[:, 1]
    found = ownership(weights, *errors(images, background, layers), owned(weights), noise=0.15).argmax(dim=1)
    assert torch.equal(found[0] > 0, (images[0] - 0.5).abs().sum(dim=0) > 0)


def test_specks_own_nothing() -> None:
    weights = torch.zeros(1, 3, H, W)
    weights[:, 0] = 0.4
    weights[0, 1, 3, : int(SMALLEST * H * W)] = 0.6
    weights[0, 2, 4, : int(SMALLEST * H * W) + 1] = 0.6
    assert owned(weights).tolist() == [[False, True]]


@pytest.fixture
def model() -> AstSeg:
    """One whose objects are in front of the background."""
    torch.manual_seed(5)
    config = replace(MODEL, background_log_activation=-1.0, colour_noise=0.2)
    return build(config)


def test_a_model_looks_outside_of_training(model: AstSeg) -> None:
    images = torch.rand(4, 3, H, W)
    assert model.train()(images).posterior is None
    with inference(model):
        output, quick = model(images), model(images, layers=False)
        off = errors(images, output.background, output.layers)
        expected = ownership(output.weights, *off, owned(output.weights), noise=0.2)
    torch.testing.assert_close(output.ownership, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quick.ownership, output.ownership, rtol=1e-4, atol=1e-5)
    assert not torch.equal(output.ownership.argmax(dim=1), output.weights.argmax(dim=1))
    model.colour_noise = 0.0
    with inference(model):
        without = model(images)
    assert without.posterior is None
    assert torch.equal(without.ownership, without.weights)


def test_predictions_are_what_is_measured(model: AstSeg) -> None:
    """Pictures of the model's size: the label map is the largest share at each pixel, with layers or without."""
    images = np.random.default_rng(0).integers(0, 256, (3, H, W, 3), dtype=np.uint8)
    with inference(model):
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).ownership.argmax(dim=1)
    for layers in (True, False):
        predictions = Segmenter(model).predict(images, layers=layers)
        assert isinstance(predictions, list)
        found = np.stack([prediction.labels for prediction in predictions])
        assert np.array_equal(found, expected.numpy())
        assert found.any()
        for prediction in predictions:
            assert all(0 < one.score <= 1 and 0 < one.visibility <= 1 for one in prediction.objects)
