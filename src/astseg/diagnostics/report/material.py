"""What the page shows: images as data, curves from the log, metrics, settings."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from astseg.config import to_dict
from astseg.data.arrays import images_to_tensor, tensor_to_images
from astseg.data.formats.png import colour_labels
from astseg.data.open import evenly_spaced
from astseg.diagnostics.health import Finding, Health
from astseg.diagnostics.report.charts import curves, histogram
from astseg.evaluation.evaluate import Evaluation
from astseg.inference.pipeline import Pipeline
from astseg.inference.writers.overlay import overlay
from astseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.types import SceneArrays

__all__ = ["Material", "SceneViews", "View", "charts_of", "read_log"]

SHOWN, WORST = 8, 6
"""Scenes in the first part, and among the worst."""

SIDE = 256
"""Images are enlarged toward this many pixels on the long side."""

PHASES = ("background", "pseudo_labels", "objects", "joint")
"""Of the training, in this order: those that the log has lines of."""

METRICS = {
    "ari_fg": "ARI-FG",
    "miou": "mIoU",
    "ari": "ARI",
    "msc_fg": "mSC-FG",
    "mse": "MSE (summed)",
    "slots_used": "slots used",
    "foreground": "share of foreground",
    "background_mse": "background MSE",
}


CURVES: Sequence[tuple[str, Sequence[str], Mapping[str, str], bool]] = (
    ("Masks on watched pictures", PHASES, {"ari_fg": "ARI-FG", "miou": "mIoU"}, False),
    ("Slots used on watched pictures", PHASES, {"slots_used": "slots used"}, False),
    (
        "Background: losses",
        PHASES[:1],
        {"reconstruction": "reconstruction", "predicted_error": "predicted error"},
        True,
    ),
    (
        "Pseudo-labels: losses",
        PHASES[1:2],
        {name: name for name in ("attention", "position", "scale", "activation", "glimpse")},
        True,
    ),
    (
        "Objects: losses",
        PHASES[2:],
        {"reconstruction": "reconstruction", "pixel_entropy": "pixel entropy", "pseudo_labels": "pseudo-labels"},
        True,
    ),
)
"""Title, phases, names in the log and on the page, and whether the y axis is logarithmic."""


@dataclass(frozen=True)
class View:
    """An image in the page.

    Attributes:
        title: What it shows.
        data: ``data:`` address.
    """

    title: str
    data: str


@dataclass(frozen=True)
class SceneViews:
    """One scene, as the model sees it, with a line about it."""

    name: str
    note: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class Material:
    """Everything that the page shows; charts are SVG, the rest is plain text."""

    title: str
    findings: Sequence[Finding]
    health: Health
    scenes: Sequence[SceneViews]
    worst: Sequence[SceneViews]
    charts: Sequence[tuple[str, str]]
    histograms: Sequence[tuple[str, str]]
    metrics: Sequence[tuple[str, str]]
    measured: str
    facts: Sequence[tuple[str, str]]
    plan: Sequence[Mapping[str, str]]
    settings: str
    following: str

    @classmethod
    def collect(
        cls,
        run: RunFolder,
        pipeline: Pipeline,
        scenes: SceneArrays,
        health: Health,
        findings: Sequence[Finding],
        each: Mapping[str, NDArray[np.float64]],
        evaluation: Evaluation,
    ) -> Material:
        """Collect it.

        Args:
            run: The run folder, for its log and settings.
            pipeline: The model and how its output becomes masks.
            scenes: N scenes at its size.
            health: What :func:`astseg.diagnostics.health.examine` measured on them.
            findings: What that means.
            each: The same of each scene.
            evaluation: What :func:`astseg.evaluation.evaluate.evaluate` measured on them.
        """
        config, info = run.load_config()
        shown = min(SHOWN, len(scenes))
        first = evenly_spaced(shown, len(scenes))
        worst = np.argsort(-each["error"], kind="stable")[:WORST].tolist()
        measured = evaluation.mean if scenes.labels is not None else {}
        fitted = _json(run, "fit.json")
        facts = {
            "data": info.data,
            "scenes": info.split,
            "pictures learnt from": info.images,
            **fitted.get("data", {}),
            "preset": info.preset,
            "seed": info.seed,
            "versions": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
        }
        return cls(
            title=run.path.resolve().name,
            findings=findings,
            health=health,
            scenes=_scenes(pipeline, scenes, first, each),
            worst=_scenes(pipeline, scenes, worst, each),
            charts=charts_of(read_log(run)),
            histograms=_histograms(each, evaluation),
            metrics=[(spelled, _text(measured[name])) for name, spelled in METRICS.items() if name in measured],
            measured=f"{evaluation.source}; protocol {evaluation.protocol}",
            facts=[(name, str(value)) for name, value in facts.items() if value is not None],
            plan=fitted.get("plan", []),
            settings=json.dumps(to_dict(config), indent=2),
            following=f"astseg segment {quote(str(run.path))} {quote(info.data or 'PICTURES')} --out masks",
        )


def _scenes(
    pipeline: Pipeline, scenes: SceneArrays, chosen: Sequence[int], each: Mapping[str, NDArray[np.float64]]
) -> list[SceneViews]:
    """Scenes with what the model makes of them."""
    if not chosen:
        return []
    images = np.stack([scenes.images[number] for number in chosen])
    output = pipeline(images_to_tensor(images), layers=True)
    labels = output.responsibilities.argmax(dim=1).cpu().numpy()
    drawn, empty = tensor_to_images(output.reconstruction), tensor_to_images(output.background)
    found = []
    for place, number in enumerate(chosen):
        views = [
            _view("input", images[place]),
            _view("masks", np.asarray(overlay(images[place], labels[place], smallest=SIDE))),
            _view("reconstruction", drawn[place]),
            _view("background", empty[place]),
        ]
        if scenes.labels is not None:
            truth = colour_labels(scenes.labels[number])
            views.insert(2, _view("true masks", truth, Image.Resampling.NEAREST))
        note = f"{each['used'][number]:.0f} slots used, off by {each['error'][number]:.1f} of 255 levels"
        found.append(SceneViews(str(scenes.names[number]), note, tuple(views)))
    return found


def _view(title: str, pixels: NDArray[np.uint8], resampling: Image.Resampling = Image.Resampling.BICUBIC) -> View:
    """An image, enlarged by a whole factor, as data."""
    image = Image.fromarray(pixels)
    factor = max(1, SIDE // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), resampling)
    file = io.BytesIO()
    if resampling == Image.Resampling.NEAREST:
        image.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, format="JPEG", quality=88)
        kind = "jpeg"
    return View(title, f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}")


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of the log that can be read."""
    entries = []
    if run.log_path.is_file():
        for line in run.log_path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if isinstance(entry, dict) and entry.get("phase") in PHASES and "seconds" in entry:
                entries.append(entry)
    return entries


def charts_of(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Titles and curves: the losses of each phase, and the metrics of the images that the monitor draws."""
    background = max((entry["seconds"] for entry in entries if entry["phase"] == "background"), default=0.0)

    def points(phases: Sequence[str], name: str) -> list[tuple[float, float]]:
        return [
            ((entry["seconds"] + (background if entry["phase"] != "background" else 0.0)) / 60, float(entry[name]))
            for entry in entries
            if entry["phase"] in phases and isinstance(entry.get(name), int | float)
        ]

    charts = []
    for title, phases, names, logarithmic in CURVES:
        series = {spelled: points(phases, name) for name, spelled in names.items()}
        charts.append((title, curves(series, title=title, across="minutes", logarithmic=logarithmic)))
    return [(title, svg) for title, svg in charts if svg]


def _histograms(each: Mapping[str, NDArray[np.float64]], evaluation: Evaluation) -> list[tuple[str, str]]:
    """Titles and histograms over the images."""
    wanted = [
        ("Objects in a picture", each["used"], "slots used"),
        ("Share of foreground", 100 * each["foreground"], "% of the pixels"),
        ("Error of the reconstruction", each["error"], "of 255 levels"),
        ("Masks under a shift", each["shifted"], "mIoU with the unshifted"),
    ]
    if "miou" in evaluation.per_image:
        wanted.append(("mIoU", evaluation.per_image["miou"], "mIoU"))
    charts = [
        (title, histogram(values, title=title, across=across, whole=values is each["used"]))
        for title, values, across in wanted
    ]
    return [(title, svg) for title, svg in charts if svg]


def _json(run: RunFolder, name: str) -> dict[str, Any]:
    """A JSON file of the run folder, or nothing."""
    try:
        values = json.loads((run.path / name).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _text(value: float) -> str:
    return f"{value:.3f}" if value == value else "none"
