"""Components of one colour: shadows left out, what touches split, outlines taken in."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from astseg.config import DiscoveryConfig
from astseg.discovery.shadows_and_hue import _grown, _pieces, colour_components, hue, looks_like_shadow

H, W = 26, 37
EDGE = DiscoveryConfig.hue_step
BROWN = (0.6, 0.45, 0.3)
RED, BLUE, GREY = (0.8, 0.2, 0.15), (0.15, 0.25, 0.8), (0.3, 0.3, 0.3)
GREEN, TEAL = (0.2, 0.7, 0.3), (0.2, 0.6, 0.65)
Box = tuple[slice, slice]

Picture = NDArray[np.float32]


def plain(colour: tuple[float, float, float]) -> Picture:
    return np.broadcast_to(np.array(colour, np.float32)[:, None, None], (3, H, W)).copy()


def box(top: int, bottom: int, left: int, right: int) -> Box:
    return slice(top, bottom), slice(left, right)


def regions_of(picture: Picture, background: Picture, *, outline: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    foreground = np.abs(picture - background).mean(axis=0) > 0.05
    outline = foreground if outline is None else outline
    return colour_components(foreground[None], foreground[None], outline[None], picture[None], background[None])[0]


def test_what_touches_is_split_by_colour() -> None:
    background, picture = plain(BROWN), plain(BROWN)
    picture[(slice(None), *box(4, 14, 3, 13))] = np.array(RED)[:, None, None]
    picture[(slice(None), *box(6, 16, 13, 25))] = np.array(BLUE)[:, None, None]
    regions = regions_of(picture, background)
    assert sorted(np.unique(regions)) == [0, 1, 2]
    assert (regions[4:14, 3:13] == regions[5, 5]).all()
    assert (regions[6:16, 13:25] == regions[8, 20]).all()
    assert (regions > 0).sum() == 100 + 120


def test_shading_does_not_split_an_object() -> None:
    """The same surface, from a half to the whole of its brightness."""
    background, picture = plain(BROWN), plain(BROWN)
    shade = np.linspace(0.5, 1.0, 14)
    picture[(slice(None), *box(5, 17, 8, 22))] = np.array(RED)[:, None, None] * shade
    assert sorted(np.unique(regions_of(picture, background))) == [0, 1]


@pytest.mark.parametrize("darkness", [0.5, 0.7, 0.85])
def test_a_shadow_beside_an_object_is_left_out(darkness: float) -> None:
    background, picture = plain(BROWN), plain(BROWN)
    picture[:, 5:15, 5:20] *= darkness
    picture[(slice(None), *box(3, 13, 3, 15))] = np.array(BLUE)[:, None, None]
    regions = regions_of(picture, background, outline=np.ones((H, W), bool))
    assert (regions[3:13, 3:15] == 1).all()
    assert (regions[:, 15:] == 0).all()
    assert (regions[13:15] == 0).sum() >= 2 * W - 1


def test_a_grey_object_alone_is_no_shadow() -> None:
    """On grey, an object that is darker in all channels alike: nothing else is there that could cast it."""
    background, picture = plain((0.5, 0.5, 0.5)), plain((0.5, 0.5, 0.5))
    picture[(slice(None), *box(8, 18, 10, 20))] = np.array(GREY)[:, None, None]
    assert looks_like_shadow(picture[None], background[None])[0, 8:18, 10:20].all()
    regions = regions_of(picture, background)
    assert (regions[8:18, 10:20] == 1).all()
    assert (regions > 0).sum() == 100


def test_the_mixed_pixels_of_an_outline_belong_to_the_object() -> None:
    background, picture = plain(BROWN), plain(BROWN)
    picture[(slice(None), *box(7, 17, 9, 21))] = np.array(BLUE)[:, None, None]
    mixed = 0.1 * np.array(BLUE) + 0.9 * np.array(BROWN)
    picture[:, 7:17, 21] = mixed[:, None]
    foreground = np.zeros((H, W), bool)
    foreground[7:17, 9:21] = True
    outline = foreground.copy()
    outline[7:17, 21] = outline[2, 2] = True  # a far speck of the outline is nobody's
    regions = colour_components(foreground[None], foreground[None], outline[None], picture[None], background[None])[0]
    assert (regions[7:17, 9:22] == 1).all()
    assert (regions > 0).sum() == 130


def test_hysteresis() -> None:
    """The left object exceeds the high threshold in 16 pixels, the right one in 3, too few; the speck in none."""
    background, picture = plain(BROWN), plain(BROWN)
    low, high = np.zeros((H, W), bool), np.zeros((H, W), bool)
    for place in (box(4, 14, 3, 13), box(6, 16, 20, 30), box(20, 24, 5, 10)):
        picture[(slice(None), *place)] = np.array(BLUE)[:, None, None]
        low[place] = True
    high[4:8, 3:7] = high[6, 20:23] = True
    regions = colour_components(
        high[None], low[None], high[None], picture[None], background[None], config=DiscoveryConfig(smallest_piece=0.005)
    )[0]
    assert (regions[4:14, 3:13] == 1).all()
    assert (regions > 0).sum() == 100


def test_what_exceeds_the_high_threshold_need_not_exceed_the_low() -> None:
    background, picture = plain(BROWN), plain(BROWN)
    picture[(slice(None), *box(4, 14, 3, 13))] = np.array(BLUE)[:, None, None]
    high, never = (picture != background).all(axis=0), np.zeros((H, W), bool)
    regions = colour_components(high[None], never[None], never[None], picture[None], background[None])[0]
    assert np.array_equal(regions > 0, high)


def test_objects_that_pass_softly_into_each_other_are_split() -> None:
    """Over six pixels, so that no step between two of them is large."""
    background, picture = plain(BROWN), plain(BROWN)
    for row, share in enumerate([0.0] * 7 + list(np.linspace(0, 1, 8)) + [1.0] * 5, start=3):
        picture[:, row, 9:19] = ((1 - share) * np.array(GREEN) + share * np.array(TEAL))[:, None]
    regions = regions_of(picture, background)
    assert sorted(np.unique(regions)) == [0, 1, 2]
    assert len(np.unique(regions[3:10, 9:19])) == len(np.unique(regions[17:22, 9:19])) == 1
    assert regions[5, 12] != regions[20, 12]


def test_specks_go_to_the_object_they_lie_on() -> None:
    """A highlight of a few pixels is no object."""
    background, picture = plain(BROWN), plain(BROWN)
    picture[(slice(None), *box(4, 16, 6, 20))] = np.array(RED)[:, None, None]
    picture[:, 6, 8:10] = 0.95
    regions = regions_of(picture, background)
    assert (regions[4:16, 6:20] == 1).all()


def test_images_are_counted_apart_and_may_be_empty() -> None:
    background, picture = plain(BROWN), plain(BROWN)
    picture[(slice(None), *box(4, 14, 3, 13))] = np.array(RED)[:, None, None]
    images, backgrounds = np.stack([picture, background, picture]), np.stack([background] * 3)
    foreground = np.abs(images - backgrounds).mean(axis=1) > 0.05
    regions = colour_components(foreground, foreground, foreground, images, backgrounds)
    assert [sorted(np.unique(one)) for one in regions] == [[0, 1], [0], [0, 1]]


def test_hue_is_free_of_brightness_and_zero_for_grey() -> None:
    colours = np.array([[0.4, 0.2, 0.1], [0.8, 0.4, 0.2], [0.3, 0.3, 0.3]], np.float32).T[
        None, :, None
    ]  # 1 x 3 x 1 x 3
    hues = hue(colours)[0, :, 0]
    np.testing.assert_allclose(hues[:, 0], hues[:, 1], atol=0.15)
    np.testing.assert_allclose(hues[:, 2], 0, atol=1e-6)


def random_masks(seed: int, *, smooth: float = 1.5, share: float = 0.5) -> NDArray[np.bool_]:
    """3 x H x W, spots; each image has its own."""
    noise = np.random.default_rng(seed).normal(size=(3, H, W))
    smoothed = ndimage.gaussian_filter(noise, (0, smooth, smooth))
    masks: NDArray[np.bool_] = smoothed > np.quantile(smoothed, 1 - share)
    return masks


@pytest.mark.parametrize("seed", range(5))
def test_components_grow_to_the_nearest_by_the_distance_transform(seed: int) -> None:
    """Image by image: specks go to the nearest seed, then the outline to what is no further than a diagonal."""
    lit, outline = random_masks(seed), random_masks(seed + 10, smooth=0.5, share=0.7)
    spots, count = ndimage.label(lit & random_masks(seed + 20, smooth=0.7))
    seeds = np.where(np.arange(count + 1) % 3 > 0, np.arange(count + 1), 0).astype(np.int32)[spots]
    found = _grown(seeds, lit, outline)
    assert 0 < (seeds > 0).sum() < (found > 0).sum()
    for i in range(3):
        parts, _ = ndimage.label(lit[i])
        inside = np.isin(parts, np.unique(parts[seeds[i] > 0])) & lit[i]
        rows, columns = ndimage.distance_transform_edt(seeds[i] == 0, return_distances=False, return_indices=True)
        filled = np.where(inside, seeds[i][rows, columns], 0)
        distance, (rows, columns) = ndimage.distance_transform_edt(filled == 0, return_indices=True)
        expected = np.where((filled > 0) | (outline[i] & (distance < 1.5)), filled[rows, columns], 0)
        np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_what_small_steps_of_hue_connect(seed: int) -> None:
    """Against a flood that goes from pixel to pixel."""
    mask = random_masks(seed, share=0.7)
    hues = np.random.default_rng(seed).normal(0, EDGE / 3, (3, 3, H, W)).astype(np.float32)
    pieces = _pieces(mask, hues, step=EDGE)
    expected = np.zeros(mask.shape, np.int32)
    count = 0
    for i, row, column in np.argwhere(mask):
        if expected[i, row, column]:
            continue
        count += 1
        expected[i, row, column] = count
        ways = [(row, column)]
        while ways:
            r, c = ways.pop()
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if not (0 <= y < H and 0 <= x < W and mask[i, y, x]) or expected[i, y, x]:
                    continue
                if np.abs(hues[i, :, y, x] - hues[i, :, r, c]).sum() < EDGE:
                    expected[i, y, x] = count
                    ways.append((y, x))
    assert 10 < count < mask.sum()
    np.testing.assert_array_equal(pieces, expected)
