"""Made-up sequences of masks with everything that makes following objects hard, and figures of a tracker on them.

    python benchmarks/track_scenes.py                  the figures of the tracker, a line a kind of scene
    python benchmarks/track_scenes.py --frames 200000  time a frame and memory, from the first frames to the last

Colours of objects vary from frame to frame as in camera pictures. What is counted: sightings, switches (an object has
another id than when it was last seen), ids that were given to objects, and the share of sightings with the one id that
the best assignment gives to each object. The constants of the tracker were chosen by seeds 0 to 2, one after the other,
for the fewest switches and superfluous ids; one, the least likelihood of a match, was set by seeds 100 to 103 as well.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from astseg.inference.prediction import ObjectPrediction
from astseg.inference.tracking import Tracker

BACKGROUND = 90

Frame = tuple[np.ndarray, np.ndarray, dict[int, int]]
"""An image, its label map, and for labels that show one object alone the number of that object."""


@dataclass(frozen=True)
class Scene:
    """A sequence: objects on paths, and what goes wrong in seeing them.

    Attributes:
        paths: T x N x 2, centres (x, y); NaN where an object is not there.
        colours: N x 3, 0 to 255.
        sides: N, sides of the squares (or diameters of the discs) in pixels.
        size: Height and width of the pictures.
        colour_noise: Standard deviation of an object's mean colour from frame to frame, of 255.
        missed: Share of sightings that are left out.
        wrong: False detections a frame, on average.
        jitter: Standard deviation, in pixels, by which each mask is shifted.
        bars: Left and right edges of upright bars that hide what is behind them.
        touching_merge: Whether masks that touch are one.
    """

    paths: np.ndarray
    colours: np.ndarray
    sides: np.ndarray
    size: tuple[int, int] = (120, 200)
    colour_noise: float = 1.0
    missed: float = 0.0
    wrong: float = 0.0
    jitter: float = 0.0
    bars: tuple[tuple[int, int], ...] = ()
    touching_merge: bool = False
    seed: int = field(default=0)

    def frames(self) -> Iterator[Frame]:
        """The frames, in order; labels are dealt anew in each."""
        generator = np.random.default_rng(self.seed)
        for places in self.paths:
            yield self._frame(places, generator)

    def _frame(self, places: np.ndarray, generator: np.random.Generator) -> Frame:
        image = np.full((*self.size, 3), BACKGROUND, np.uint8)
        owners = np.zeros(self.size, np.int32)
        shown = places + generator.normal(0, self.jitter, places.shape) if self.jitter else places
        for number, ((x, y), side) in enumerate(zip(shown, self.sides, strict=True), start=1):
            colour = self.colours[number - 1] + generator.normal(0, self.colour_noise)
            if not np.isnan(x) and generator.random() >= self.missed:
                self._draw(image, owners, (x, y, side), colour, number)
        for left, right in self.bars:
            image[:, left:right], owners[:, left:right] = 60, 0
        for _ in range(generator.poisson(self.wrong)):
            x, y = generator.uniform(0, self.size[::-1])
            self._draw(image, owners, (x, y, generator.uniform(4, 16)), generator.uniform(0, 255, 3), -1)
        return image, *self._labelled(owners, generator)

    def _draw(
        self, image: np.ndarray, owners: np.ndarray, place: tuple[float, float, float], colour: np.ndarray, number: int
    ) -> None:
        x, y, side = place
        rows, columns = (
            slice(max(0, round(centre - side / 2)), max(0, round(centre - side / 2) + round(side))) for centre in (y, x)
        )
        image[rows, columns], owners[rows, columns] = np.clip(colour.round(), 0, 255), number

    def _labelled(self, owners: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
        if self.touching_merge:
            parts, count = ndimage.label(owners)
            inside = {part: np.unique(owners[parts == part]) for part in range(1, count + 1)}
        else:
            numbers = np.unique(owners[owners != 0])
            parts = np.searchsorted(numbers, owners) + 1
            parts[owners == 0] = 0
            inside = {part: numbers[part - 1 : part] for part in range(1, len(numbers) + 1)}
        dealt = np.concatenate([[0], 1 + generator.permutation(len(inside))]).astype(np.int32)
        alone = {int(dealt[part]): int(who[0]) for part, who in inside.items() if len(who) == 1 and who[0] > 0}
        return dealt[parts], alone


GREY = np.full(3, 150.0)
FIVE = np.array([(200, 30, 30), (30, 190, 40), (40, 60, 220), (220, 200, 40), (180, 60, 190)], float)


def belt(*, count: int = 6, gap: float = 80, speed: float = 2, length: int = 200, width: int = 480) -> np.ndarray:
    """Parts that pass from left to right, ``gap`` apart: T x N x 2."""
    at = np.arange(length)[:, None] * speed - np.arange(count) * gap + width - gap
    return np.stack([at, np.full_like(at, 60.0)], axis=-1)


def wander(
    seed: int, *, count: int = 5, length: int = 120, speed: float = 2, turn: float = 0.15, size: tuple[int, int]
) -> np.ndarray:
    """Objects that move at random within the picture and are thrown back at its sides: T x N x 2."""
    generator = np.random.default_rng(1000 + seed)
    least, most = np.full(2, 10.0), np.array(size[::-1], float) - 10
    place = generator.uniform(least, most, (count, 2))
    angle = generator.uniform(0, 2 * np.pi, count)
    rates = speed * generator.uniform(0.5, 1.5, count)
    paths = np.zeros((length, count, 2))
    for now in range(length):
        paths[now] = place
        angle += generator.normal(0, turn, count)
        step = rates[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        over = (place + step < least) | (place + step > most)
        step[over] *= -1
        angle = np.arctan2(step[:, 1], step[:, 0])
        place = place + step
    return paths


def crossing(seed: int, *, count: int = 14, length: int = 200, speed: float = 3, size: tuple[int, int]) -> np.ndarray:
    """Objects that come in at one side and leave at the other, both ways, at their own times: T x N x 2."""
    generator = np.random.default_rng(2000 + seed)
    rate = speed * generator.uniform(0.6, 1.4, count)
    begins = generator.uniform(-40, length * 0.8, count)
    rightwards = generator.random(count) < 0.5
    way = (np.arange(length)[:, None] - begins) * rate - 10
    x = np.where(rightwards, way, size[1] - way)
    y = generator.uniform(12, size[0] - 12, count) + np.zeros_like(x)
    return np.stack([x, y], axis=-1)


def scenes(seed: int) -> dict[str, Scene]:
    """A scene of each kind."""
    generator = np.random.default_rng(seed)
    size = (120, 200)
    five = FIVE[np.arange(5)]
    sides = generator.uniform(9, 16, 14)
    alike = np.tile(GREY, (14, 1))
    near = np.clip(GREY + generator.normal(0, 20, (14, 3)), 0, 255)
    way = crossing(seed, size=size)
    free = Scene(wander(seed, size=size), five, sides[:5], seed=seed)
    passing = Scene(way, near, sides, seed=seed)
    hidden = crossing(seed + 500, count=5, speed=2, size=size)
    hidden[..., 1] = np.linspace(12, 108, 5)
    return {
        "belt, alike": Scene(belt(), alike[:6], np.full(6, 16.0), (120, 480), seed=seed),
        "belt, one at a time, five colours": Scene(
            belt(count=10, gap=240, speed=8, length=350, width=140), np.tile(five, (2, 1)), np.full(10, 16.0), size
        ),
        "belt, two colours": Scene(
            belt(count=10, gap=80, speed=4, length=250, width=140),
            np.tile(five[:2], (5, 1)),
            np.full(10, 16.0),
            (120, 140),
        ),
        "belt, few frames, alike": Scene(
            belt(speed=22, length=40, count=14, width=140), alike, np.full(14, 16.0), (120, 480), seed=seed
        ),
        "hidden 20 frames, colours": Scene(hidden, five, np.full(5, 14.0), bars=((80, 133),), seed=seed),
        "hidden 20 frames, alike": Scene(hidden, alike[:5], np.full(5, 14.0), bars=((80, 133),), seed=seed),
        "hidden by bars, wandering": replace(free, bars=((40, 60), (130, 150))),
        "wandering, colours": free,
        "wandering, colours vary": replace(free, colour_noise=12),
        "wandering, alike": replace(free, colours=alike[:5]),
        "wandering, touching merge": replace(free, touching_merge=True),
        "passing": passing,
        "passing, alike": replace(passing, colours=alike),
        "passing, alike, touching merge": replace(passing, colours=alike, touching_merge=True),
        "passing, 10 % missed": replace(passing, missed=0.1),
        "passing, false detections": replace(passing, wrong=0.3),
        "passing, jitter": replace(passing, jitter=1.5),
        "passing, a fifth of the frames": replace(passing, paths=way[::5]),
        "passing, all of it": replace(passing, missed=0.1, wrong=0.2, jitter=1, colour_noise=4, bars=((95, 110),)),
        "wandering, a quarter of the frames": replace(free, paths=wander(seed, length=240, size=size)[::4]),
    }


def seen(labels: np.ndarray) -> list[ObjectPrediction]:
    """The objects of a label map, of which nothing is known but their pixels."""
    objects = []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            rows, columns = place
            box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            area, nothing = int((labels[place] == label).sum()), np.zeros(1, np.float32)
            objects.append(ObjectPrediction(label, (0, 0), box, (1, 1), 0.0, area, 0, 1.0, 1.0, nothing))
    return objects


@dataclass
class Figures:
    """What became of the objects' ids."""

    sightings: int = 0
    switches: int = 0
    objects: int = 0
    ids: int = 0
    right: int = 0

    def __add__(self, other: Figures) -> Figures:
        """Those of both."""
        mine, theirs = vars(self), vars(other)
        return Figures(**{name: mine[name] + theirs[name] for name in mine})


def followed(scene: Scene, tracker: Tracker | None = None) -> Figures:
    """Figures of one scene."""
    tracker = tracker or Tracker()
    last: dict[int, int] = {}
    together: Counter[tuple[int, int]] = Counter()
    switches = 0
    for image, labels, alone in scene.frames():
        objects = seen(labels)
        for found, number in zip(objects, tracker.step(image, labels, objects), strict=True):
            if (who := alone.get(found.id)) is not None:
                switches += last.get(who, number) != number
                last[who] = number
                together[who, number] += 1
    of_objects, numbers = ({pair[side] for pair in together} for side in (0, 1))
    table = np.array([[together[who, number] for number in numbers] for who in of_objects])
    right = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return Figures(sum(together.values()), switches, len(of_objects), len(numbers), right)


def table(seeds: range) -> dict[str, Figures]:
    """Figures of each kind of scene, over several seeds."""
    total: dict[str, Figures] = {}
    for seed in seeds:
        for kind, scene in scenes(seed).items():
            total[kind] = total.get(kind, Figures()) + followed(scene)
    return total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(100, 110))
    parser.add_argument("--frames", type=int, help="of one long sequence instead, for time and memory")
    options = parser.parse_args()
    if options.frames:
        endurance(options.frames)
        return
    total = table(range(*options.seeds))
    for kind, each in [*total.items(), ("sum", sum(total.values(), Figures()))]:
        share = f"{100 * each.right / each.sightings:.1f} %"
        print(f"{kind:38}{each.sightings:7}{each.switches:7}{each.objects:7}{each.ids:7}{share:>9}")


def endurance(frames: int) -> None:
    """Time a frame and the largest memory, ten times on the way."""
    tracker = Tracker()
    scene = scenes(0)["passing, all of it"]
    began, done = time.perf_counter(), 0
    spent = 0.0
    while done < frames:
        for image, labels, _ in scene.frames():
            objects = seen(labels)
            began = time.perf_counter()
            tracker.step(image, labels, objects)
            spent += time.perf_counter() - began
            done += 1
            if done % (frames // 10) == 0:
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"{done:9} frames  {1000 * spent / (frames // 10):.2f} ms a frame  {memory:.1f} MiB at most")
                spent = 0.0
            if done == frames:
                return


if __name__ == "__main__":
    main()
