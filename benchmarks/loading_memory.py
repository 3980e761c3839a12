"""Whether memory stays flat: preparing a folder of pictures and training on its cache, at one size and twenty times it.

    python benchmarks/loading_memory.py

Each figure is the peak resident memory of a process of its own. Training uses the preset small at its real size; the
cache is read from disk, as those above a gigabyte always are.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
TIMES = 20


def main() -> None:
    """Print a table, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048, help="pictures of the smaller folder")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each phase")
    parser.add_argument("--process", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        kind, folder = arguments.process
        {"prepare": prepare_folder, "train": train_on_cache}[kind](Path(folder), arguments.steps)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / "once", Path(place) / "more"]
        for folder, count in zip(folders, (arguments.images, TIMES * arguments.images), strict=True):
            write_pictures(folder / "pictures", count)
        print(f"peak MiB            {arguments.images} pictures   {TIMES * arguments.images} pictures")
        for kind in ("prepare", "train"):
            command = [sys.executable, __file__, "--steps", str(arguments.steps), "--process", kind]
            peaks = [int(subprocess.check_output([*command, str(folder)]).split()[-1]) for folder in folders]
            print(f"  {kind:<20}{peaks[0]:>10}{peaks[1]:>17}   ({100 * (peaks[1] / peaks[0] - 1):+.1f} %)")


def write_pictures(folder: Path, count: int) -> None:
    """Coarse noise, so that the files are small."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = (
            generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(SIDE // 4, axis=0).repeat(SIDE // 4, axis=1)
        )
        Image.fromarray(coarse).save(folder / f"{number}.png", compress_level=1)


def prepare_folder(folder: Path, _: int) -> None:
    """What ``astseg prepare`` does, in this process."""
    from astseg.data.cache import prepare

    prepare(folder / "pictures", folder / "cache", size=(SIDE, SIDE))


def train_on_cache(folder: Path, steps: int) -> None:
    """What ``astseg train`` does, shortened: all phases, pseudo-labels included."""
    import torch

    from astseg.config.presets import preset
    from astseg.data import fingerprint, load_scenes
    from astseg.runs.folder import RunFolder
    from astseg.training.logging import Reporter
    from astseg.training.loop import train

    torch.set_num_threads(1)
    scenes = load_scenes(folder / "cache", size=SIDE, memory=0)
    fingerprint(scenes)
    config = preset("small").with_steps(steps)
    config = replace(config, background=replace(config.background, steps=steps))
    train(config, scenes, run=RunFolder(folder / "run"), seed=0, reporter=Reporter(), device=torch.device("cpu"))


if __name__ == "__main__":
    main()
