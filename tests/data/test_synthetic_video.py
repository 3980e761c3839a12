"""The made-up video: the same objects in every frame, moving, with exact masks."""

import numpy as np
import pytest
from scipy import ndimage

from astseg.data.synthetic.video import render_video
from astseg.errors import UserError

H, W = 40, 56


def test_objects_keep_their_labels_and_move_on() -> None:
    video = render_video(seed=4, frames=60, size=(H, W), objects=3)
    images, labels = np.asarray(video.images), np.asarray(video.labels)
    assert (images.shape, labels.shape, len(video.names)) == ((60, H, W, 3), (60, H, W), 60)
    for label in (1, 2, 3):
        seen = [number for number in range(60) if (labels[number] == label).sum() > 12]
        assert len(seen) > 40
        centres = np.array([ndimage.center_of_mass(labels[number] == label) for number in seen])
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)[np.diff(seen) == 1]
        assert np.median(steps) > 0.2  # pixels
        assert steps.max() < 8
        colours = np.array([images[number][labels[number] == label].mean(axis=0) for number in seen])
        assert np.median(np.abs(colours - np.median(colours, axis=0))) < 12


def test_the_same_seed_gives_the_same_pixels_and_another_one_others() -> None:
    one, again, other = (
        np.asarray(render_video(seed=seed, frames=3, size=(H, W), objects=2).images) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.2
    assert not np.asarray(render_video(seed=7, frames=2, size=(H, W), objects=0).labels).any()


def test_arguments_are_checked() -> None:
    with pytest.raises(UserError, match="max_objects is 13"):
        render_video(seed=1, frames=2, size=32, objects=13)
    with pytest.raises(UserError, match="is too small"):
        render_video(seed=1, frames=2, size=8)
