"""Divergence: losses or gradients that are not finite, and a model that has collapsed.

Numbers that are not finite never reach the weights: the step that has them is given up, its batch is kept for study,
and the training rolls back to its last state and goes on from there with half the learning rate, three times at most.

A collapse is not an error, since some models recover. It is reported, with what to try.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.runs.atomic import write_json
from astseg.runs.folder import RunFolder
from astseg.runs.tensors import save_tensors
from astseg.training.logging import Reporter

__all__ = ["DivergedError", "DivergenceMonitor", "learning_rate_factor", "roll_back"]

MAX_ROLLBACKS = 3

ROLLBACK_FACTOR = 0.5
"""Of the learning rate, at each rollback."""

COLLAPSE_CHECKS = (0.3, 0.5, 0.7, 0.9)
"""Fractions of the steps at which a batch is checked for a collapse. Before the first, no object is no bad sign."""

ALL_FOREGROUND = 0.98
"""Fraction of the pixels beyond which the slots explain the background too."""

NO_OBJECT = (
    "no object is active: every pixel of a batch is background. If the pictures do have objects: see whether the"
    " background in panels/latest.png is without them (fewer background.steps if not), raise"
    " objects.pseudo_label_weight or objects.pseudo_label_steps, or lower model.background_log_activation"
)
NO_BACKGROUND = (
    "all pixels are foreground: the slots draw the background too. See whether the background in panels/latest.png is"
    " sharp; raise background.steps, try model.background_width complex, or take pictures that share a background"
)


class DivergedError(UserError):
    """Numbers of a step are not finite.

    Attributes:
        phase: Where.
        step: The step, counted from 1 as in the log.
        terms: What is not finite: losses by name with their values, or a parameter whose gradient is not.
    """

    def __init__(self, phase: str, step: int, terms: Mapping[str, float]) -> None:
        """Name the phase, the step and what is not finite."""
        self.phase, self.step, self.terms = phase, step, dict(terms)
        named = ", ".join(f"{name} is {value}" for name, value in terms.items())
        where = f"phase '{phase}', step {step}"
        super().__init__(f"the training has diverged in {where}: {named}; start again with a lower learning rate")


class DivergenceMonitor:
    """Checks the steps of one stage."""

    def __init__(self, run: RunFolder, reporter: Reporter, *, seed: int, rank: int = 0) -> None:
        """Begin with the first step of a stage.

        Args:
            run: Where batches are kept for study.
            reporter: Where a collapse is reported.
            seed: Of the run, for the record.
            rank: Of this process: each keeps a batch of its own.
        """
        self.run, self.reporter, self.seed, self.rank = run, reporter, seed, rank
        self.factor = learning_rate_factor(run)
        self.checks: int | None = None

    def check(
        self, phase: str, step: int, losses: Mapping[str, Tensor], model: nn.Module, batch: Sequence[Tensor]
    ) -> None:
        """Before the weights change: make sure that losses and gradients are finite.

        Args:
            phase: Where the run stands.
            step: Number of the step, from 0.
            losses: Scalars by name.
            model: Its parameters have their gradients.
            batch: Images, indices and mirrored of :meth:`astseg.training.batches.Batches.draw`.

        Raises:
            DivergedError: They are not; the batch has been written to ``divergence/`` in the run folder.
        """
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.stack([part.float() for part in torch._foreach_norm(gradients)]).norm()
        values = torch.stack([*(loss.detach().float() for loss in losses.values()), norm])
        if values.isfinite().all():
            return
        numbers = dict(zip(losses, values.tolist(), strict=False))
        terms = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        error = DivergedError(phase, step + 1, terms or _wrong_gradient(model.named_parameters()))
        images, indices, mirrored = batch
        suffix = f"_rank{self.rank}" if self.rank else ""
        save_tensors(
            self.run.path / "divergence" / f"{phase}_{step + 1:06d}{suffix}.safetensors",
            {"images": images, "indices": indices, "mirrored": mirrored},
            {
                "phase": phase,
                "step": str(step + 1),
                "seed": str(self.seed),
                "not_finite": json.dumps({name: repr(value) for name, value in error.terms.items()}),
            },
        )
        raise error

    def check_collapse(self, phase: str, step: int, progress: float, weights: Sequence[Tensor]) -> None:
        """Now and then, report it if the model has collapsed.

        Args:
            phase: Where the run stands.
            step: Number of the step, from 0.
            progress: Part of the loop that is done, in [0, 1].
            weights: Layer weights of the batch in equal parts, each B x L x H x W; none before anything is rendered.
        """
        if not weights:
            return
        due = sum(progress >= part for part in COLLAPSE_CHECKS)
        before, self.checks = self.checks, due
        if before is None or due <= before:
            return
        foreground = sum(float((part.argmax(dim=1) > 0).float().mean()) for part in weights) / len(weights)
        if 0 < foreground <= ALL_FOREGROUND:
            return
        self.reporter.print(f"phase '{phase}', step {step + 1}: {NO_BACKGROUND if foreground else NO_OBJECT}")


def learning_rate_factor(run: RunFolder) -> float:
    """Factor on the learning rates of a run, after its rollbacks."""
    return ROLLBACK_FACTOR ** len(_rollbacks(run))


def roll_back(run: RunFolder, reporter: Reporter, error: DivergedError) -> None:
    """Cut the log back to the last state, and note that the run goes on from there with a lower learning rate.

    Raises:
        UserError: That was done :data:`MAX_ROLLBACKS` times already.
    """
    rollbacks = _rollbacks(run)
    reason = str(error).rpartition(";")[0]
    if len(rollbacks) >= MAX_ROLLBACKS:
        raise UserError(
            f"{reason}; {MAX_ROLLBACKS} times the run went back and on with half the rate, in vain: look at the batches"
            f" in '{run.path / 'divergence'}', and start a new run with a lower learning rate"
        ) from None
    state = run.load_state()
    phase, step = ("background", 0) if state is None else (state.phase, state.step)
    terms = {name: repr(value) for name, value in error.terms.items()}
    entry = {"phase": error.phase, "step": error.step, "not_finite": terms, "back_to": {"phase": phase, "step": step}}
    write_json(run.path / "divergence" / "rollbacks.json", [*rollbacks, entry])
    reporter.discard()
    run.trim_log(phase, step)
    reporter.print(
        f"{reason}; the batch is in '{run.path / 'divergence'}'; going back to phase '{phase}', step {step},"
        f" and on with {ROLLBACK_FACTOR ** (len(rollbacks) + 1):g} of the rate"
    )


def _rollbacks(run: RunFolder) -> list[Any]:
    """What :func:`roll_back` noted.

    Raises:
        UserError: The file is broken.
    """
    file = run.path / "divergence" / "rollbacks.json"
    try:
        rollbacks = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is broken ({error}): remove it, and the full learning rate holds again") from None
    if not isinstance(rollbacks, list):
        raise UserError(f"'{file}' holds no list: remove it, and the full learning rate holds again")
    return rollbacks


def _wrong_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, float]:
    """The first parameter whose gradient is not finite, and how large that is."""
    for name, parameter in parameters:
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return {f"the gradient of '{name}'": float(parameter.grad.float().norm())}
    return {"the norm of the gradients": math.inf}
