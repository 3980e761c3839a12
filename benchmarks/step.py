"""Time and memory of a training step of the objects, against a plain transcription of the algorithms.

    python benchmarks/step.py --threads 1
    python benchmarks/step.py --device cuda --backbone segformer-b3 --batch 64 --compile

Images and backgrounds are random numbers and the background is given, as in phase 2 of the curriculum. The plain step
(:mod:`astseg.model.reference`) uses the same weights; before anything is timed, both must give the same result and the
same gradients. On a GPU ``replayed`` is ours as training runs it there, recorded as CUDA graphs
(:mod:`astseg.training.cuda_graphs`). Each variant runs in a process of its own; with ``--clock cpu`` its processor time
counts, which on a core shared with other work is what the time would be without it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from astseg.config import ModelConfig
from astseg.model.astseg import AstSeg, build
from astseg.model.reference import plain_losses, plain_maps, plain_scene
from astseg.training.cuda_graphs import Recorded, RenderStep
from astseg.training.losses import pixel_entropy_loss, reconstruction_loss
from astseg.types import SceneOutput
from measuring import in_a_process_of_its_own, machine, peak_memory, print_table, timed

ENTROPY_WEIGHT = 1e-2
PRECISIONS = ("float32", "bfloat16")
VARIANTS = tuple(f"{form} {precision}" for precision in PRECISIONS for form in ("plain", "ours"))
SAME_RESULT, SAME_GRADIENT = 1e-4, 1e-3


def main() -> None:
    """Check, measure every variant, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="segformer-b0")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--scale", type=float, help="inverse scale that objects start at; default: the middle, 12.65")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--compile", action="store_true", help="also our step through torch.compile")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one variant, as JSON: what the child processes run
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measured(options)))
        return
    print(machine(options.device))
    print(f"{options.backbone}, {options.size[0]}x{options.size[1]}, batch {options.batch}, K {options.slots}")
    child = [word for name, value in vars(options).items() for word in _flag(name, value)]
    forms = [*["replayed"] * options.device.startswith("cuda"), *["compiled"] * options.compile]
    variants = [*options.variants, *(f"{form} {precision}" for form in forms for precision in PRECISIONS)]
    print("; ".join(f"difference of {name}: {value:.2g}" for name, value in differences(options).items()))
    results = {}
    for name in variants:
        results[name] = in_a_process_of_its_own(__file__, [*child, "--only", name])
        print(f"{name}: {results[name]['seconds']:.3g} s", flush=True)
    first = results[variants[0]]
    print_table(
        ["step", "seconds", "fastest", "times faster", "MB", "of its memory", "backbone", "rest", "optimiser"],
        [
            [
                name,
                one["seconds"],
                one["fastest"],
                first["seconds"] / one["seconds"],
                round(one["megabytes"]),
                one["megabytes"] / first["megabytes"],
                *(f"{100 * one[part] / one['seconds']:.0f} %" for part in ("backbone", "rest", "optimiser")),
            ]
            for name, one in results.items()
        ],
    )


def _flag(name: str, value: Any) -> list[str]:
    if name in ("only", "compile", "variants") or value is None:
        return []
    return [f"--{name}", *(str(one) for one in (value if isinstance(value, list | tuple) else [value]))]


def made(options: argparse.Namespace, **settings: Any) -> tuple[AstSeg, Tensor, Tensor]:
    """A model with fresh weights, images and backgrounds, from one seed."""
    torch.manual_seed(0)
    model = build(
        ModelConfig(
            image_size=tuple(options.size),
            slots=options.slots,
            backbone=options.backbone,
            background_width="small",
            **settings,
        )
    ).to(options.device)
    if options.scale is not None:
        smallest, largest = model.encoder.scale_range
        share = (options.scale - smallest) / (largest - smallest)
        with torch.no_grad():
            model.encoder.refinement.projection.bias[2:4] = torch.tensor(share).logit()
    model.background_model.requires_grad_(False)
    images, background = (torch.rand(options.batch, 3, *options.size, device=options.device) for _ in range(2))
    return model.train(), images.to(memory_format=torch.channels_last), background


def our_loss(model: Any, images: Tensor, background: Tensor) -> Tensor:
    """The paper's loss, as training computes it."""
    output = model(images, background, layers=False)
    return paper_loss(output.weights, output.reconstruction, images)


def paper_loss(weights: Tensor, reconstruction: Tensor, images: Tensor) -> Tensor:
    """Reconstruction and pixel entropy, weighted."""
    return reconstruction_loss(reconstruction, images) + ENTROPY_WEIGHT * pixel_entropy_loss(weights)


def plain_loss(model: AstSeg, images: Tensor, background: Tensor) -> Tensor:
    """The same, plainly."""
    return plain_losses(*plain_scene(model, images, background), images, entropy_weight=ENTROPY_WEIGHT)


def differences(options: argparse.Namespace) -> dict[str, float]:
    """How far our step is from the plain one, without dropout, on a few images.

    ``result``: the largest absolute difference of the reconstruction, in float32. ``gradient``: the norm of the
    difference of all gradients over their norm, in float32. ``tensor``: the same for the parameter where it is largest,
    in float64: in float32 the rounding of the sampling grid alone is worth 2e-3 there.

    Raises:
        SystemExit: Too far.
    """
    torch.backends.cudnn.allow_tf32 = False  # which a GPU's convolutions else are rounded to
    few = argparse.Namespace(**{**vars(options), "batch": min(4, options.batch)})
    model, images, background = made(few, dropout=0.0, background_log_activation=1.0)
    for module in model.modules():  # what is drawn at random would differ
        if "Drop" in type(module).__name__:
            module.eval()
    with torch.no_grad():
        far = plain_scene(model, images, background)[1] - model(images, background, layers=False).reconstruction
    found = {"result": float(far.abs().max()), "gradient": _distance(*_gradients(model, images, background))}
    if not options.device.startswith("mps"):
        plain, ours = _gradients(model.double(), images.double(), background.double())
        least = 1e-9 * max(float(gradient.norm()) for gradient in plain)  # below it: biases before a normalisation
        pairs = [([one], [other]) for one, other in zip(plain, ours, strict=True) if one.norm() > least]
        found["tensor"] = max(_distance(*pair) for pair in pairs)
    if found["result"] > SAME_RESULT or max(found["gradient"], found.get("tensor", 0.0)) > SAME_GRADIENT:
        raise SystemExit(f"the two steps are not the same: {found}")
    return found


def _gradients(model: AstSeg, images: Tensor, background: Tensor) -> list[tuple[Tensor, ...]]:
    return [
        torch.autograd.grad(loss(model, images, background), model.object_parameters())
        for loss in (plain_loss, our_loss)
    ]


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Norm of the difference over the norm, of all tensors together."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True))
    return float((apart / sum(float(a.square().sum()) for a in one)) ** 0.5)


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and megabytes of one variant, and what its parts cost by themselves, forth and back."""
    form, precision = options.only.split()
    model, images, background = made(options)
    optimizer = torch.optim.Adam(model.object_parameters(), lr=4e-5, betas=(0.9, 0.98), eps=1e-9, fused=True)
    half = partial(torch.autocast, options.device.split(":")[0], torch.bfloat16)
    context = half if precision == "bfloat16" and form != "replayed" else nullcontext  # which has its own
    loss_of = plain_loss if form == "plain" else our_loss
    runs: Any = torch.compile(model) if form == "compiled" else model
    if form == "replayed":
        replayed = Recorded(RenderStep(model), precision=precision, graphs=True)

        def runs(images: Tensor, background: Tensor, layers: bool) -> SceneOutput:
            return RenderStep.output(replayed(images, background))

    def step() -> None:
        with context():
            loss = loss_of(runs, images, background)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def backbone() -> None:
        with context():
            network = model.encoder.backbone
            maps = plain_maps(network, images) if form == "plain" else network(images)
        maps.float().square().mean().backward()

    repeated = partial(timed, device=options.device, repeats=options.steps, clock=options.clock)
    step()  # the optimiser's state belongs to what is held before
    megabytes = peak_memory(step, device=options.device)
    seconds = repeated(step)
    backbone_seconds = median(repeated(backbone))
    optimiser_seconds = median(repeated(optimizer.step))
    whole = median(seconds)
    return {
        "seconds": whole,
        "fastest": min(seconds),
        "megabytes": megabytes,
        "backbone": backbone_seconds,
        "optimiser": optimiser_seconds,
        "rest": max(0.0, whole - backbone_seconds - optimiser_seconds),
    }


if __name__ == "__main__":
    main()
