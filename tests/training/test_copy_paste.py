"""Copy-paste: what was pasted where, and which components result."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from astseg.discovery.components import Components, label_components
from astseg.training.copy_paste import copy_paste

B, H, W, R = 5, 20, 28, 4


def rectangle(top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def batch() -> tuple[Tensor, Components]:
    """Image i is of level i / 10, with a square at the left that moves down, and a bar; the last one is empty."""
    masks = [rectangle(2 * i, 2 * i + 6, 1, 9) | rectangle(3, 17, 20, 24) for i in range(B - 1)]
    images = torch.stack([torch.full((3, H, W), i / 10) for i in range(B)])
    return images, label_components(np.stack([*masks, np.zeros((H, W), dtype=bool)]), limit=R)


def test_nothing_is_pasted(batch: tuple[Tensor, Components]) -> None:
    images, components = batch
    images_after, found = copy_paste(images, components, share=0.0, pasted=1.0)
    assert torch.equal(images_after, images)
    assert torch.equal(found.labels, components.labels)
    assert torch.allclose(found.box, components.box)
    assert torch.equal(found.present, components.present)


def test_everything_is_pasted(batch: tuple[Tensor, Components]) -> None:
    """The components of the image before, whole and with a rim of one pixel, on top of what was there."""
    images, components = batch
    images_after, found = copy_paste(images, components, share=1.0, pasted=1.0)
    square, bar = slice(0, 7), slice(2, 18)  # with their rims
    assert (images_after[1, :, square, :10] == 0.0).all()
    assert (images_after[1, :, bar, 19:25] == 0.0).all()
    assert (images_after[1, :, 7:, 10:19] == images[1, 0, 0, 0]).all()
    # The bar hides the own bar; of the own square the lower part is left.
    assert found.present[1].tolist() == [True, True, True, False]
    assert found.labels[1].unique(return_counts=True)[1].tolist() == [H * W - 56 - 48 - 16, 56, 48, 16]
    assert torch.allclose(found.box[1, 2], torch.tensor([10 / W - 1, 14 / H - 1, 8 / W, 2 / H]))
    # The first gets those of the last, which has none; the last, those of the one before it.
    assert torch.equal(images_after[0], images[0])
    assert found.present[0].tolist() == [True, True, False, False]
    assert torch.equal(found.labels[B - 1], components.labels[B - 2])
    assert torch.allclose(found.box[B - 1], components.box[B - 2])


def test_components_are_those_that_would_be_found(batch: tuple[Tensor, Components]) -> None:
    """Whatever is drawn: largest first, boxes around what is visible, nothing of a few pixels, all others absent."""
    images, components = batch
    for seed in range(20):
        torch.manual_seed(seed)
        images_after, found = copy_paste(images, components, share=0.7, pasted=0.4)
        assert set(images_after.unique().tolist()) <= set(images.unique().tolist())
        for i in range(B):
            count = int(found.present[i].sum())
            assert found.present[i, :count].all()
            masks = [(found.labels[i] == number).numpy() for number in range(1, R + 1)]
            areas = [int(mask.sum()) for mask in masks]
            assert areas == sorted(areas, reverse=True)
            assert [area >= 4 for area in areas] == found.present[i].tolist()
            for mask, box in zip(masks[:count], found.box[i], strict=False):
                alone = label_components(np.where(mask, 1, 0)[None].astype(np.int32), limit=1).box[0, 0]
                rows, columns = np.nonzero(mask)
                if len(np.unique(rows)) == np.ptp(rows) + 1 and len(np.unique(columns)) == np.ptp(columns) + 1:
                    assert torch.allclose(alone, box)
            assert (found.box[i, count:] == 0).all()


def test_more_components_than_there_is_room_for() -> None:
    """The largest stay."""
    masks = np.stack(
        [rectangle(1, 4, 1, 9) | rectangle(6, 11, 1, 9), rectangle(1, 5, 12, 20) | rectangle(9, 19, 12, 20)]
    )
    components = label_components(masks, limit=2)
    _, found = copy_paste(torch.rand(2, 3, H, W), components, share=1.0, pasted=1.0)
    for labels in found.labels:
        assert labels.unique(return_counts=True)[1].tolist() == [H * W - 40 - 80, 80, 40]


def test_the_same_seed_pastes_the_same(batch: tuple[Tensor, Components]) -> None:
    images, components = batch
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(copy_paste(images, components, share=0.5, pasted=0.4)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
