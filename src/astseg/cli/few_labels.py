"""What to say and to leave out where a person labelled some pictures of many."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from astseg.cli.errors import one_line
from astseg.data import SceneSource
from astseg.errors import UserError
from astseg.types import SceneArrays

__all__ = ["tell_few_labels", "whole_scenes"]


def whole_scenes(console: Console, source: SceneSource, chosen: list[int]) -> list[int]:
    """The chosen scenes that have both picture and mask; the others are told.

    Raises:
        UserError: There is none.
    """
    problems = {index: problem for index in chosen if (problem := source.problem(index)) is not None}
    first = next(iter(problems.values()), "")
    if len(problems) == len(chosen):
        raise UserError(
            f"none of {len(chosen)} pictures can be measured ({first}):"
            " put pictures and masks where docs/datasets.md says"
        )
    if problems:
        console.print(f"{len(problems)} of {len(chosen)} are left out: {one_line(first)}, ...")
    return [index for index in chosen if index not in problems]


def tell_few_labels(console: Console, scenes: SceneArrays, *, slots: int) -> None:
    """What a person should know who labelled some pictures."""
    assert scenes.labels is not None
    counts = np.array([np.count_nonzero(np.unique(scenes.labels[index])) for index in range(len(scenes))])
    if (counts > slots).any():
        console.print(f"{(counts > slots).sum()} of {len(counts)} pictures have more objects than {slots} slots")
    if (counts == 0).any():
        console.print(f"{(counts == 0).sum()} of {len(counts)} pictures have no object in their masks and count so")
