"""What pixels belong to: layer weights as the prior, colours as the likelihood."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from astseg import Segmenter
from astseg.config import InferenceConfig
from astseg.discovery.components import Components, label_components
from astseg.inference.mask_posterior import mask_posterior, visible_slots
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import build
from tiny import MODEL

B, K, H, W = 2, 3, 20, 28


def errors(images: Tensor, background: Tensor, layers: Tensor) -> Tensor:
    """B x L x H x W."""
    return (torch.cat([background[:, None], layers], dim=1) - images[:, None]).square().sum(dim=2)


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
    found = mask_posterior(
        weights,
        errors(images, background, layers),
        torch.ones(B, K, dtype=torch.bool),
        config=InferenceConfig(colour_std=0.4),
    )
    means = torch.cat([background[:, None], layers], dim=1).double()
    density = torch.distributions.Normal(means, 0.4).log_prob(images[:, None].double()).sum(dim=2).exp()
    product = weights * density
    torch.testing.assert_close(found.double(), product / product.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise", [1e-4, 0.01, 0.15, 3.0, 1e6])
def test_shares_of_a_pixel(noise: float) -> None:
    """They sum to one, none where there is no weight or the object is not to own anything; at any noise."""
    images, background, layers, weights = random_scene(1)
    objects = torch.tensor([[True, False, True], [False, False, False]])
    found = mask_posterior(
        weights, errors(images, background, layers), objects, config=InferenceConfig(colour_std=noise)
    )
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(B, H, W))
    assert (found[weights == 0] == 0).all()
    assert (found[0, 2] == 0).all()
    assert (found[1, 0] == 1).all()


def test_with_much_noise_the_weights_alone_decide() -> None:
    images, background, layers, weights = random_scene(2)
    found = mask_posterior(
        weights,
        errors(images, background, layers),
        torch.ones(B, K, dtype=torch.bool),
        config=InferenceConfig(colour_std=1e6),
    )
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
    found = mask_posterior(
        weights, errors(images, background, layers), visible_slots(weights), config=InferenceConfig(colour_std=0.15)
    ).argmax(dim=1)
    assert torch.equal(found[0] > 0, (images[0] - 0.5).abs().sum(dim=0) > 0)


def regions_of(*boxes: tuple[int, int, int, int]) -> Components:
    """Rectangles (top, bottom, left, right) in one image, ends exclusive."""
    numbers = np.zeros((1, H, W), np.int32)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        numbers[0, top:bottom, left:right] = number
    return label_components(numbers, limit=4)


def test_pixels_of_a_region_have_a_say_in_each_other_s() -> None:
    """What is less than clear goes to whom the rest of the region, or of the image outside of regions, belongs to."""
    weights = torch.zeros(1, 3, H, W)
    weights[0, 1, 2:8, 3:12] = 0.95
    weights[0, 1, 4:6, 5:7] = 0.2  # a hole that is none
    weights[0, 1, 15, 20:24] = 0.6  # a few pixels that no region has
    weights[0, 2, 10:16, 3:9] = 0.95  # two objects in one region
    weights[0, 1, 10:16, 9:14] = 0.95
    weights[:, 0] = 1 - weights[:, 1:].sum(dim=1)
    off, everyone = torch.zeros(1, 3, H, W), torch.ones(1, 2, dtype=torch.bool)
    off[0, 0, :, :14] = 0.03  # the background does not look the same, but not very different either
    alone = mask_posterior(weights, off, everyone, config=InferenceConfig(colour_std=0.15))
    regions = regions_of((2, 8, 3, 12), (10, 16, 3, 14))
    agreed = mask_posterior(weights, off, everyone, config=InferenceConfig(colour_std=0.15), components=regions)
    expected = weights.argmax(dim=1)
    assert torch.equal(alone.argmax(dim=1), expected)
    expected[0, 4:6, 5:7] = 1
    expected[0, 15, 20:24] = 0
    assert torch.equal(agreed.argmax(dim=1), expected)


def test_shares_sum_to_one_with_regions_too() -> None:
    images, background, layers, weights = random_scene(3)
    off = errors(images, background, layers)
    everyone = torch.ones(B, K, dtype=torch.bool)
    regions = Components.joined([regions_of((2, 8, 3, 12), (10, 16, 3, 14)), regions_of()])
    found = mask_posterior(weights, off, everyone, config=InferenceConfig(colour_std=0.15), components=regions)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(B, H, W))
    assert (found[weights == 0] == 0).all()
    # The rule by hand: the mean over a region of the image, and over what is outside of them, under the root.
    alone = mask_posterior(weights, off, everyone, config=InferenceConfig(colour_std=0.15))
    for image, numbers in ((0, 3), (1, 1)):
        for number in range(numbers):
            inside = regions.labels[image] == number
            product = alone[image, :, inside] * (alone[image, :, inside].mean(dim=1, keepdim=True) + 0.02).sqrt()
            torch.testing.assert_close(found[image, :, inside], product / product.sum(dim=0), rtol=1e-4, atol=1e-6)


def test_specks_own_nothing() -> None:
    weights = torch.zeros(1, 3, H, W)
    weights[:, 0] = 0.4
    weights[0, 1, 3, : int(InferenceConfig().smallest_slot * H * W)] = 0.6
    weights[0, 2, 4, : int(InferenceConfig().smallest_slot * H * W) + 1] = 0.6
    assert visible_slots(weights).tolist() == [[False, True]]


@pytest.fixture
def pipeline() -> Pipeline:
    """One whose objects are in front of the background."""
    torch.manual_seed(5)
    return Pipeline(build(replace(MODEL, background_log_activation=-1.0)), InferenceConfig(colour_std=0.2))


def test_the_pipeline_compares_layers_with_images(pipeline: Pipeline) -> None:
    images = torch.rand(4, 3, H, W)
    output, quick = pipeline(images, layers=True), pipeline(images)
    off = errors(images, output.background, output.layers)
    expected = mask_posterior(output.weights, off, visible_slots(output.weights), config=pipeline.config)
    torch.testing.assert_close(output.responsibilities, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quick.responsibilities, output.responsibilities, rtol=1e-4, atol=1e-5)
    assert not torch.equal(output.responsibilities.argmax(dim=1), output.weights.argmax(dim=1))


def test_predictions_are_what_is_measured(pipeline: Pipeline) -> None:
    """Pictures of the model's size: the label map is the largest share at each pixel, with layers or without."""
    images = np.random.default_rng(0).integers(0, 256, (3, H, W, 3), dtype=np.uint8)
    expected = pipeline(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).responsibilities.argmax(dim=1)
    for layers in (True, False):
        predictions = Segmenter(pipeline).predict(images, layers=layers)
        assert isinstance(predictions, list)
        found = np.stack([prediction.labels for prediction in predictions])
        assert np.array_equal(found, expected.numpy())
        assert found.any()
        for prediction in predictions:
            assert all(0 < one.score <= 1 and 0 < one.visibility <= 1 for one in prediction.objects)


RED, BLUE, GREY = ([0.8, 0.1, 0.1], [0.1, 0.2, 0.8], [0.5, 0.5, 0.5])


def told_apart(
    objects: list[tuple[list[float], tuple[slice, slice], float]],
    picture: list[tuple[list[float], tuple[slice, slice]]],
) -> Tensor:
    """Label map, H x W, of a picture on grey; objects: colour, place, strength against the background, which has 1."""
    image = torch.tensor(GREY)[:, None, None].expand(3, H, W).clone()
    for colour, where in picture:
        image[:, *where] = torch.tensor(colour)[:, None, None]
    weights = torch.ones(1, len(objects) + 1, H, W)
    weights[:, 1:] = 0
    for i, (_, where, strength) in enumerate(objects):
        weights[0, i + 1, *where] = strength
    weights /= weights.sum(dim=1, keepdim=True)
    layers = torch.tensor([colour for colour, _, _ in objects]).view(1, -1, 3, 1, 1)
    off = errors(image[None], torch.tensor(GREY).view(1, 3, 1, 1).expand(1, 3, H, W), layers.expand(-1, -1, -1, H, W))
    return mask_posterior(weights, off, visible_slots(weights), config=InferenceConfig(colour_std=0.15)).argmax(dim=1)[
        0
    ]


def test_of_two_slots_on_one_object_one_owns_it() -> None:
    """Even where the other is in front in a part of it."""
    whole, part = (slice(4, 14), slice(5, 17)), (slice(4, 9), slice(5, 17))
    labels = told_apart([(RED, whole, 50.0), ([0.78, 0.12, 0.1], part, 60.0)], [(RED, whole)])
    assert labels.unique(return_counts=True)[1].tolist() == [H * W - 120, 120]
    alike = told_apart([(RED, whole, 50.0), (RED, whole, 50.0)], [(RED, whole)])
    assert alike.unique(return_counts=True)[1].tolist() == [H * W - 120, 120]


def test_images_of_a_batch_are_told_apart_alone() -> None:
    """In one image an object is needless, in the other one none is."""
    weights, off = torch.full((2, 3, H, W), 0.01), torch.ones(2, 3, H, W)
    weights[:, 0, :, 10:] = weights[0, 1:, :, :10] = weights[1, 1, :, :5] = weights[1, 2, :, 5:10] = 1.0
    weights /= weights.sum(dim=1, keepdim=True)
    off[:, 0, :, 10:] = off[0, 1:, :, :10] = off[1, 1, :, :5] = off[1, 2, :, 5:10] = 0.0
    objects = torch.ones(2, 2, dtype=torch.bool)
    both = mask_posterior(weights, off, objects, config=InferenceConfig(colour_std=0.15))
    assert [sorted(one.argmax(dim=0).unique().tolist()) for one in both] == [[0, 2], [0, 1, 2]]
    for i in range(2):
        alone = mask_posterior(
            weights[i : i + 1], off[i : i + 1], objects[i : i + 1], config=InferenceConfig(colour_std=0.15)
        )
        torch.testing.assert_close(both[i], alone[0])


def test_an_object_in_front_of_another_stays() -> None:
    """Also where it is small, and all around it the other."""
    whole, inside = (slice(4, 14), slice(5, 17)), (slice(7, 10), slice(8, 12))
    labels = told_apart([(RED, whole, 50.0), (BLUE, inside, 400.0)], [(RED, whole), (BLUE, inside)])
    assert labels.unique(return_counts=True)[1].tolist() == [H * W - 120, 108, 12]


def test_neighbours_of_one_colour_stay() -> None:
    left, right = (slice(4, 14), slice(5, 11)), (slice(4, 14), slice(11, 17))
    labels = told_apart([(RED, left, 50.0), (RED, right, 50.0)], [(RED, left), (RED, right)])
    assert labels.unique(return_counts=True)[1].tolist() == [H * W - 120, 60, 60]


def test_what_the_background_shows_as_well_is_no_object() -> None:
    where = (slice(4, 14), slice(5, 17))
    assert not told_apart([([0.52, 0.5, 0.48], where, 50.0)], []).any()
    assert told_apart([(RED, where, 50.0)], [([0.7, 0.2, 0.2], where)]).any()


def copies(
    strengths: list[tuple[tuple[slice, slice], list[float]]], shown: tuple[slice, slice], between: slice
) -> Tensor:
    """Label map of a red thing on grey that several slots draw, each as strong as given in some places.

    In the first row, ``between`` says which pixels are of a colour between that of the thing and the background's.
    """
    image = torch.tensor(GREY)[:, None, None].expand(3, H, W).clone()
    image[:, *shown] = torch.tensor(RED)[:, None, None]
    image[:, 0, between] = (torch.tensor(RED) + torch.tensor(GREY))[:, None] / 2
    slots = len(strengths[0][1])
    weights = torch.zeros(1, slots + 1, H, W)
    weights[:, 0] = 1
    for where, values in strengths:
        weights[0, 1:, *where] = torch.tensor(values)[:, None, None]
    weights /= weights.sum(dim=1, keepdim=True)
    layers = torch.tensor(RED).view(1, 1, 3, 1, 1).expand(1, slots, 3, H, W)
    off = errors(image[None], torch.tensor(GREY).view(1, 3, 1, 1).expand(1, 3, H, W), layers)
    found = mask_posterior(weights, off, visible_slots(weights), config=InferenceConfig(colour_std=0.4))
    return found.argmax(dim=1)[0]


def test_a_double_that_leads_elsewhere_does_not_take_the_object_with_it() -> None:
    """The object's double leads in a few pixels that the background explains as well: it goes, and the object stays."""
    thing, few = (slice(5, 15), slice(5, 15)), (slice(0, 1), slice(20, 23))
    labels = copies([(thing, [3.0, 2.0]), (few, [0.0, 1.3])], thing, between=few[1])
    assert labels[thing].unique().tolist() == [1]
    assert (labels > 0).sum() == 100


def test_of_three_copies_that_lead_in_turn_one_stays() -> None:
    """Each would leave its pixels to the next, and the last to the first."""
    thing = (slice(2, 17), slice(5, 15))
    first, second, third = ((rows, slice(5, 15)) for rows in (slice(2, 6), slice(6, 11), slice(11, 17)))
    labels = copies(
        [(first, [3.0, 2.5, 2]), (second, [2, 3.0, 2.5]), (third, [2.5, 2, 3.0])], thing, between=slice(0, 0)
    )
    assert len(labels[thing].unique()) == 1
    assert (labels > 0).sum() == 150
