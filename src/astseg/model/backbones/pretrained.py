"""Pretrained weights of the Mix Transformer: checkpoints in the form of transformers, in a folder or on the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from astseg.errors import UserError
from astseg.model.backbones.mix_transformer import MIX_TRANSFORMERS

__all__ = ["CHECKPOINT_NAMES", "body_weights"]

CHECKPOINT_NAMES = (
    (r"\bencoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
    (r"\bencoder\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"\bencoder\.layer_norm\.(\d+)\.", r"stages.\1.layer_norm."),
    (r"\.attention\.self\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.self\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attention\.self\.layer_norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.layer_norm_1\.", ".layernorm_before."),
    (r"\.layer_norm_2\.", ".layernorm_after."),
    (r"\bdecode_head\.linear_c\.", "decode_head.linear_projections."),
)
"""Patterns of the names that tensors have in checkpoints, and what to put there for ours."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a checkpoint keeps its tensors; NVIDIA's on the hub are of the second kind."""


def body_weights(weights: str, size: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The body's tensors in a SegFormer checkpoint, whichever head it was saved with.

    Args:
        weights: A folder, or a hub id such as ``nvidia/mit-b3``.
        size: A name in :data:`MIX_TRANSFORMERS`.
        expected: Tensors with the names and shapes that are wanted.

    Raises:
        UserError: A folder or hub id that cannot be read, is no SegFormer, is incomplete, or is of another size.
    """
    if not Path(weights).exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise UserError(
            f"backbone weights '{weights}': no such folder: give a folder or a hub id such as nvidia/mit-b3"
        )
    try:
        _check_size(weights, size)
        tensors = {_body_name(name): tensor for name, tensor in _tensors(weights).items()}
    except UserError:
        raise
    except Exception as error:  # the hub, json, safetensors and pickle each raise their own kinds
        raise UserError(
            f"backbone weights '{weights}' {_failure(weights, error)},"
            " or give a folder that holds config.json and model.safetensors"
        ) from error
    missing = [name for name, tensor in expected.items() if name not in tensors or tensors[name].shape != tensor.shape]
    if missing:
        raise UserError(
            f"backbone weights '{weights}' lack {len(missing)} tensors of a Segformer body"
            f" ('{min(missing)}' first): give a complete checkpoint"
        )
    return {name: tensors[name] for name in expected}


def _body_name(name: str) -> str:
    """Our name of a checkpoint's tensor."""
    name = name.removeprefix("segformer.")
    for pattern, replacement in CHECKPOINT_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _tensors(weights: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by its own names."""
    for name in WEIGHT_FILES:
        file = _file(weights, name)
        if file is not None:
            if file.suffix == ".safetensors":
                return load_file(file)
            tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            return tensors
    raise FileNotFoundError(f"neither {' nor '.join(WEIGHT_FILES)} is there")


def _file(weights: str, name: str) -> Path | None:
    """A file of a checkpoint, fetched from the hub if need be; None: the checkpoint has no such file."""
    if Path(weights).exists():
        path = Path(weights) / name
        return path if path.is_file() else None
    from huggingface_hub import errors, hf_hub_download  # takes a third of a second

    try:
        return Path(hf_hub_download(weights, name))
    except errors.LocalEntryNotFoundError:  # the hub does not answer
        raise
    except errors.EntryNotFoundError:
        return None


def _check_size(weights: str, size: str) -> None:
    """Compare a checkpoint's configuration with the size asked for, before its weights are read or downloaded."""
    file = _file(weights, "config.json")
    if file is None:
        raise FileNotFoundError("config.json is not there")
    config: dict[str, Any] = json.loads(file.read_text())
    if config.get("model_type") != "segformer":
        raise UserError(
            f"backbone weights '{weights}' are of a '{config.get('model_type')}' model, expected a 'segformer'"
        )
    found = (tuple(config["depths"]), tuple(config["hidden_sizes"]))
    if found == MIX_TRANSFORMERS[size][:2]:
        return
    names = [name for name, shape in MIX_TRANSFORMERS.items() if shape[:2] == found]
    if not names:
        raise UserError(
            f"backbone weights '{weights}' have depths {found[0]} and widths {found[1]}, which is none of b0 to b5:"
            f" give weights of size {size}"
        )
    raise UserError(
        f"backbone weights '{weights}' are of size {names[0]}, but the backbone is segformer-{size}: name"
        f" segformer-{names[0]}, or weights of size {size}"
    )


def _failure(weights: str, error: Exception) -> str:
    """What went wrong and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"are gated: accept their licence at https://huggingface.co/{weights} and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "are not on the hub, or private: check the name, log in with `hf auth login`"
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):  # also where the hub is switched off
        return "cannot be fetched, since the hub does not answer, and no copy is in its cache: connect once"
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"cannot be loaded ({reason}): check the name"
