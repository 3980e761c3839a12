"""Data-parallel training and evaluation by several processes, started as ``torchrun ... -m astseg``.

Every process (rank) holds the whole model and takes its part of each batch; gradients and losses are averaged after the
backward pass by one all-reduce of one buffer. What depends on a clock or on a signal is agreed upon, so that all ranks
take the same steps. Rank 0 alone writes to the run folder, which all ranks must see, but
for the batch of a divergence, of which every rank keeps its part.

``DistributedDataParallel`` is not used, for three reasons. A parameter may have a gradient on one rank alone (an image
part without components teaches no glimpse), or on none, and then Adam must leave it as it is, while DDP hands the
optimiser zeros. Its buckets are rebuilt after the first backward pass, so a resumed run would add in another order than
one that was not stopped. And it wraps one ``forward``, while the phases call different parts of the model, some of them
recorded as CUDA graphs, and freeze the background model in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from astseg.errors import UserError
from astseg.runs.folder import RunFolder

__all__ = ["SINGLE", "DistributedWorld", "ReadOnlyRunFolder", "World", "init_world"]

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=2)
"""Of the other ranks, while rank 0 plans, makes scenes or prepares a cache."""


class World:
    """A single process: collectives are the identity."""

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All-reduce the gradients to their mean, in place; returns the mean losses, detached."""
        return {name: loss.detach() for name, loss in losses.items()}

    def maximum(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over the ranks."""
        return values

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, in their order, on each."""
        return items

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of equal shapes, concatenated along the first axis."""
        return tensor

    def from_main(self, make: Callable[[], T]) -> T:
        """What rank 0 makes (it must pickle), on all ranks, which wait for it.

        Raises:
            UserError: Rank 0 raised it.
        """
        return make()

    def barrier(self) -> None:
        """Wait until all ranks are here."""


SINGLE = World()


class DistributedWorld(World):
    """One process of several, once the default process group is there."""

    def __init__(self, device: torch.device) -> None:
        """Take rank and size of the process group; device: where its tensors live."""
        self.rank, self.size, self.device = distributed.get_rank(), distributed.get_world_size(), device

    def average(self, parameters: Iterable[nn.Parameter], losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As for one process; a parameter that has a gradient on any rank has one on all.

        Raises:
            UserError: Another process has ended.
        """
        trained = list(parameters)
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        present = torch.tensor([float(parameter.grad is not None) for parameter in trained], device=values.device)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
        flat = torch.cat([values, present, *(gradient.flatten().float() for gradient in gradients)])
        with _lost_process():
            distributed.all_reduce(flat)
        flat /= self.size
        values, present, *means = torch.split(flat, [len(values), len(present), *(one.numel() for one in trained)])
        for parameter, gradient, mean, is_present in zip(trained, gradients, means, present.tolist(), strict=True):
            if is_present:  # written into the old memory, whose order of axes a fused optimiser step goes by
                parameter.grad = gradient.copy_(mean.view(gradient.shape))
        return dict(zip(losses, values.unbind(), strict=True))

    def maximum(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over the ranks."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _lost_process():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, in their order, on each."""
        found: list[Any] = [None] * self.size
        with _lost_process():
            distributed.all_gather_object(found, items)
        return [item for part in found for item in part]

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of equal shapes, concatenated along the first axis."""
        own = tensor.to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _lost_process():
            distributed.all_gather(parts, own)
        return torch.cat(parts).to(tensor.device)

    def from_main(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; its UserError is raised on all of them, too."""
        made: list[Any] = [None, None]
        if self.is_main:
            try:
                made[0] = make()
            except UserError as error:
                made[1] = str(error)
        with _lost_process():
            distributed.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise UserError(made[1])
        value: T = made[0]
        return value

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.maximum(0.0)


class ReadOnlyRunFolder(RunFolder):
    """The run folder of all ranks but the first, which read it and leave the writing to rank 0."""

    def save_state(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def init_world() -> World:
    """The world that ``torchrun`` has started, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return SINGLE
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        with _lost_process():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    return DistributedWorld(device)


@contextmanager
def _lost_process() -> Iterator[None]:
    """What a rank sees of a collective when another one has ended."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"another process of this run has ended or cannot be reached ({reason}): start all of them again with the"
            " same command, and the run goes on from its last state"
        ) from None
