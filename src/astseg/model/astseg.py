"""The method in one forward: background, encoder, renderer.

Source: *Unsupervised Multi-object Segmentation Using Attention and Soft-argmax* (Sauvalle and de La Fortelle, WACV
2023), figure of the model; Algorithms 1 and 2 of its supplement. The background model is *AE-NE* (same authors).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from astseg.config import ModelConfig
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components
from astseg.errors import UserError
from astseg.inference.active_slots import ActiveSlots
from astseg.inference.mask_posterior import mask_posterior, visible_slots
from astseg.inference.proposals import assign_proposals
from astseg.model.backbones import build_backbone
from astseg.model.background import BackgroundModel
from astseg.model.encoder import Encoder, Refinement
from astseg.model.glimpse_encoder import GlimpseEncoder
from astseg.model.ops import at_least_float32, shapes_are_fixed
from astseg.model.renderer import GlimpseGenerator, Renderer, glimpse_channels
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["AstSeg", "build"]


class AstSeg(nn.Module):
    """Find, separate and redraw the objects of images."""

    def __init__(
        self,
        background_model: BackgroundModel,
        encoder: Encoder,
        renderer: Renderer,
        *,
        colour_std: float = 0.0,
        proposals: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            background_model: B x 3 x H x W -> background B x 3 x H x W and predicted error B x 1 x H x W.
            encoder: B x 3 x H x W -> object latents and attention maps.
            renderer: Latents and background -> layers, masks, weights, reconstruction.
            colour_std: Outside of training, deviation of colours by which pixels choose their layer too; 0: they
                do not.
            proposals: Outside of training, slots take their places from regions that differ from the background; the
                encoder must have a second look.
        """
        super().__init__()
        self.background_model = background_model
        self.encoder = encoder
        self.renderer = renderer
        assert encoder.glimpse_encoder is not None or not proposals, "the encoder has no second look"
        self.colour_std = colour_std
        self.proposals = proposals

    def forward(self, images: Tensor, background: Tensor | None = None, *, layers: bool = True) -> SceneOutput:
        """Run the method.

        Args:
            images: B x 3 x H x W in [0, 1].
            background: The same shape, where it is known (frozen) already; with proposals the background model runs all
                the same, to tell how far it may be off.
            layers: Whether each object's layer and mask are wanted; without them a step costs a fraction.

        Raises:
            UserError: Images of another size than the model was built for.
        """
        height, width = images.shape[-2:]
        rows, columns = self.renderer.image_size
        if (height, width) != (rows, columns):
            raise UserError(f"images are {height}x{width}, but the model was built for {rows}x{columns}: resize them")
        predicted_error = regions = missed = None
        if background is None or self.proposing:
            drawn, predicted_error = self.background_model(images)
            background = drawn if background is None else background
        latents, attention = self.encoder.locate(images)
        if self.proposing and predicted_error is not None:
            latents, attention, regions, missed = self.propose(images, background, predicted_error, latents, attention)
        output = self.draw(images, background, latents, attention, regions, layers=layers)
        output.missed = missed
        return output

    @property
    def proposing(self) -> bool:
        """Whether slots take their places from regions now."""
        return self.proposals and not self.training

    def propose(
        self, images: Tensor, background: Tensor, predicted_error: Tensor, latents: ObjectLatents, attention: Tensor
    ) -> tuple[ObjectLatents, Tensor, Components, Tensor]:
        """Have slots take their places from the regions that differ from the background.

        Args:
            images: B x 3 x H x W in [0, 1].
            background: The same shape.
            predicted_error: B x 1 x H x W, what the background model says of itself.
            latents: The objects as the encoder sees them.
            attention: B x K x h x w.

        Returns:
            Latents, attention, the regions, and which slots have one that the encoder missed, B x K.
        """
        regions = find_components(images, background, predicted_error, limit=self.encoder.slots).to(images.device)
        behind = self.renderer.background_log_activation.detach()
        latents, attention, missed = assign_proposals(
            latents, attention, regions, behind=behind, scale_range=self.encoder.scale_range
        )
        return latents, attention, regions, missed

    def draw(
        self,
        images: Tensor,
        background: Tensor,
        latents: ObjectLatents,
        attention: Tensor,
        regions: Components | None = None,
        *,
        layers: bool,
        most: int | None = None,
    ) -> SceneOutput:
        """Look at each object once more, draw it, settle occlusions and say what pixels belong to.

        Args:
            images: B x 3 x H x W in [0, 1].
            background: The same shape.
            latents: The objects; their appearance is still the pooled one.
            attention: B x K x h x w.
            regions: What differs from the background, where that has a say in what pixels belong to.
            layers: As for :meth:`forward`.
            most: Without layers and gradients, how many objects of an image can be drawn, and have planes on the way;
                as many may be on at most. None: as many as are.
        """
        drawn = None if layers else self.renderer.drawn(latents.log_activation)
        if drawn is None or torch.is_grad_enabled():
            return self._draw(images, background, latents, attention, regions, drawn, layers=layers)
        slots = self.encoder.slots
        if most is None:
            fixed = shapes_are_fixed(images.device)
            most = slots if fixed else max(1, int(drawn.sum(dim=1).max()))
        if most == slots:
            return self._draw(images, background, latents, attention, regions, drawn, layers=False)
        chosen = ActiveSlots(drawn, most)
        some, looked_at = chosen.latents(latents), chosen.of(attention)
        output = self._draw(images, background, some, looked_at, regions, chosen.of(drawn), layers=False)
        appearance = (
            latents.appearance
            if self.encoder.glimpse_encoder is None
            else self.encoder.glimpse_encoder.unseen(latents.appearance)
        )
        output.latents = replace(latents, appearance=chosen.among(appearance, output.latents.appearance))
        output.attention, output.weights = attention, chosen.planes(output.weights)
        output.posterior = None if output.posterior is None else chosen.planes(output.posterior)
        return output

    def _draw(
        self,
        images: Tensor,
        background: Tensor,
        latents: ObjectLatents,
        attention: Tensor,
        regions: Components | None,
        drawn: Tensor | None,
        *,
        layers: bool,
    ) -> SceneOutput:
        latents = self.encoder.encode_glimpses(images, latents, attention, drawn)
        looked_at = images if self.colour_std and not self.training else None
        drawing = self.renderer(latents, background, images=looked_at, layers=layers, drawn=drawn)
        output = SceneOutput(
            latents=latents,
            attention=attention,
            background=background,
            layers=drawing.layers,
            masks=drawing.masks,
            weights=drawing.weights,
            reconstruction=drawing.reconstruction,
        )
        if drawing.errors is not None:
            objects = visible_slots(drawing.weights)
            output.posterior = mask_posterior(
                drawing.weights, drawing.errors, objects, noise=self.colour_std, regions=regions
            )
        return output

    def glimpses(self, images: Tensor, attention: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        """Glimpses of what the second look sees at given places.

        Args:
            images: B x 3 x H x W in [0, 1].
            attention: B x K x h x w.
            position: B x K x 2, (x, y) in [-1, 1].
            scale: B x K x S, inverse scale.

        Returns:
            B x K x 4 x g x g in [0, 1], RGB and mask.
        """
        assert self.encoder.glimpse_encoder is not None, "the encoder has no second look"
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
        glimpse_encoder=GlimpseEncoder(side=config.glimpse_crop, appearance_size=config.appearance)
        if config.glimpse_crop
        else None,
        reference=config.reference,
    )
    renderer = Renderer(
        GlimpseGenerator(config.appearance, glimpse_channels(config.image_size, config.glimpse_width)),
        image_size=config.image_size,
        background_log_activation=config.background_log_activation,
        pixel_activation=config.pixel_activation,
        pruning_margin=config.pruning_margin,
    )
    background = BackgroundModel(config.image_size, config.background_width, form=config.background_form)
    model = AstSeg(background, encoder, renderer, colour_std=config.colour_std, proposals=config.proposals)
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
