"""Pseudo-labels: the matching of components with slots, and what the losses pull at."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from astseg.config import DiscoveryConfig, PseudoLabelConfig
from astseg.discovery.components import Components, label_components
from astseg.model.ops import crop_glimpses
from astseg.training.pseudo_labels import (
    SMALLEST_WEIGHT,
    glimpse_loss,
    pseudo_label_loss,
    slot_anchors,
    term_weights,
)
from astseg.types import ObjectLatents, SceneOutput

H, W = 32, 46
ATTENTION = (8, 23)  # h x w
SCALES = (1.3, 24.0)
CONFIG = PseudoLabelConfig()
MARGIN = DiscoveryConfig.glimpse_margin


# Loss


def components_of(*images: list[tuple[float, float, float, float]], limit: int = 4) -> Components:
    """Boxes (centre x, centre y, width, height) for each image, filled."""
    box, present = torch.zeros(len(images), limit, 4), torch.zeros(len(images), limit, dtype=torch.bool)
    labels = torch.zeros(len(images), H, W, dtype=torch.uint8)
    for i, boxes in enumerate(images):
        for j, (x, y, width, height) in enumerate(boxes):
            box[i, j], present[i, j] = torch.tensor([x, y, width, height]), True
            rows, columns = ((torch.arange(side) + 0.5) * 2 / side - 1 for side in (H, W))
            inside = ((rows - y).abs() < height)[:, None] & ((columns - x).abs() < width)
            labels[i][inside] = j + 1
    return Components(box, present, labels)


def latents_of(position: list[list[list[float]]], scale: float = 4.0, *, scale_numbers: int = 2) -> ObjectLatents:
    """B x K positions; every field is a leaf that wants its gradient."""
    positions = torch.tensor(position)
    b, k, _ = positions.shape
    fields = (
        positions,
        torch.full((b, k, scale_numbers), scale),
        torch.zeros(b, k),
        torch.zeros(b, k, 5),
    )
    return ObjectLatents(*(field.requires_grad_() for field in fields))


def output_of(latents: ObjectLatents, logits: Tensor | None = None, weights: Tensor | None = None) -> SceneOutput:
    """Attention even everywhere, or the softmax of B x K x h x w logits; layer weights even, or as given."""
    b, k = latents.position.shape[:2]
    if logits is None:
        logits = torch.zeros(b, k, *ATTENTION).to(latents.position)
    if weights is None:
        weights = torch.full((b, k + 1, H, W), 1 / (k + 1)).to(latents.position)
    attention = logits.flatten(2).softmax(dim=-1).view_as(logits)
    nothing = torch.full((1,), math.nan)
    return SceneOutput(latents, attention, nothing, nothing, nothing, weights, nothing)


def loss_of(
    latents: ObjectLatents,
    components: Components,
    *,
    logits: Tensor | None = None,
    weights: Tensor | None = None,
    background: float = 0.0,
    anchoring: float = 0.0,
    config: PseudoLabelConfig = CONFIG,
) -> Tensor:
    return pseudo_label_loss(
        output_of(latents, logits, weights),
        components,
        background_log_activation=torch.tensor(background, requires_grad=True),
        scale_range=SCALES,
        config=config,
        anchoring=anchoring,
    )


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


def only(term: str) -> PseudoLabelConfig:
    """One term of the loss weighs 1, the others 0."""
    weights = {f"{name}_weight": float(name == term) for name in term_weights(CONFIG)}
    return PseudoLabelConfig(**weights)  # type: ignore[arg-type]


SIDE = 1 / (4 * MARGIN)  # the side of a region that wants scale 4


def test_each_component_takes_the_nearest_slot() -> None:
    latents = latents_of([[[0.9, 0.9], [0.5, -0.5], [-0.4, 0.1]]])
    components = components_of([(-0.4, 0.1, SIDE, SIDE), (0.5, -0.5, SIDE, SIDE)])
    pull = gradient(loss_of(latents, components), latents.log_activation)[0]
    assert pull[0] > 0  # the slot that has none is switched off, the others on
    assert pull[1] < 0
    assert pull[2] < 0
    for term in ("position", "scale"):
        assert loss_of(latents, components, config=only(term)).item() == pytest.approx(0, abs=1e-6)


def test_loss_by_hand() -> None:
    """One slot, off by 0.2 and 0.1, half as large as it should be, as active as the background; one slot too many.

    Even attention and weights: on the region lies the part of the cells that it covers, and of each pixel a third.
    """
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]], scale=8.0)
    components = components_of([(0.0, 0.0, SIDE, SIDE)])
    covered = (components.labels == 1).float().mean().item()
    on, off = abs(1.5 - CONFIG.active_margin) / 2, math.log1p(math.exp(1.5 + CONFIG.inactive_margin))
    expected = {
        "attention": -math.log(covered),
        "position": 0.15,
        "scale": math.log(2),
        "activation": (on + off) / 2,
        "mask": -math.log(1 / 3 + SMALLEST_WEIGHT),
    }
    loss = loss_of(latents, components, background=-1.5)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(
        sum(term_weights(CONFIG)[name] * value for name, value in expected.items()), rel=1e-5
    )
    for name, value in expected.items():
        assert loss_of(latents, components, background=-1.5, config=only(name)).item() == pytest.approx(value, rel=1e-5)


def test_scale_targets() -> None:
    """Width 0.4 and height 0.1; one scale number serves the longer side; none leaves the range."""
    config = only("scale")
    components = components_of([(0.0, 0.0, 0.4, 0.1)])
    both = latents_of([[[0.0, 0.0]]])
    both.scale.data.copy_(torch.tensor([1 / (0.4 * MARGIN), 1 / (0.1 * MARGIN)]))
    assert loss_of(both, components, config=config).item() == pytest.approx(0, abs=1e-6)
    one = latents_of([[[0.0, 0.0]]], scale=1 / (0.4 * MARGIN), scale_numbers=1)
    assert loss_of(one, components, config=config).item() == pytest.approx(0, abs=1e-6)
    for side, limit in ((1.0, SCALES[0]), (1e-4, SCALES[1])):
        latents = latents_of([[[0.0, 0.0]]], scale=limit)
        assert loss_of(latents, components_of([(0.0, 0.0, side, side)]), config=config).item() == pytest.approx(
            0, abs=1e-6
        )


def test_attention_is_drawn_onto_the_component() -> None:
    latents = latents_of([[[0.0, 0.0], [0.9, 0.9]]])
    components = components_of([(0.0, 0.0, 0.3, 0.2)])
    logits = torch.zeros(1, 2, *ATTENTION, requires_grad=True)
    pull = gradient(loss_of(latents, components, logits=logits), logits)[0]
    inside = components.cells(ATTENTION)[0, 0]
    assert (pull[0][inside == 1] < 0).all()
    assert (pull[0][inside == 0] > 0).all()
    assert not pull[1].any()  # nobody tells an idle slot where to look


def test_attention_far_from_its_component_is_told_in_a_finite_number() -> None:
    config = only("attention")
    logits = torch.zeros(1, 1, *ATTENTION)
    logits[..., 0, 0] = 200.0
    logits.requires_grad_()
    loss = loss_of(latents_of([[[0.5, 0.5]]]), components_of([(0.5, 0.5, 0.2, 0.2)]), logits=logits, config=config)
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-4)
    assert gradient(loss, logits).isfinite().all()


def test_slots_are_matched_by_their_attention_too() -> None:
    latents = latents_of([[[0.0, 0.0], [0.0, 0.0]]])
    logits = torch.zeros(1, 2, *ATTENTION)
    logits[0, 0, :, 12:] = 9.0  # slot 0 looks to the right
    logits[0, 1, :, :11] = 9.0
    pull = gradient(loss_of(latents, components_of([(-0.5, 0.0, 0.2, 0.2)]), logits=logits), latents.log_activation)[0]
    assert pull[1] < 0 < pull[0]


def test_pixels_are_drawn_to_the_layer_of_their_component() -> None:
    """Two regions, slot 1 on the first and slot 0 on the second: layers 2 and 1."""
    config = only("mask")
    latents = latents_of([[[0.5, 0.5], [-0.5, 0.0], [0.9, -0.9]], [[0.0, 0.0]] * 3])
    components = components_of([(-0.5, 0.0, 0.3, 0.2), (0.5, 0.5, 0.2, 0.2)], [])
    wanted = torch.tensor([0, 2, 1, 0, 0])[components.labels[0].long()]
    right = torch.zeros(2, 4, H, W)
    right[0].scatter_(0, wanted[None], 1.0)
    right[1, 0] = 1
    assert loss_of(latents, components, weights=right, config=config).item() == pytest.approx(
        -math.log(1 + SMALLEST_WEIGHT), abs=1e-6
    )
    wrong = right.roll(1, dims=1).requires_grad_()
    loss = loss_of(latents, components, weights=wrong, config=config)
    assert loss.item() == pytest.approx(-math.log(SMALLEST_WEIGHT), rel=1e-5)
    assert torch.equal(gradient(loss, wrong) < 0, right == 1)
    half = right.clone()
    half[0, :, : H // 2] = wrong.detach()[0, :, : H // 2]
    weight = torch.where(components.labels > 0, CONFIG.foreground_weight, 1.0)
    share = (weight[0, : H // 2].sum() / weight.sum()).item()
    expected = -share * math.log(SMALLEST_WEIGHT) - (1 - share) * math.log(1 + SMALLEST_WEIGHT)
    assert loss_of(latents, components, weights=half, config=config).item() == pytest.approx(expected, rel=1e-5)


def test_a_component_that_no_slot_is_left_for_counts_as_background() -> None:
    config = only("mask")
    weights = torch.full((1, 2, H, W), 0.5, requires_grad=True)
    components = components_of([(-0.5, 0.0, 0.3, 0.2), (0.5, 0.5, 0.2, 0.2)])
    pull = gradient(loss_of(latents_of([[[0.5, 0.5]]]), components, weights=weights, config=config), weights)[0]
    assert torch.equal(pull[1] < 0, components.labels[0] == 2)
    assert torch.equal(pull[0] < 0, components.labels[0] != 2)


@pytest.mark.parametrize("scale_numbers", [1, 2])
def test_no_gradient_where_nothing_is_present(scale_numbers: int) -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2, scale=8.0, scale_numbers=scale_numbers)
    loss = loss_of(latents, components_of([(0.0, 0.0, 0.3, 0.2)], []))
    for field in (latents.position, latents.scale):
        pull = gradient(loss, field)
        assert pull[0].abs().max() > 0
        assert pull[1].abs().max() == 0
    assert (gradient(loss, latents.log_activation)[1] > 0).all()


def test_a_batch_without_any_component() -> None:
    latents = latents_of([[[0.2, 0.1], [-0.3, 0.4]]] * 2)
    components = components_of([], [])
    loss = loss_of(latents, components)
    for field in (latents.position, latents.scale):
        assert gradient(loss, field).abs().max() == 0
    assert (gradient(loss, latents.log_activation) > 0).all()
    for term in ("attention", "position", "scale"):
        assert loss_of(latents, components, config=only(term)).item() == 0


def test_more_components_than_slots() -> None:
    config = only("position")
    latents = latents_of([[[0.5, 0.5]]])
    components = components_of([(-0.5, -0.5, SIDE, SIDE), (0.5, 0.5, SIDE, SIDE), (0.9, 0.0, SIDE, SIDE)])
    assert loss_of(latents, components, config=config).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("slots", [1, 2, 7, 10, 24])
def test_anchors_are_spread_over_the_image(slots: int) -> None:
    anchors = slot_anchors(slots)
    assert anchors.shape == (slots, 2)
    assert (anchors.norm(dim=-1) < 0.8).all()
    if slots > 1:
        assert torch.pdist(anchors).min() > 0.5 / math.sqrt(slots)
        assert anchors.mean(dim=0).norm() < 0.3


def test_anchors_separate_slots_that_are_all_alike() -> None:
    k = 6
    latents = latents_of([[[0.0, 0.0]] * k])
    for slot, (x, y) in enumerate(slot_anchors(k).tolist()):
        pull = gradient(
            loss_of(latents, components_of([(x, y, 0.1, 0.1)]), anchoring=1.0),
            latents.log_activation,
        )[0]
        assert pull.argmin() == slot


def test_anchors_do_not_count_in_the_end() -> None:
    """The slot that is there keeps its region, wherever its anchor is."""
    x, y = slot_anchors(2)[0].tolist()
    latents = latents_of([[[-x, -y], [x, y]]])
    components = components_of([(x, y, 0.1, 0.1)])
    for anchoring in (0.0, -1.0):
        assert gradient(loss_of(latents, components, anchoring=anchoring), latents.log_activation)[0].argmin() == 1
    assert gradient(loss_of(latents, components, anchoring=9.0), latents.log_activation)[0].argmin() == 0


def test_the_loss_pulls_slots_onto_their_components() -> None:
    config = PseudoLabelConfig(mask_weight=0.0)  # the layer weights do not follow the latents here
    latents = latents_of([[[0.3, 0.2], [-0.1, -0.2], [0.0, 0.6]], [[0.1, 0.0], [0.2, 0.0], [0.3, 0.1]]])
    logits = torch.zeros(2, 3, *ATTENTION, requires_grad=True)
    boxes = [[(-0.5, 0.1, 0.3, 0.2), (0.6, -0.4, 0.15, 0.4)], [(0.1, -0.7, 0.1, 0.1)]]
    components = components_of(*boxes)
    optimizer = torch.optim.Adam([latents.position, latents.scale, latents.log_activation, logits], lr=0.03)
    before = loss_of(latents, components, logits=logits, config=config).item()
    for _ in range(250):
        optimizer.zero_grad()
        loss_of(latents, components, logits=logits, config=config).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss_of(latents, components, logits=logits, config=config).item() < 0.25 * before
    active = latents.log_activation > 0
    assert active.sum(dim=1).tolist() == [2, 1]
    attention = logits.detach().flatten(2).softmax(dim=-1)
    for i, wanted in enumerate(boxes):
        for j, (x, y, width, height) in enumerate(wanted):
            distance = (latents.position[i] - torch.tensor([x, y])).norm(dim=-1)
            nearest = distance.argmin()
            assert distance[nearest] < 0.1
            assert active[i, nearest]
            target = torch.tensor([1 / (MARGIN * width), 1 / (MARGIN * height)])
            torch.testing.assert_close(latents.scale[i, nearest].detach(), target, rtol=0.1, atol=0)
            assert attention[i, nearest][components.cells(ATTENTION)[i, j].flatten() > 0].sum() > 0.9


def test_the_background_is_not_pulled() -> None:
    background = torch.tensor(3.0, requires_grad=True)
    loss = pseudo_label_loss(
        output_of(latents_of([[[0.2, 0.1]]])),
        components_of([(0.0, 0.0, 0.3, 0.2)]),
        background_log_activation=background,
        scale_range=SCALES,
        config=CONFIG,
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert background.grad is None


@pytest.mark.parametrize("anchoring", [0.0, 1.0])
def test_a_diverged_model_is_told_by_its_loss(anchoring: float) -> None:
    latents = latents_of([[[math.nan, 0.1], [0.3, 0.2]]])
    assert loss_of(latents, components_of([(0.0, 0.0, 0.3, 0.2), (0.3, 0.3, 0.3, 0.2)]), anchoring=anchoring).isnan()


def test_double_precision() -> None:
    latents = latents_of([[[0.2, 0.1], [0.9, 0.9]]])
    doubled = ObjectLatents(
        *(t.double() for t in (latents.position, latents.scale, latents.log_activation, latents.appearance))
    )
    components = components_of([(0.0, 0.0, 0.3, 0.2)])
    loss = loss_of(doubled, components, anchoring=0.5)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loss_of(latents, components, anchoring=0.5).item(), rel=1e-5)


# Glimpses


def scene_with_a_square() -> tuple[Tensor, Tensor, Components]:
    backgrounds = torch.full((2, 3, H, W), 0.3)
    images = backgrounds.clone()
    images[0, :, 8:20, 10:26] = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    return images, backgrounds, label_components((images != backgrounds)[:, 0].numpy(), limit=3)


def loss_of_drawing(mask: float, colour: float, *, perfect: bool = False) -> Tensor:
    """Of a glimpse of one colour and an even mask, or of the crop itself, with the mask where it differs from 0.3."""
    images, backgrounds, components = scene_with_a_square()

    def draw(seen: Tensor, attended: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        assert attended.shape[1:] == (1, *ATTENTION)
        if perfect:
            crop = crop_glimpses(seen, position, scale, side=16)
            differs = ((crop - 0.3).abs().amax(dim=2, keepdim=True) > 0.28).float()
            return torch.cat([crop, differs], dim=2)
        even = torch.full((len(seen), 1, 4, 16, 16), colour)
        even[:, :, 3] = mask
        return even.requires_grad_()

    torch.manual_seed(0)
    return glimpse_loss(
        draw, images, backgrounds, components, side=16, cells=ATTENTION, scale_range=SCALES, config=CONFIG
    )


def test_glimpses_that_show_their_component_cost_least() -> None:
    perfect = loss_of_drawing(0, 0, perfect=True)
    assert perfect < 0.1
    assert perfect < loss_of_drawing(1.0, 0.5)
    assert perfect < loss_of_drawing(0.0, 0.5)
    loss_of_drawing(0.5, 0.5).backward()  # type: ignore[no-untyped-call]


def test_no_component_no_glimpse() -> None:
    images = torch.rand(2, 3, H, W)
    components = label_components(np.zeros((2, H, W), dtype=bool), limit=3)
    loss = glimpse_loss(
        lambda *_: images, images, images, components, side=16, cells=ATTENTION, scale_range=SCALES, config=CONFIG
    )
    assert loss.item() == 0
