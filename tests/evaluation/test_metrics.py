"""Metrics: by hand, against scikit-learn and brute force, against the reference's golden values."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from astseg.errors import UserError
from astseg.evaluation.metrics import (
    adjusted_rand_index,
    clevrtex_metrics,
    contingency,
    intersection_over_union,
    mean_iou,
    segmentation_covering,
    segmentation_metrics,
    squared_error,
)

# Column of the golden table for each of our names.
OFFICIAL = {
    "miou": "mIoU",
    "msc": "msc",
    "scaled_sc": "scaled_sc",
    "msc_fg": "msc_fg",
    "scaled_sc_fg": "scaled_sc_fg",
    "ari": "ari",
    "ari_fg": "ari_fg",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "metrics.npz") as file:
        return dict(file)


def labels(*rows: list[int]) -> Tensor:
    return torch.tensor([rows])


def random_labels(seed: int, highest: int, size: tuple[int, ...] = (5, 6, 11)) -> Tensor:
    return torch.randint(0, highest + 1, size, generator=torch.Generator().manual_seed(seed))


def golden_labels(golden: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(golden["true_labels"]), torch.from_numpy(golden["pred_labels"])


# By hand: truth 0 1 / 0 1, prediction 0 1 / 2 1 (the background torn in two).


def test_contingency_by_hand():
    table = contingency(labels([0, 1], [0, 1]), labels([0, 1], [2, 1]), true_count=2, predicted_count=4)
    assert table.dtype == torch.int64
    assert table.tolist() == [[[1, 0, 1, 0], [0, 2, 0, 0]]]


@pytest.mark.parametrize("slots", [None, 2, 5])
def test_torn_background_by_hand(slots: int | None):
    values = segmentation_metrics(labels([0, 1], [0, 1]), labels([0, 1], [2, 1]), slots=slots)
    # Pairs of pixels: 2 together in truth, 1 in the prediction, 1 in both, of 6; expected 2/6, highest 1.5.
    expected = {"ari": (1 - 1 / 3) / (1.5 - 1 / 3), "ari_fg": 1, "miou": 1.5 / 3, "msc": 0.75, "msc_fg": 1}
    expected |= {"scaled_sc": 0.75, "scaled_sc_fg": 1}
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected)


def test_uneven_areas_by_hand():
    # True areas 1 (background), 1, 2; object 2 is found by half, the rest of it joins object 1.
    values = segmentation_metrics(labels([0, 1], [2, 2]), labels([0, 3], [3, 1]))
    assert values["miou"].item() == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert values["msc"].item() == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert values["scaled_sc"].item() == pytest.approx((1 * 1 + 1 * 1 / 2 + 2 * 1 / 2) / 4)
    assert values["msc_fg"].item() == pytest.approx(1 / 2)
    assert values["scaled_sc_fg"].item() == pytest.approx(1 / 2)
    # Foreground: truth 1 2 2, prediction 3 3 1: no pair agrees, expected 1/3, highest 1.
    assert values["ari_fg"].item() == pytest.approx((0 - 1 / 3) / (1 - 1 / 3))


def test_masks_without_a_common_pixel_are_no_match():
    # The true object is missed and another is invented: three masks, of which only the background is matched.
    truth, prediction = labels([0, 0, 0, 0, 0, 0, 0, 1]), labels([0, 0, 0, 0, 0, 0, 1, 0])
    assert segmentation_metrics(truth, prediction)["miou"].item() == pytest.approx(0.75 / 3)
    # The reference pairs the two by their numbers, or not.
    assert segmentation_metrics(truth, prediction, slots=2)["miou"].item() == pytest.approx(0.75 / 2)
    assert segmentation_metrics(truth, prediction * 2, slots=2)["miou"].item() == pytest.approx(0.75 / 3)


def test_of_two_equally_good_matchings_the_one_of_more_masks_counts():
    """IoU 1/9, 1/2, 1/3 and 0, 1/6, 0: one match of 1/2 leaves four masks of five, two of 1/3 and 1/6 leave three."""
    assert mean_iou(torch.tensor([[[1, 5, 3], [0, 1, 0]]])).item() == pytest.approx((1 / 3 + 1 / 6) / 3)


def test_squared_error_is_a_sum_over_channels_and_pixels():
    images = torch.rand(2, 3, 5, 7)
    error = squared_error(images + torch.tensor([0.5, 0.25]).view(2, 1, 1, 1), images)
    assert error.dtype == torch.float64
    assert error.tolist() == pytest.approx([3 * 5 * 7 * 0.25, 3 * 5 * 7 * 0.0625], rel=1e-5)


# Properties.


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 4))
def test_ari_agrees_with_scikit_learn(seed: int, highest_true: int, highest_predicted: int):
    truth, prediction = random_labels(seed, highest_true), random_labels(seed + 1, highest_predicted)
    prediction = torch.where(random_labels(seed + 2, 3) > 0, truth.clamp(max=highest_predicted), prediction)
    values = segmentation_metrics(truth, prediction)
    for image, (t, p) in enumerate(zip(truth.flatten(1), prediction.flatten(1), strict=True)):
        assert values["ari"][image].item() == pytest.approx(adjusted_rand_score(t, p), abs=1e-12)
        if (t > 0).any():
            assert values["ari_fg"][image].item() == pytest.approx(adjusted_rand_score(t[t > 0], p[t > 0]), abs=1e-12)


def optimal_matchings(table: Tensor) -> list[tuple[float, int, int]]:
    """Summed IoU, visible pairs and pairs with a common pixel of each optimal matching of an S x S table."""
    iou = intersection_over_union(table.unsqueeze(0))[0].tolist()
    true, predicted = (table.sum(1) > 0).tolist(), (table.sum(0) > 0).tolist()
    found = []
    for order in permutations(range(len(table))):
        matched = [iou[t][p] for t, p in enumerate(order)]
        visible = sum(true[t] or predicted[p] for t, p in enumerate(order))
        found.append((sum(matched), visible, sum(value > 0 for value in matched)))
    best = max(total for total, _, _ in found)
    return [one for one in found if one[0] > best - 1e-9]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_mean_iou_agrees_with_brute_force(seed: int, highest_true: int, highest_predicted: int):
    slots = max(highest_true, highest_predicted)
    truth, prediction = (
        random_labels(seed, highest_true, (1, 2, 4)),
        random_labels(seed + 1, highest_predicted, (1, 2, 4)),
    )
    table = contingency(truth, prediction, true_count=slots + 1, predicted_count=slots + 1)
    optimal = optimal_matchings(table[0])
    possible = [total / visible for total, visible, _ in optimal]
    assert np.isclose(mean_iou(table, slots=slots).item(), possible, atol=1e-6).any()
    masks = int((table.sum(2) > 0).sum() + (table.sum(1) > 0).sum())
    expected = optimal[0][0] / (masks - max(matches for _, _, matches in optimal))
    assert mean_iou(table).item() == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.permutations(range(1, 6)), st.permutations(range(7)))
def test_names_of_labels_do_not_matter(seed: int, objects: list[int], predictions: list[int]):
    truth, prediction = random_labels(seed, 5, (3, 3, 4)), random_labels(seed + 1, 6, (3, 3, 4))
    renamed_truth = torch.tensor([0, *objects])[truth]
    renamed = segmentation_metrics(renamed_truth, torch.tensor(predictions)[prediction])
    for name, value in segmentation_metrics(truth, prediction).items():
        torch.testing.assert_close(renamed[name], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("slots", [None, 4])
def test_a_batch_is_its_images_one_by_one(slots: int | None):
    truth = torch.cat([random_labels(seed, seed) for seed in range(7)])
    prediction = torch.cat([random_labels(seed + 9, seed % 5) for seed in range(7)])
    batches = [segmentation_metrics(truth, prediction, slots=slots)]
    batches.append(clevrtex_metrics(truth, prediction, slots=4))
    for image in range(len(truth)):
        one = slice(image, image + 1)
        alone = [segmentation_metrics(truth[one], prediction[one], slots=slots)]
        alone.append(clevrtex_metrics(truth[one], prediction[one], slots=4))
        for values, expected in zip(alone, batches, strict=True):
            for name, value in values.items():
                torch.testing.assert_close(value, expected[name][one], rtol=0, atol=1e-12, equal_nan=True)


def test_transposed_images_score_the_same():
    truth, prediction = random_labels(3, 4), random_labels(4, 3)
    turned = segmentation_metrics(truth.mT, prediction.mT)
    assert all(torch.equal(turned[name], value) for name, value in segmentation_metrics(truth, prediction).items())


@pytest.mark.parametrize("slots", [None, 5])
def test_perfect_whatever_the_labels_are_called(slots: int | None):
    truth = random_labels(5, 5).to(torch.uint8)
    values = segmentation_metrics(truth, (truth.int() + 2) % 6, slots=slots)
    assert all(value.dtype == torch.float64 and (value == 1).all() for value in values.values())


# Empty and trivial cases.


@pytest.mark.parametrize("slots", [None, 2])
def test_images_without_objects(slots: int | None):
    truth = torch.zeros(2, 2, 3, dtype=torch.int64)
    prediction = torch.stack([truth[0], torch.tensor([[0, 0, 0], [0, 1, 2]])])
    values = segmentation_metrics(truth, prediction, slots=slots)
    assert values["ari"].tolist() == [1, 0]
    assert values["ari_fg"].tolist() == [1, 1]
    assert values["miou"].tolist() == pytest.approx([1, 4 / 6 / 3])
    assert values["msc"].tolist() == values["scaled_sc"].tolist() == pytest.approx([1, 4 / 6])
    assert values["msc_fg"].tolist() == values["scaled_sc_fg"].tolist() == [0, 0]


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 3)])
def test_ari_of_equal_trivial_partitions_is_one(size: tuple[int, ...]):
    single = torch.arange(size[2]).expand(size)
    for prediction in (single, single.flip(2)):
        assert segmentation_metrics(single, prediction)["ari"].item() == 1
    assert segmentation_metrics(torch.full(size, 2), torch.full(size, 3))["ari"].item() == 1


def test_ari_of_a_photograph_is_exact():
    truth, prediction = random_labels(1, 4, (1, 240, 320)), random_labels(2, 3, (1, 240, 320))
    prediction[:, 50:] = truth[:, 50:].clamp(max=3)
    expected = adjusted_rand_score(truth.flatten(), prediction.flatten())
    assert segmentation_metrics(truth, prediction)["ari"].item() == pytest.approx(expected, abs=1e-13)


def test_ari_of_large_images_does_not_overflow():
    table = torch.tensor([[[2**30, 0], [0, 2**30]], [[2**29, 2**29], [2**29, 2**29]]])
    assert adjusted_rand_index(table).tolist() == pytest.approx([1, 0], abs=1e-8)


# Golden values: change only if the golden file does.


def test_golden_official(golden: dict[str, np.ndarray]):
    truth, prediction = golden_labels(golden)
    values = segmentation_metrics(truth, prediction, slots=int(golden["K"]))
    columns = list(golden["official_columns"])
    early = golden["official_early_return"].astype(bool)
    expected = np.where(early[:, None], golden["official_in_one_batch"], golden["official"])
    assert len(expected) == 26 and early.sum() == 2
    for ours, official in OFFICIAL.items():
        np.testing.assert_allclose(
            values[ours].numpy(), expected[:, columns.index(official)], rtol=0, atol=1e-5, err_msg=ours
        )


def test_golden_official_without_slots_differs_only_in_ties_and_labels_above_slots(golden: dict[str, np.ndarray]):
    values = segmentation_metrics(*golden_labels(golden))
    expected = segmentation_metrics(*golden_labels(golden), slots=int(golden["K"]))
    above = golden["true_labels"].max(axis=(1, 2)) > golden["K"]
    lowest, highest = golden["analysis_mIoU_range_over_tied_assignments"].T
    for name in OFFICIAL:
        same = ~above & (highest - lowest < 1e-5) if name == "miou" else ~above
        np.testing.assert_allclose(values[name][same], expected[name][same], rtol=0, atol=1e-6, err_msg=name)
    assert (values["miou"].numpy()[~above] <= lowest[~above] + 1e-5).all()


def test_golden_coverings_are_the_same_in_all_protocols_but_clevrtex(golden: dict[str, np.ndarray]):
    """The authors took them over from GENESIS: they know nothing of K."""
    truth, prediction = golden_labels(golden)
    columns = list(golden["official_columns"])
    early = golden["official_early_return"].astype(bool)
    expected = np.where(early[:, None], golden["official_in_one_batch"], golden["official"])
    for slots in (None, int(golden["K"])):
        values = segmentation_metrics(truth, prediction, slots=slots)
        for name in ("msc", "scaled_sc", "msc_fg", "scaled_sc_fg"):
            np.testing.assert_allclose(values[name].numpy(), expected[:, columns.index(name)], rtol=0, atol=1e-5)


def test_labels_above_slots_count_by_default(golden: dict[str, np.ndarray]):
    truth, prediction = golden_labels(golden)
    seventh = list(golden["names"]).index("truth_label_7_above_K")
    values = segmentation_metrics(truth[seventh, None], prediction[seventh, None])
    assert all(value.item() == 1 for value in values.values())


def test_the_first_label_above_slots_is_background_to_the_reference() -> None:
    values = segmentation_metrics(labels([0, 0, 3, 1]), labels([0, 0, 0, 1]), slots=2)
    assert values["ari"].item() == values["ari_fg"].item() == 1


def test_golden_clevrtex(golden: dict[str, np.ndarray]):
    values = clevrtex_metrics(*golden_labels(golden), slots=int(golden["K"]))
    assert list(values) == list(golden["clevrtex_columns"])
    for column, (name, value) in enumerate(values.items()):
        expected = golden["clevrtex"][:, column]
        defined = np.isfinite(expected)
        assert defined.sum() >= 22
        np.testing.assert_allclose(value.numpy()[defined], expected[defined], rtol=0, atol=1e-5, err_msg=name)
    nowhere = golden["clevrtex_missing"][:, list(values).index("mSC")].astype(bool)
    assert values["mSC"][torch.from_numpy(nowhere)].isnan().all()
    assert not values["ARI"].isnan().any()


def test_clevrtex_metrics_of_masks_of_one_pixel_by_hand():
    """Truth 000 112, prediction 000 102: IoU 3/4, 1/2 and 1; the highest label of both is left out of mSC alone."""
    values = clevrtex_metrics(labels([0, 0, 0], [1, 1, 2]), labels([0, 0, 0], [1, 0, 2]), slots=2)
    assert values["acc"].item() == 1
    assert values["mIoU"].item() == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert values["mSC"].item() == pytest.approx((3 * 3 / 4 + 2 * 1 / 2) / (3 + 2))


def test_clevrtex_metrics_of_a_single_object_without_background_have_no_foreground_average():
    values = clevrtex_metrics(labels([1, 1, 1]), labels([1, 1, 1]), slots=2)
    assert values["mIoU"].item() == values["DICE"].item() == 1
    assert values["mIoU_fg"].isnan().all() and values["DICE_FG"].isnan().all()


# Strict inputs.


@pytest.mark.parametrize("measure", [segmentation_metrics, lambda t, p: clevrtex_metrics(t, p, slots=4)])
@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.int64), "true labels are torch.float32"),
        (
            torch.zeros(1, 2, 3, dtype=torch.uint8),
            torch.zeros(1, 2, 3, dtype=torch.bool),
            "predicted labels are torch.bool",
        ),
        (torch.zeros(1, 2, 3, dtype=torch.uint8), torch.zeros(1, 3, 2, dtype=torch.uint8), "1 x 2 x 3, .* 1 x 3 x 2"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8), "expected B x H x W"),
        (torch.zeros(0, 2, 3, dtype=torch.uint8), torch.zeros(0, 2, 3, dtype=torch.uint8), "none empty"),
        (torch.full((1, 2, 3), -1), torch.zeros(1, 2, 3, dtype=torch.int64), "true labels hold -1"),
    ],
)
def test_wrong_labels_are_refused(measure, truth: Tensor, prediction: Tensor, message: str):
    with pytest.raises(UserError, match=message) as error:
        measure(truth, prediction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64])
def test_every_integer_type_is_read_alike(dtype: torch.dtype):
    truth, prediction = random_labels(6, 4), random_labels(7, 3)
    values = segmentation_metrics(truth.to(dtype), prediction.to(torch.uint8))
    assert all(torch.equal(values[name], value) for name, value in segmentation_metrics(truth, prediction).items())


def test_predictions_above_slots_are_refused():
    with pytest.raises(UserError, match="predicted label 3 found, expected at most 2"):
        segmentation_metrics(labels([0, 1]), labels([0, 3]), slots=2)
    with pytest.raises(UserError, match="4 predicted labels, expected at most K \\+ 1 = 3"):
        mean_iou(torch.ones(1, 2, 4, dtype=torch.int64), slots=2)


def test_true_labels_above_count_are_refused():
    with pytest.raises(UserError, match="true label 5 found, expected at most 4"):
        contingency(labels([0, 5]), labels([0, 1]), true_count=5, predicted_count=2)


def test_squared_error_refuses_bytes_and_other_shapes():
    with pytest.raises(UserError, match="divide by 255"):
        squared_error(torch.rand(1, 3, 2, 4), torch.zeros(1, 3, 2, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="1 x 3 x 2 x 4 .* 1 x 3 x 4 x 2"):
        squared_error(torch.rand(1, 3, 2, 4), torch.rand(1, 3, 4, 2))


def test_covering_with_nothing_to_cover_is_zero():
    table = torch.tensor([[[4, 2]]])
    assert segmentation_covering(table, scaled=True, foreground=True).item() == 0


# Means.
