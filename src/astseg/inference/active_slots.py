"""Some slots of each image, as many of one as of another: pruned slots need no planes between drawing and the result.

Ours, not in the paper, where every slot is drawn. A trained model has most of its slots inactive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from astseg.model.ops import index_like
from astseg.types import ObjectLatents

__all__ = ["ActiveSlots"]


class ActiveSlots:
    """N of the K slots of B images."""

    def __init__(self, wanted: Tensor, count: int) -> None:
        """Choose those that are wanted, and the first of the others where they are fewer than N.

        Args:
            wanted: B x K, bool, at most N of an image.
            count: N, from 1 to K.
        """
        self.slots = wanted.shape[1]
        first = wanted.int().sort(dim=1, descending=True, stable=True).indices[:, :count]
        # In their order, which decides between two equal objects.
        self.indices = first.sort(dim=1).values  # B x N

    def of(self, values: Tensor) -> Tensor:
        """B x K x ... -> B x N x ..."""
        return values.gather(1, index_like(self.indices, values))

    def latents(self, latents: ObjectLatents) -> ObjectLatents:
        """Those of the chosen."""
        return ObjectLatents(
            position=self.of(latents.position),
            scale=self.of(latents.scale),
            log_activation=self.of(latents.log_activation),
            appearance=self.of(latents.appearance),
        )

    def among(self, every: Tensor, values: Tensor) -> Tensor:
        """B x K x ... with the chosen replaced by B x N x ..."""
        return every.scatter(1, index_like(self.indices, values), values)

    def planes(self, values: Tensor) -> Tensor:
        """Of background and chosen, B x (1 + N) x ... -> of background and all, B x (1 + K) x ..., 0 for the others."""
        b, layers = len(values), 1 + self.slots
        planes = torch.cat([torch.zeros_like(self.indices[:, :1]), 1 + self.indices], dim=1)
        planes = planes + layers * torch.arange(b, device=planes.device)[:, None]  # counted through all images
        every = values.new_zeros(b, layers, *values.shape[2:])
        every.flatten(0, 1).index_copy_(0, planes.flatten(), values.flatten(0, 1))
        return every
