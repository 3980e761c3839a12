"""Real pictures from fixed cameras: ``fit``, ``segment``, the score, and simple answers beside it.

    python benchmarks/real.py DATA_ROOT --out FOLDER [--minutes 12] [--sets highway cells ...] [--peers]

``DATA_ROOT`` holds a folder a set (``highway``, ``pedestrians``, ``zebrafish``, ``guppies``, ``billiards``, ``cells``)
and ``score.py``, which measures label maps: ``score.py SET MASKS`` prints figures as JSON, ``score.py baseline SET
OUT`` writes the masks of a classical answer. ``--peers`` runs that and OpenCV's MOG2 (``pip install opencv-python-
headless``). Prints one Markdown table; each run, its masks and its output stay in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SETS = {
    "highway": "highway/frames",
    "pedestrians": "pedestrians/vtest.avi",
    "zebrafish": "zebrafish/zebrafish.avi",
    "guppies": "guppies/frames",
    "billiards": "billiards/frames",
    "cells": "cells/frames",
}
FIGURES = ("foreground_f", "f1", "recall", "precision", "seg", "found", "count_right")


def run(words: list[str], log: Path) -> tuple[str, float]:
    """Output and seconds of a command; its output is kept in a file as well."""
    begin = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {log}")
    return done.stdout, time.monotonic() - begin


def score(root: Path, name: str, masks: Path, out: Path) -> dict[str, float]:
    """The figures of a folder of label maps."""
    figures: dict[str, float] = json.loads(
        run([sys.executable, str(root / "score.py"), name, str(masks)], out / f"{name}.score.txt")[0]
    )
    return figures


def astseg(root: Path, name: str, out: Path, minutes: float) -> tuple[dict[str, float], float, float]:
    """Figures of ``fit`` and ``segment``, seconds of the first, images a second of the other."""
    program, data = [sys.executable, "-m", "astseg"], str(root / SETS[name])
    fit = [*program, "fit", data, "--out", str(out / name), "--minutes", f"{minutes:g}"]
    _, seconds = run(fit, out / f"{name}.fit.txt")
    masks = out / f"{name}-masks"
    said, spent = run(
        [*program, "segment", str(out / name), data, "--out", str(masks), "--write"], out / f"{name}.segment.txt"
    )
    count = len(list((masks / "masks").rglob("*.png")))
    return score(root, name, masks / "masks", out), seconds, count / spent


def mixture(root: Path, name: str, out: Path) -> Path:
    """Label maps of OpenCV's mixture of Gaussians: connected parts of what it calls foreground."""
    import cv2
    from astseg.data import open_source

    source, subtractor = open_source(root / SETS[name]), cv2.createBackgroundSubtractorMOG2()
    folder = out / f"{name}-mog2"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(source)):
        mask = (subtractor.apply(source.read(index)[0]) == 255).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        stem = Path(source.scene_name(index)).stem
        Image.fromarray(cv2.connectedComponents(mask)[1].astype(np.uint16)).save(folder / f"{stem}.png")
    return folder


def spelled(figures: dict[str, float]) -> str:
    """The figures of a set, in one cell."""
    return ", ".join(f"{name} {figures[name]:.3f}" for name in FIGURES if name in figures)


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--peers", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    columns = ["set", f"`fit --minutes {asked.minutes:g}`", "seconds", "images/s"]
    columns += ["classical", "MOG2"] if asked.peers else []
    print(f"| {' | '.join(columns)} |\n|{'-|' * len(columns)}", flush=True)
    for name in asked.sets:
        figures, seconds, speed = astseg(asked.root, name, asked.out, asked.minutes)
        row = [name, spelled(figures), f"{seconds:.0f}", f"{speed:.1f}"]
        if asked.peers:
            classical = asked.out / f"{name}-classical"
            baseline = [sys.executable, str(asked.root / "score.py"), "baseline", name, str(classical)]
            run(baseline, asked.out / f"{name}.baseline.txt")
            for folder in (classical, mixture(asked.root, name, asked.out)):
                row.append(spelled(score(asked.root, name, folder, asked.out)))
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
