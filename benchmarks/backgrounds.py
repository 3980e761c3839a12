"""How long until the background behind the objects is learnt: forms of the background model against each other.

    python benchmarks/backgrounds.py objects_room_64.npz --seconds 300 --threads 1 --out runs/backgrounds

The judge is the mean squared error on pixels whose true label is background, of images that were not trained on; and at
the end the components that differ from the background, the pseudo-labels, against the true masks. Every recipe has
the same seconds of processor time; measuring is not counted. Learning rate and weight follow the published schedules,
stretched over the steps that fit into the seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from astseg.data import load_scenes
from astseg.data.arrays import images_to_tensor
from astseg.data.open import evenly_spaced
from astseg.data.synthetic.generate import FAMILIES, render_scenes
from astseg.discovery.background_subtraction import find_components
from astseg.evaluation.metrics import segmentation_metrics
from astseg.model.background import BackgroundModel
from astseg.training import schedule
from astseg.training.batches import Batches
from astseg.training.losses import background_loss
from astseg.types import SceneArrays

RATE, BETA = 2e-3, 6.0


class Recipe(NamedTuple):
    """One way to learn backgrounds."""

    width: str
    form: str
    batch: int
    ramp: tuple[float, float]
    half: bool


RECIPES = {
    "published, complex": Recipe("complex", "paper", 128, (0.0, 0.0), half=False),
    "published, simple": Recipe("simple", "paper", 128, (0.0, 0.0), half=False),
    "small, paper": Recipe("small", "paper", 32, (0.5, 0.8), half=True),
    "small, fixed": Recipe("small", "fixed", 32, (0.5, 0.8), half=True),
    "small, varying": Recipe("small", "varying", 32, (0.5, 0.8), half=True),
}


COMPONENTS = 12
"""Components of an image at most, as many as the preset ``small`` has slots."""


@torch.no_grad()
def error_behind(model: BackgroundModel, test: SceneArrays) -> float:
    """Mean squared error over RGB on background pixels."""
    assert test.labels is not None
    images, labels = images_to_tensor(test.images), torch.from_numpy(test.labels)
    drawn = torch.cat([model(part)[0] for part in images.split(50)])
    return float((drawn - images).square().mean(dim=1)[labels == 0].mean())


@torch.no_grad()
def components_found(model: BackgroundModel, test: SceneArrays) -> dict[str, float]:
    """ARI-FG and mIoU of the components that differ from the background."""
    assert test.labels is not None
    images, labels = images_to_tensor(test.images), torch.from_numpy(test.labels).long()
    found = torch.cat(
        [find_components(part, *model(part), limit=COMPONENTS).labels for part in images.split(50)]
    ).long()
    figures = segmentation_metrics(labels, found)
    return {name: round(float(figures[name].mean()), 4) for name in ("ari_fg", "miou")}


def learn(
    recipe: Recipe, train: SceneArrays, test: SceneArrays, *, seconds: float, seed: int, points: int
) -> dict[str, Any]:
    """One run: its error against seconds and steps, and its components."""
    torch.manual_seed(seed)
    height, width = train.images.shape[1:3]
    model = BackgroundModel((height, width), recipe.width, form=recipe.form).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    batches = Batches(train, size=recipe.batch, seed=seed, flip=False, device=torch.device("cpu"))
    begun = time.process_time()
    model.start_from(batches.take(evenly_spaced(400, batches.shape[0])))
    spent, step = time.process_time() - begun, 0
    curve: list[dict[str, float]] = []
    while spent < seconds:
        begun = time.process_time()
        share = spent / seconds  # schedules by the clock, as in a run with a limit of minutes
        for group in optimizer.param_groups:
            group["lr"] = schedule.background_learning_rate(int(1000 * share), rate=RATE, steps=1000)
        start, end = recipe.ramp
        beta = schedule.background_beta(int(1000 * share), steps=1000, beta=BETA, ramp_start=start, ramp_end=end)
        images, _, _ = batches.draw(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half):
            background, predicted_error = model(images)
        loss = background_loss(images, background, predicted_error, beta=beta)["total"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        spent += time.process_time() - begun
        if spent >= seconds * (len(curve) + 1) / points:
            curve.append({"seconds": round(spent, 1), "step": step, "mse": round(error_behind(model, test), 5)})
    return {"curve": curve, **components_found(model, test)}


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row a run; the last column is when it was as good as the best of the published recipes ever became."""
    published = [p["mse"] for r in results if r["recipe"].startswith("published") for p in r["curve"]]
    lines = ["| recipe | seed | steps | MSE on background | components: ARI-FG | mIoU | as good as published after |"]
    lines += ["|-|-|-|-|-|-|-|"]
    for result in results:
        last = result["curve"][-1]
        reached = [p["seconds"] for p in result["curve"] if published and p["mse"] <= min(published)]
        after = f"{reached[0]:.0f} s" if reached else "never"
        components = f"{100 * result['ari_fg']:.1f} | {100 * result['miou']:.1f}"
        name, seed = result["recipe"], result["seed"]
        lines.append(f"| {name} | {seed} | {last['step']} | {last['mse']:.5f} | {components} | {after} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing in ``results.jsonl``, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scenes", help="rooms, desk, or scenes with masks as for astseg train")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl and table.md")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES], help="which (default all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds (default 0)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of processor time of each run (default 300)")
    parser.add_argument("--points", type=int, default=30, help="measurements of a run (default 30)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--train", default=":-500", help="scenes to learn from, of a file (default :-500)")
    parser.add_argument("--test", default="-200:", help="scenes to measure on, of a file (default -200:)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels (default 64)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.scenes in FAMILIES:
        train = render_scenes(options.scenes, seed=0, count=10_000, size=options.size, processes=2)
        test = render_scenes(options.scenes, seed=1_000_000, count=200, size=options.size, processes=2)
    else:
        file = Path(options.scenes)
        parts = (options.train, options.test)
        train, test = (load_scenes(file, size=options.size, selection=part) for part in parts)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.jsonl"
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for seed in options.seeds:
        for name in options.recipes:
            if any((r["recipe"], r["seed"]) == (name, seed) for r in results):
                continue
            run = learn(RECIPES[name], train, test, seconds=options.seconds, seed=seed, points=options.points)
            results.append({"recipe": name, "seed": seed, **run})
            with kept.open("a") as lines:
                lines.write(json.dumps(results[-1]) + "\n")
            print(f"{name}, seed {seed}: {run['curve'][-1]['mse']:.5f}", flush=True)
    (options.out / "table.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
