"""From object latents and a background to an image: glimpses, placement, blending.

Sources: supplement, Algorithm 2 and Table 2 (generators for images up to 64 and up to 128 pixels; the third, for larger
images, is the reference implementation's). Computed otherwise than in :mod:`astseg.model.reference`: placement is two
matrix products with tent weights instead of a sampling grid, and blending never builds the concatenated layers.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from astseg.model.fast.compositing import draw_and_blend
from astseg.model.fast.layers import TransposedConvolution
from astseg.model.ops import (
    SMALLEST_LOG_RATIO,
    at_least_float32,
    full_precision,
    sampling_weights,
    shapes_are_fixed,
)
from astseg.types import ObjectLatents

__all__ = ["GlimpseGenerator", "Renderer", "Rendering", "blend_layers", "glimpse_channels", "place_glimpses"]


def glimpse_channels(image_size: tuple[int, int], width: int = 1) -> tuple[int, ...]:
    """Channels of the glimpse generator's layers, by image size (Table 2); the glimpse side is 2 ** (their number).

    Args:
        image_size: (H, W).
        width: Factor on all of them but the last; 1 is the paper.

    >>> glimpse_channels((64, 64))
    (64, 32, 16, 8, 4)
    """
    side = max(image_size)
    first = 64 if side <= 64 else 128 if side <= 128 else 256
    hidden = [first]
    while hidden[-1] > 8:
        hidden.append(hidden[-1] // 2)
    return (*(width * channels for channels in hidden), 4)


def place_glimpses(glimpses: Tensor, position: Tensor, scale: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Draw each glimpse at its position and scale on an empty image (Algorithm 2, STN).

    Args:
        glimpses: B x K x C x g x g.
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale: one number, or one for x and one for y.
        image_size: (H, W).

    Returns:
        B x K x C x H x W, zero outside each glimpse.
    """
    b, k, c, g, _ = glimpses.shape
    height, width = image_size
    columns = sampling_weights(position[..., 0], scale[..., 0], image_side=width, glimpse_side=g)
    rows = sampling_weights(position[..., 1], scale[..., -1], image_side=height, glimpse_side=g)
    rows, columns = rows.to(glimpses.dtype), columns.to(glimpses.dtype)
    wide = glimpses.reshape(b * k, c * g, g) @ columns.reshape(b * k, width, g).mT  # BK x Cg x W
    wide = wide.view(b * k, c, g, width)
    placed = rows.reshape(b * k, 1, height, g) @ wide  # BK x C x H x W
    return placed.view(b, k, c, height, width)


def blend_layers(
    layers: Tensor, masks: Tensor, log_activation: Tensor, background: Tensor, background_log_activation: Tensor
) -> tuple[Tensor, Tensor]:
    """Settle occlusions and mix the layers into one image (Algorithm 2).

    ``w_k = alpha_k M_k / sum_i alpha_i M_i`` with ``M_0 = 1``; the largest activation of each image is divided out
    first, so that no exponential overflows.

    Args:
        layers: B x K x 3 x H x W colours of the objects.
        masks: B x K x H x W in [0, 1].
        log_activation: B x K, log alpha of the objects.
        background: B x 3 x H x W.
        background_log_activation: Log alpha of the background: a scalar, or H x W.

    Returns:
        Weights, B x L x H x W, that sum to one over the layers (0 = background); and the reconstruction,
        B x 3 x H x W.
    """
    b, _, h, w = masks.shape
    background_log = background_log_activation.expand(b, 1, h, w)
    largest = torch.maximum(background_log.amax(dim=(1, 2, 3)), log_activation.amax(dim=1)).detach()  # B
    visible = (log_activation - largest[:, None]).exp()[..., None, None] * masks  # B x K x H x W
    behind = (background_log - largest[:, None, None, None]).clamp_min(SMALLEST_LOG_RATIO).exp()  # B x 1 x H x W
    weights = torch.cat([behind, visible], dim=1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    objects = torch.einsum("bkhw,bkchw->bchw", weights[:, 1:], layers)
    return weights, weights[:, :1] * background + objects


class Rendering(NamedTuple):
    """Output of the renderer for B images.

    Attributes:
        layers: B x K x 3 x H x W in [0, 1], each object's colours where its glimpse lies, 0 outside; None where they
            were not wanted.
        masks: B x K x H x W in [0, 1], each object's own mask before occlusion; None without layers.
        weights: B x L x H x W, sum to one over the layers, 0 = background.
        reconstruction: B x 3 x H x W in [0, 1].
        errors: B x L x H x W, squared errors of each layer's colours, summed over RGB, without a gradient; undefined
            where its weight is 0. None where no images were given.
    """

    layers: Tensor | None
    masks: Tensor | None
    weights: Tensor
    reconstruction: Tensor
    errors: Tensor | None = None


class GlimpseGenerator(nn.Sequential):
    """z_what to colours and mask (Table 2): transposed convolutions, each doubling the side, shared by all slots."""

    def __init__(self, appearance_size: int, channels: tuple[int, ...]) -> None:
        """Build the layers.

        Args:
            appearance_size: Z.
            channels: Output channels of the layers; the last is 4, RGB and mask.
        """
        # The first layer turns 1 x 1 into 2 x 2. A group of every GroupNorm has 16 channels, or all if there are fewer.
        layers: list[nn.Module] = [TransposedConvolution(appearance_size, channels[0], 2, 2, bias=False)]
        last = len(channels) - 1
        for i, (before, after) in enumerate(itertools.pairwise(channels), start=1):
            layers += [nn.GroupNorm(max(1, before // 16), before), nn.CELU()]
            layers += [TransposedConvolution(before, after, 4, 2, 1, bias=i == last)]
        super().__init__(*layers, nn.Sigmoid())
        self.side = 2 ** len(channels)
        self.appearance_size = appearance_size

    def forward(self, appearance: Tensor) -> Tensor:
        """appearance: N x Z -> N x 4 x g x g in [0, 1]."""
        glimpses: Tensor = super().forward(appearance[..., None, None])  # type: ignore[no-untyped-call]
        return glimpses


class Renderer(nn.Module):
    """Algorithm 2: generate every glimpse, place it (spatial transformer), settle occlusions, mix the layers."""

    def __init__(
        self,
        generator: GlimpseGenerator,
        *,
        image_size: tuple[int, int],
        background_log_activation: float = 11.0,
        pixel_activation: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            generator: N x Z -> N x 4 x g x g.
            image_size: (H, W).
            background_log_activation: Log alpha_0 at the start; learned.
            pixel_activation: Adds a learned term for each pixel to log alpha_0 (the reference's setting for videos).
        """
        super().__init__()
        self.generator = generator
        self.image_size = image_size
        self.background_log_activation = nn.Parameter(torch.tensor(float(background_log_activation)))
        self.pixel_log_activation = nn.Parameter(torch.zeros(image_size)) if pixel_activation else None

    def background_activation(self) -> Tensor:
        """Log alpha_0: a scalar, or H x W with the per-pixel term."""
        if self.pixel_log_activation is None:
            return self.background_log_activation
        return self.background_log_activation + self.pixel_log_activation

    def active(self, log_activation: Tensor, margin: float) -> Tensor:
        """Which slots come near enough to the background to be worth drawing (slot pruning).

        Args:
            log_activation: B x K, log alpha of the slots.
            margin: A slot whose log activation is below the background's by more than this weighs less than
                e^-margin in every pixel, and is not active.

        Returns:
            B x K, bool.
        """
        behind = self.background_activation().detach().min()
        return log_activation.detach() - behind > -margin

    def forward(
        self,
        latents: ObjectLatents,
        background: Tensor,
        *,
        images: Tensor | None = None,
        layers: bool = True,
        drawn: Tensor | None = None,
    ) -> Rendering:
        """Render.

        Args:
            latents: The objects of B images.
            background: B x 3 x H x W in [0, 1].
            images: B x 3 x H x W in [0, 1], what the colours of the layers are compared with, or None.
            layers: Whether layers and masks are returned too; they are most of the cost, and training does without.
            drawn: B x K, which objects are drawn (:meth:`active`); only without layers.
        """
        behind = self.background_activation()
        if not layers:
            glimpses = self._glimpses(latents.appearance, drawn)
            places = latents.position, latents.scale, latents.log_activation
            blended = draw_and_blend(glimpses, *places, background, behind, images=images, drawn=drawn)
            return Rendering(None, None, *blended)
        glimpses = self._glimpses(latents.appearance)
        placed = at_least_float32(place_glimpses(glimpses, latents.position, latents.scale, image_size=self.image_size))
        colours, masks = placed[:, :, :3], placed[:, :, 3]
        with full_precision(placed.device):
            weights, reconstruction = blend_layers(colours, masks, latents.log_activation, background, behind)
        errors: Tensor | None = None
        if images is not None:
            with torch.no_grad():
                each = [background, *colours.unbind(dim=1)]
                errors = torch.stack([(layer - images).square().sum(dim=1) for layer in each], dim=1)
        return Rendering(colours, masks, weights, reconstruction, errors)

    def colours(self, latents: ObjectLatents, drawn: Tensor) -> Tensor:
        """The layers of some objects; no gradient.

        Args:
            latents: The objects of B images.
            drawn: B x K, which of them are wanted.

        Returns:
            B x K x 3 x H x W in [0, 1], zeros for the others.
        """
        glimpses = self.generator(latents.appearance[drawn])[:, None, :3]  # N x 1 x 3 x g x g
        position, scale = latents.position[drawn][:, None], latents.scale[drawn][:, None]
        placed = at_least_float32(place_glimpses(glimpses, position, scale, image_size=self.image_size))
        colours = placed.new_zeros(*drawn.shape, 3, *self.image_size)
        colours[drawn] = placed[:, 0]
        return colours

    def _glimpses(self, appearance: Tensor, drawn: Tensor | None = None) -> Tensor:
        """B x K x Z -> B x K x 4 x g x g; zeros for those that are not to be drawn (drawn: B x K)."""
        b, k, _ = appearance.shape
        if drawn is None or shapes_are_fixed(appearance.device):
            glimpses: Tensor = self.generator(appearance.flatten(0, 1)).unflatten(0, (b, k))
            return glimpses if drawn is None else glimpses * drawn[..., None, None, None]
        some = self.generator(appearance[drawn])
        glimpses = some.new_zeros(b, k, *some.shape[1:])
        glimpses[drawn] = some
        return glimpses
