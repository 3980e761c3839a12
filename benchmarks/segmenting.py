"""From files to files: pictures a second, and whether memory stays flat.

    python benchmarks/segmenting.py RUN
    python benchmarks/segmenting.py RUN --threads 1 --clock cpu

Desk scenes as PNGs of several sizes go through ``segment_folder``. Memory is the peak resident memory of a process that
has the model and 50 pictures behind it, and of the same process after twenty times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from astseg.data.synthetic.generate import render_scenes
from astseg.inference.segmenter import Segmenter
from astseg.inference.writers.run import segment_folder
from measuring import in_a_process_of_its_own, machine, print_table

SIZES = ((64, 64), (240, 320), (768, 1024))
WAYS = {"masks and tables": (), "overlays too": ("overlays",), "as by default": None}
FEW, TIMES = 50, 20


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segmenter = Segmenter.from_pretrained(options.run, "cpu")
    if options.memory is not None:
        print(json.dumps(peaks(segmenter, options.memory)))
        return
    print(machine("cpu"))
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for height, width in SIZES:
            pictures = folder / f"{width}x{height}"
            write(pictures, (height, width), options.pictures)
            segment_folder(segmenter, pictures, folder / "warm", write=())
            for number, (way, kinds) in enumerate(WAYS.items()):
                start = now()
                segment_folder(segmenter, pictures, folder / f"{number}-{width}", write=kinds)
                rows.append([f"{width}x{height}", way, options.pictures / (now() - start)])
        print_table(["pictures", "what is written", "pictures/s"], rows)
        told = in_a_process_of_its_own(
            __file__, [str(options.run), "--threads", "1", "--memory", str(folder / "memory")]
        )
        print_table(["pictures", "MiB at the peak"], [[count, round(peak)] for count, peak in told.items()])


def write(folder: Path, size: tuple[int, int], count: int) -> None:
    """Eight desk scenes, over and over, under different names."""
    folder.mkdir(parents=True)
    scenes = render_scenes("desk", seed=5, count=min(8, count), size=size)
    for number in range(count):
        if number < 8:
            Image.fromarray(scenes.images[number]).save(folder / f"{number:05d}.png")
        else:
            os.link(folder / f"{number % 8:05d}.png", folder / f"{number:05d}.png")


def peaks(segmenter: Segmenter, folder: Path) -> dict[int, float]:
    """MiB after some pictures of 320x240 and after twenty times as many, all of the default files written."""
    told = {}
    for count in (FEW, FEW * TIMES):
        write(folder / str(count), (240, 320), count)
        segment_folder(segmenter, folder / str(count), folder / f"out-{count}")
        told[count] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return told


if __name__ == "__main__":
    main()
