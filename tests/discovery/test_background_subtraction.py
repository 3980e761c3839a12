"""What differs from the background, pixel by pixel."""

import pytest
import torch

from astseg.config import DiscoveryConfig
from astseg.discovery.background_subtraction import find_components, foreground_mask, nearest_around
from astseg.discovery.components import label_components
from astseg.discovery.shadows_and_hue import colour_components


def test_foreground_mask_by_hand() -> None:
    """Brightness 0.5: foreground where the difference beyond 7 times the predicted error exceeds 0.5 * 32 / 255."""
    background = torch.full((2, 3, 2, 3), 0.5)
    images = background.clone()
    limit = 0.5 * 32 / 255
    images[0, :, 0, 2] += limit * 1.01
    images[0, :, 1, 2] -= limit * 0.99
    images[1, :, 1, 1] -= limit * 1.01 + 7 * 0.02
    predicted_error = torch.zeros(2, 1, 2, 3)
    predicted_error[1] = 0.02
    mask = foreground_mask(images, background, predicted_error)
    assert mask.dtype == torch.bool
    assert mask.nonzero().tolist() == [[0, 0, 2], [1, 1, 1]]
    assert not foreground_mask(images, background, predicted_error + 0.02).any()
    images[1, :, 0, 0] += limit * 1.01 + 2 * 0.02
    assert torch.equal(foreground_mask(images, background, predicted_error), mask)
    fewer = foreground_mask(images, background, predicted_error, errors=2.0)
    assert fewer.nonzero().tolist() == [[0, 0, 2], [1, 0, 0], [1, 1, 1]]


def test_foreground_mask_is_cleaned_from_400_pixels_on() -> None:
    background = torch.full((1, 3, 30, 400), 0.5)
    images = background.clone()
    images[..., 10:20, 100:120] = 1.0  # an object
    images[..., 15, 110] = 0.5  # with a hole, which closing fills
    images[..., 5, 300] = 1.0  # a speck, which opening removes
    images[..., :8, 392:] = 1.0  # an object in the corner, which keeps its size
    expected = torch.zeros(1, 30, 400, dtype=torch.bool)
    expected[:, 10:20, 100:120] = True
    expected[:, :8, 392:] = True
    predicted_error = torch.zeros(1, 1, 30, 400)
    assert torch.equal(foreground_mask(images, background, predicted_error), expected)
    small = foreground_mask(images[..., :399], background[..., :399], predicted_error[..., :399])
    assert small[0, 5, 300]
    assert not small[0, 15, 110]


def test_nearest_around_by_hand() -> None:
    """Each channel by itself, within the range that the background has in the square around, cut off at the rim."""
    torch.manual_seed(0)
    images, background = torch.rand(2, 3, 7, 9), torch.rand(2, 3, 7, 9) * 0.5 + 0.2
    found = nearest_around(images, background, reach=2)
    for row, column in ((0, 0), (3, 4), (6, 8), (1, 7)):
        around = background[..., max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].flatten(2)
        expected = images[..., row, column].clamp(around.amin(dim=2), around.amax(dim=2))
        torch.testing.assert_close(found[..., row, column], expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_components_step_by_step(seed: int) -> None:
    """Components begin at the high threshold, reach to the low one, and grow into their outline; lines are none."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.rand(4, 3, 8, 8, generator=generator).repeat_interleave(6, 2).repeat_interleave(6, 3) / 2 + 0.3
    images = background.roll(1, 3) + 0.02 * torch.randn(4, 3, 48, 48, generator=generator)
    for number in range(12):
        top, left = torch.randint(0, 36, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator)
        part = images[number % 4, :, top : top + 11, left : left + 9]
        part += (colour - part) * torch.rand(1, generator=generator)
    predicted_error = 0.01 + 0.02 * torch.rand(4, 1, 48, 48, generator=generator)
    high, low, outline = (
        foreground_mask(images, background, predicted_error, errors=errors, contrast=contrast / 255).numpy()
        for errors, contrast in ((7.0, 96), (1.0, 96), (3.5, 48))
    )
    lines = ~foreground_mask(images, nearest_around(images, background, reach=2), predicted_error).numpy()
    labels = colour_components(high, low, outline, images.numpy(), background.numpy())
    expected, without = label_components(labels, limit=5, explained=lines), label_components(labels, limit=5)
    found = find_components(images, background, predicted_error, limit=5)
    for name in ("box", "present", "labels"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.present.any()
    assert not torch.equal(without.labels, expected.labels)
    half = find_components(images.double(), background.double(), predicted_error.double(), limit=5)
    assert torch.equal(half.labels, found.labels)


def test_thresholds_are_those_of_the_configuration() -> None:
    """Two squares on grey 0.5: one differs by 0.13 in the mean over its channels, the other by 0.04, too little."""
    background = torch.full((1, 3, 24, 32), 0.5)
    images = background.clone()
    images[:, 0, 4:12, 3:11] += 0.4
    images[:, 2, 8:18, 18:28] += 0.12
    predicted_error = torch.full((1, 1, 24, 32), 0.005)

    def count(**settings: float) -> int:
        config = DiscoveryConfig(**settings)  # type: ignore[arg-type]
        return int(find_components(images, background, predicted_error, limit=4, config=config).present.sum())

    assert count() == 1
    assert count(contrast=0.1, high_errors=1.0) == 2
    assert count(contrast=0.9) == 0
    assert count(high_errors=30.0) == 0
    assert count(smallest_component=0.2) == 0
    assert count(smallest_piece=0.2) == 0
