"""Weights of the authors' public program, a ``.pth`` file, as a run folder of ours.

Source: the names and shapes of the reference implementation's modules (encoder, generator, background encoder and
background generator). Its file is a pickle, of which plain tensors only are read
(``weights_only=True``). How the file nests its parts does not matter: tensors are found by the names of their modules.
Names of SegFormer's layers may be those of today's ``transformers`` or those of its checkpoints.

What a file's shapes say is taken from there: backbone, K, Z, scale mode, transformer, width of the background. What
they do not say (attention heads, range of the scales, image size where there is no position map) is the preset's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astseg.config import Config, ModelConfig
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.model.backbones.pretrained import CHECKPOINT_NAMES
from astseg.model.backbones.segformer import MIX_TRANSFORMERS
from astseg.model.background import channel_tables
from astseg.model.renderer import glimpse_channels
from astseg.runs.card import write_card
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo

__all__ = ["import_reference", "infer_model", "our_names", "read_tensors"]

MODULES = {
    "feature_and_attention_map_generator": "encoder.backbone",
    "feature_vector_embedding": "encoder.refinement.embedding",
    "transformer": "encoder.refinement.transformer",
    "latents_projection": "encoder.refinement.projection",
    "glimpse_generator": "renderer.generator",
    "background_activation_logit": "renderer.background_log_activation",
    "background_encoder": "background_model.encoder",
    "background_generator": "background_model.decoder",
}
"""The reference's modules and ours. Below them, names are the same but for :data:`RENAMED`."""

POSITION_MAP = "position_map"
PIXEL_ACTIVATION = "renderer.pixel_log_activation"
CONSTANT = re.compile(r"position_map|positional_encoding|mask")
"""Tensors that are not learnt: we compute them."""

RENAMED = (
    # AE-NE's blocks
    (r"^(background_model\.encoder\.\d+)\.downsample\.", r"\1."),
    (r"^(background_model\.decoder\.\d+)\.upsample\.", r"\1."),
    *CHECKPOINT_NAMES,
)

Tensors = dict[str, Tensor]
Shape = Callable[[str], tuple[int, ...]]


def import_reference(file: Path, out: Path, config: Config, *, preset: str, background: Path | None = None) -> Config:
    """Make a run folder of the reference's weights.

    Args:
        file: The reference's ``.pth`` file.
        out: Run folder to make.
        config: What the file's shapes do not say.
        preset: Name of that preset, for the record.
        background: Another file for the background's encoder and generator.

    Returns:
        The configuration that fits the weights.

    Raises:
        UserError: A file that cannot be read, lacks tensors, or fits no model; a folder that is taken.
    """
    run = RunFolder(out)
    run.check_new_or_begun()
    if run.is_begun:
        raise UserError(f"'{out}' holds a run already: choose another folder")
    files = [file] if background is None else [file, background]
    found: Tensors = {}
    label = " and ".join(f"'{one}'" for one in files)
    try:
        for one in files:
            found |= our_names(read_tensors(one))
        config = replace(config, model=infer_model(found, config.model, label=label))
    except (ValueError, IndexError):  # a number or a side that is not where it should be
        raise UserError(f"{label} holds tensors of other names or sides than the reference's: give its file") from None
    model = build(replace(config.model, backbone_weights=None))
    _load(model, found, label=label)
    digest = hashlib.sha256(b"".join(hashlib.sha256(one.read_bytes()).digest() for one in files)).hexdigest()[:16]
    imported = " and ".join(str(one) for one in files)
    info = RunInfo(preset=preset, imported=imported, fingerprint=digest)
    run.save_config(config, info)
    run.save_weights(model)
    write_card(run, config, info)
    return config


def read_tensors(file: Path) -> Tensors:
    """The tensors of the reference's modules in a file, under the reference's names, whatever dictionaries they are in.

    Raises:
        UserError: No such file, a broken one, one that holds more than plain values, or none of the modules.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"'{file}' cannot be read ({error.strerror or error}): give the reference's .pth file"
        ) from None
    except Exception as error:  # pickle, zipfile and torch each raise their own kinds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"'{file}' cannot be read as plain tensors ({reason}): give a .pth file that holds state dictionaries only"
        ) from None
    tensors: Tensors = {}
    for name, tensor in _walk(content):
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise UserError(f"'{file}' holds two tensors '{name}': give a file of one model")
        tensors[name] = tensor
    if not tensors:
        raise UserError(f"'{file}' holds none of the reference's modules ({', '.join(MODULES)}): give its .pth file")
    return tensors


def _walk(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of every dictionary that holds some of a known module, at any depth; names begin at that module."""
    if not isinstance(content, Mapping):
        return
    named = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    begins = {name: _from_module(name) for name in named}
    if any(begins.values()):
        for name, short in begins.items():
            yield short or name, named[name]
    for value in content.values():
        yield from _walk(value)


def _from_module(name: str) -> str | None:
    """'module.encoder.latents_projection.bias' -> 'latents_projection.bias'; None without a known module."""
    words = name.split(".")
    start = next((i for i, word in enumerate(words) if word in MODULES or CONSTANT.search(word)), None)
    return None if start is None else ".".join(words[start:])


def our_names(tensors: Mapping[str, Tensor]) -> Tensors:
    """The reference's tensors under our names, float32; constants are left out but for the position map.

    >>> list(our_names({"background_encoder.0.downsample.0.weight": torch.zeros(1)}))
    ['background_model.encoder.0.0.weight']
    """
    ours: Tensors = {}
    for name, tensor in tensors.items():
        if CONSTANT.search(name):
            if name == POSITION_MAP:
                ours[name] = tensor
            continue
        module, dot, rest = name.partition(".")
        if module in MODULES:
            renamed = MODULES[module] + dot + rest
        else:  # the name of the term for each pixel of videos is not known for certain
            renamed = PIXEL_ACTIVATION if "background_activation" in name else name
        for pattern, replacement in RENAMED:
            renamed = re.sub(pattern, replacement, renamed)
        ours[renamed] = tensor.float() if tensor.is_floating_point() else tensor
    last = max((int(name.split(".")[2]) for name in ours if name.startswith("background_model.decoder.")), default=0)
    plain = f"background_model.decoder.{last}."  # the last block is a convolution alone
    return {name.replace(f"{plain}0.", plain) if name.startswith(plain) else name: t for name, t in ours.items()}


def infer_model(tensors: Mapping[str, Tensor], base: ModelConfig, *, label: str) -> ModelConfig:
    """The architecture that tensors (under our names) belong to; ``base`` where their shapes do not say.

    Raises:
        UserError: Tensors are missing, or their shapes are of no model; ``label`` says whose they are.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise UserError(
                f"{label} lacks '{name}': give a file with encoder, generator and background (--background)"
            )
        return tuple(tensors[name].shape)

    width, size = shape("encoder.refinement.embedding.weight")
    appearance, first = shape("renderer.generator.0.weight")[:2]
    scale_numbers = size - 3 - appearance
    if scale_numbers not in (1, 2):
        raise UserError(
            f"{label} has latents of {size} numbers and {appearance} for appearance, expected 4 or 5 more for position,"
            " scale and activation"
        )
    backbone, channels = _backbone(tensors, shape, label)
    image_size = base.image_size
    if POSITION_MAP in tensors:
        stride = 1 if backbone == "unet" else 4
        image_size = (stride * shape(POSITION_MAP)[-2], stride * shape(POSITION_MAP)[-1])
    if first != glimpse_channels(image_size)[0]:
        raise UserError(
            f"{label} has a glimpse generator of {first} channels, which is not for images of"
            f" {image_size[0]}x{image_size[1]}: give the preset, or a --config with model: {{image_size: [H, W]}}"
        )
    pretrained = base.backbone_weights
    if pretrained is not None:
        pretrained = f"nvidia/mit-{backbone.removeprefix('segformer-')}" if backbone != "unet" else None
    return replace(
        base,
        image_size=image_size,
        slots=channels - (size - 2),
        appearance=appearance,
        isotropic=scale_numbers == 1,
        reference=scale_numbers == 1,
        backbone=backbone,
        backbone_weights=pretrained,
        glimpse_width=1,
        glimpse_crop=0,
        refinement="paper",
        transformer_width=width,
        transformer_layers=_count(tensors, "encoder.refinement.transformer.layers."),
        transformer_feedforward=shape("encoder.refinement.transformer.layers.0.linear1.weight")[0],
        pixel_activation=PIXEL_ACTIVATION in tensors,
        background_width=_background_width(tensors, shape),
        background_form="paper",
    )


def _backbone(tensors: Mapping[str, Tensor], shape: Shape, label: str) -> tuple[str, int]:
    """Name of the backbone and channels of its map."""
    unet = "encoder.backbone.conv1x1.weight"
    if unet in tensors:
        return "unet", shape(unet)[0]
    body = "encoder.backbone.complete_model.segformer.stages"
    channels = shape("encoder.backbone.complete_model.decode_head.classifier.weight")[0]
    depths = tuple(_count(tensors, f"{body}.{stage}.blocks.") for stage in range(4))
    widths = tuple(shape(f"{body}.{stage}.layer_norm.weight")[0] for stage in range(4))
    for name, known in MIX_TRANSFORMERS.items():
        if (depths, widths) == known[:2]:
            return f"segformer-{name}", channels
    raise UserError(f"{label} has a Segformer of depths {depths} and widths {widths}, expected one of b0 to b5")


def _background_width(tensors: Mapping[str, Tensor], shape: Shape) -> str:
    """``complex`` or ``simple``, by the channels of the encoder."""
    depth = _count(tensors, "background_model.encoder.")
    found = tuple(shape(f"background_model.encoder.{layer}.0.weight")[0] for layer in range(max(1, depth)))
    return "complex" if found == channel_tables("complex", depth)[0][1:] else "simple"


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are below a name."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})


def _load(model: AstSeg, tensors: Mapping[str, Tensor], *, label: str) -> None:
    """Put the tensors in their places, strictly.

    Raises:
        UserError: Tensors that are missing, too many, of another shape, or not finite.
    """
    places = model.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name != POSITION_MAP}
    for name, place in places.items():
        if name.startswith("renderer.") and name in given and given[name].numel() == place.numel():
            given[name] = given[name].reshape(place.shape)  # activations may have further sides of one
        if name.endswith("num_batches_tracked"):
            given.setdefault(name, place)
    problems = [f"'{name}' is missing" for name in sorted(places.keys() - given.keys())]
    problems += [f"'{name}' is unknown" for name in sorted(given.keys() - places.keys())]
    problems += [
        f"'{name}' is {tuple(given[name].shape)} instead of {tuple(place.shape)}"
        for name, place in places.items()
        if name in given and given[name].shape != place.shape
    ]
    problems += [f"'{name}' is not finite" for name, tensor in given.items() if not tensor.isfinite().all()]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{label} does not fit its model: {', '.join(problems[:3])}{more}: check preset and image size")
    model.load_state_dict(given)
