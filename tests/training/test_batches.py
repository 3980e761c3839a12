"""Batches repeat, and what is known of their images goes with them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.config import DiscoveryConfig
from astseg.data import load_scenes
from astseg.data.arrays import images_to_tensor
from astseg.data.cache import prepare
from astseg.data.synthetic.generate import render_scenes
from astseg.discovery.components import Components
from astseg.model.background import BackgroundModel
from astseg.runs.distributed import World
from astseg.training import batches
from astseg.training.batches import (
    LOOPS,
    Batch,
    Batches,
    FrozenBackground,
    freeze_background,
    mirror,
    stream_seed,
)
from astseg.types import SceneArrays

H, W = 20, 28
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return render_scenes("desk", seed=3, count=11, size=(H, W))


def test_a_batch_depends_on_seed_and_step_alone(scenes: SceneArrays) -> None:
    batches = Batches(scenes, size=6, seed=5, flip=True, device=CPU)
    images, indices, mirrored = batches.draw(8)
    noise = torch.rand(3)
    batches.draw(9)
    torch.rand(100)
    again = batches.draw(8)
    assert all(torch.equal(*pair) for pair in zip((images, indices, mirrored), again, strict=True))
    assert torch.equal(noise, torch.rand(3))  # for the dropout
    assert not torch.equal(indices, batches.draw(9)[1])
    other = Batches(scenes, size=6, seed=6, flip=True, device=CPU)
    assert not torch.equal(indices, other.draw(8)[1])


def test_images_of_a_batch(scenes: SceneArrays) -> None:
    batches = Batches(scenes, size=40, seed=5, flip=True, device=CPU)
    images, indices, mirrored = batches.draw(0)
    assert images.shape == (40, 3, H, W)
    assert set(indices.tolist()) <= set(range(len(scenes)))
    assert 8 < mirrored.sum() < 32
    for image, index, flipped in zip(images, indices, mirrored, strict=True):
        expected = scenes.images[index][:, ::-1] if flipped else scenes.images[index]
        np.testing.assert_allclose(image.permute(1, 2, 0) * 255, expected, atol=1e-4)
    assert not Batches(scenes, size=40, seed=5, flip=False, device=CPU).draw(0)[2].any()


def test_streams_are_independent() -> None:
    """Neighbouring seeds, loops, steps and ranks never draw from the same stream."""
    numbers = [
        stream_seed(seed, loop, step, rank)
        for seed in (0, 1, 2, 2**32 - 1)
        for loop in LOOPS
        for step in (0, 1, 2, 999_999)
        for rank in (None, 0, 1)
    ]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**64 for number in numbers)


def test_the_background_of_a_seed_shares_no_batches_with_the_objects_of_another(scenes: SceneArrays) -> None:
    def drawn(seed: int, loop: str) -> list[list[int]]:
        batches = Batches(scenes, size=6, seed=seed, flip=False, device=CPU, loop=loop)
        return [batches.draw(step).indices.tolist() for step in range(4)]

    for seed in range(3):
        for other in range(5):
            assert drawn(seed, "objects") != drawn(other, "background")


def test_images_in_memory_are_not_copied(scenes: SceneArrays) -> None:
    batches = Batches(scenes, size=4, seed=5, flip=False, device=CPU)
    assert batches.images is not None
    assert np.shares_memory(batches.images.numpy(), scenes.images)


def test_frozen_backgrounds_are_mirrored_with_their_images() -> None:
    drawn = torch.rand(4, 3, H, W).half()
    frozen = FrozenBackground(drawn, None)
    batch = Batch(torch.zeros(2, 3, H, W), torch.tensor([2, 0]), torch.tensor([True, False]))
    background = frozen.draw(batch)
    assert torch.equal(background, torch.stack([drawn[2].flip(-1), drawn[0]]).float())
    assert frozen.pseudo_labels(batch) is None
    assert mirror(background, torch.zeros(2, dtype=torch.bool)) is background


def test_backgrounds_stored_in_8_bits(scenes: SceneArrays, tmp_path: Path) -> None:
    """As the reference stores its pictures: rounded to whole grey levels."""
    batches = Batches(scenes, size=3, seed=0, flip=False, device=CPU)
    torch.manual_seed(0)
    model = BackgroundModel((H, W), "small")
    stored = freeze_background(model, batches, limit=0, folder=tmp_path, config=DiscoveryConfig(), storage="uint8")
    assert stored.images.dtype == torch.uint8
    indices = torch.tensor([7, 2])
    background = stored.draw(Batch(torch.zeros(2), indices, torch.tensor([False, False])))
    with torch.no_grad():
        exact, _ = model(images_to_tensor(scenes.images[indices.numpy()]))
    assert (background - exact).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(background * 255, (background * 255).round())


def test_components_are_found_where_the_background_does_not_explain(tmp_path: Path) -> None:
    """A model that knows the true backgrounds: what differs are objects and shadows."""
    scenes = render_scenes("desk", seed=3, count=11, size=(H, W), backgrounds=True)
    batches = Batches(scenes, size=3, seed=0, flip=False, device=CPU)
    backgrounds = torch.from_numpy(scenes.backgrounds).permute(0, 3, 1, 2) / 255

    class Oracle(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return backgrounds, torch.zeros(len(images), 1, H, W)

    frozen = freeze_background(Oracle(), batches, limit=6, folder=tmp_path, config=DiscoveryConfig())  # type: ignore[arg-type]
    assert torch.equal(frozen.images, backgrounds.half())
    assert isinstance(frozen.components, Components)
    assert scenes.labels is not None
    found, true = frozen.components.labels.numpy() > 0, scenes.labels > 0
    assert (found & true).sum() > 0.5 * found.sum()
    assert (found & true).sum() > 0.5 * true.sum() > 0


# Images that stay on disk


@pytest.fixture
def on_disk(scenes: SceneArrays, tmp_path: Path) -> SceneArrays:
    np.savez(tmp_path / "a.npz", images=scenes.images)
    prepare(tmp_path / "a.npz", tmp_path / "cache", size=(H, W))
    stored = load_scenes(tmp_path / "cache", size=(H, W), memory=0)
    assert not isinstance(stored.images, np.ndarray)
    return stored


def test_batches_from_disk_are_those_from_memory(scenes: SceneArrays, on_disk: SceneArrays) -> None:
    pairs = [Batches(source, size=6, seed=5, flip=True, device=CPU) for source in (scenes, on_disk)]
    for step in (0, 7):
        for one, other in zip(*(one.draw(step) for one in pairs), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("memory", [batches.IN_MEMORY_BYTES, 0])
def test_frozen_backgrounds_of_images_on_disk_are_those_of_images_in_memory(
    scenes: SceneArrays, on_disk: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    torch.manual_seed(0)
    model = BackgroundModel((H, W), "small").eval()
    batch = Batch(torch.zeros(3), torch.tensor([4, 0, 9]), torch.tensor([True, False, True]))

    def frozen(source: SceneArrays) -> FrozenBackground:
        return freeze_background(
            model,
            Batches(source, size=3, seed=0, flip=True, device=CPU),
            limit=4,
            folder=tmp_path / "run",
            config=DiscoveryConfig(),
        )

    in_memory = frozen(scenes)
    monkeypatch.setattr(batches, "IN_MEMORY_BYTES", memory)
    other = frozen(on_disk)
    assert torch.equal(in_memory.draw(batch), other.draw(batch))
    one, two = in_memory.pseudo_labels(batch), other.pseudo_labels(batch)
    assert one is not None and two is not None
    for field in fields(Components):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


class Rank(World):
    """One of several ranks, each of which is a thread."""

    def __init__(self, rank: int, parts: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.parts, self.barrier = rank, len(parts), parts, barrier
        self.images = 0

    def all_gather(self, tensor: Tensor) -> Tensor:
        self.images += len(tensor) if tensor.ndim == 4 and tensor.shape[1] == 3 else 0
        self.parts[self.rank] = tensor
        self.barrier.wait()
        gathered = torch.cat(self.parts)
        self.barrier.wait()
        return gathered


@pytest.mark.parametrize("at_once", [2, 128])
def test_every_rank_freezes_a_part_of_the_images(
    scenes: SceneArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    torch.manual_seed(0)
    model = BackgroundModel((H, W), "small").eval()
    alone = Batches(scenes, size=3, seed=0, flip=True, device=CPU)
    whole = freeze_background(model, alone, limit=4, folder=tmp_path, config=DiscoveryConfig())
    monkeypatch.setattr(batches, "AT_ONCE", at_once)
    parts, barrier = [None] * 3, threading.Barrier(3, timeout=60)
    ranks = [Rank(number, parts, barrier) for number in range(3)]

    def frozen(rank: Rank) -> FrozenBackground:
        own = Batches(scenes, size=3, seed=0, flip=True, device=CPU, world=rank)
        return freeze_background(model, own, limit=4, folder=tmp_path, config=DiscoveryConfig())

    with ThreadPoolExecutor(3) as pool:
        shared = list(pool.map(frozen, ranks))
    assert all(rank.images <= len(scenes) // 3 + 1 for rank in ranks)
    assert whole.components is not None
    for one in shared:
        torch.testing.assert_close(one.images.float(), whole.images.float(), rtol=0, atol=2e-3)
        assert one.components is not None
        for field in fields(Components):
            assert torch.equal(getattr(one.components, field.name), getattr(whole.components, field.name))
