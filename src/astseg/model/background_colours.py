"""Background as a mixture of a few colours read from the image: walls, floor and sky of rooms that all differ.

Not in the paper, whose background model (AE-NE) decodes each pixel's colour from a code of 16 numbers. What varies from
scene to scene is mostly which colour a surface has and where it ends; represented separately, both are learnt within a
minute:

1. *Colours* are pooled from the image with attention maps that are the same for every image, initialised by k-means
   over cells whose colours vary together in the data. A second, weighted pooling leaves out pixels of other colours,
   such as an object in front of a wall.
2. *Similarity* maps: how close each pixel is to each colour. The encoder receives them beside the image: a layout of
   the surfaces that does not depend on their colours.
3. *Mixture weights* of the colours at each pixel: a softmax over decoded logits, a learned constant map and the
   similarity, averaged over cells so that small objects do not pass.
4. The mixed colour is multiplied by a decoded shading factor, and the decoder adds a residual.
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
"""R, colours of a mixture."""

CELLS = 16
"""Cells along the shorter side, about: small objects fill none of them."""

NEAR = 0.12
"""Distance in RGB at which the similarity to a colour is exp(-1/2), initially; learned."""

SNAP = 6.0
"""Weight of the similarity in the logits of the mixture, initially; learned."""

INSIDE, OUTSIDE = 2.0, -2.0
"""Initial attention logits of a colour, within its cells and elsewhere."""

CONFIDENCE = 3.0
"""Initial logits of the constant map of the mixture, within a colour's cells."""

SHADING = 0.3
"""Factor on the decoded logarithm of the shading, which thus starts small."""

DRIFT = 0.1
"""Factor on the correction of the pooled colours that is decoded from the code."""

SMALLEST = 0.005
"""Mixed colours are kept this far from 0 and 1, where the logit would be infinite."""


@dataclass(frozen=True)
class View:
    """Colours pooled from B images, and where they are.

    Attributes:
        colours: B x R x 3 in [0, 1].
        nearness: B x R x H x W in [0, 1], similarity of each pixel to each colour, 1 where they are equal.
        coarse: The same averaged over cells, B x R x h x w.
    """

    colours: Tensor
    nearness: Tensor
    coarse: Tensor


class ColourMixture(nn.Module):
    """Pools R colours from an image and mixes a background of them."""

    def __init__(self, image_size: tuple[int, int], code_size: int) -> None:
        """Build with uniform maps; :meth:`start_from` initialises them.

        Args:
            image_size: (H, W).
            code_size: Length of the code of an image.
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
        """Initialise the maps: each colour gets the cells whose colours vary together from image to image.

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

    def pool(self, images: Tensor) -> View:
        """Pool the colours of images B x 3 x H x W in [0, 1]."""
        with full_precision(images.device):
            images = at_least_float32(images)
            cells = self._average(images)
            attention = self.attention.flatten(1).softmax(dim=1)  # R x hw
            pixels = cells.flatten(2).transpose(1, 2)  # B x hw x 3
            colours = attention @ pixels
            # Again, without the cells of other colours; if all are, as before.
            weights = attention * (self._nearness(cells, colours).flatten(2) + 1e-4)
            colours = (weights @ pixels) / weights.sum(dim=2, keepdim=True)
            nearness = self._nearness(images, colours)
            return View(colours, nearness, self._average(nearness))

    def mix(self, view: View, code: Tensor, shares: Tensor, shading: Tensor) -> Tensor:
        """The background's colours, B x 3 x H x W in (0, 1).

        Args:
            view: Of the same images.
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
    """M x D -> M, k-means into :data:`COLOURS` clusters, each initialised far from those before; deterministic."""
    centres = [features.mean(axis=0)]
    for _ in range(COLOURS):
        distance = np.min([np.square(features - centre).sum(axis=1) for centre in centres], axis=0)
        centres.append(features[distance.argmax()])
    # The mean itself is no cluster. An empty one keeps its centre, the only thing that scipy would warn of.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _, labels = kmeans2(features, np.stack(centres[1:]), minit="matrix", iter=30)
    clusters: NDArray[np.int32] = labels.astype(np.int32)
    return clusters
