"""The paper's ablations at a size that a CPU can bear: scenario, backbone and refinement, with learning curves.

    python benchmarks/ablation.py objects_room_64.npz --slots 3 --test -200: --train :-500 --out runs/ablation-room

Every variant starts from the same seed, sees the same batches and takes the same number of steps. What is reduced,
beside image size and steps, stands in :func:`reduced`. The variants of the curriculum share one trained background.
All learn from pseudo-labels, the components that differ from it, the first third of their steps by these alone,
because in so few steps nothing is learnt without (``--pseudo-labels 0`` shows it); baseline training has no background
to find them by. A finished variant is kept in ``results.jsonl`` and not run again, so the script can be stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from astseg.config import Config, override
from astseg.config.device import default_device
from astseg.data import load_scenes
from astseg.evaluation.evaluate import evaluate
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import AstSeg, build
from astseg.model.background import BackgroundModel
from astseg.runs.folder import RunFolder
from astseg.training.logging import Reporter
from astseg.training.loop import train_background, train_objects
from astseg.types import SceneArrays
from curves import learning_curves

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "CT, small CNN, residual": {},
    "CT, small CNN, paper refinement": {"model": {"refinement": "paper"}},
    "BT, small CNN, residual": {
        "objects": {"scenario": "baseline", "pseudo_label_steps": 0, "pseudo_label_weight": 0.0}
    },
    "CT, Segformer-B0, residual": {"model": {"backbone": "segformer-b0"}},
    "CT, U-Net, residual": {"model": {"backbone": "unet"}},
}
"""The first is what the others differ from, each in one thing."""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        train: Scenes to learn from.
        test: Scenes to measure on.
        slots: K.
        steps: Steps of the objects.
        background_steps: Steps of the background in the curriculum.
        points: Measurements of a learning curve.
        pseudo_labels: Weight of their loss at the start.
    """

    train: SceneArrays
    test: SceneArrays
    slots: int
    steps: int
    background_steps: int
    points: int
    pseudo_labels: float


def reduced(plan: Plan) -> Config:
    """The paper's settings but for what a CPU cannot bear."""
    height, width = plan.train.images.shape[1:3]
    precision = "auto" if default_device().type == "cpu" else "float32"
    return override(
        Config(),
        {
            "model": {
                "image_size": [height, width],
                "slots": plan.slots,
                "backbone": "cnn",
                "refinement": "residual",
                "transformer_width": 128,
                "transformer_layers": 3,
                "transformer_feedforward": 256,
                "dropout": 0.0,
                "background_width": "small",
                "background_form": "fixed",
            },
            "background": {
                "steps": plan.background_steps,
                "batch": 32,
                "ramp": [0.5, 0.8],
                "precision": precision,
            },
            "objects": {
                "steps": plan.steps,
                "frozen_steps": 9 * plan.steps // 10,
                "batch": 16,
                "learning_rate": 6e-4,
                "warmup": plan.steps // 10,
                "decay": "cosine",
                "entropy_ramp": plan.steps // 2,
                "pseudo_label_steps": plan.steps // 3 if plan.pseudo_labels else 0,
                "pseudo_label_weight": plan.pseudo_labels,
                "pseudo_label_decay": 2 * plan.steps,
                "precision": precision,
            },
        },
    )


def learn_background(plan: Plan, config: Config, folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Phase 1, once for all variants of the curriculum; the weights."""
    torch.manual_seed(seed)
    settings = config.model
    model = BackgroundModel(settings.image_size, settings.background_width, form=settings.background_form)
    model.to(default_device())
    run = RunFolder(folder / f"background-{seed}")
    train_background(model, plan.train, config.background, run=run, seed=seed, reporter=Reporter())
    return model.state_dict()


def run_variant(
    plan: Plan, config: Config, background: dict[str, torch.Tensor] | None, folder: Path, seed: int
) -> dict[str, Any]:
    """Train one variant; its learning curve, its last figures and its seconds."""
    shutil.rmtree(folder, ignore_errors=True)  # a state would go on in the middle of a curve
    torch.manual_seed(seed)
    model = build(config.model).to(default_device())
    if background is not None:
        model.background_model.load_state_dict(background)
    curve: list[dict[str, float]] = []
    every, measuring = max(1, plan.steps // plan.points), 0.0

    def watch(now: nn.Module, phase: str, step: int, seconds: float) -> None:
        nonlocal measuring
        if step % every == 0 or step == plan.steps:
            assert isinstance(now, AstSeg)
            begun = time.perf_counter()
            means = evaluate(Pipeline(now), plan.test).mean
            curve.append({"step": step, **{name: round(means[name], 4) for name in ("ari_fg", "miou", "mse")}})
            measuring += time.perf_counter() - begun

    begun = time.perf_counter()
    train_objects(model, plan.train, config, run=RunFolder(folder), seed=seed, reporter=Reporter(), watch=watch)
    return {"curve": curve, **curve[-1], "seconds": round(time.perf_counter() - begun - measuring, 1)}


def run_all(plan: Plan, *, out: Path, seeds: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Every variant of every seed that is not in ``results.jsonl`` yet; all results."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    base = reduced(plan)
    for seed in range(seeds):
        missing = [name for name in VARIANTS if not any((r["variant"], r["seed"]) == (name, seed) for r in results)]
        background = learn_background(plan, base, out, seed) if missing else None
        for name in missing:
            config = override(base, VARIANTS[name])
            given = background if config.objects.scenario == "curriculum" else None
            folder = out / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{seed}"
            result = {"variant": name, "seed": seed, **run_variant(plan, config, given, folder, seed)}
            results.append(result)
            with file.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            say(f"{name}, seed {seed}: ARI-FG {result['ari_fg']:.3f}, mIoU {result['miou']:.3f}")
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Means over seeds as a Markdown table, ARI-FG and mIoU in percent, deviations where there are several seeds."""
    lines = ["| variant | seeds | ARI-FG | mIoU | MSE | seconds |", "|-|-|-|-|-|-|"]
    for name in VARIANTS:
        of_name = [result for result in results if result["variant"] == name]
        if not of_name:
            continue
        cells = []
        for key, factor in (("ari_fg", 100), ("miou", 100), ("mse", 1), ("seconds", 1)):
            values = torch.tensor([result[key] for result in of_name], dtype=torch.float64) * factor
            deviation = f" ± {values.std():.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{deviation}")
        lines.append(f"| {name} | {len(of_name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="scenes with masks, as for astseg train")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl, table.md and curves.svg")
    parser.add_argument("--slots", type=int, required=True, help="K")
    parser.add_argument("--train", default=":-200", help="scenes to learn from (default :-200)")
    parser.add_argument("--test", default="-200:", help="scenes to measure on (default -200:)")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels (default 32)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the objects (default 1000)")
    parser.add_argument("--background-steps", type=int, default=1500, help="steps of the background (default 1500)")
    parser.add_argument("--points", type=int, default=10, help="measurements of a learning curve (default 10)")
    parser.add_argument(
        "--pseudo-labels", type=float, default=0.5, help="weight of the pseudo-label loss (default 0.5; 0: none)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default 1)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write table and picture."""
    options = parse(arguments)
    train, test = (
        load_scenes(options.data, size=options.size, selection=selection, max_label=options.slots)
        for selection in (options.train, options.test)
    )
    plan = Plan(
        train, test, options.slots, options.steps, options.background_steps, options.points, options.pseudo_labels
    )
    results = run_all(plan, out=options.out, seeds=options.seeds)
    (options.out / "table.md").write_text(table(results) + "\n")
    curves = {name: [result["curve"] for result in results if result["variant"] == name] for name in VARIANTS}
    (options.out / "curves.svg").write_text(learning_curves(curves, across="step"))
    print(table(results))


if __name__ == "__main__":
    main()
