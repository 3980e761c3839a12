"""Labels of any numbering to labels that count from 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from astseg.errors import UserError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["compact_labels", "renumbered"]


def renumbered(mask: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Number the labels of one mask 1..n in their own order; 0 stays background.

    Args:
        mask: H x W, any integers.
        name: What error messages call it.

    Raises:
        UserError: There are more than 255 labels.
    """
    values, labels = np.unique(mask, return_inverse=True)
    if values[0] == 0 and len(values) <= 256:
        return labels.reshape(mask.shape).astype(np.uint8)
    return compact_labels(mask, np.zeros(1, np.int64), name)


def compact_labels(masks: NDArray[Any], background: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Number the labels of a data set 1..n in their own order, its background labels 0.

    Args:
        masks: N x H x W, any integers.
        background: The labels that are background; those that do not appear do no harm.
        source: What an error message calls the masks.

    Returns:
        N x H x W, uint8.

    Raises:
        UserError: There are more than 255 labels.
    """
    if masks.dtype == np.uint8:
        present = np.zeros(256, np.bool_)
        for mask in masks:
            present[mask] = True
        values = np.flatnonzero(present).astype(np.int64)
    else:
        values = np.unique(masks)
    is_object = ~np.isin(values, background)
    if is_object.sum() > 255:
        raise UserError(f"'{source}' holds {is_object.sum()} labels, expected at most 255: number them in each image")
    compact = np.where(is_object, np.cumsum(is_object), 0).astype(np.uint8)
    if masks.dtype == np.uint8:
        table = np.zeros(256, np.uint8)
        table[values] = compact
        labels: NDArray[np.uint8] = table[masks]
    else:
        labels = compact[np.searchsorted(values, masks)]
    return labels
