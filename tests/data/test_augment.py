"""Variants of pictures."""

from pathlib import Path

import numpy as np
import pytest

from astseg.config import AugmentConfig, to_dict
from astseg.config.presets import PRESETS, preset
from astseg.data import load_scenes
from astseg.data.augment import variant
from astseg.data.resize import place
from astseg.errors import UserError

STILL = AugmentConfig(copies=4, flip=False, zoom=0, shift=0, light=0, colour=0)
GENERATOR = np.random.default_rng(2)
IMAGES = GENERATOR.integers(40, 200, (3, 40, 60, 3)).astype(np.uint8)
MASKS = (IMAGES[..., 0] > 100).astype(np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", images=IMAGES, masks=MASKS)
    return tmp_path / "a.npz"


def test_off_in_every_preset() -> None:
    assert all(preset(name).augment.copies == 1 for name in PRESETS)
    assert to_dict(preset("small"))["augment"]["copies"] == 1


def test_the_picture_itself_comes_first_and_variants_depend_on_the_seed(archive: Path) -> None:
    plain = load_scenes(archive, size=(20, 28))
    found = load_scenes(archive, size=(20, 28), augment=AugmentConfig(copies=3), seed=5)
    assert len(found) == 9 and found.names[2:5] == ("000000#2", "000001", "000001#1")
    assert found.source.endswith("3 variants of each")
    np.testing.assert_array_equal(found.images[::3], plain.images[:])
    assert found.labels is not None and plain.labels is not None
    np.testing.assert_array_equal(found.labels[::3], plain.labels[:])
    again, other = (load_scenes(archive, size=(20, 28), augment=AugmentConfig(copies=3), seed=s) for s in (5, 6))
    np.testing.assert_array_equal(found.images[:], again.images[:])
    assert len({image.tobytes() for image in [*found.images[:], *other.images[:]]}) == 9 + 6


def test_nothing_changes_where_nothing_may(archive: Path) -> None:
    plain = load_scenes(archive, size=(20, 28))
    found = load_scenes(archive, size=(20, 28), augment=STILL)
    np.testing.assert_array_equal(found.images[:], np.repeat(plain.images[:], 4, axis=0))


def test_masks_go_along() -> None:
    """A picture that shows its own mask: what moves one must move the other."""
    labels = np.zeros((90, 120), np.uint8)
    labels[20:60, 30:50] = 1
    image = np.repeat(labels[..., None] * np.uint8(200), 3, axis=2)
    config = AugmentConfig(copies=2, light=0, colour=0, zoom=0.4, shift=0.2)
    for fit in ("crop", "letterbox"):
        where = place((90, 120), (45, 45), resize=fit)
        areas = set()
        for seed in range(20):
            framed, mask = variant(image, labels, where, config, np.random.default_rng(seed))
            assert mask is not None and framed.shape == (45, 45, 3)
            assert ((framed[..., 0] > 100) != (mask == 1)).mean() < 0.05
            areas.add(int(mask.sum()))
        assert len(areas) > 5


def test_half_of_the_variants_are_mirrored_and_bars_stay_black() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = 200
    where = place((20, 40), (28, 28), resize="letterbox")
    config = AugmentConfig(copies=2, zoom=0, shift=0, light=0.3, colour=0.2)
    mirrored = 0
    for seed in range(60):
        framed, _ = variant(image, None, where, config, np.random.default_rng(seed))
        assert not framed[:7].any() and not framed[-7:].any()
        mirrored += int(framed[14, 25].sum() > framed[14, 2].sum())
    assert 18 < mirrored < 42


def test_light_and_colour_change_within_their_bounds() -> None:
    image = np.full((8, 9, 3), 100, np.uint8)
    where = place((8, 9), (8, 9))
    config = AugmentConfig(copies=2, zoom=0, shift=0, light=0.2, colour=0.1)
    levels = np.array([variant(image, None, where, config, np.random.default_rng(s))[0][0, 0] for s in range(80)])
    assert 75 <= levels.min() < 85 and 115 < levels.max() <= 127
    assert np.abs(levels - levels.mean(axis=1, keepdims=True)).max() > 3  # another tint


def test_wrong_values(archive: Path) -> None:
    for options, told in [({"copies": 0}, "augment.copies is 0"), ({"zoom": 1.0}, "augment.zoom is 1.0")]:
        with pytest.raises(UserError, match=told):
            AugmentConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="100000 variants of 3 scenes take 5 GB: take fewer copies"):
        load_scenes(archive, size=64, augment=AugmentConfig(copies=100_000))
