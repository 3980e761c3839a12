"""How time and memory of a training step grow with the slots, the image and the batch.

    python benchmarks/growth.py --clock cpu
    python benchmarks/growth.py --backbone segformer-b0 --only 24 200 320 24

One of slots, side and batch is varied at a time. The slope is that of a straight line through the logarithms: 1 is
proportional, 2 quadratic (of the side: proportional to the pixels).
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import median

import torch

from measuring import in_a_process_of_its_own, machine, peak_memory, print_table, timed
from step import made, our_loss

SLOTS, SIDES, BATCHES = (3, 6, 12, 24, 48), (64, 96, 128, 192, 256), (4, 8, 16, 32)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="cnn")
    parser.add_argument("--slots", type=int, default=6, help="K where another is varied")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", type=int, nargs=4, metavar=("K", "HEIGHT", "WIDTH", "BATCH"), help="one case")
    parser.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)  # what the child processes say
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.as_json:
        print(json.dumps(measured(options)))
        return
    print(machine(options.device))
    k, side, batch = options.slots, options.side, options.batch
    series = {
        "slots": {n: (n, side, side, batch) for n in SLOTS},
        "side": {n: (k, n, n, batch) for n in SIDES},
        "batch": {n: (k, side, side, n) for n in BATCHES},
    }
    if options.only:
        series = {"one case": {1: tuple(options.only)}}
    rows = []
    for varied, cases in series.items():
        values = {n: child(options, case) for n, case in cases.items()}
        for n, case in cases.items():
            rows.append(
                [varied, case[0], f"{case[1]}x{case[2]}", case[3], values[n]["seconds"], values[n]["megabytes"]]
            )
        if len(cases) > 1:
            slopes = [slope(list(cases), [values[n][what] for n in cases]) for what in ("seconds", "megabytes")]
            rows.append([f"slope in {varied}", "", "", "", *(f"{value:.2f}" for value in slopes)])
    print_table(["varied", "K", "size", "batch", "seconds", "MB"], rows)


def child(options: argparse.Namespace, case: tuple[int, ...]) -> dict[str, float]:
    """One case in a process of its own."""
    words = [f"--{name}={getattr(options, name)}" for name in ("backbone", "steps", "threads", "device", "clock")]
    return in_a_process_of_its_own(__file__, [*words, "--as-json", "--only", *map(str, case)])


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and megabytes of a float32 step."""
    options.slots, height, width, options.batch = options.only
    options.size, options.scale = (height, width), None
    model, images, background = made(options)
    optimizer = torch.optim.Adam(model.object_parameters(), lr=4e-5, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        our_loss(model, images, background).backward()
        optimizer.step()

    step()
    megabytes = peak_memory(step, device=options.device)
    return {
        "seconds": median(timed(step, device=options.device, repeats=options.steps, clock=options.clock, warmup=0)),
        "megabytes": megabytes,
    }


def slope(sizes: list[int], values: list[float]) -> float:
    """The slope of the line of least squares through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return across / sum((a - middle_x) ** 2 for a in x)


if __name__ == "__main__":
    main()
