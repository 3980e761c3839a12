"""Ids that stay: on perfect masks of moving objects, and what becomes of hidden and new ones."""

import numpy as np
from scipy import ndimage

from astseg.data.synthetic.video import render_video
from astseg.inference.prediction import ObjectPrediction
from astseg.inference.tracking import Tracker

H, W = 30, 46


def found(labels: np.ndarray) -> list[ObjectPrediction]:
    """The objects of a label map, with nothing said of the model's own."""
    objects = []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            rows, columns = place
            box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            area, nothing = int((labels == label).sum()), np.zeros(1, np.float32)
            objects.append(ObjectPrediction(label, (0, 0), box, (1, 1), 0.0, area, 0, 1.0, 1.0, nothing))
    return objects


def follow(images: np.ndarray, labels: np.ndarray, shuffle: int | None = None) -> list[dict[int, int]]:
    """Of each frame, the id that each true object has; slots are dealt anew in each frame where asked for."""
    tracker, generator = Tracker(), np.random.default_rng(shuffle)
    ids = []
    for image, truth in zip(images, labels, strict=True):
        slots = np.arange(9) if shuffle is None else np.concatenate([[0], 1 + generator.permutation(8)])
        predicted = slots[truth].astype(np.int32)
        objects = found(predicted)
        numbers = tracker.step(image, predicted, objects)
        of_slot = {each.id: number for each, number in zip(objects, numbers, strict=True)}
        ids.append({int(label): of_slot[int(slots[label])] for label in np.unique(truth) if label})
    return ids


def switches(ids: list[dict[int, int]]) -> int:
    last: dict[int, int] = {}
    count = 0
    for frame in ids:
        count += sum(last.get(label, number) != number for label, number in frame.items())
        last |= frame
    return count


def blocks(*places: tuple[int, int, tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A frame with squares: left, top, colour."""
    image, labels = np.full((H, W, 3), 90, np.uint8), np.zeros((H, W), np.int32)
    for label, (x, y, colour) in enumerate(places, start=1):
        image[y : y + 8, x : x + 8] = colour
        labels[y : y + 8, x : x + 8] = label
    return image, labels


RED, GREEN, BLUE = (200, 30, 30), (30, 190, 40), (40, 60, 220)


def test_objects_that_cross_keep_their_ids_whatever_their_slots() -> None:
    total = 0
    for seed in range(4):
        video = render_video(seed=seed, frames=90, size=(48, 64), objects=4)
        total += switches(follow(np.asarray(video.images), np.asarray(video.labels), shuffle=seed))
    assert total <= 4  # of some 1,400 sightings


def test_a_new_object_gets_a_new_id_and_a_hidden_one_keeps_its_own() -> None:
    both, one = blocks((5, 5, RED), (25, 15, GREEN)), blocks((5, 5, RED))
    three = blocks((5, 5, RED), (28, 15, GREEN), (5, 20, BLUE))
    frames = [both, one, one, one, three]
    images, labels = (np.stack(each) for each in zip(*frames, strict=True))
    ids = follow(images, labels)
    assert ids == [{1: 1, 2: 2}, {1: 1}, {1: 1}, {1: 1}, {1: 1, 2: 2, 3: 3}]


def test_what_stays_away_is_forgotten() -> None:
    both, one = blocks((5, 5, RED), (25, 15, GREEN)), blocks((5, 5, RED))
    images, labels = (np.stack(each) for each in zip(both, *[one] * 31, both, strict=True))
    assert follow(images, labels)[-1] == {1: 1, 2: 3}


def test_colour_tells_who_is_who_where_places_do_not() -> None:
    """Two squares change places between two frames."""
    images, labels = (
        np.stack(each)
        for each in zip(blocks((5, 5, RED), (13, 5, GREEN)), blocks((13, 5, RED), (5, 5, GREEN)), strict=True)
    )
    assert follow(images, labels) == [{1: 1, 2: 2}, {1: 1, 2: 2}]


def test_frames_without_objects_do_no_harm() -> None:
    images, labels = (np.stack(each) for each in zip(blocks(), blocks((5, 5, RED)), blocks(), strict=True))
    assert follow(images, labels) == [{}, {1: 1}, {}]
