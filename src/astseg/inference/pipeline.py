"""A network and what is known of its images to masks: proposals, slot pruning, mask posterior.

None of it is in the paper, whose masks are the layers with the largest weights: with the default
:class:`astseg.config.InferenceConfig` the pipeline gives the network's own output. The network does not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from astseg.config import Config, DiscoveryConfig, InferenceConfig
from astseg.config.device import resolved_precision
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components
from astseg.inference.active_slots import ActiveSlots
from astseg.inference.mask_posterior import mask_posterior, visible_slots
from astseg.inference.proposals import assign_proposals
from astseg.model.astseg import AstSeg
from astseg.model.ops import shapes_are_fixed
from astseg.runs.folder import load_model
from astseg.runs.info import RunInfo
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["Pipeline", "inference", "load_pipeline"]

PIXELS_AT_ONCE = 100_000
"""Pixels of the images that a thread of a CPU passes at once: more, and intermediate layers leave its caches."""


class Pipeline:
    """A network with the settings by which its output becomes masks.

    Attributes:
        model: The network; its modes are left as they are.
        config: The settings.
        discovery: What foreground components are.
        precision: ``float32`` or ``bfloat16``, of the backbone.
    """

    def __init__(
        self,
        model: AstSeg,
        config: InferenceConfig | None = None,
        *,
        discovery: DiscoveryConfig | None = None,
        precision: str = "float32",
    ) -> None:
        """Put the parts together.

        Args:
            model: The network.
            config: The settings; None: the paper's masks.
            discovery: What foreground components are; None: the defaults.
            precision: Of the backbone: ``float32``, ``bfloat16`` or ``auto``: that, where the device is quick in it.
        """
        self.model = model
        self.config = config or InferenceConfig()
        self.discovery = discovery or DiscoveryConfig()
        assert model.encoder.glimpse_encoder is not None or not self.config.proposals, "no glimpse encoder"
        self.precision = resolved_precision(precision, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that the model takes."""
        return self.model.renderer.image_size

    @property
    def slots(self) -> int:
        """K."""
        return self.model.encoder.slots

    def __call__(self, images: Tensor, *, layers: bool = False) -> SceneOutput:
        """Everything about a batch of images, without gradients, in evaluation mode.

        Args:
            images: B x 3 x H x W, float in [0, 1], on any device.
            layers: Whether each slot's layer and mask are wanted too.

        Raises:
            UserError: Images of another size than the model's.
        """
        if images.shape[-2:] != self.image_size:
            self.model(images)  # refuses them
        images = images.to(self.device)
        with inference(self.model):
            background, predicted_error = self.model.background_model(images)
            with torch.autocast(images.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext():
                latents, attention = self.model.encoder.locate(images)
            components = missed = None
            if self.config.proposals:
                components = find_components(
                    images, background, predicted_error, limit=self.slots, config=self.discovery
                ).to(images.device)
                latents, attention, missed = assign_proposals(
                    latents,
                    attention,
                    components,
                    behind=self.model.renderer.background_activation().detach().max(),
                    scale_range=self.model.encoder.scale_range,
                    iou=self.config.proposal_iou,
                    active_margin=self.config.proposal_margin,
                    glimpse_margin=self.discovery.glimpse_margin,
                )
            output = self._render(images, background, latents, attention, components, layers=layers)
            output.missed = missed
            return output

    def batch_size(self, most: int) -> int:
        """Images a pass, at most ``most``: on a CPU, equal parts that fit its caches."""
        if self.device.type != "cpu":
            return most
        height, width = self.image_size
        room = max(1, PIXELS_AT_ONCE * torch.get_num_threads() // (height * width))
        return math.ceil(most / math.ceil(most / room))

    def _render(
        self,
        images: Tensor,
        background: Tensor,
        latents: ObjectLatents,
        attention: Tensor,
        components: Components | None,
        *,
        layers: bool,
    ) -> SceneOutput:
        """Draw the slots that can be seen, and say what pixels belong to."""
        active = self.model.renderer.active(latents.log_activation, invisible_margin(self.slots))
        most = self.slots if layers or shapes_are_fixed(images.device) else max(1, int(active.sum(dim=1).max()))
        if most == self.slots:
            return self._masks(images, background, latents, attention, active, components, layers=layers)
        few = ActiveSlots(active, most)
        output = self._masks(
            images, background, few.latents(latents), few.of(attention), few.of(active), components, layers=False
        )
        encoder = self.model.encoder.glimpse_encoder
        appearance = latents.appearance if encoder is None else encoder.unseen(latents.appearance)
        return replace(
            output,
            latents=replace(latents, appearance=few.among(appearance, output.latents.appearance)),
            attention=attention,
            weights=few.planes(output.weights),
            colour_errors=None,
            posterior=None if output.posterior is None else few.planes(output.posterior),
        )

    def _masks(
        self,
        images: Tensor,
        background: Tensor,
        latents: ObjectLatents,
        attention: Tensor,
        active: Tensor,
        components: Components | None,
        *,
        layers: bool,
    ) -> SceneOutput:
        by_colour = self.config.colour_std > 0
        output = self.model.render(
            images, background, latents, attention, layers=layers, active=active, compare=by_colour
        )
        if output.colour_errors is not None:
            visible = visible_slots(output.weights, smallest=self.config.smallest_slot)
            output.posterior = mask_posterior(
                output.weights, output.colour_errors, visible, config=self.config, components=components
            )
        return output


def invisible_margin(slots: int) -> float:
    """How far below the background's log activation K slots, all at one place, change no pixel by half a grey level.

    Each then weighs less than 1 / (510 K), all of them less than 1 / 510, and colours differ by 1 at most.
    """
    return math.log(2 * 255 * slots)


def load_pipeline(
    run: str | PathLike[str], *, device: torch.device | None = None, precision: str = "float32"
) -> tuple[Pipeline, Config, RunInfo]:
    """The trained model of a run folder with its settings of inference, its configuration, and its metadata.

    Args:
        run: The folder.
        device: Where to run; None: the CPU.
        precision: As for :class:`Pipeline`.

    Raises:
        UserError: No run folder, broken or missing weights.
    """
    model, config, info = load_model(Path(run).expanduser())
    model = model.to(device or "cpu")
    return Pipeline(model, config.inference, discovery=config.discovery, precision=precision), config, info


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True  # not train(), which would reach down to modules that are frozen
