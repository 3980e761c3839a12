"""How often ids change on made-up videos of moving objects, counted against their exact masks.

    python benchmarks/tracking.py RUN

In each frame true and predicted masks are matched (Hungarian method on the IoU, 0.5 at least). A switch is a match of
an object with another id than at its last match. ``share of its main id``: the part of all matches in which an object
has the one id that the best assignment of ids to objects gives it (the recall of IDF1 among matched objects). Slots are
the ids that the model gives by itself; ``perfect masks`` follows the true ones, their numbers dealt anew in each frame.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from astseg.data.synthetic.video import render_video
from astseg.inference.segmenter import Segmenter
from astseg.inference.tracking import Tracker
from measuring import machine, print_table
from track_scenes import seen

Matches = list[dict[int, int]]
"""For each frame, the id of each true object that is matched."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--objects", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine("cpu"))
    segmenter = Segmenter.from_pretrained(options.run, "cpu")
    rows: list[list[object]] = []
    for objects in options.objects:
        of_way: dict[str, list[Matches]] = {"slots": [], "tracked": [], "perfect masks, tracked": []}
        visible = 0
        for seed in range(options.first_seed, options.first_seed + options.videos):
            video = render_video(seed=seed, frames=options.frames, size=64, objects=objects)
            images, labels = np.asarray(video.images), np.asarray(video.labels)
            visible += sum(len(np.unique(each)) - 1 for each in labels)
            for way, matches in followed(segmenter, images, labels).items():
                of_way[way].append(matches)
        for way, videos in of_way.items():
            matched, switches, main_share = figures(videos)
            rows.append([objects, way, visible, matched, switches, f"{100 * main_share:.1f} %"])
    print_table(["objects", "ids", "visible", "matched", "switches", "share of its main id"], rows)


def followed(segmenter: Segmenter, images: np.ndarray, labels: np.ndarray) -> dict[str, Matches]:
    """The matches of one video with each kind of ids."""
    tracker = Tracker()
    slots: Matches = []
    tracked: Matches = []
    for image, truth, prediction in zip(images, labels, segmenter.predict(images, layers=False), strict=True):
        ids = tracker.step(image, prediction.labels, prediction.objects)
        pairs = matched(truth, prediction.labels)
        number = {found.id: one for found, one in zip(prediction.objects, ids, strict=True)}
        slots.append(pairs)
        tracked.append({label: number[slot] for label, slot in pairs.items()})
    return {"slots": slots, "tracked": tracked, "perfect masks, tracked": perfect(images, labels)}


def perfect(images: np.ndarray, labels: np.ndarray) -> Matches:
    """Ids of the true masks, whose numbers are dealt anew in each frame: all that is left to go by is what is seen."""
    tracker, generator = Tracker(), np.random.default_rng(0)
    frames: Matches = []
    for image, truth in zip(images, labels, strict=True):
        dealt = np.concatenate([[0], 1 + generator.permutation(int(labels.max()))]).astype(np.int32)
        mixed = dealt[truth]
        objects = seen(mixed)
        number = {found.id: one for found, one in zip(objects, tracker.step(image, mixed, objects), strict=True)}
        frames.append({int(label): number[int(dealt[label])] for label in np.unique(truth[truth > 0])})
    return frames


def matched(truth: np.ndarray, predicted: np.ndarray) -> dict[int, int]:
    """The predicted label of each true one."""
    true, found = (np.unique(each[each > 0]) for each in (truth, predicted))
    iou = np.zeros((len(true), len(found)))
    for row, label in enumerate(true):
        for column, other in enumerate(found):
            one, two = truth == label, predicted == other
            iou[row, column] = (one & two).sum() / (one | two).sum()
    pairs = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
    return {int(true[row]): int(found[column]) for row, column in pairs if iou[row, column] >= 0.5}


def figures(videos: list[Matches]) -> tuple[int, int, float]:
    """Matches, switches, and the share of matches that have their object's main id."""
    count = switches = main = 0
    for frames in videos:
        last: dict[int, int] = {}
        together: Counter[tuple[int, int]] = Counter()
        for frame in frames:
            switches += sum(last.get(label, number) != number for label, number in frame.items())
            last |= frame
            together.update(frame.items())
        labels, numbers = ({pair[side] for pair in together} for side in (0, 1))
        table = np.array([[together[label, number] for number in numbers] for label in labels])
        main += int(table[linear_sum_assignment(table, maximize=True)].sum())
        count += sum(together.values())
    return count, switches, main / count


if __name__ == "__main__":
    main()
