"""The alphabet of the project and the containers that pass between its parts.

Alphabet, used in every docstring, einsum string and error message:
``B`` batch, ``K`` object slots, ``L = K + 1`` layers (0 = background), ``H W`` image, ``h w`` feature map,
``g`` glimpse side, ``D`` transformer width, ``Z`` appearance size, ``S`` scale numbers (1 isotropic, 2 anisotropic),
``F = Z + 1 + S`` features of a slot besides its position.

Images are RGB: uint8 in files and in :class:`SceneArrays`, float in [0, 1] from the first tensor on.
Positions are (x, y) in [-1, 1], x to the right and y down. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Images", "ObjectLatents", "SceneArrays", "SceneOutput"]


class Images(Protocol):
    """An array of uint8, or something on disk whose rows become one when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N x ..."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, key: Any, /) -> Any:
        """One row, or the rows of a slice or of an array of numbers."""


@dataclass(frozen=True)
class SceneArrays:
    """A data set, or a selection of one, at the size the model sees; in memory, or read from a cache as it is indexed.

    Attributes:
        images: N x H x W x 3, uint8.
        labels: N x H x W, uint8, 0 = background, or None where the source has no masks.
        names: N names, for error messages and output files.
        source: Where the scenes come from: a path and a selection, in words.
    """

    images: Images
    labels: Images | None
    names: Sequence[str]
    source: str

    def __len__(self) -> int:
        """Number of scenes, N."""
        return len(self.images)


@dataclass
class ObjectLatents:
    """What the encoder says of the K objects of each image (Algorithm 1, output), proposals included where they are on.

    Attributes:
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale in [scale_min, scale_max]: a glimpse covers 1/scale of the image side.
        log_activation: B x K, log alpha, any real number.
        appearance: B x K x Z, z_what.
    """

    position: Tensor
    scale: Tensor
    log_activation: Tensor
    appearance: Tensor


@dataclass
class SceneOutput:
    """Everything the model says of a batch of images.

    Attributes:
        latents: The objects.
        attention: B x K x h x w, each map sums to one.
        background: B x 3 x H x W in [0, 1], the scene without objects.
        layers: B x K x 3 x H x W in [0, 1], each object's colours where its glimpse lies, 0 outside; None where
            the model was told to do without.
        masks: B x K x H x W in [0, 1], each object's own mask before occlusion; None without layers.
        weights: B x L x H x W, layer weights that sum to one, 0 = background.
        reconstruction: B x 3 x H x W in [0, 1].
        colour_errors: B x L x H x W, squared error of each layer's colours, summed over RGB, without a gradient;
            anything where its weight is 0. None where it was not asked for.
        posterior: B x L x H x W, the mask posterior (:mod:`astseg.inference.mask_posterior`), sums to one over the
            layers; None from the network alone.
        missed: B x K, bool, slots that were given components which the encoder had missed
            (:mod:`astseg.inference.proposals`); None from the network alone.
    """

    latents: ObjectLatents
    attention: Tensor
    background: Tensor
    layers: Tensor | None
    masks: Tensor | None
    weights: Tensor
    reconstruction: Tensor
    colour_errors: Tensor | None = None
    posterior: Tensor | None = None
    missed: Tensor | None = None

    @property
    def responsibilities(self) -> Tensor:
        """B x L x H x W, the posterior or else the weights; a pixel belongs to the largest, 0 = background."""
        return self.weights if self.posterior is None else self.posterior
