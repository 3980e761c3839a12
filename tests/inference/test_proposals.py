"""Slots that take their places from regions: who moves, who goes on or off, who stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.config import Config, DiscoveryConfig, InferenceConfig, ModelConfig
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components, label_components
from astseg.errors import UserError
from astseg.inference.mask_posterior import mask_posterior, visible_slots
from astseg.inference.pipeline import Pipeline, inference
from astseg.inference.proposals import ABSENT, assign_proposals, box_overlap
from astseg.model.astseg import AstSeg, build
from astseg.types import ObjectLatents, SceneOutput
from tiny import MODEL

H, W = 20, 28
CELLS = (5, 7)
SCALES = (1.0, 24.0)
BEHIND = torch.tensor(3.0)
ON, OFF = 4.5, 2.5
"""Log activations above and below that of the background."""

Frame = tuple[float, float, float, float]


def regions_of(*boxes: tuple[int, int, int, int], limit: int = 4) -> Components:
    """Rectangles (top, bottom, left, right) in one image, ends exclusive."""
    numbers = np.zeros((1, H, W), np.int32)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        numbers[0, top:bottom, left:right] = number
    return label_components(numbers, limit=limit)


def frames(regions: Components, scale_numbers: int = 2) -> list[Frame]:
    """x, y and inverse scales of the glimpses that cover the regions of one image."""
    position, scale = regions.glimpses(scale_numbers, SCALES)
    return [
        (*place, *size[:1], *size[-1:]) for place, size in zip(position[0].tolist(), scale[0].tolist(), strict=True)
    ][: int(regions.present.sum())]


def slots_at(*given: tuple[Frame, float], scale_numbers: int = 2) -> tuple[ObjectLatents, Tensor]:
    """Latents and attention of one image with slots in these frames, of these log activations."""
    torch.manual_seed(0)
    attention = torch.rand(1, len(given), *CELLS)
    latents = ObjectLatents(
        position=torch.tensor([[frame[:2] for frame, _ in given]]),
        scale=torch.tensor([[frame[2 : 2 + scale_numbers] for frame, _ in given]]),
        log_activation=torch.tensor([[activation for _, activation in given]]),
        appearance=torch.rand(1, len(given), 5),
    )
    return latents, attention / attention.sum(dim=(2, 3), keepdim=True)


def placed(latents: ObjectLatents, attention: Tensor, regions: Components) -> tuple[list[Frame], list[float], Tensor]:
    """Frames and log activations of the slots afterwards, and the attention; the appearance is left alone."""
    after, seen, _ = assign_proposals(latents, attention, regions, behind=BEHIND, scale_range=SCALES, iou=0.5)
    assert torch.equal(after.appearance, latents.appearance)
    numbers = torch.cat([after.position, after.scale], dim=2)[0].tolist()
    return [tuple(frame) for frame in numbers], after.log_activation[0].tolist(), seen


FAR: Frame = (0.9, -0.9, 9.0, 9.0)
MOVED, AWAY = float(BEHIND) + InferenceConfig().proposal_margin, float(BEHIND) - ABSENT


def shifted(frame: Frame, x: float, y: float, grown: float = 1.0) -> Frame:
    return frame[0] + x, frame[1] + y, frame[2] / grown, frame[3] / grown


def test_a_slot_that_means_the_region_moves_there() -> None:
    """Its frame, its cells as attention; a slot elsewhere that is on stays as it was."""
    regions = regions_of((4, 12, 8, 20))
    (frame,) = frames(regions)
    latents, attention = slots_at((FAR, ON), (shifted(frame, 0.1, -0.05, 1.2), ON + 1))
    found, activations, seen = placed(latents, attention, regions)
    assert found == [pytest.approx(FAR), pytest.approx(frame)]
    assert activations == [pytest.approx(ON), pytest.approx(MOVED)]
    assert torch.equal(seen[0, 0], attention[0, 0])
    assert seen[0, 1].sum() == pytest.approx(1)
    assert torch.equal(seen[0, 1] > 0, regions.cells(CELLS)[0, 0] > 0)
    assert not assign_proposals(latents, attention, regions, behind=BEHIND, scale_range=SCALES, iou=0.5)[2].any()


def test_a_slot_that_is_sure_of_itself_stays_so() -> None:
    """One that moves has at least the activation of one that is on; what it has beyond decides who is in front."""
    regions = regions_of((4, 12, 8, 20))
    (frame,) = frames(regions)
    _, activations, _ = placed(*slots_at((frame, MOVED + 2)), regions)
    assert activations == [pytest.approx(MOVED + 2)]


def test_where_no_region_is_nothing_moves() -> None:
    """Not even what lies where the empty entries of a table of regions would."""
    latents, attention = slots_at(((0.0, 0.0, SCALES[1], SCALES[1]), ON), (FAR, OFF))
    found, activations, seen = placed(latents, attention, regions_of())
    assert found == [(0.0, 0.0, SCALES[1], SCALES[1]), pytest.approx(FAR)]
    assert activations == [pytest.approx(ON), pytest.approx(AWAY)]
    assert torch.equal(seen, attention)


def test_a_frame_within_another() -> None:
    """A slot means the region whose frame is most like its own, though it also covers half of the other one."""
    numbers = np.zeros((1, H, W), np.int32)
    numbers[0, 4:16, 4:24] = 1
    numbers[0, 5:15, 6:22] = 0
    numbers[0, 6:14, 7:21] = 2
    regions = label_components(numbers, limit=4)
    disc, ring = frames(regions)
    overlap = box_overlap(*(torch.tensor([[frame]]) for frame in (ring[:2], ring[2:], disc[:2], disc[2:])))
    assert 0.4 < float(overlap) < 0.6
    wide = (ring[0], ring[1], ring[2] * 1.12, ring[3] * 1.12)  # between both, nearer to the ring
    found, activations, _ = placed(*slots_at((wide, ON), (FAR, OFF)), regions)
    assert found == [pytest.approx(ring), pytest.approx(disc)]
    assert activations == [pytest.approx(MOVED)] * 2
    # Both are taken: the disc by a slot that fits it less than the ring's own slot does.
    poor = shifted(disc, 0.19, 0.19)
    found, activations, _ = placed(*slots_at((wide, ON), (poor, ON)), regions)
    assert found == [pytest.approx(ring), pytest.approx(disc)]
    assert activations == [pytest.approx(MOVED)] * 2


def test_what_was_overlooked_gets_the_slots_that_are_off() -> None:
    """The largest region the first of them; a slot that is off and gets none is off altogether."""
    regions = regions_of((1, 5, 1, 6), (8, 18, 14, 26))
    large, small = frames(regions)
    latents, attention = slots_at((FAR, OFF), (FAR, ON), (FAR, OFF), (FAR, OFF))
    found, activations, seen = placed(latents, attention, regions)
    assert found == [pytest.approx(frame) for frame in (large, FAR, small, FAR)]
    assert activations == [pytest.approx(value) for value in (MOVED, ON, MOVED, AWAY)]
    for slot, region in ((0, 0), (2, 1)):
        assert torch.equal(seen[0, slot] > 0, regions.cells(CELLS)[0, region] > 0)
    _, _, missed = assign_proposals(latents, attention, regions, behind=BEHIND, scale_range=SCALES, iou=0.5)
    assert missed.tolist() == [[True, False, True, False]]


def test_a_slot_that_is_off_means_nothing() -> None:
    """It lies on the second region, but the first slot is as free as it is."""
    regions = regions_of((8, 18, 14, 26), (1, 5, 1, 6))
    large, small = frames(regions)
    found, _, _ = placed(*slots_at((FAR, OFF), (large, OFF)), regions)
    assert found == [pytest.approx(large), pytest.approx(small)]


def test_more_regions_than_slots() -> None:
    """The smallest goes without; what is on elsewhere is not taken away for it."""
    regions = regions_of((1, 5, 1, 6), (8, 18, 14, 26))
    large, _ = frames(regions)
    found, activations, _ = placed(*slots_at((FAR, ON), (FAR, OFF)), regions)
    assert found == [pytest.approx(FAR), pytest.approx(large)]
    assert activations == [pytest.approx(ON), pytest.approx(MOVED)]
    found, activations, _ = placed(*slots_at((FAR, ON), (FAR, ON)), regions)
    assert found == [pytest.approx(FAR)] * 2
    assert activations == [pytest.approx(ON)] * 2


def test_of_two_slots_that_mean_one_object_the_nearer_one_stays() -> None:
    """The other is free for a region that was missed, and off if there is none."""
    regions = regions_of((4, 12, 8, 20))
    (frame,) = frames(regions)
    doubled = (shifted(frame, 0.1, 0, 1.1), ON), (shifted(frame, 0.02, 0), ON)
    found, activations, _ = placed(*slots_at(*doubled), regions)
    assert found[1] == pytest.approx(frame)
    assert activations == [pytest.approx(AWAY), pytest.approx(MOVED)]
    regions = regions_of((4, 12, 8, 20), (14, 19, 1, 6))
    found, activations, _ = placed(*slots_at(*doubled), regions)
    assert found == [pytest.approx(box) for box in reversed(frames(regions))]
    assert activations == [pytest.approx(MOVED)] * 2


def test_two_slots_that_share_a_region_between_them_stay() -> None:
    """Each has less than half of it: the region may hold two objects, and a third slot tries it as one."""
    regions = regions_of((4, 12, 2, 26))
    (frame,) = frames(regions)
    halves = [(frame[0] + side * 0.5 / frame[2], frame[1], frame[2] * 2.1, frame[3]) for side in (-1, 1)]
    found, activations, _ = placed(*slots_at((halves[0], ON), (halves[1], ON), (FAR, OFF)), regions)
    assert found == [pytest.approx(box) for box in (*halves, frame)]
    assert activations == [pytest.approx(value) for value in (ON, ON, MOVED)]


def test_one_scale_for_both_axes() -> None:
    regions = regions_of((4, 12, 8, 20))
    (frame,) = frames(regions, scale_numbers=1)
    found, activations, _ = placed(*slots_at((shifted(frame, 0.05, 0), ON), scale_numbers=1), regions)
    assert found == [pytest.approx(frame[:3])]
    assert activations == [pytest.approx(MOVED)]


def test_images_do_not_meet() -> None:
    """Two images at once are each as alone; one of them has no region at all."""
    regions, nothing = regions_of((4, 12, 8, 20), (14, 19, 1, 6)), regions_of()
    first, second = slots_at((FAR, OFF), (frames(regions)[0], ON)), slots_at((FAR, ON), (FAR, OFF))
    both = ObjectLatents(*(torch.cat([getattr(one, name) for one in (first[0], second[0])]) for name in vars(first[0])))
    together, seen, missed = assign_proposals(
        both,
        torch.cat([first[1], second[1]]),
        Components.joined([regions, nothing]),
        behind=BEHIND,
        scale_range=SCALES,
        iou=0.5,
    )
    for i, (alone, these) in enumerate(((first, regions), (second, nothing))):
        latents, attention, new = assign_proposals(*alone, these, behind=BEHIND, scale_range=SCALES, iou=0.5)
        assert torch.equal(seen[i], attention[0])
        assert torch.equal(missed[i], new[0])
        for name, numbers in vars(latents).items():
            assert torch.equal(getattr(together, name)[i], numbers[0])


def test_overlap_by_hand() -> None:
    """Squares of half the side: the same, a quarter of the side apart, apart; and one within another."""
    at = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]]])
    overlap = box_overlap(at[:, :1], torch.full((1, 1, 2), 2.0), at, torch.full((1, 3, 1), 2.0))
    torch.testing.assert_close(overlap, torch.tensor([[[1.0, 1 / 3, 0.0]]]))
    within = box_overlap(at[:, :1], torch.tensor([[[2.0, 1.0]]]), at[:, :1], torch.tensor([[[1.0, 1.0]]]))
    torch.testing.assert_close(within, torch.tensor([[[0.5]]]))


GREY = 0.2
"""The background; what glimpses show before they have learnt anything is brighter."""


class Plain(nn.Module):
    """A background model that expects one grey, with a small error; where it is unsure, a large one."""

    unsure: tuple[slice, ...] | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        error = torch.full_like(images[:, :1], 0.005)
        if self.unsure is not None:
            error[self.unsure] = 0.3
        return torch.full_like(images, GREY), error


WITH_GLIMPSES: ModelConfig = replace(MODEL, glimpse_crop=8, background_log_activation=3.0)
PROPOSALS = InferenceConfig(colour_std=0.15, proposals=True)
RECTANGLES = {0: (3, 9, 4, 11), 2: (11, 18, 16, 25), 1: (12, 18, 3, 9)}
"""Rows and columns, by channel: red, blue, green."""


@pytest.fixture
def scene() -> tuple[AstSeg, Tensor]:
    """A fresh model, and two images of coloured rectangles on grey: as many as it has slots, and one."""
    torch.manual_seed(0)
    model = build(WITH_GLIMPSES)
    model.background_model = Plain()  # type: ignore[assignment]
    images = torch.full((2, 3, H, W), GREY)
    for i, channels in enumerate(((0, 1, 2), (0,))):
        for channel in channels:
            top, bottom, left, right = RECTANGLES[channel]
            images[i, :, top:bottom, left:right] = 0.4
            images[i, channel, top:bottom, left:right] = 0.9
    return model, images


def lies_on(output: SceneOutput, image: int, channel: int) -> bool:
    """Whether a slot has the frame of a rectangle."""
    top, bottom, left, right = RECTANGLES[channel]
    x, y = (left + right) / W - 1, (top + bottom) / H - 1
    wanted = torch.tensor(
        [
            x,
            y,
            W / (right - left) / DiscoveryConfig().glimpse_margin,
            H / (bottom - top) / DiscoveryConfig().glimpse_margin,
        ]
    )
    found = torch.cat([output.latents.position, output.latents.scale], dim=2)[image]
    return bool(((found - wanted).abs().amax(dim=1) < 1e-4).any())


def test_a_model_looks_where_its_background_does_not_explain_the_image(scene: tuple[AstSeg, Tensor]) -> None:
    """Slots lie on the rectangles whatever the encoder says; without proposals where that says."""
    model, images = scene
    proposing, plain = Pipeline(model, PROPOSALS), Pipeline(model, replace(PROPOSALS, proposals=False))
    output, drawn, encoder_alone = proposing(images), proposing(images, layers=True), plain(images)
    assert encoder_alone.missed is None
    assert output.missed is not None
    assert all(lies_on(output, 0, channel) for channel in RECTANGLES)
    assert [lies_on(output, 1, channel) for channel in RECTANGLES] == [True, False, False]
    assert not any(lies_on(encoder_alone, 0, channel) for channel in RECTANGLES)
    torch.testing.assert_close(drawn.weights, output.weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.responsibilities, output.responsibilities, rtol=1e-4, atol=1e-5)


def test_the_posterior_asks_the_components_too(scene: tuple[AstSeg, Tensor]) -> None:
    model, images = scene
    output = Pipeline(model, PROPOSALS)(images)
    with inference(model):
        visible = visible_slots(output.weights)
        errors = model.renderer(output.latents, output.background, images=images).errors
        components = find_components(images, *model.background_model(images), limit=3)
    found = mask_posterior(output.weights, errors, visible, config=PROPOSALS, components=components)
    torch.testing.assert_close(output.responsibilities, found)
    alone = mask_posterior(output.weights, errors, visible, config=PROPOSALS)
    assert not torch.allclose(found, alone, atol=1e-4)


def test_where_the_background_is_unsure_nothing_is_proposed(scene: tuple[AstSeg, Tensor]) -> None:
    model, images = scene
    top, bottom, left, right = RECTANGLES[0]
    Plain.unsure = (slice(None), slice(None), slice(top, bottom), slice(left, right))
    try:
        output = Pipeline(model, PROPOSALS)(images)
    finally:
        Plain.unsure = None
    assert [lies_on(output, 0, channel) for channel in RECTANGLES] == [False, True, True]


def test_proposals_need_a_glimpse_encoder() -> None:
    with pytest.raises(UserError, match="inference.proposals is on, but model.glimpse_crop is 0"):
        Config(model=MODEL, inference=InferenceConfig(proposals=True))
