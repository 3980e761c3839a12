"""Images a second, and seconds an image, from images to label maps.

    python benchmarks/inference.py --threads 2
    python benchmarks/inference.py --runs runs/demo

``as in training`` is the forward of a training step as the algorithms have it: every object drawn on the whole image,
in float32, with what the way back needs. ``ours`` is what is run where only labels are asked for: no gradients,
nothing drawn for objects that are off, an object drawn where it lies, a batch in as many parts as suit the processor's
caches; ``compiled`` programs made ahead of time for the processor (:mod:`astseg.inference.compiled`); ``bfloat16`` either
with its backbone in that. The ways are timed in turn, round by round. With run folders their trained models are
measured, and the share of pixels whose label is another than in float32 without programs; otherwise models with fresh
weights, some of whose objects (``--on``) are near enough to the background's activation to be drawn, and whose labels
say nothing. A run that has proposals makes them too, last: training knows none, and the pictures of fresh models,
random numbers, have no regions.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from astseg.inference.compiled import CompiledModel
from torch import Tensor, nn

from astseg.config import override
from astseg.config.presets import preset
from astseg.inference.pipeline import at_once, inference
from astseg.model.astseg import AstSeg, build
from astseg.runs.folder import load_model
from measuring import machine, print_table, timed

BACKBONES = ("cnn", "unet", "segformer-b0")
SIZES = (64, 128)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="measure the models of these run folders")
    parser.add_argument("--images", type=Path, help="with --runs: scenes to look at; default: random numbers")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--on", type=int, default=6, help="objects of a fresh model that are on, of its 12")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="of each way in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--compile", action="store_true", help="also ours compiled ahead of time, on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.device))
    rows = []
    for name, model in models(options):
        size, proposals = model.renderer.image_size, model.proposals
        for batch in options.batches:
            images = pictures(options, batch, size)
            model = model.to(options.device).eval()
            ways = forwards(model, images.to(options.device), proposals=proposals, compiled=options.compile)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, run in ways.items():
                    seconds[way] += timed(
                        run, device=options.device, repeats=options.repeats, clock=options.clock, warmup=2
                    )
            labels = {way: run() for way, run in ways.items()}
            for way, each in seconds.items():
                slow = quantiles(each, n=100, method="inclusive")[98]
                plain = "ours float32 with proposals" if "proposals" in way else "as in training"
                changed = float((labels[way] != labels[plain]).float().mean())
                rows.append(
                    [f"{name} {size[0]}x{size[1]}", batch, way, batch / median(each), 1e3 * median(each), 1e3 * slow]
                    + [median(seconds["as in training"]) / median(each), f"{100 * changed:.3f} %"]
                )
    print_table(
        ["model", "batch", "forward", "images/s", "p50 ms", "p99 ms", "times faster", "labels that differ"], rows
    )


def models(options: argparse.Namespace) -> Iterator[tuple[str, AstSeg]]:
    """Named models: those of run folders, or fresh ones of every backbone and size."""
    if options.runs:
        for folder in options.runs:
            model, config = load_model(folder)
            yield config.model.backbone, model
        return
    for backbone in options.backbones:
        for side in options.sizes:
            settings: dict[str, Any] = {"backbone": backbone, "image_size": (side, side), "proposals": False}
            torch.manual_seed(0)
            model = build(override(preset("small"), {"model": settings}).model)
            with torch.no_grad():  # all objects are drawn, of the size of an eighth of the side
                model.encoder.refinement.projection.bias[2:4] = -1.0
                activation = model.encoder.refinement.projection.bias[4:5]
                activation += model.renderer.background_log_activation
            model.encoder.refinement = _SomeOff(model.encoder.refinement, model.encoder.slots, options.on)
            yield backbone, model


class _SomeOff(nn.Module):
    """A refinement that leaves the first slots as they are and says of the others that they are off."""

    offsets: Tensor

    def __init__(self, refinement: nn.Module, slots: int, on: int) -> None:
        super().__init__()
        self.refinement = refinement
        offsets = torch.zeros(slots, refinement.projection.out_features)
        offsets[on:, 4] = -20.0
        self.register_buffer("offsets", offsets)

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled: B x K x (2 + F) -> the same shape."""
        refined: Tensor = self.refinement(pooled)
        return refined + self.offsets


def pictures(options: argparse.Namespace, batch: int, size: tuple[int, int]) -> Tensor:
    """Images B x 3 x H x W: the first of some scenes, or random numbers."""
    if options.images is None:
        return torch.rand(batch, 3, *size)
    from astseg.data import load_scenes
    from astseg.data.arrays import images_to_tensor

    return images_to_tensor(load_scenes(options.images, selection=f":{batch}", size=size).images)


def forwards(
    model: AstSeg, images: Tensor, *, proposals: bool, compiled: bool = False
) -> dict[str, Callable[[], Tensor]]:
    """Ways from images to labels B x H x W; each sets the model's proposals and precision for itself."""

    def as_in_training() -> Tensor:
        model.proposals, model.encoder.precision = False, "float32"
        labels: Tensor = model(images).responsibilities.argmax(dim=1)
        return labels

    together = at_once(model, len(images))

    def ours(*, precision: str, proposing: bool, runs: CompiledModel | None = None) -> Tensor:
        model.proposals, model.encoder.precision = proposing, precision
        with inference(model):
            outputs = [
                runs(part) if runs and len(part) == together else model(part, layers=False)
                for part in images.split(together)
            ]
            return torch.cat([output.responsibilities.max(dim=1).indices for output in outputs])

    ways: dict[str, Callable[[], Tensor]] = {"as in training": as_in_training}
    for proposing, precision in itertools.product([False, True] if proposals else [False], ["float32", "bfloat16"]):
        name = f" {precision}" + " with proposals" * proposing
        way = partial(ours, precision=precision, proposing=proposing)
        ways[f"ours{name}"] = way
        if compiled:
            model.proposals, model.encoder.precision = proposing, precision
            ways[f"compiled{name}"] = partial(way, runs=CompiledModel(model, together))
    return ways


if __name__ == "__main__":
    main()
