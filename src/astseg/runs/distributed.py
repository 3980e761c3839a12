"""One process or several that train one model together; started as ``torchrun ... -m astseg``, on accelerate.

Every process holds the whole model and takes its share of each batch; gradients and losses are averaged after the
backward pass, in one message. What depends on the clock or on a signal is agreed upon, so that all do the same step.
The first process alone writes to the run folder, which all of them must see.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["ALONE", "ReadOnlyRunFolder", "Team", "Together", "assembled"]


class Team:
    """A process alone: nothing is shared, and everything is agreed."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def shared(self, model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average the gradients of all processes, in place; returns the averages of their losses, without gradient."""
        return {name: loss.detach() for name, loss in losses.items()}

    def agreed(self, steps: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The steps of the first process, for all."""
        yield from steps

    def any(self, *answers: bool) -> tuple[bool, ...]:
        """For each question, whether any process says yes."""
        return answers

    def wait(self) -> None:
        """Until all are here."""

    def gathered(self, items: list[Any]) -> list[Any]:
        """The items of all processes, on each."""
        return items


ALONE = Team()


class Together(Team):
    """One process of several."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Take the processes that accelerate has brought together."""
        self.accelerator = accelerator
        self.rank = accelerator.process_index
        self.size = accelerator.num_processes

    def shared(self, model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As for one; a parameter that has a gradient anywhere has one everywhere.

        Raises:
            UserError: Another process has ended.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        known = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=values.device)
        parts = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
        flat = torch.cat([values, known, *(part.flatten().float() for part in parts)])
        with _lost_process_told():
            flat = self.accelerator.reduce(flat, reduction="mean")
        values, known, gradients = flat.split([len(values), len(known), len(flat) - len(values) - len(known)])
        pieces = gradients.split([parameter.numel() for parameter in parameters])
        for parameter, piece, is_known in zip(parameters, pieces, known.tolist(), strict=True):
            if is_known and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter, requires_grad=False)
            if parameter.grad is not None:  # in the order of memory that it has: a fused step goes by that
                parameter.grad.copy_(piece.view(parameter.shape))
        return dict(zip(losses, values.unbind(), strict=True))

    def agreed(self, steps: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The steps of the first process, whose clock counts."""
        own = iter(steps)
        while True:
            step, position = self._of_first(next(own, (-1, -1)))
            if step < 0:
                return
            yield step, position

    def any(self, *answers: bool) -> tuple[bool, ...]:
        """For each question, whether any process says yes."""
        asked = torch.tensor([float(answer) for answer in answers], device=self.accelerator.device)
        with _lost_process_told():
            return tuple((self.accelerator.reduce(asked, reduction="sum") > 0).tolist())

    def wait(self) -> None:
        """Until all are here."""
        with _lost_process_told():
            self.accelerator.wait_for_everyone()

    def gathered(self, items: list[Any]) -> list[Any]:
        """The items of all processes, on each, in the order of the processes."""
        from accelerate.utils import gather_object

        with _lost_process_told():
            found: list[Any] = gather_object(items)
        return found

    def _of_first(self, pair: tuple[int, int]) -> tuple[int, int]:
        from accelerate.utils import broadcast

        with _lost_process_told():
            told = broadcast(torch.tensor(pair, device=self.accelerator.device))
        step, position = told.tolist()
        return step, position


class ReadOnlyRunFolder(RunFolder):
    """The run folder as all processes but the first see it: they read it, and leave the writing to that one."""

    def save_state(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def trim_log(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def assembled() -> Team:
    """The processes that ``torchrun`` has started, or this one alone.

    Raises:
        UserError: There are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    try:
        from accelerate import Accelerator
    except ImportError:
        raise UserError("several processes need accelerate: pip install 'astseg[distributed]'") from None
    return Together(Accelerator(cpu=not torch.cuda.is_available()))


@contextmanager
def _lost_process_told() -> Iterator[None]:
    """What the other processes notice when one has ended."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"another process of this run has ended or cannot be reached ({reason}): start all of them again with the"
            " same command, and the run goes on from its last state"
        ) from None
