"""Where a training step of the objects spends its time on a GPU, and how far it is from what the chip can do.

    python benchmarks/gpu.py --backbone segformer-b0 --batch 64
    python benchmarks/gpu.py --backbone segformer-b3 --batch 64

Each part is run by itself, forth and back: as training runs it (``eager``), and replayed from a recorded CUDA graph,
which leaves out the time in which Python and the driver start one kernel after the other (``replayed``). ``kernels``
are counted by the profiler. Arithmetic is that of matrix products and convolutions, counted by torch; next to it stands
what a large matrix product reaches on the same chip at the same precision, and the rate of a large copy.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from astseg.model.ops import attention_pool
from measuring import machine, peak_memory, print_table, timed
from step import made, our_loss, paper_loss

PRECISIONS = ("float32", "tf32", "bfloat16")
WARM_UP = 3


def main() -> None:
    """Measure every part at every precision and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="segformer-b0")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    options = parser.parse_args()
    options.device, options.scale = "cuda", None
    print(machine(options.device))
    print(f"{options.backbone}, {options.size[0]}x{options.size[1]}, batch {options.batch}, K {options.slots}")
    print(f"a large copy: {copy_rate():.2f} TB/s, read and written")
    rows = []
    for precision in options.precisions:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        limit = matrix_rate(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        for name, part in parts(options, half=precision == "bfloat16").items():
            rows.append([precision, name, *measured(part, options.repeats), limit])
    print_table(
        ["precision", "part", "eager ms", "replayed ms", "kernels", "MB", "GFLOP", "TFLOP/s replayed", "large product"],
        rows,
    )


def parts(options: argparse.Namespace, *, half: bool) -> dict[str, Callable[[], object]]:
    """The step and its parts, each a call that leaves gradients behind."""
    model, images, background = made(options)
    optimizer = torch.optim.Adam(
        model.object_parameters(), lr=4e-5, betas=(0.9, 0.98), eps=1e-9, fused=True, capturable=True
    )
    with torch.no_grad():
        maps = model.encoder.backbone(images).float()
        latents, _ = model.encoder.locate(images)
    slots = model.encoder.slots
    for one in vars(latents).values():
        one.requires_grad_()
    maps.requires_grad_()

    def autocast() -> torch.autocast | nullcontext[None]:
        # Without its cache, which would keep casts that belong to the recorded graph.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if half else nullcontext()

    def whole() -> None:
        with autocast():
            total = our_loss(model, images, background)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    def backbone() -> None:
        with autocast():
            found = model.encoder.backbone(images)
        found.float().square().mean().backward()

    def refinement() -> None:
        raw = model.encoder.refinement(attention_pool(maps[:, :slots], maps[:, slots:])[1])
        raw.square().mean().backward()

    def renderer() -> None:
        with autocast():
            rendering = model.renderer(latents, background, layers=False)
        paper_loss(rendering.weights, rendering.reconstruction, images).backward()

    def optimiser() -> None:
        optimizer.step()

    whole()  # gradients and moments are there
    return {
        "whole step": whole,
        "backbone": backbone,
        "refinement": refinement,
        "renderer and losses": renderer,
        "optimiser": optimiser,
    }


def measured(part: Callable[[], object], repeats: int) -> list[float | int]:
    """Eager ms, replayed ms, kernels, MB, GFLOP, TFLOP/s replayed."""
    eager = median(timed(part, device="cuda", repeats=repeats, clock="wall", warmup=WARM_UP))
    megabytes = peak_memory(part, device="cuda")
    counted = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        part()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        part()
        torch.cuda.synchronize()
    kernels = sum(event.count for event in profiler.key_averages() if event.device_type.name == "CUDA")
    seconds = median(timed(recorded(part).replay, device="cuda", repeats=repeats, clock="wall", warmup=WARM_UP))
    operations = counter.get_total_flops()
    return [1e3 * eager, 1e3 * seconds, kernels, round(megabytes), operations / 1e9, operations / seconds / 1e12]


def convolution_backward(
    gradient: Sequence[int], features: Sequence[int], weight: Sequence[int], *others: Any, **named: Any
) -> int:
    """Operations of a convolution's way back, from shapes; torch's own count takes no notice of groups.

    Each number of the weight meets each place of the smaller map once, for either gradient that is wanted.
    """
    places = min(math.prod(features[2:]), math.prod(gradient[2:]))
    wanted: Sequence[bool] = others[7]
    return 2 * gradient[0] * places * math.prod(weight) * sum(wanted[:2])


def recorded(part: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A call as a CUDA graph: warmed up on a stream of its own, then recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            part()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        part()
    return graph


def matrix_rate(dtype: torch.dtype, side: int = 8192) -> float:
    """TFLOP/s of a large product of random matrices."""
    one, other = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    seconds = median(timed(lambda: one @ other, device="cuda", repeats=5, clock="wall", warmup=2))
    return 2 * side**3 / seconds / 1e12


def copy_rate(numbers: int = 2**30) -> float:
    """TB/s of a large copy, bytes read and bytes written."""
    one = torch.empty(numbers, device="cuda", dtype=torch.float32).normal_()
    other = torch.empty_like(one)
    seconds = median(timed(lambda: other.copy_(one), device="cuda", repeats=5, clock="wall", warmup=2))
    return 2 * 4 * numbers / seconds / 1e12


if __name__ == "__main__":
    main()
