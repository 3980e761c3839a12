"""From an image to K object latents: attention, soft-argmax, transformer refinement.

Source: supplement, Algorithm 1 and Table 1. Two forms of the refinement:

- ``paper``: positions and features are the output of the transformer's projection, as published.
- ``residual``: that projection is initialised to zero and added to the pooled values, so that positions start as the
  soft-argmax itself and need not be recovered through a random transformer.

Latents are named fields. The public reference reads the activation at the fixed index 4 of its latent vector, which
with isotropic scale is the first appearance number; here the order is x, y, scale, activation, appearance in both
modes and every field is read at its own place. The switch ``reference`` restores its reading, for its weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from astseg.model.glimpse_encoder import GlimpseEncoder
from astseg.model.ops import at_least_float32, attention_pool, full_precision
from astseg.types import ObjectLatents

__all__ = ["REFINEMENTS", "Encoder", "Refinement", "split_latents"]

REFINEMENTS = ("paper", "residual")


def split_latents(
    raw: Tensor, *, scale_numbers: int, scale_range: tuple[float, float], reference: bool = False
) -> ObjectLatents:
    """Split latent vectors into named fields in their ranges (Algorithm 1, last loop).

    Args:
        raw: B x K x (2 + F), ordered x, y, scale, activation, appearance.
        scale_numbers: S, 1 or 2.
        scale_range: Smallest and largest inverse scale.
        reference: Read the activation at index 4 in both scale modes. With one scale number the first appearance
            number then does both jobs, and the activation's own place is unused.
    """
    smallest, largest = scale_range
    appearance_size = raw.shape[-1] - 3 - scale_numbers
    position, scale, activation, appearance = torch.split(raw, [2, scale_numbers, 1, appearance_size], dim=-1)
    return ObjectLatents(
        position=position.clamp(-1, 1),
        scale=smallest + (largest - smallest) * scale.sigmoid(),
        log_activation=raw[..., 4] if reference else activation.squeeze(-1),
        appearance=appearance,
    )


class Refinement(nn.Module):
    """A transformer over the K vectors of an image; no positional code, since the slots are a set."""

    def __init__(
        self,
        *,
        size: int,
        width: int,
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        form: str,
        equal_layers: bool = False,
    ) -> None:
        """Build the layers.

        Args:
            size: 2 + F, numbers of a slot.
            width: D.
            heads: Attention heads.
            layers: Encoder layers (post-norm, ReLU).
            feedforward: Hidden width of the feed-forward blocks.
            dropout: Dropout rate.
            form: ``paper`` or ``residual``.
            equal_layers: All layers start with the same weights, as in the reference.
        """
        super().__init__()
        assert form in REFINEMENTS, form

        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)

        self.embedding = nn.Linear(size, width)
        self.transformer = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
        if not equal_layers:  # nn.TransformerEncoder has copied one layer
            self.transformer.layers = nn.ModuleList([layer() for _ in range(layers)])
        self.projection = nn.Linear(width, size)
        self.residual = form == "residual"
        if self.residual:
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled: B x K x (2 + F) -> the same shape."""
        refined: Tensor = self.projection(self.transformer(self.embedding(pooled)))
        return pooled + refined if self.residual else refined


class Encoder(nn.Module):
    """Algorithm 1: image to object latents. Under autocast the backbone alone runs in half precision."""

    def __init__(
        self,
        backbone: nn.Module,
        refinement: nn.Module,
        *,
        slots: int,
        scale_numbers: int,
        scale_range: tuple[float, float],
        glimpse_encoder: GlimpseEncoder | None = None,
        reference: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: B x 3 x H x W -> B x (K + F) x h x w, the first K channels being attention logits.
            refinement: B x K x (2 + F) -> the same shape; ``nn.Identity()`` for none.
            slots: K.
            scale_numbers: S, 1 (isotropic) or 2.
            scale_range: Smallest and largest inverse scale.
            glimpse_encoder: Reads the appearance from the crop of each slot; None, as published: it is pooled.
            reference: Read the activation where the reference does (:func:`split_latents`).
        """
        super().__init__()
        self.backbone = backbone
        self.refinement = refinement
        self.glimpse_encoder = glimpse_encoder
        self.slots = slots
        self.scale_numbers = scale_numbers
        self.scale_range = scale_range
        self.reference = reference

    def encode_glimpses(
        self, images: Tensor, latents: ObjectLatents, attention: Tensor, drawn: Tensor | None = None
    ) -> ObjectLatents:
        """Latents with the appearance that a glimpse encoder reads, of the drawn slots (B x K; None: of all)."""
        if self.glimpse_encoder is None:
            return latents
        where, scale = latents.position, latents.scale
        return replace(
            latents, appearance=self.glimpse_encoder(images, attention, where, scale, latents.appearance, drawn)
        )

    def locate(self, images: Tensor) -> tuple[ObjectLatents, Tensor]:
        """Algorithm 1: feature map, attention, soft-argmax, refinement; the appearance is the pooled one.

        Args:
            images: B x 3 x H x W in [0, 1].

        Returns:
            Latents, and attention maps B x K x h x w.
        """
        maps = at_least_float32(self.backbone(images))
        # Near 1, bfloat16 has steps of 1/256: a quarter of a pixel of 128, too coarse for positions.
        with full_precision(maps.device):
            attention, pooled = attention_pool(maps[:, : self.slots], maps[:, self.slots :])
            raw = self.refinement(pooled)
        latents = split_latents(
            raw, scale_numbers=self.scale_numbers, scale_range=self.scale_range, reference=self.reference
        )
        return latents, attention
