"""The card of a run, ``README.md`` in its folder: what this model is, how it came about, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astseg.config import Config
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.atomic import write_whole
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo

__all__ = ["write_card"]


def _origin(info: RunInfo) -> list[str]:
    """What this is and what it learnt from."""
    what = "A model that finds, separates and redraws the objects of images (AST-Seg, WACV 2023)"
    if info.imported:
        return [
            f"{what}, trained by the authors' program.",
            "",
            f"- imported from {info.imported}, fingerprint {info.fingerprint}",
        ]
    images = f"{info.images} images, fingerprint {info.fingerprint}"
    return [f"{what}, trained by astseg on images alone.", "", f"- data: {info.data} ({info.split}), {images}"]


def write_card(run: RunFolder, config: Config, info: RunInfo, metrics: Mapping[str, Any] | None = None) -> None:
    """Write the card.

    Args:
        run: The run folder.
        config: Its settings.
        info: What it learnt from.
        metrics: Of an evaluation, where there is one.
    """
    model, objects = config.model, config.objects
    notice = licence_notice(model.backbone_weights)
    lines = [
        f"# {run.path.name}",
        "",
        *_origin(info),
        f"- preset {info.preset}, seed {info.seed}, astseg {info.versions.get('astseg', '?')}",
        f"- images {model.image_size[0]}x{model.image_size[1]}, at most {model.slots} objects,"
        f" backbone {model.backbone},"
        f" refinement {model.refinement}, background {model.background_width} ({model.background_form})",
        f"- background {config.background.steps} steps, objects {objects.steps} steps ({objects.scenario}),"
        f" batch {objects.batch}, learning rate {objects.learning_rate:g},"
        f" pseudo-label weight {objects.pseudo_label_weight:g}",
        *([f"- {notice}"] if notice else []),
        "",
        "Every setting is in `config.json`"
        + ("." if info.imported else ", every number of the training in `log.jsonl`, images in `panels/`."),
        "",
        "```python",
        "from astseg import Segmenter",
        "",
        f'prediction = Segmenter.from_pretrained("{run.path}").predict("picture.png")',
        "prediction.labels, prediction.objects, prediction.background",
        "```",
        "",
    ]
    if metrics:
        rows = [f"| {name} | {value:.4f} |" for name, value in metrics.items() if isinstance(value, float)]
        lines += [f"Measured on {metrics.get('count')} scenes:", "", "| metric | mean |", "|-|-|", *rows, ""]
    write_whole(run.path / "README.md", lambda part: part.write_text("\n".join(lines)))
