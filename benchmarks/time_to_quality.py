"""How long until the masks are good: recipes against each other, from nothing, background included.

    python benchmarks/time_to_quality.py --scenes desk --seeds 0 1 2 --threads 1 --out runs/time-to-quality
    python benchmarks/time_to_quality.py --scenes objects_room_64.npz --minutes 30 --out runs/time-to-quality-room

Each run has the same minutes; its schedules follow the clock, and the time that measuring takes (a few per cent) is
part of it but not of the curve. A finished run is kept in ``results.jsonl`` and not run again, so the script can be
stopped. Single runs on a shared machine say little: compare the seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from astseg.config import Config, override
from astseg.config.presets import preset
from astseg.data import load_scenes
from astseg.data.synthetic.generate import FAMILIES, render_scenes
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import AstSeg
from astseg.runs.folder import RunFolder
from astseg.training.logging import Reporter
from astseg.training.loop import train
from astseg.types import SceneArrays
from curves import learning_curves
from measuring import machine

PUBLISHED = {
    "model": {
        "slots": 6,
        "glimpse_crop": 0,
        "refinement": "paper",
        "glimpse_width": 1,
        "background_form": "paper",
    },
    "inference": {"colour_std": 0.0, "proposals": False},
    "background": {"ramp": [0.0, 0.0]},
    "objects": {
        "pruning_margin": 0.0,
        "pseudo_label_steps": 0,
        "pseudo_label_weight": 0.0,
        "parsimony_weight": 0.0,
        "decay": "step",
        "learning_rate": 3e-4,
        "frozen_steps": 960,
        "entropy_ramp": 320,
    },
}
"""The paper's losses, schedules (stretched to the steps of ``small``) and forms, with the small network and batch."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {},
    "varying": {"model": {"background_form": "varying"}},
    "without slot pruning": {"objects": {"pruning_margin": 0.0}},
    "without pseudo-label steps": {"inference": {"proposals": False}, "objects": {"pseudo_label_steps": 0}},
    "without a glimpse encoder": {"model": {"glimpse_crop": 0}, "inference": {"proposals": False}},
    "without proposals": {"inference": {"proposals": False}},
    "six slots": {"model": {"slots": 6}},
    "without parsimony": {"inference": {"proposals": False}, "objects": {"parsimony_weight": 0.0}},
    "without pseudo-labels": {
        "inference": {"proposals": False},
        "objects": {"pseudo_label_steps": 0, "pseudo_label_weight": 0.0},
    },
    "paper": PUBLISHED,
}
"""What each changes of the preset ``small``. What teaches the encoder is left out together with proposals, which would
make up for it: compare with ``without proposals``."""


def run(
    config: Config, scenes: SceneArrays, test: SceneArrays, *, seed: int, minutes: float, every: float
) -> dict[str, Any]:
    """One run from nothing: its learning curve, a point every so many seconds, and its last figures."""
    curve: list[dict[str, Any]] = []
    begun, measuring, due = time.perf_counter(), 0.0, every
    sizes = {"background": config.background.batch}
    seen = 0

    def point(model: AstSeg, phase: str, step: int) -> None:
        nonlocal measuring
        start = time.perf_counter()
        means = evaluate(Pipeline(model, config.inference), test).mean
        figures = {name: round(means[name], 4) for name in ("ari_fg", "miou", "mse", "slots_used")}
        done = round((start - begun - measuring) / 60, 3)
        curve.append({"minutes": done, "phase": phase, "step": step, "images": seen, **figures})
        measuring += time.perf_counter() - start

    def watch(model: nn.Module, phase: str, step: int, _: float) -> None:
        nonlocal due, seen
        seen += sizes.get(phase, config.objects.batch)
        if time.perf_counter() - begun - measuring >= due:
            due += every
            assert isinstance(model, AstSeg)
            point(model, phase, step)

    with tempfile.TemporaryDirectory() as folder:
        model = train(
            config,
            scenes,
            run=RunFolder(Path(folder)),
            seed=seed,
            reporter=Reporter(),
            minutes=minutes,
            watch=watch,
        )
    point(model, "done", 0)
    return {"curve": curve, **curve[-1]}


def run_all(
    scenes: SceneArrays, test: SceneArrays, options: argparse.Namespace, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Every recipe of every seed that is not in ``results.jsonl`` yet; all results."""
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in options.seeds:
        for name in options.recipes:
            if any((result["recipe"], result["seed"]) == (name, seed) for result in results):
                continue
            config = override(
                override(preset("small"), RECIPES[name]), {"model": {"image_size": [*scenes.images.shape[1:3]]}}
            )
            measured = run(config, scenes, test, seed=seed, minutes=options.minutes, every=options.every)
            result = {"recipe": name, "seed": seed, "machine": machine("cpu"), **measured}
            results.append(result)
            with file.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            say(f"{name}, seed {seed}: ARI-FG {result['ari_fg']:.3f}, mIoU {result['miou']:.3f}")
    return results


def table(results: Sequence[dict[str, Any]], *, aim: float) -> str:
    """A row a run, figures in percent, and the minutes after which ARI-FG was at the aim for the first time."""
    lines = [f"| recipe | seed | ARI-FG | mIoU | MSE | images | minutes to {100 * aim:.0f} |", "|-|-|-|-|-|-|-|"]
    for result in results:
        reached = [point["minutes"] for point in result["curve"] if point["ari_fg"] >= aim]
        figures = (
            f"{100 * result['ari_fg']:.1f} | {100 * result['miou']:.1f} | {result['mse']:.1f} | {result['images']}"
        )
        lines.append(f"| {result['recipe']} | {result['seed']} | {figures} | {reached[0] if reached else 'never'} |")
    return "\n".join(lines)


def load(options: argparse.Namespace) -> tuple[SceneArrays, SceneArrays]:
    """Scenes to learn from and others to measure on."""
    if options.scenes in FAMILIES:
        return (
            render_scenes(options.scenes, seed=0, count=options.count, size=options.size, processes=2),
            render_scenes(options.scenes, seed=1_000_000, count=options.test_count, size=options.size, processes=2),
        )
    train_scenes, test_scenes = (
        load_scenes(Path(options.scenes), size=options.size, selection=selection)
        for selection in (options.train, options.test)
    )
    return train_scenes, test_scenes


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", default="desk", help="desk, rooms, or scenes with masks as for astseg train")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl, table.md and curves.svg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds (default 0)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES], help="which (default all)")
    parser.add_argument("--minutes", type=float, default=12.0, help="of each run (default 12)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two points (default 60)")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default as torch chooses)")
    parser.add_argument("--count", type=int, default=10_000, help="made-up scenes to learn from (default 10000)")
    parser.add_argument("--test-count", type=int, default=200, help="made-up scenes to measure on (default 200)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels (default 64)")
    parser.add_argument("--train", default=":-500", help="scenes to learn from, of a file (default :-500)")
    parser.add_argument("--test", default="-500:", help="scenes to measure on, of a file (default -500:)")
    parser.add_argument("--aim", type=float, default=0.85, help="ARI-FG to be reached (default 0.85)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write table and picture."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    results = run_all(*load(options), options)
    text = table(results, aim=options.aim)
    (options.out / "table.md").write_text(text + "\n")
    curves = {name: [r["curve"] for r in results if r["recipe"] == name] for name in options.recipes}
    (options.out / "curves.svg").write_text(learning_curves(curves, across="minutes"))
    print(text)


if __name__ == "__main__":
    main()
