"""What the benchmarks share: a clock, peak memory, the machine in one line, tables."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["in_a_process_of_its_own", "machine", "peak_memory", "print_table", "timed"]


def machine(device: str) -> str:
    """Processor or GPU, threads, and the version of torch."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads, {torch.__version__}"


def timed(run: Callable[[], Any], *, device: str, repeats: int, clock: str, warmup: int = 1) -> list[float]:
    """Seconds of each of several calls.

    Args:
        run: What is timed.
        device: Waited for after each call if it is a GPU.
        repeats: Calls that count.
        clock: ``wall``, or ``cpu`` for the processor time of this process: on a shared core, with one thread.
        warmup: Calls before, that do not count.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    seconds = []
    for call in range(warmup + repeats):
        start = now()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        if call >= warmup:
            seconds.append(now() - start)
    return seconds


def peak_memory(run: Callable[[], Any], *, device: str) -> float:
    """MB that a call needs at its peak beyond what was held before it; Linux alone resets its mark of the peak."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew (Linux)
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e3


def in_a_process_of_its_own(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark script again with other arguments; what it prints last is JSON.

    Peak memory is a mark of a whole process, and what one variant leaves in caches would count for the next.
    """
    result = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    values: dict[str, Any] = json.loads(result[-1])
    return values


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "-|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _status(name: str) -> float:
    """A value of /proc/self/status in kB."""
    return float(next(line for line in _lines("/proc/self/status") if line.startswith(name)).split()[1])
