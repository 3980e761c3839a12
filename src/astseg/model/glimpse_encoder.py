"""Glimpse encoder: the appearance of an object from the crop that its glimpse will cover; not in the paper.

In the paper (Algorithm 1) the appearance of an object is the mean of the feature map under its attention, so the
backbone must learn to describe shapes at any position and scale. Here the slot's own position and scale cut the object
out of the image, centred and at one size, and a small network describes the crop, which takes minutes to learn instead
of hours. AIR (Eslami et al., NeurIPS 2016) and its successors encode objects this way. The slot's attention is a fourth
channel, which says which of the objects in a crop is meant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from astseg.model.fast.layers import Convolution, GroupNorm
from astseg.model.ops import at_least_float32, crop_glimpses, full_precision, shapes_are_fixed

__all__ = ["GlimpseEncoder"]


class GlimpseEncoder(nn.Module):
    """Crops of an image to appearance vectors."""

    def __init__(self, *, side: int, appearance_size: int, width: int = 32, hidden: int = 128) -> None:
        """Build the layers.

        Args:
            side: Pixels of a crop, a multiple of 4.
            appearance_size: Z.
            width: Channels of the first convolution, a multiple of 16.
            hidden: Width of the layer before the last.
        """
        super().__init__()
        self.side = side
        layers: list[nn.Module] = []
        for before, after, stride in ((4, width, 1), (width, width, 2), (width, 2 * width, 2)):
            convolution = Convolution(before, after, 3, stride, padding=1, bias=False)
            layers += [convolution, GroupNorm(after // 16, after), nn.CELU()]
        cells = (side // 4) ** 2
        self.network = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(2 * width * cells, hidden),
            nn.CELU(),
            nn.Linear(hidden, appearance_size),
        )
        # Weights of the pooled appearance, which is added: zero at first.
        self.pooled_share = nn.Parameter(torch.zeros(appearance_size))

    def describe(
        self, images: Tensor, attention: Tensor, position: Tensor, scale: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        """Appearance from the crops of B images.

        Args:
            images: B x 3 x H x W in [0, 1].
            attention: B x K x h x w, 0 or more, of any scale; no gradient goes into it.
            position: B x K x 2, (x, y) in [-1, 1]; no gradient goes into it.
            scale: B x K x S, inverse scale; no gradient goes into it.
            drawn: B x K, slots whose appearance is wanted; None: all. That of the others is 0.

        Returns:
            B x K x Z.
        """
        b, k, h, w = attention.shape
        position, scale, attention = position.detach(), scale.detach(), attention.detach()
        relative = (attention / attention.amax(dim=(2, 3), keepdim=True).clamp_min(1e-9)).view(b * k, 1, h, w)
        with full_precision(images.device):
            crops = crop_glimpses(images, position, scale, side=self.side).flatten(0, 1)
            attended = crop_glimpses(relative, position.view(b * k, 1, -1), scale.view(b * k, 1, -1), side=self.side)
        seen = torch.cat([crops, attended.flatten(0, 1)], dim=1) - 0.5  # BK x 4 x side x side
        if drawn is None or shapes_are_fixed(images.device):
            described = at_least_float32(self.network(seen)).view(b, k, -1)
            return described if drawn is None else described * drawn[..., None]
        chosen = drawn.flatten().nonzero().squeeze(1)
        some = at_least_float32(self.network(seen[chosen]))
        return some.new_zeros(b * k, some.shape[1]).index_copy(0, chosen, some).view(b, k, -1)

    def forward(
        self,
        images: Tensor,
        attention: Tensor,
        position: Tensor,
        scale: Tensor,
        pooled: Tensor,
        drawn: Tensor | None = None,
    ) -> Tensor:
        """The appearance of every slot: that of its crop, plus a learned multiple of the pooled one.

        Args:
            images: B x 3 x H x W in [0, 1].
            attention: B x K x h x w.
            position: B x K x 2.
            scale: B x K x S.
            pooled: B x K x Z.
            drawn: B x K, slots whose crops are encoded; None: all.

        Returns:
            B x K x Z.
        """
        return self.describe(images, attention, position, scale, drawn) + self.unseen(pooled)

    def unseen(self, pooled: Tensor) -> Tensor:
        """The appearance of slots whose crops are not encoded, B x K x Z; pooled: the same shape."""
        return self.pooled_share * pooled
