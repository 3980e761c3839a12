"""Batches repeat, and what is known of their images goes with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astseg.data import load_scenes
from astseg.data.arrays import images_to_tensor
from astseg.data.cache import prepare
from astseg.data.synthetic.generate import render_scenes
from astseg.discovery.components import Components
from astseg.model.background import BackgroundModel
from astseg.training.batches import Batches, FrozenBackground, LiveComponents, freeze_background, mirror
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
    assert torch.cat(list(batches.in_order(4))).shape == (11, 3, H, W)


def test_frozen_backgrounds_are_mirrored_with_their_images() -> None:
    drawn = torch.rand(4, 3, H, W).half()
    frozen = FrozenBackground(drawn, None)
    indices, mirrored = torch.tensor([2, 0]), torch.tensor([True, False])
    background = frozen.draw(indices, mirrored)
    assert background is not None
    assert torch.equal(background, torch.stack([drawn[2].flip(-1), drawn[0]]).float())
    assert FrozenBackground(None, None).draw(indices, mirrored) is None
    assert mirror(background, torch.zeros(2, dtype=torch.bool)) is background


def test_backgrounds_stored_in_8_bits(scenes: SceneArrays) -> None:
    """As the reference stores its pictures: rounded to whole grey levels."""
    batches = Batches(scenes, size=3, seed=0, flip=False, device=CPU)
    torch.manual_seed(0)
    model = BackgroundModel((H, W), "small")
    stored = freeze_background(model, batches, regions=0, storage="uint8")
    assert stored.images is not None
    assert stored.images.dtype == torch.uint8
    indices = torch.tensor([7, 2])
    background = stored.draw(indices, torch.tensor([False, False]))
    assert background is not None
    with torch.no_grad():
        exact, _ = model(images_to_tensor(scenes.images[indices.numpy()]))
    assert (background - exact).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(background * 255, (background * 255).round())


def test_regions_are_found_where_the_background_does_not_explain() -> None:
    """A model that knows the true backgrounds: what differs are objects and shadows."""
    scenes = render_scenes("desk", seed=3, count=11, size=(H, W), backgrounds=True)
    batches = Batches(scenes, size=3, seed=0, flip=False, device=CPU)
    backgrounds = torch.from_numpy(scenes.backgrounds).permute(0, 3, 1, 2) / 255

    class Oracle(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return backgrounds, torch.zeros(len(images), 1, H, W)

    frozen = freeze_background(Oracle(), batches, regions=6)  # type: ignore[arg-type]
    assert frozen.images is not None
    assert torch.equal(frozen.images, backgrounds.half())
    assert isinstance(frozen.components, Components)
    assert scenes.labels is not None
    found, true = frozen.components.labels.numpy() > 0, scenes.labels > 0
    assert (found & true).sum() > 0.5 * found.sum()
    assert (found & true).sum() > 0.5 * true.sum() > 0


# Width of the background


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
        for one, other in zip(*(batches.draw(step) for batches in pairs), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(*(torch.cat(list(batches.in_order(4))) for batches in pairs))


def test_regions_of_images_on_disk_are_found_as_they_are_needed(scenes: SceneArrays, on_disk: SceneArrays) -> None:
    torch.manual_seed(0)
    model = BackgroundModel((H, W), "small").eval()
    kept, live = (
        freeze_background(model, Batches(source, size=3, seed=0, flip=True, device=CPU), regions=4)
        for source in (scenes, on_disk)
    )
    assert (
        live.images is None and isinstance(live.components, LiveComponents) and isinstance(kept.components, Components)
    )
    indices, straight = torch.tensor([4, 0, 9]), torch.zeros(3, dtype=torch.bool)
    assert torch.equal(live.components.take(indices, straight).labels, kept.components.take(indices, straight).labels)
    found = live.components.take(indices, torch.tensor([True, False, True]))
    assert found.labels.shape == (3, H, W)
    nothing = freeze_background(model, Batches(on_disk, size=3, seed=0, flip=False, device=CPU), regions=0)
    assert nothing.images is None and nothing.components is None
