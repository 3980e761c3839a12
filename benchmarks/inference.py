"""Images a second, and seconds an image, from images to label maps.

    python benchmarks/inference.py --threads 2
    python benchmarks/inference.py --run runs/demo

``as in training`` is the forward of a training step as the algorithms have it: every object drawn on the whole image,
in float32, with what the way back needs. ``ours`` is what is run where only labels are asked for: no gradients,
nothing drawn for objects that are off, an object drawn where it lies; ``ours bfloat16`` the same under autocast;
``compiled`` programs made ahead of time for the processor (:mod:`astseg.predict.compiled`), in float32. With a
run folder its trained model is measured, and the share of pixels whose label bfloat16 changes; otherwise models with
fresh weights: all of their objects are near enough to the background's activation to be drawn, and their labels say
nothing. A run that has proposals makes them too, last: training knows none, and the pictures of fresh models, random
numbers, have no regions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from astseg.checkpoint import load_model
from astseg.config import override
from astseg.evaluate import inference
from astseg.model.scene import AstSeg, build
from astseg.predict.compiled import CompiledModel
from astseg.presets import preset
from measuring import machine, print_table, timed

BACKBONES = ("cnn", "unet", "segformer-b0")
SIZES = (64, 128)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="measure the model of this run folder")
    parser.add_argument("--images", type=Path, help="with --run: scenes to compare labels on; default: random numbers")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=10)
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
            first = None
            for way, run in ways.items():
                seconds = timed(run, device=options.device, repeats=options.repeats, clock=options.clock, warmup=2)
                first = first or median(seconds)
                slow = quantiles(seconds, n=100, method="inclusive")[98]
                changed = float((run() != ways["as in training"]()).float().mean())
                rows.append(
                    [f"{name} {size[0]}x{size[1]}", batch, way, batch / median(seconds), 1e3 * median(seconds)]
                    + [1e3 * slow, first / median(seconds), f"{100 * changed:.3f} %"]
                )
    print_table(
        ["model", "batch", "forward", "images/s", "p50 ms", "p99 ms", "times faster", "labels that differ"], rows
    )


def models(options: argparse.Namespace) -> Iterator[tuple[str, AstSeg]]:
    """Named models: that of a run folder, or fresh ones of every backbone and size."""
    if options.run is not None:
        model, config = load_model(options.run)
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
            yield backbone, model


def pictures(options: argparse.Namespace, batch: int, size: tuple[int, int]) -> Tensor:
    """Images B x 3 x H x W: the first of some scenes, or random numbers."""
    if options.images is None:
        return torch.rand(batch, 3, *size)
    from astseg.data import load_scenes
    from astseg.data.tensors import images_to_tensor

    return images_to_tensor(load_scenes(options.images, selection=f":{batch}", size=size).images)


def forwards(
    model: AstSeg, images: Tensor, *, proposals: bool, compiled: bool = False
) -> dict[str, Callable[[], Tensor]]:
    """Ways from images to labels B x H x W; each switches the model's proposals on or off for itself."""

    def as_in_training() -> Tensor:
        model.proposals = False
        labels: Tensor = model(images).ownership.argmax(dim=1)
        return labels

    def ours(*, half: bool, proposing: bool = False) -> Tensor:
        model.proposals = proposing
        device = images.device.type
        with inference(model), torch.autocast(device, torch.bfloat16) if half else nullcontext():
            labels: Tensor = model(images, layers=False).ownership.max(dim=1).indices
            return labels

    def by_programs(runs: CompiledModel) -> Tensor:
        with inference(model):
            return runs(images).ownership.max(dim=1).indices

    ways = {
        "as in training": as_in_training,
        "ours float32": partial(ours, half=False),
        "ours bfloat16": partial(ours, half=True),
    }
    for proposing in [False, True] if proposals else [False]:
        if proposing:
            ways["ours with proposals"] = partial(ours, half=False, proposing=True)
        if compiled:
            model.proposals = proposing
            programs = CompiledModel(model, len(images))
            ways["compiled" + " with proposals" * proposing] = partial(by_programs, programs)
    return ways


if __name__ == "__main__":
    main()
