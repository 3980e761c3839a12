"""Components of two hues are split; patterns, rims and specks split nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from astseg.config import DiscoveryConfig
from astseg.discovery.hue_split import ROUNDS, _first_of_two, _pieces, split_by_hue

H, W = 24, 31
RED, GREEN, BLUE = (1.5, -0.7, -0.8), (-0.6, 1.2, -0.6), (-0.7, -0.5, 1.2)
SMALLEST = 12
CONFIG = DiscoveryConfig()
APART, TIGHT = CONFIG.hue_distance, CONFIG.hue_separation


def picture(*boxes: tuple[tuple[float, float, float], slice, slice], deviation: float = 0.02) -> NDArray[np.float32]:
    hues = np.zeros((3, H, W), np.float32)
    for hue, rows, columns in boxes:
        hues[:, rows, columns] = np.array(hue)[:, None, None]
    noise = np.random.default_rng(0).normal(0, deviation, hues.shape)
    return (hues + noise).astype(np.float32)


def labels(*boxes: tuple[slice, slice]) -> NDArray[np.int32]:
    mask = np.zeros((H, W), np.int32)
    for place in boxes:
        mask[place] = 1
    return mask


def test_two_blocks_on_each_other() -> None:
    top, bottom, columns = slice(4, 9), slice(9, 15), slice(10, 17)
    split = split_by_hue(
        labels((slice(4, 15), columns)),
        picture((RED, top, columns), (BLUE, bottom, columns)),
        smallest=SMALLEST,
        config=CONFIG,
    )
    assert sorted(np.unique(split)) == [0, 1, 2]
    assert len(np.unique(split[top, columns])) == len(np.unique(split[bottom, columns])) == 1
    assert (split > 0).sum() == 11 * 7


def test_a_tower_of_three_of_which_two_are_alike() -> None:
    columns = slice(10, 17)
    rows = [slice(2, 8), slice(8, 14), slice(14, 20)]
    hues = picture(*((hue, place, columns) for hue, place in zip((RED, GREEN, RED), rows, strict=True)))
    split = split_by_hue(labels((slice(2, 20), columns)), hues, smallest=SMALLEST, config=CONFIG)
    found = [np.unique(split[place, columns]) for place in rows]
    assert [len(numbers) for numbers in found] == [1, 1, 1]
    assert len({int(numbers[0]) for numbers in found}) == 3


def test_three_hues_are_split_one_after_the_other() -> None:
    rows, columns = slice(5, 12), [slice(2, 9), slice(9, 16), slice(16, 23)]
    hues = picture(*((hue, rows, place) for hue, place in zip((RED, GREEN, BLUE), columns, strict=True)))
    split = split_by_hue(labels((rows, slice(2, 23))), hues, smallest=SMALLEST, config=CONFIG)
    assert sorted(np.unique(split)) == [0, 1, 2, 3]
    assert all(len(np.unique(split[rows, place])) == 1 for place in columns)


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param([(RED, slice(4, 16), slice(8, 20))], id="one hue"),
        pytest.param([(RED, slice(4, 16), slice(8, 20)), (BLUE, slice(6, 9), slice(10, 13))], id="a speck"),
        pytest.param([(BLUE, slice(4, 16), slice(8, 20)), (RED, slice(5, 15), slice(9, 19))], id="a rim"),
        pytest.param(
            [(RED, slice(4, 16), slice(8, 20)), *((BLUE, slice(4, 16), slice(c, c + 2)) for c in range(8, 20, 4))],
            id="stripes",
        ),
        pytest.param(
            [((1.5, -0.7, -0.8), slice(4, 10), slice(8, 20)), ((1.35, -0.65, -0.7), slice(10, 16), slice(8, 20))],
            id="nearly the same hue",
        ),
    ],
)
def test_what_splits_nothing(boxes: list[tuple[tuple[float, float, float], slice, slice]]) -> None:
    mask = labels((slice(4, 16), slice(8, 20)))
    assert np.array_equal(split_by_hue(mask, picture(*boxes), smallest=SMALLEST, config=CONFIG), mask)


def test_halves_that_differ_by_little_more_than_their_pixels_do_are_one_object() -> None:
    """Hues 1.2 apart; with a deviation of 0.3 in each channel, those of a half are off their own by 0.7."""
    one, other = (0.6, -0.3, -0.3), (0.0, 0.0, 0.3)
    halves = [(one, slice(4, 10), slice(8, 20)), (other, slice(10, 16), slice(8, 20))]
    mask = labels((slice(4, 16), slice(8, 20)))
    assert np.array_equal(split_by_hue(mask, picture(*halves, deviation=0.3), smallest=SMALLEST, config=CONFIG), mask)
    assert split_by_hue(mask, picture(*halves, deviation=0.1), smallest=SMALLEST, config=CONFIG).max() == 2


def test_too_few_pixels_are_left_alone_and_numbers_are_counted_anew() -> None:
    regions = np.zeros((H, W), np.int32)
    regions[2:6, 2:5] = 3  # 12 pixels of two hues
    regions[10:20, 10:20] = 7
    hues = picture(
        (RED, slice(2, 4), slice(2, 5)), (BLUE, slice(4, 6), slice(2, 5)), (RED, slice(10, 20), slice(10, 20))
    )
    split = split_by_hue(regions, hues, smallest=SMALLEST, config=CONFIG)
    assert np.array_equal(split, (regions == 3) + 2 * (regions == 7))
    assert not split_by_hue(np.zeros((H, W), np.int32), hues, smallest=SMALLEST, config=CONFIG).any()


def two_groups(region: NDArray[np.bool_], hues: NDArray[np.float32], least: int) -> NDArray[np.bool_] | None:
    """k-means as in a textbook: the means of both groups anew in each round, each pixel to the nearer one."""
    pixels = hues[:, region].T.astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(pixels.T, bias=True))
    smaller = least / len(pixels)
    if variances[-1] < smaller * (1 - smaller) * APART**2 / 3:
        return None
    first = (pixels - pixels.mean(axis=0)) @ axes[:, -1] > 0
    for _ in range(ROUNDS):
        one, other = pixels[first].mean(axis=0), pixels[~first].mean(axis=0)
        nearer = ((pixels - one) ** 2).sum(axis=1) < ((pixels - other) ** 2).sum(axis=1)
        if nearer.all() or not nearer.any():
            return None
        if np.array_equal(nearer, first):
            break
        first = nearer
    spread = np.mean([np.abs(pixels[of] - mean).sum(axis=1).mean() for of, mean in ((first, one), (~first, other))])
    if np.abs(one - other).sum() < max(APART, TIGHT * spread):
        return None
    mask = np.zeros_like(region)
    mask[region] = first
    return mask


def test_two_groups_are_those_of_plain_k_means() -> None:
    """Of random hues, clear ones and not; sizes and hues differ."""
    generator = np.random.default_rng(0)
    split = 0
    for _ in range(60):
        region = ndimage.gaussian_filter(generator.normal(size=(H, W)), 2) > 0
        share, deviation = generator.uniform(0.05, 0.5), generator.uniform(0.05, 0.4)
        kinds = (generator.random((H, W)) < share).astype(int)
        hues = generator.normal(0, 0.6, (2, 3))[kinds].transpose(2, 0, 1)
        hues = (hues + generator.normal(0, deviation, hues.shape)).astype(np.float32)
        found, expected = (
            _first_of_two(region, hues, SMALLEST, distance=APART, separation=TIGHT),
            two_groups(region, hues, SMALLEST),
        )
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            np.testing.assert_array_equal(found, expected)
            split += 1
    assert 10 < split < 50


@pytest.mark.parametrize("smooth", [0.6, 1.0, 1.6])
def test_pieces_reach_two_pixels_from_their_edge(smooth: float) -> None:
    """What holds a square of 3 x 3 is what the distance transform finds 2 deep somewhere."""
    kept = 0
    for seed in range(20):
        group = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(H, W)), smooth) > 0
        parts, count = ndimage.label(group)
        depth = ndimage.distance_transform_edt(np.pad(group, 1))[1:-1, 1:-1]
        expected = [part for part in (parts == n for n in range(1, count + 1)) if part.sum() >= SMALLEST]
        expected = [part for part in expected if depth[part].max() >= 2]
        if sum(part.sum() for part in expected) < 0.5 * group.sum():
            expected = []
        pieces = _pieces(group, SMALLEST, side=3, coverage=0.5)
        assert len(pieces) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(pieces, expected, strict=True))
        kept += len(pieces)
    assert kept
    assert not _pieces(np.ones((2, 30), bool), SMALLEST, side=3, coverage=0.5)
