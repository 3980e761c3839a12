"""The method in one forward: background, encoder, renderer.

Source: *Unsupervised Multi-object Segmentation Using Attention and Soft-argmax* (Sauvalle and de La Fortelle, WACV
2023), figure of the model; Algorithms 1 and 2 of its supplement. The background model is *AE-NE* (same authors).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from astseg.config import ModelConfig
from astseg.errors import UserError
from astseg.model.backbones import build_backbone
from astseg.model.background import BackgroundModel
from astseg.model.encoder import Encoder, Refinement
from astseg.model.glimpse_encoder import GlimpseEncoder
from astseg.model.ops import at_least_float32
from astseg.model.renderer import GlimpseGenerator, Renderer, glimpse_channels
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["AstSeg", "build"]


class AstSeg(nn.Module):
    """Find, separate and redraw the objects of images."""

    def __init__(self, background_model: BackgroundModel, encoder: Encoder, renderer: Renderer) -> None:
        """Put the parts together.

        Args:
            background_model: B x 3 x H x W -> background B x 3 x H x W and predicted error B x 1 x H x W.
            encoder: B x 3 x H x W -> object latents and attention maps.
            renderer: Latents and background -> layers, masks, weights, reconstruction.
        """
        super().__init__()
        self.background_model = background_model
        self.encoder = encoder
        self.renderer = renderer

    def forward(self, images: Tensor, background: Tensor | None = None, *, layers: bool = True) -> SceneOutput:
        """Run the method: the same numbers in every mode, but for dropout and batch statistics.

        Args:
            images: B x 3 x H x W in [0, 1].
            background: The same shape, where it is known (frozen) already.
            layers: Whether each object's layer and mask are wanted; without them a step costs a fraction.

        Raises:
            UserError: Images of another size than the model was built for.
        """
        if images.shape[-2:] != self.renderer.image_size:
            (height, width), (rows, columns) = images.shape[-2:], self.renderer.image_size
            raise UserError(f"images are {height}x{width}, but the model was built for {rows}x{columns}: resize them")
        if background is None:
            background, _ = self.background_model(images)
        latents, attention = self.encoder.locate(images)
        return self.render(images, background, latents, attention, layers=layers)

    def render(
        self,
        images: Tensor,
        background: Tensor,
        latents: ObjectLatents,
        attention: Tensor,
        *,
        layers: bool = True,
        active: Tensor | None = None,
        compare: bool = False,
    ) -> SceneOutput:
        """From where objects are to the reconstruction: their appearance, then Algorithm 2.

        Args:
            images: B x 3 x H x W in [0, 1].
            background: The same shape.
            latents: The objects; their appearance is still the pooled one.
            attention: B x K x h x w.
            layers: Whether each object's layer and mask are wanted.
            active: B x K, bool, which slots are encoded again, and drawn unless layers are wanted; None: all.
            compare: Whether the colours of the layers are compared with the images (``colour_errors``).
        """
        latents = self.encoder.encode_glimpses(images, latents, attention, active)
        rendering = self.renderer(
            latents,
            background,
            images=images if compare else None,
            layers=layers,
            drawn=None if layers else active,
        )
        return SceneOutput(
            latents=latents,
            attention=attention,
            background=background,
            layers=rendering.layers,
            masks=rendering.masks,
            weights=rendering.weights,
            reconstruction=rendering.reconstruction,
            colour_errors=rendering.errors,
        )

    def glimpses(self, images: Tensor, attention: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        """Glimpses of what the glimpse encoder sees at given places.

        Args:
            images: B x 3 x H x W in [0, 1].
            attention: B x K x h x w.
            position: B x K x 2, (x, y) in [-1, 1].
            scale: B x K x S, inverse scale.

        Returns:
            B x K x 4 x g x g in [0, 1], RGB and mask.
        """
        assert self.encoder.glimpse_encoder is not None, "the model has no glimpse encoder"
        appearance = self.encoder.glimpse_encoder.describe(images, attention, position, scale)
        drawn = at_least_float32(self.renderer.generator(appearance.flatten(0, 1)))  # BK x 4 x g x g
        return drawn.view(*appearance.shape[:2], *drawn.shape[1:])

    def object_parameters(self) -> list[nn.Parameter]:
        """What phase 2 of the curriculum trains: everything but the background model."""
        return [*self.encoder.parameters(), *self.renderer.parameters()]


def build(config: ModelConfig) -> AstSeg:
    """The model that a configuration describes, with fresh weights (and pretrained ones where it names them).

    Raises:
        UserError: Backbone weights that cannot be had, an image size that a part cannot take.
    """
    scale_numbers = 1 if config.isotropic else 2
    features = config.appearance + 1 + scale_numbers
    crop = config.glimpse_crop
    encoder = Encoder(
        build_backbone(
            config.backbone,
            out_channels=config.slots + features,
            image_size=config.image_size,
            weights=config.backbone_weights,
        ),
        _build_refinement(config, size=2 + features),
        slots=config.slots,
        scale_numbers=scale_numbers,
        scale_range=(config.scale_min, config.scale_max),
        glimpse_encoder=GlimpseEncoder(side=crop, appearance_size=config.appearance) if crop else None,
        reference=config.reference,
    )
    renderer = Renderer(
        GlimpseGenerator(config.appearance, glimpse_channels(config.image_size, config.glimpse_width)),
        image_size=config.image_size,
        background_log_activation=config.background_log_activation,
        pixel_activation=config.pixel_activation,
    )
    background = BackgroundModel(config.image_size, config.background_width, form=config.background_form)
    model = AstSeg(background, encoder, renderer)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _build_refinement(config: ModelConfig, *, size: int) -> nn.Module:
    """The transformer over the slots, or nothing in its place (an ablation of the paper)."""
    if config.refinement == "none":
        return nn.Identity()
    return Refinement(
        size=size,
        width=config.transformer_width,
        heads=config.transformer_heads,
        layers=config.transformer_layers,
        feedforward=config.transformer_feedforward,
        dropout=config.dropout,
        form=config.refinement,
        equal_layers=config.reference,
    )
