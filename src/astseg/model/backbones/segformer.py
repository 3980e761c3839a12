"""Segformer, the paper's backbone, through the package transformers.

Sources: AST-Seg (Sauvalle and de La Fortelle, WACV 2023), section 3; *SegFormer* (Xie et al., NeurIPS 2021), Table 6
for the sizes b0 to b5. The package builds the layers and reads weights; the way through them is our own, the same
numbers without its detours: maps stay in one layout of memory, and the decode head multiplies its matrices before it
applies them. What differs: images too small for the deepest layers are padded inside instead of refused. As in the
reference, images stay in [0, 1], without ImageNet's mean and deviation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from astseg.errors import UserError
from astseg.model.layers import Size, quarter
from astseg.model.ops import full_precision

__all__ = ["MIX_TRANSFORMERS", "Segformer", "licence_notice"]


class MixTransformer(NamedTuple):
    """A size of Segformer: blocks and channels of its four stages, channels of its decode head."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    decoder_width: int


MIX_TRANSFORMERS = {
    "b0": MixTransformer((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": MixTransformer((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": MixTransformer((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": MixTransformer((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": MixTransformer((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": MixTransformer((3, 6, 40, 3), (64, 128, 320, 512), 768),
}

SEGFORMER_SMALLEST_SIDE = 29
"""The first stage shrinks its keys by 8 at stride 4, so a side needs 8 cells: ceil(29 / 4)."""

FUSED_NUMBERS = 2**20
"""Outside of training a CPU decodes images together while their fused maps hold at most so many numbers: they stay in
its cache, and below 32 MiB in memory that is kept instead of given back to the system and fetched anew."""


class Segformer(nn.Module):
    """The paper's backbone: a Mix Transformer body and a multi-layer-perceptron decode head, at stride 4.

    The decode head has a BatchNorm, so in train mode the maps of an image depend on its batch; a batch of one works,
    since a map never has fewer than 8 x 8 cells, but its statistics are then those of one image.
    """

    def __init__(
        self,
        size: str,
        *,
        out_channels: int,
        weights: str | None = None,
        classifier_dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        """Build the body and the head.

        Args:
            size: Name of the body in :data:`MIX_TRANSFORMERS`.
            out_channels: K + F channels of the map.
            weights: Weights of the body: a hub id such as ``nvidia/mit-b3``, a folder that transformers saved, or None
                for fresh ones. The decode head is always fresh.
            classifier_dropout: Dropout rate before the last layer.
            drop_path: Rate at which the last block is skipped in training; it grows linearly from 0 at the first.

        Raises:
            UserError: Weights that cannot be had or do not fit the size.
        """
        super().__init__()
        transformers = _transformers()
        shape = MIX_TRANSFORMERS[size]
        # The reference's name for this module, so that its weights load under their own names.
        self.complete_model = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(
                depths=shape.depths,
                hidden_sizes=shape.widths,
                decoder_hidden_size=shape.decoder_width,
                num_labels=out_channels,
                classifier_dropout_prob=classifier_dropout,
                drop_path_rate=drop_path,
            )
        )
        if weights is not None:
            self.complete_model.segformer.load_state_dict(_pretrained_body(weights, size))

    def output_size(self, size: Size) -> Size:
        """(h, w) of the map of an (H, W) image: a quarter, rounded up."""
        return quarter(size)

    def forward(self, images: Tensor) -> Tensor:
        """images: B x 3 x H x W, float in [0, 1] -> B x out_channels x ceil(H/4) x ceil(W/4)."""
        height, width = images.shape[-2:]
        missing = (max(0, SEGFORMER_SMALLEST_SIDE - width), max(0, SEGFORMER_SMALLEST_SIDE - height))
        if any(missing):  # repeat the last row and column, which makes no edge that is not in the image
            images = F.pad(images, (0, missing[0], 0, missing[1]), mode="replicate")
        # torch's fused attention is slow on a CPU in bfloat16; with few keys, a 64th of the cells, plain products do.
        slow = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            stages = encode(self.complete_model.segformer, images)
        h, w = quarter((height, width))
        return decode(self.complete_model.decode_head, stages)[..., :h, :w]


def encode(body: Any, images: Tensor) -> list[Tensor]:
    """The Mix Transformer of transformers.

    Args:
        body: A ``SegformerModel`` without dropout, as it is unless its configuration says otherwise.
        images: B x 3 x H x W.

    Returns:
        B x C x h x w of each stage, channels last in memory, the finest first.
    """
    stages = []
    maps = images
    for stage in body.stages:
        maps = stage.patch_embeddings.proj(maps)
        h, w = maps.shape[-2:]
        tokens = stage.patch_embeddings.layer_norm(_tokens(maps))
        for block in stage.blocks:
            tokens = tokens + block.drop_path(_attend(block.attention, block.layernorm_before(tokens), h, w))
            tokens = tokens + block.drop_path(_mix(block.mlp, block.layernorm_after(tokens), h, w))
        maps = _maps(stage.layer_norm(tokens), h, w)
        stages.append(maps)
    return stages


def _attend(attention: Any, tokens: Tensor, h: int, w: int) -> Tensor:
    """Attention whose keys and values come from a shrunken map; B x hw x C -> the same shape."""
    seen = tokens
    if attention.sequence_reduction_ratio > 1:
        shrink = attention.sequence_reduction
        seen = shrink.layer_norm(_tokens(shrink.sequence_reduction(_maps(tokens, h, w))))
    projected = attention.q_proj(tokens), attention.k_proj(seen), attention.v_proj(seen)
    query, key, value = (x.view(*x.shape[:2], attention.num_attention_heads, -1).transpose(1, 2) for x in projected)
    mixed: Tensor = attention.o_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
    return mixed


def _mix(mlp: Any, tokens: Tensor, h: int, w: int) -> Tensor:
    """Mix-FFN: tokens see where they are through a depthwise convolution; B x hw x C -> the same shape."""
    mixed: Tensor = mlp.fc2(F.gelu(_tokens(mlp.dwconv.dwconv(_maps(mlp.fc1(tokens), h, w)))))
    return mixed


def _maps(tokens: Tensor, h: int, w: int) -> Tensor:
    """B x hw x C -> B x C x h x w, channels last: the same memory."""
    return tokens.view(len(tokens), h, w, -1).permute(0, 3, 1, 2)


def _tokens(maps: Tensor) -> Tensor:
    """B x C x h x w -> B x hw x C; of maps with channels last the same memory."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def decode(head: Any, stages: Sequence[Tensor]) -> Tensor:
    """The decode head of transformers, in another order: the same maps for a fraction of the products.

    As published, each stage is projected to D channels and enlarged, and one 1x1 convolution fuses the 4D channels at
    full size. All of it is linear, and enlarging commutes with what happens at one place: so the two matrices of a
    stage are multiplied with each other, applied at the stage's own size, and what is enlarged is summed up. As
    published, the fusion takes half of all products of the smallest Segformer.

    Args:
        head: A ``SegformerDecodeHead``.
        stages: B x C x h x w of each stage, channels last in memory (in which a CPU enlarges maps several times
            faster), the finest first.

    Returns:
        B x out_channels x h x w, at the size of the finest.
    """
    parts = head.linear_fuse.weight.flatten(1).chunk(len(stages), dim=1)[::-1]  # D x D each, given coarsest first
    with full_precision(stages[0].device):  # what is rounded to half precision is the product, not its factors
        linear = [
            (part @ projection.proj.weight, part @ projection.proj.bias)
            for projection, part in zip(head.linear_projections, parts, strict=True)
        ]
    logits: Tensor
    rate = head.dropout.p if head.dropout.training else 0.0
    if rate or head.batch_norm.training:
        features = head.batch_norm(_fused(stages, linear))
        logits = head.classifier(_RectifyAndDrop.apply(features, rate))  # type: ignore[no-untyped-call]
        return logits
    b, _, h, w = stages[0].shape
    together = max(1, FUSED_NUMBERS // (len(linear[0][1]) * h * w)) if stages[0].device.type == "cpu" else b
    pieces = zip(*(torch.split(maps, together) for maps in stages), strict=True)
    return torch.cat([head.classifier(head.batch_norm(_fused(some, linear)).relu_()) for some in pieces])


def _fused(stages: Sequence[Tensor], linear: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of all stages, each through its matrix and enlarged to the first's size, B x D x h x w."""
    size = stages[0].shape[-2:]
    fused: Tensor | None = None
    for maps, (weight, bias) in zip(stages, linear, strict=True):
        maps = F.conv2d(maps, weight[..., None, None], bias)
        maps = maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear")
        fused = maps if fused is None else fused.add_(maps)
    assert fused is not None
    return fused


class _RectifyAndDrop(torch.autograd.Function):
    """ReLU and dropout; of the largest maps of the head only the result is kept, which the next layer keeps anyway.

    The gradient passes where the result is above 0: there the input was, and was not dropped. The rate is rounded to a
    multiple of 2 ** -16, since a random number of 64 bits decides for four values.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, rate: float) -> Tensor:  # noqa: D102
        result = features.clamp_min(0)
        ctx.scale = 1.0
        if rate > 0:
            lowest, ctx.scale = round(rate * 2**16) - 2**15, 1 / (1 - rate)
            bits = torch.empty(-(-result.numel() // 4), dtype=torch.int64, device=result.device).random_(-(2**63), None)
            dropped = bits.view(torch.int16)[: result.numel()] < lowest
            # In the order of memory, whatever the strides: which value meets which number does not matter.
            result.as_strided((result.numel(),), (1,)).masked_fill_(dropped, 0).mul_(ctx.scale)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        (result,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0)
        return (passed if ctx.scale == 1 else passed.mul_(ctx.scale)), None


def _transformers() -> Any:
    """The package transformers, imported no earlier than needed: it takes seconds."""
    import transformers

    return transformers


def _pretrained_body(weights: str, size: str) -> dict[str, Tensor]:
    """The body's tensors in a transformers checkpoint, whichever head it was saved with.

    Raises:
        UserError: A folder or hub id that cannot be read, is no Segformer, is incomplete, or is of another size.
    """
    logging = _transformers().utils.logging
    if not Path(weights).exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise UserError(
            f"backbone weights '{weights}': no such folder: give a folder or a hub id such as nvidia/mit-b3"
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it reports every classifier weight that is left out
    try:
        _check_size(weights, size)
        body, report = _transformers().SegformerModel.from_pretrained(weights, output_loading_info=True)
    except UserError:
        raise
    except Exception as error:  # transformers, the hub, safetensors and pickle each raise their own kinds
        raise UserError(
            f"backbone weights '{weights}' {_failure(weights, error)},"
            " or give a folder that holds config.json and model.safetensors"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        raise UserError(
            f"backbone weights '{weights}' lack {len(report['missing_keys'])} tensors of a Segformer body"
            f" ('{min(report['missing_keys'])}' first): give a complete checkpoint"
        )
    tensors: dict[str, Tensor] = body.state_dict()
    return tensors


def _failure(weights: str, error: BaseException) -> str:
    """What went wrong and what to do: transformers wraps the hub's errors in its own, of one kind for all."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if caused_by(errors.GatedRepoError):
        return f"are gated: accept their licence at https://huggingface.co/{weights} and log in with `hf auth login`"
    if caused_by(errors.RepositoryNotFoundError):
        return "are not on the hub, or private: check the name, log in with `hf auth login`"
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        return "cannot be fetched, since the hub does not answer, and no copy is in its cache: connect once"
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"cannot be loaded ({reason}): check the name"


def _check_size(weights: str, size: str) -> None:
    """Compare a checkpoint's configuration with the size asked for, before its weights are read or downloaded."""
    config = _transformers().AutoConfig.from_pretrained(weights)
    if config.model_type != "segformer":
        raise UserError(f"backbone weights '{weights}' are of a '{config.model_type}' model, expected a 'segformer'")
    found = (tuple(config.depths), tuple(config.hidden_sizes))
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


def licence_notice(weights: str | None) -> str | None:
    """One line on the licence of pretrained backbone weights, to print and to keep beside the model, or None.

    It goes by the name: a folder of NVIDIA's weights under a name of your own is not recognised.

    >>> licence_notice("somebody/segformer-b0") is None
    True
    """
    if weights is None or not re.search(r"nvidia|(?<![a-z])mit-b[0-5](?![0-9])", weights, re.IGNORECASE):
        return None
    return (
        f"backbone weights '{weights}' are NVIDIA's, licensed for research and evaluation only, not for commercial use"
        " (https://github.com/NVlabs/SegFormer/blob/master/LICENSE); models trained from them inherit this"
    )
