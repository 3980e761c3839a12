"""What a full training of each preset costs: arithmetic, memory, and hours on a GPU, phase by phase.

    python benchmarks/preset_cost.py --out scripts/expected.tsv

No GPU is needed. Arithmetic and the memory of activations are counted on a CPU, in one step of two images at full size.
Hours are that arithmetic at the pace of the authors' own training logs (:data:`LOGGED`, a card of the class of an
RTX A4000). An A100 has the same arithmetic in float32 and 3.5 times the memory bandwidth (1,555 against 448 GB/s), so a
step takes between the same time and 1/3.5 of it there: the two bounds that are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from astseg.config import Config
from astseg.config.presets import PRESETS, preset
from astseg.model.astseg import AstSeg, build
from astseg.training.losses import background_loss, pixel_entropy_loss, reconstruction_loss

LOGGED = {"background": 500_000 / 2.1, "objects": 125_000 / 2.8}
"""Seconds that the authors' logs show for clevrtex-ct: 2.1 and 2.8 steps a second."""
BANDWIDTH_RATIO = 1555 / 448
IMAGES = {"clevr": 70_000, "clevrtex": 40_000, "shapestacks": 217_888, "objects": 1_000_000, "video": 10_000}
"""Training images that lie on the device, 8 bits a channel: the published sets, roughly; for videos a guess."""
FROZEN_BYTES = 4e9
BATCH = 2


@dataclass(frozen=True)
class Cost:
    """Of one phase: steps, arithmetic of a step, bytes that it holds."""

    preset: str
    phase: str
    steps: int
    flops: float
    memory: float


def counted(step: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> tuple[float, float]:
    """Arithmetic of a step forward and back, and the bytes that it saves on the way, both for one image."""
    own = {parameter.data_ptr() for parameter in parameters}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
        held = sum(saved.values())
        loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / BATCH, held / BATCH


def measure(name: str, config: Config) -> Iterator[Cost]:
    """The phases of one preset."""
    width = config.model.background_width
    settings = replace(config.model, backbone_weights=None, background_width="complex" if width == "auto" else width)
    model = build(settings).train()
    images = torch.rand(BATCH, 3, *settings.image_size)
    data = 3 * settings.image_size[0] * settings.image_size[1] * IMAGES[name.partition("-")[0]]
    background, objects = config.background, config.objects
    frozen = min(objects.frozen_steps, objects.steps) if objects.scenario == "curriculum" else 0
    phases: list[tuple[str, int, int, Callable[[], Tensor], Sequence[nn.Parameter], float]] = [
        (
            "objects",
            frozen,
            objects.batch,
            lambda: object_step(model, images, images),
            model.object_parameters(),
            data + 2 * data * (2 * data <= FROZEN_BYTES),
        ),
        (
            "joint",
            objects.steps - frozen,
            objects.batch,
            lambda: object_step(model, images, None),
            list(model.parameters()),
            data,
        ),
    ]
    if objects.scenario == "curriculum":
        parameters = list(model.background_model.parameters())
        phases.insert(
            0,
            (
                "background",
                background.steps,
                background.batch,
                lambda: background_step(model, images),
                parameters,
                data,
            ),
        )
    for phase, steps, batch, step, parameters, held in phases:
        if steps:
            model.background_model.requires_grad_(phase != "objects")
            flops, activations = counted(step, parameters)
            weights = 4 * sum(parameter.numel() for parameter in model.parameters())
            moments = 12 * sum(parameter.numel() for parameter in parameters)  # gradients and two moments
            yield Cost(name, phase, steps, flops * batch, weights + moments + activations * batch + held)


def background_step(model: AstSeg, images: Tensor) -> Tensor:
    """Loss of phase 1."""
    background, error = model.background_model(images)
    return background_loss(images, background, error, beta=6.0)["total"]


def object_step(model: AstSeg, images: Tensor, background: Tensor | None) -> Tensor:
    """Loss of phases 2 and 3."""
    output = model(images, background, layers=False)
    return reconstruction_loss(output.reconstruction, images) + 1e-2 * pixel_entropy_loss(output.weights)


def paces(costs: Sequence[Cost]) -> dict[str, float]:
    """Arithmetic a second that the authors' logs stand for, by kind of phase."""
    known = {cost.phase: cost for cost in costs if cost.preset == "clevrtex-ct"}
    objects = sum(known[phase].flops * known[phase].steps for phase in ("objects", "joint"))
    background = known["background"].flops * known["background"].steps
    return {
        "background": background / LOGGED["background"],
        "objects": objects / LOGGED["objects"],
        "joint": objects / LOGGED["objects"],
    }


def rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """The table: hours between an A100's bandwidth and its arithmetic, memory in GiB."""
    pace = paces(costs)
    table = []
    for cost in costs:
        hours = cost.steps * cost.flops / pace[cost.phase] / 3600
        table.append(
            {
                "preset": cost.preset,
                "phase": cost.phase,
                "steps": cost.steps,
                "teraflop_a_step": f"{cost.flops / 1e12:.2f}",
                "hours_from": f"{hours / BANDWIDTH_RATIO:.1f}",
                "hours_to": f"{hours:.1f}",
                "gib": f"{cost.memory / 2**30:.0f}",
            }
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="file for the table, tab-separated")
    parser.add_argument("--presets", nargs="+", default=[name for name in PRESETS if name != "small"])
    options = parser.parse_args(arguments)
    names = options.presets if "clevrtex-ct" in options.presets else ["clevrtex-ct", *options.presets]
    table = rows([cost for name in names for cost in measure(name, preset(name))])
    lines = ["\t".join(table[0]), *("\t".join(str(value) for value in row.values()) for row in table)]
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
