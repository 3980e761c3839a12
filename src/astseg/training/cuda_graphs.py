"""Parts of a training step that a GPU replays: forward and backward recorded once as CUDA graphs, launched as a whole.

At 128x128 and 64 images a step of the smallest Segformer is some 1,700 short kernels, and starting them one by one from
Python takes several times as long as they run (docs/results.md). The numbers are those of the same step not recorded.

What is recorded must be the same kernels on the same memory every time: no shape may depend on a value. What training
does beside (matching, losses, optimiser) stays as it is. On other devices nothing is recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from astseg.config.device import uses_bfloat16
from astseg.errors import UserError
from astseg.model.astseg import AstSeg
from astseg.model.encoder import Encoder
from astseg.types import ObjectLatents, SceneOutput

__all__ = ["LocateStep", "Recorded", "RenderStep"]


class Recorded:
    """A module in training, run in a given precision, and on a GPU replayed."""

    def __init__(self, module: nn.Module, *, precision: str, graphs: bool) -> None:
        """Record nothing yet: that is done at the first call, with its tensors.

        Args:
            module: Tensors to a tuple of tensors.
            precision: ``float32``, ``bfloat16`` (autocast) or ``auto``.
            graphs: Whether to record on a GPU. A step may then call it once only before its gradients are used up,
                since what comes out lies in the same memory every time.
        """
        self.module = _InPrecision(module, precision)
        self.graphs = graphs
        self.replay: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Forward; the gradients go back the usual way.

        Args:
            tensors: Of the same shapes at every call.

        Raises:
            UserError: It cannot be recorded.
        """
        if self.replay is None:
            recorded = self.graphs and tensors[0].device.type == "cuda"
            self.replay = self._record(tensors) if recorded else self.module
        return self.replay(*tensors)

    def _record(self, tensors: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """Recording runs the module some times: what that does to running means and random numbers is undone."""
        buffers = list(self.module.buffers())
        kept = [buffer.clone() for buffer in buffers]
        learning = {name: one for name, one in self.module.named_parameters() if one.requires_grad}

        def run(*given: Tensor) -> Any:
            return functional_call(self.module, dict(zip(learning, given, strict=False)), given[len(learning) :])

        # Parameters are given as inputs: the same memory, but without the history that earlier steps have left, which
        # is bound to another stream than the one that is recorded.
        samples = (
            *(one.detach().requires_grad_() for one in learning.values()),
            *(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors),
        )
        try:
            with torch.random.fork_rng([tensors[0].device]), warnings.catch_warnings():
                # Of its own rehearsals on other streams, which do no harm.
                warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
                replay: Any = torch.cuda.make_graphed_callables(run, samples, allow_unused_input=True)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"a training step cannot be recorded for the GPU ({reason}): go on without, by --objects.no-cuda-graphs"
                " and --background.no-cuda-graphs"
            ) from error
        with torch.no_grad():
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)
        recorded: Callable[..., tuple[Tensor, ...]] = partial(replay, *learning.values())
        return recorded


class _InPrecision(nn.Module):
    """A module under autocast, or not. Its gradients go back outside of autocast, as they should."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        super().__init__()
        self.module = module
        self.precision = precision

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        # Without the cache of weights in half precision, which would outlive a recording.
        device = tensors[0].device
        lowered = uses_bfloat16(self.precision, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=lowered, cache_enabled=device.type == "cpu"):
            result: tuple[Tensor, ...] = self.module(*tensors)
            return result


class RenderStep(nn.Module):
    """A model's forward in training over a given background: without layers, with slot pruning, in and out tensors."""

    def __init__(self, model: AstSeg, *, pruning_margin: float = 0.0) -> None:
        """Wrap a model.

        Args:
            model: The model.
            pruning_margin: Slots this far below the background in log activation are not drawn; 0: all are.
        """
        super().__init__()
        self.model = model
        self.pruning_margin = pruning_margin

    def forward(self, images: Tensor, background: Tensor) -> tuple[Tensor, ...]:
        """Images and their backgrounds, both B x 3 x H x W -> see :meth:`output`."""
        latents, attention = self.model.encoder.locate(images)
        active = None
        if self.pruning_margin:
            active = self.model.renderer.active(latents.log_activation, self.pruning_margin)
            active = active | ~active.any()  # while no slot is active yet, everything is still to be learnt
        output = self.model.render(images, background, latents, attention, layers=False, active=active)
        latents = output.latents
        return (
            latents.position,
            latents.scale,
            latents.log_activation,
            latents.appearance,
            output.attention,
            output.background,
            output.weights,
            output.reconstruction,
        )

    @staticmethod
    def output(tensors: tuple[Tensor, ...]) -> SceneOutput:
        """Give what came out its names back."""
        position, scale, log_activation, appearance, attention, background, weights, reconstruction = tensors
        return SceneOutput(
            latents=ObjectLatents(position, scale, log_activation, appearance),
            attention=attention,
            background=background,
            layers=None,
            masks=None,
            weights=weights,
            reconstruction=reconstruction,
        )


class LocateStep(nn.Module):
    """The encoder without the glimpse encoder, the same way."""

    def __init__(self, encoder: Encoder) -> None:
        """Wrap an encoder."""
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images B x 3 x H x W -> see :meth:`output`."""
        latents, attention = self.encoder.locate(images)
        return latents.position, latents.scale, latents.log_activation, latents.appearance, attention

    @staticmethod
    def output(tensors: tuple[Tensor, ...]) -> tuple[ObjectLatents, Tensor]:
        """Latents, and attention maps B x K x h x w."""
        return ObjectLatents(*tensors[:4]), tensors[4]
