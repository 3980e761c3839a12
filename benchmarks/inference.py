"""Images a second, and seconds an image, from images to label maps.

    python benchmarks/inference.py --threads 2
    python benchmarks/inference.py --runs runs/demo

``training's forward`` draws every object on the whole image, in float32, and keeps what a gradient needs; the other
ways are :class:`astseg.inference.pipeline.Pipeline`: no gradients, nothing drawn for pruned slots, an object drawn
where it lies, a batch in as many parts as suit the processor's caches; in ``bfloat16`` for the backbone's part. The
ways are timed in turn, round by round. With run folders their trained models are measured, and the share of pixels
whose label differs from that in float32; otherwise models with fresh weights, some of whose objects (``--on``) are near
enough to the background's activation to be drawn, and whose labels mean nothing. A run that has proposals is measured
without them first.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from astseg.config import InferenceConfig, override
from astseg.config.presets import preset
from astseg.inference.pipeline import Pipeline
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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.device))
    rows = []
    for name, model, config in models(options):
        size = model.renderer.image_size
        model = model.to(options.device).eval()
        for batch in options.batches:
            images = pictures(options, batch, size).to(options.device)
            ways = forwards(model, config, images)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, run in ways.items():
                    seconds[way] += timed(
                        run, device=options.device, repeats=options.repeats, clock=options.clock, warmup=2
                    )
            labels = {way: run() for way, run in ways.items()}
            for way, each in seconds.items():
                slow = quantiles(each, n=100, method="inclusive")[98]
                plain = "pipeline float32 with proposals" if "proposals" in way else "pipeline float32"
                changed = float((labels[way] != labels[plain]).float().mean())
                rows.append(
                    [f"{name} {size[0]}x{size[1]}", batch, way, batch / median(each), 1e3 * median(each), 1e3 * slow]
                    + [median(seconds["training's forward"]) / median(each), f"{100 * changed:.3f} %"]
                )
    print_table(
        ["model", "batch", "forward", "images/s", "p50 ms", "p99 ms", "times faster", "labels that differ"], rows
    )


def models(options: argparse.Namespace) -> Iterator[tuple[str, AstSeg, InferenceConfig]]:
    """Names, models and settings of inference: those of run folders, or fresh ones of every backbone and size."""
    if options.runs:
        for folder in options.runs:
            model, config, _ = load_model(folder)
            yield config.model.backbone, model, config.inference
        return
    for backbone in options.backbones:
        for side in options.sizes:
            settings: dict[str, Any] = {"backbone": backbone, "image_size": (side, side)}
            config = override(preset("small"), {"model": settings, "inference": {"proposals": False}})
            torch.manual_seed(0)
            model = build(config.model)
            with torch.no_grad():  # all objects are drawn, of the size of an eighth of the side
                model.encoder.refinement.projection.bias[2:4] = -1.0
                activation = model.encoder.refinement.projection.bias[4:5]
                activation += model.renderer.background_log_activation
            model.encoder.refinement = _SomeOff(model.encoder.refinement, model.encoder.slots, options.on)
            yield backbone, model, config.inference


class _SomeOff(nn.Module):
    """A refinement that leaves the first slots as they are and switches the others off."""

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


def forwards(model: AstSeg, config: InferenceConfig, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ways from images to labels B x H x W."""

    def labels(pipeline: Pipeline) -> Tensor:
        parts = images.split(pipeline.batch_size(len(images)))
        return torch.cat([pipeline(part).responsibilities.max(dim=1).indices for part in parts])

    ways: dict[str, Callable[[], Tensor]] = {"training's forward": lambda: model(images).weights.argmax(dim=1)}
    for proposals, precision in itertools.product(sorted({False, config.proposals}), ["float32", "bfloat16"]):
        pipeline = Pipeline(model, replace(config, proposals=proposals), precision=precision)
        ways[f"pipeline {precision}" + " with proposals" * proposals] = partial(labels, pipeline)
    return ways


if __name__ == "__main__":
    main()
