"""Segmentation and reconstruction metrics: one float64 value per image, on the CPU; average once over all images.

Every segmentation metric is a pure function of the contingency table of an image: how many pixels carry true label t
and predicted label p. Label 0 is the background, in the truth and in the prediction.

Sources: adjusted Rand index, Hubert and Arabie 1985; ARI-FG, Greff et al. 2019; segmentation covering (mSC, scaled
SC), Arbelaez et al. 2011 as used by Engelcke et al. 2020; mIoU with Hungarian matching and the selection of metrics,
Sauvalle and de La Fortelle, WACV 2023; :func:`clevrtex_metrics`, Karazija et al. 2021.

Conventions, each where the sources leave room or where we depart from them:

- Labels above K. By default every true label counts, whatever the number of slots. With ``slots=K`` the reference's
  protocol is followed: true labels above K vanish from mIoU (their pixels stay in the predicted masks), are background
  to the ARI and hence left out of ARI-FG, and count as they are in the segmentation covering.
- Ties of mIoU. A true and a predicted mask that share no pixel may or may not be paired without changing the sum of
  matched IoUs, but the number of pairs it is divided by changes. By default such a pair is no match and both masks
  count: the value does not depend on how labels are numbered, and an invented object never makes up for a missed one.
  With ``slots=K`` the reference's tie-breaking is followed (float32, K + 1 masks on both sides, SciPy's order), where
  renumbering labels can change mIoU.
- ARI of two equal trivial partitions (all one segment, all single pixels, or no pixel at all) is 1.
- Images without objects: ARI-FG is 1, the foreground coverings are 0, the others as usual. The reference gives these
  values too, except that it scores 0 throughout when no image of the whole batch holds an object; a score that
  depends on the image's neighbours in the batch is not reproduced.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from astseg.errors import UserError

__all__ = [
    "adjusted_rand_index",
    "clevrtex_metrics",
    "contingency",
    "intersection_over_union",
    "mean_iou",
    "segmentation_covering",
    "segmentation_metrics",
    "squared_error",
]

# Prefers, among matchings of equal summed IoU, the one with more matches; far below any difference worth reporting.
MATCH_BONUS = 1e-9


def squared_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Squared error of each image, summed (not averaged) over channels and pixels: the paper's MSE.

    Args:
        reconstruction: B x C x H x W, float in [0, 1].
        images: The same shape and range.

    Returns:
        B values, float64.

    Raises:
        UserError: Where shapes differ or values are not floating point.
    """
    if reconstruction.shape != images.shape or images.ndim != 4:
        raise UserError(
            f"reconstruction is {_size(reconstruction)} and images are {_size(images)}: pass two tensors B x C x H x W"
        )
    if not (reconstruction.is_floating_point() and images.is_floating_point()):
        raise UserError(
            f"squared_error got {reconstruction.dtype} and {images.dtype}, expected floats in [0, 1]: divide by 255"
        )
    difference = reconstruction.float() - images.float()
    return difference.square().sum(dim=(1, 2, 3)).cpu().double()


def contingency(true_labels: Tensor, predicted_labels: Tensor, *, true_count: int, predicted_count: int) -> Tensor:
    """Count, in each image, the pixels of every pair of true and predicted label.

    Args:
        true_labels: B x H x W, any integer type, in [0, true_count).
        predicted_labels: B x H x W, any integer type, in [0, predicted_count).
        true_count: T, the number of true labels to tell apart, background included.
        predicted_count: P, the same for the prediction.

    Returns:
        B x T x P, int64, on the labels' device.

    Raises:
        UserError: Where shapes differ, there is no pixel, or labels are not integers in range.
    """
    highest = _highest_labels(true_labels, predicted_labels)
    for name, label, count in zip(("true", "predicted"), highest, (true_count, predicted_count), strict=True):
        if label >= count:
            raise UserError(f"{name} label {label} found, expected at most {count - 1}: check K or the masks")
    b = true_labels.shape[0]
    cells = b * true_count * predicted_count
    dtype = torch.int32 if cells < 2**31 else torch.int64  # half the memory is several times the speed here
    image = torch.arange(b, dtype=dtype, device=true_labels.device).view(b, 1, 1)
    pair = true_labels.to(dtype) * predicted_count
    pair.add_(predicted_labels.to(dtype)).add_(image * (true_count * predicted_count))
    return torch.bincount(pair.flatten(), minlength=cells).view(b, true_count, predicted_count)


def intersection_over_union(table: Tensor) -> Tensor:
    """IoU of every true with every predicted mask.

    Args:
        table: B x T x P pixel counts.

    Returns:
        B x T x P in [0, 1], float64; 0 where both masks are empty.
    """
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table.double() / union.clamp(min=1)


def mean_iou(table: Tensor, *, slots: int | None = None) -> Tensor:
    """MIoU: IoU of matched masks, background included, summed and divided by the pairs with a visible mask.

    The matching maximises the sum of IoUs (Hungarian method). Masks left without a match count as pairs of IoU 0.

    Args:
        table: B x T x P pixel counts.
        slots: K for the reference's protocol (P is at most K + 1; see the module's conventions), None for ours.

    Returns:
        B values in [0, 1], float64, on the CPU.
    """
    table = table.cpu()
    if slots is not None:
        iou, visible = _matched_iou(_rename_predictions(_padded(table, slots + 1), sizes=[slots + 1] * len(table)))
        return iou.sum(1) / visible.sum(1).clamp(min=1)
    iou = intersection_over_union(table)
    favoured = (iou + MATCH_BONUS * (iou > 0)).numpy()
    matches = np.array([linear_sum_assignment(one, maximize=True) for one in favoured])
    true, predicted = torch.from_numpy(matches).unbind(1)  # each B x min(T, P)
    matched = iou[torch.arange(len(table)).unsqueeze(1), true, predicted]
    visible_masks = (table.sum(2) > 0).sum(1) + (table.sum(1) > 0).sum(1)
    return matched.sum(1) / (visible_masks - (matched > 0).sum(1))


def adjusted_rand_index(table: Tensor) -> Tensor:
    """Adjusted Rand index of the two partitions; pass ``table[:, 1:]`` for ARI-FG.

    Args:
        table: B x T x P pixel counts; T or the counts may be zero.

    Returns:
        B values, at most 1, float64; 1 where both partitions are the same trivial one.
    """
    agreeing = _pairs(table).sum((1, 2))
    true, predicted = _pairs(table.sum(2)).sum(1), _pairs(table.sum(1)).sum(1)
    everything = _pairs(table.sum((1, 2)))
    trivial = (true == predicted) & ((true == 0) | (true == everything))
    expected = true.double() * predicted.double() / everything.clamp(min=1)
    highest = (true + predicted).double() / 2
    index = (agreeing - expected) / (highest - expected).masked_fill(trivial, 1)
    return index.masked_fill(trivial, 1)


def segmentation_covering(table: Tensor, *, scaled: bool, foreground: bool) -> Tensor:
    """Best IoU any predicted mask reaches with each true mask, averaged over the true masks.

    Args:
        table: B x T x P pixel counts.
        scaled: Weigh the true masks by their area (scaled SC), instead of equally (mSC).
        foreground: Leave out the true background; the predicted background may still cover objects.

    Returns:
        B values in [0, 1], float64; 0 where there is no true mask to cover.
    """
    first = 1 if foreground else 0
    best = intersection_over_union(table).amax(2)[:, first:]
    area = table.sum(2)[:, first:]
    weight = area if scaled else (area > 0).long()
    return (best * weight).sum(1) / weight.sum(1).clamp(min=1)


def segmentation_metrics(
    true_labels: Tensor, predicted_labels: Tensor, *, slots: int | None = None
) -> dict[str, Tensor]:
    """All segmentation metrics of each image of a batch; no value depends on the rest of the batch.

    Args:
        true_labels: B x H x W, any integer type, 0 = background.
        predicted_labels: B x H x W, any integer type, 0 = background; at most K where slots is given.
        slots: K to follow the reference where a true label exceeds K and in ties of mIoU, as published figures do;
            None to count every label and to be independent of their numbering (see the module's conventions).

    Returns:
        ``ari``, ``ari_fg``, ``miou``, ``msc``, ``msc_fg``, ``scaled_sc``, ``scaled_sc_fg``: B values each, float64, on
        the CPU. ``_fg`` leaves out the true background.

    Raises:
        UserError: Where shapes differ, there is no pixel, or labels are not integers in range.
    """
    true_count, predicted_count = (highest + 1 for highest in _highest_labels(true_labels, predicted_labels))
    if slots is not None:
        predicted_count = slots + 1
    table = contingency(
        true_labels, predicted_labels, true_count=true_count, predicted_count=predicted_count
    ).cpu()  # small, and the matching runs there
    known = table
    if slots is not None and true_count > slots + 1:
        background = table[:, :1] + table[:, slots + 1 :].sum(1, keepdim=True)
        known = torch.cat([background, table[:, 1 : slots + 1]], dim=1)
    return {
        "ari": adjusted_rand_index(known),
        "ari_fg": adjusted_rand_index(known[:, 1:]),
        "miou": mean_iou(table, slots=slots),
        "msc": segmentation_covering(table, scaled=False, foreground=False),
        "msc_fg": segmentation_covering(table, scaled=False, foreground=True),
        "scaled_sc": segmentation_covering(table, scaled=True, foreground=False),
        "scaled_sc_fg": segmentation_covering(table, scaled=True, foreground=True),
    }


def clevrtex_metrics(true_labels: Tensor, predicted_labels: Tensor, *, slots: int) -> dict[str, Tensor]:
    """The protocol of CLEVRTEX's own evaluator, for figures to hold against tables made with it.

    It matches as the reference does, on as many masks as there are slots or true labels, whichever is more (here
    counted in each image, there in the batch). Its mSC is weighted by area and leaves out the highest true label and
    the highest predicted label after predictions have taken the names of their matches. Its foreground averages leave
    out the pair of the true background, whether visible or not, so they may exceed 1.

    Args:
        true_labels: B x H x W, any integer type, 0 = background.
        predicted_labels: B x H x W, any integer type, in [0, K].
        slots: K.

    Returns:
        The evaluator's names: ``acc`` (1 where as many masks are visible in both), ``mIoU``, ``mIoU_fg``, ``mIoU_gt``
        (divided by the visible true masks), ``mSC``, ``DICE``, ``DICE_FG``, ``ARI``, ``ARI_FG``: B values each,
        float64, on the CPU. NaN where the evaluator divides by zero: ``mSC`` of an image with one true label,
        ``mIoU_fg`` and ``DICE_FG`` of an image with a single pair.

    Raises:
        UserError: Where shapes differ, there is no pixel, or labels are not integers in range.
    """
    true_count = _highest_labels(true_labels, predicted_labels)[0] + 1
    table = contingency(true_labels, predicted_labels, true_count=true_count, predicted_count=slots + 1).cpu()
    sizes = (_highest_visible(table.sum(2)) + 1).clamp(min=slots + 1).tolist()
    renamed = _rename_predictions(_padded(table, max(sizes)), sizes=sizes)
    true_area, predicted_area = renamed.sum(2), renamed.sum(1)
    iou, visible = _matched_iou(renamed)
    dice = 2 * iou / (1 + iou)
    pairs, true_masks = visible.sum(1), (true_area > 0).sum(1)
    other_pairs = (pairs - 1).double().masked_fill(pairs <= 1, torch.nan)

    label = torch.arange(renamed.shape[1])
    weight = true_area * (label < _highest_visible(true_area).unsqueeze(1))
    coverers = label < _highest_visible(predicted_area).unsqueeze(1)
    best = (intersection_over_union(renamed) * coverers.unsqueeze(1)).amax(2)
    return {
        "acc": (true_masks == (predicted_area > 0).sum(1)).double(),
        "mIoU": iou.sum(1) / pairs,
        "mIoU_fg": iou[:, 1:].sum(1) / other_pairs,
        "mIoU_gt": iou.sum(1) / true_masks,
        "mSC": (best * weight).sum(1) / weight.sum(1),
        "DICE": dice.sum(1) / pairs,
        "DICE_FG": dice[:, 1:].sum(1) / other_pairs,
        "ARI": adjusted_rand_index(table),
        "ARI_FG": adjusted_rand_index(table[:, 1:]),
    }


def _rename_predictions(table: Tensor, *, sizes: list[int]) -> Tensor:
    """Give each predicted label the number of the true label it is matched with, breaking ties as the reference does.

    Args:
        table: B x T x S pixel counts, T at least S. True labels from S on are not matched.
        sizes: For each image, how many labels take part in the matching, at most S; labels beyond are empty.

    Returns:
        B x T x S, the table with its columns in the order of the true labels matched with them.
    """
    b, _, s = table.shape
    # Ties depend on the precision: the reference matches float32 values.
    iou = intersection_over_union(table).float().numpy()
    match = np.tile(np.arange(s), (b, 1))
    for image, size in enumerate(sizes):
        match[image, :size] = linear_sum_assignment(iou[image, :size, :size], maximize=True)[1]
    return table.gather(2, torch.from_numpy(match).unsqueeze(1).expand_as(table))


def _matched_iou(renamed: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of the S matched pairs and whether either mask is visible, both B x S, from B x T x S renamed counts."""
    s = renamed.shape[2]
    iou = intersection_over_union(renamed).diagonal(dim1=1, dim2=2)
    return iou, (renamed.sum(2)[:, :s] > 0) | (renamed.sum(1) > 0)


def _padded(table: Tensor, size: int) -> Tensor:
    """Empty labels appended to B x T x P counts: B x max(T, size) x size."""
    _, t, p = table.shape
    if p > size:
        raise UserError(f"the table has {p} predicted labels, expected at most K + 1 = {size}: check K")
    return torch.nn.functional.pad(table, (0, size - p, 0, max(size - t, 0)))


def _highest_visible(area: Tensor) -> Tensor:
    """Highest label with a pixel, B, from B x T areas."""
    return ((area > 0) * torch.arange(area.shape[1])).amax(1)


def _pairs(count: Tensor) -> Tensor:
    """Number of unordered pairs among count things."""
    return count * (count - 1) // 2


def _size(tensor: Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape)


def _highest_labels(true_labels: Tensor, predicted_labels: Tensor) -> tuple[int, int]:
    """Highest true and predicted label, after refusing all but two B x H x W tensors of integers from 0 on."""
    if true_labels.shape != predicted_labels.shape or true_labels.ndim != 3 or true_labels.numel() == 0:
        got = f"true labels are {_size(true_labels)}, predicted labels {_size(predicted_labels)}"
        raise UserError(f"{got}, expected B x H x W for both, none empty: resize or stack them")
    highest = []
    for name, labels in (("true", true_labels), ("predicted", predicted_labels)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(f"{name} labels are {labels.dtype}, expected integers, 0 = background: pass label maps")
        # PyTorch has no minimum of its unsigned types beyond uint8.
        lowest, label = (int(end) for end in (labels if labels.dtype == torch.uint8 else labels.long()).aminmax())
        if lowest < 0:
            raise UserError(f"{name} labels hold {lowest}, expected 0 (background) or more: renumber them")
        highest.append(label)
    return highest[0], highest[1]
