"""A background as a few colours and the places that have them: walls, floor and sky of rooms that all differ.

Not in the paper, whose background model must learn each pixel's colour as one function of 16 numbers. But what varies
from scene to scene is mostly which colour a wall has and where it ends; told apart, both are learnt within a minute:

1. *Colours* are pooled from the image with attention maps that are the same for every image. They start from cells
   whose colours go together in the data (k-means). A second, weighted pooling leaves out what has another colour, such
   as an object in front of a wall.
2. *Nearness*: where in the image each colour is. The encoder sees it beside the image: a map of walls and floor that
   is the same whatever their colours are.
3. *Shares*: which colour each pixel of the background has, a softmax over logits of the decoder, a learned constant
   map and the nearness, averaged over cells so that nothing small gets through it.
4. The mixed colour is shaded (one factor for all channels, decoded), and the decoder adds what is left.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from astseg.model.ops import at_least_float32, full_precision

__all__ = ["COLOURS", "ColourMixture", "View"]

COLOURS = 4
"""Colours of a palette."""

CELLS = 16
"""About so many cells lie along the shorter side: small objects fill none, so no cell is theirs."""

NEAR = 0.12
"""Distance in RGB at which a colour's nearness has fallen to exp(-1/2), at the start; learned."""

SNAP = 6.0
"""Weight of the nearness in the logits of the shares, at the start; learned."""

INSIDE, OUTSIDE = 2.0, -2.0
"""Logits of the attention that a colour starts with, within its cells and elsewhere."""

CONFIDENCE = 3.0
"""Logits that the constant map of the shares starts with, within a colour's cells."""

SHADING = 0.3
"""Factor on the decoded logarithm of the shading: it starts small."""

DRIFT = 0.1
"""Factor on what the code adds to the colours that were read."""

SMALLEST = 0.005
"""Mixed colours are kept this far from 0 and 1, where the logit would be infinite."""


@dataclass(frozen=True)
class View:
    """What a palette sees in B images.

    Attributes:
        colours: B x R x 3 in [0, 1].
        nearness: B x R x H x W in [0, 1], 1 where a pixel has just that colour.
        coarse: The same averaged over cells, B x R x h x w.
    """

    colours: Tensor
    nearness: Tensor
    coarse: Tensor


class ColourMixture(nn.Module):
    """Reads R colours from an image and mixes a background of them."""

    def __init__(self, image_size: tuple[int, int], code_size: int) -> None:
        """Start with maps that tell nothing apart; see :meth:`start_from`.

        Args:
            image_size: (H, W).
            code_size: Numbers in the code of an image.
        """
        super().__init__()
        height, width = image_size
        self.cell = max(1, round(min(image_size) / CELLS))
        cells = (-(-height // self.cell), -(-width // self.cell))
        self.attention = nn.Parameter(torch.zeros(COLOURS, *cells))
        self.shares = nn.Parameter(torch.zeros(COLOURS, height, width))
        self.sharpness = nn.Parameter(torch.full((COLOURS,), 1 / (2 * NEAR**2)).log())
        self.snap = nn.Parameter(torch.tensor(SNAP))
        self.drift = nn.Linear(code_size, 3 * COLOURS)
        nn.init.zeros_(self.drift.weight)
        nn.init.zeros_(self.drift.bias)

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Give each colour the cells whose colours go together from image to image.

        Args:
            images: N x 3 x H x W in [0, 1]; some hundred are enough.
        """
        cells = self._average(images).permute(2, 3, 0, 1)  # h x w x N x 3
        of_cell = _clusters(cells.flatten(0, 1).flatten(1).double().cpu().numpy())
        member = torch.from_numpy(of_cell).view(cells.shape[:2]) == torch.arange(COLOURS)[:, None, None]
        member = member.to(self.attention.device, torch.float32)
        around = functional.avg_pool2d(member[None], 3, 1, 1, count_include_pad=False)
        self.attention.copy_(OUTSIDE + (INSIDE - OUTSIDE) * member * around[0])
        self.shares.copy_(CONFIDENCE * self._enlarge(around)[0])

    def look(self, images: Tensor) -> View:
        """Colours, and where they are. images: B x 3 x H x W in [0, 1]."""
        with full_precision(images.device):
            images = at_least_float32(images)
            cells = self._average(images)
            attention = self.attention.flatten(1).softmax(dim=1)  # R x hw
            pixels = cells.flatten(2).transpose(1, 2)  # B x hw x 3
            colours = attention @ pixels
            # Once more, without the cells that have another colour; if all have, as before.
            weights = attention * (self._nearness(cells, colours).flatten(2) + 1e-4)
            colours = (weights @ pixels) / weights.sum(dim=2, keepdim=True)
            nearness = self._nearness(images, colours)
            return View(colours, nearness, self._average(nearness))

    def mix(self, view: View, code: Tensor, shares: Tensor, shading: Tensor) -> Tensor:
        """The background's colours, B x 3 x H x W in (0, 1).

        Args:
            view: What was seen.
            code: B x code size.
            shares: Logits of the decoder, B x R x H x W.
            shading: Logarithm of the shading before :data:`SHADING`, B x 1 x H x W.
        """
        colours = view.colours + DRIFT * at_least_float32(self.drift(code)).view(-1, COLOURS, 3)
        share = (shares + self.shares + self.snap * self._enlarge(view.coarse)).softmax(dim=1)
        mixed = (colours.transpose(1, 2) @ share.flatten(2)).view(-1, 3, *share.shape[2:])
        shaded: Tensor = mixed * (SHADING * shading).exp()
        return shaded.clamp(SMALLEST, 1 - SMALLEST)

    def _nearness(self, images: Tensor, colours: Tensor) -> Tensor:
        """B x R x H x W: exp(-sharpness |image - colour|^2)."""
        products = (colours @ images.flatten(2)).view(*colours.shape[:2], *images.shape[2:])
        square = images.square().sum(dim=1, keepdim=True) + colours.square().sum(dim=2)[..., None, None] - 2 * products
        return torch.exp(-self.sharpness.exp()[:, None, None] * square.clamp_min(0))

    def _average(self, maps: Tensor) -> Tensor:
        """B x C x H x W -> means over cells, B x C x h x w."""
        return functional.avg_pool2d(maps, self.cell, ceil_mode=True)

    def _enlarge(self, maps: Tensor) -> Tensor:
        """B x C x h x w -> B x C x H x W."""
        size = (self.shares.shape[1], self.shares.shape[2])
        return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _clusters(features: NDArray[np.float64]) -> NDArray[np.int32]:
    """M x D -> M, k-means into :data:`COLOURS` clusters, each started far from those before; always the same."""
    centres = [features.mean(axis=0)]
    for _ in range(COLOURS):
        distance = np.min([np.square(features - centre).sum(axis=1) for centre in centres], axis=0)
        centres.append(features[distance.argmax()])
    # The mean itself is no cluster. An empty one keeps its centre, which is all that scipy would warn of.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _, labels = kmeans2(features, np.stack(centres[1:]), minit="matrix", iter=30)
    clusters: NDArray[np.int32] = labels.astype(np.int32)
    return clusters
