"""The second look: what a slot sees is what lies in its frame, wherever that is."""

import torch
from torch import Tensor

from astseg.config import ModelConfig
from astseg.model.astseg import build
from astseg.model.glimpse_encoder import GlimpseEncoder

B, K, H, W, Z = 2, 3, 24, 36, 5
CELLS = (6, 9)


def look() -> GlimpseEncoder:
    torch.manual_seed(0)
    return GlimpseEncoder(side=8, appearance_size=Z, width=16, hidden=20)


def frames() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    position = torch.rand(B, K, 2, generator=generator) - 0.5
    return position, 2 + torch.rand(B, K, 2, generator=generator)


def test_shapes_and_that_places_get_no_gradient() -> None:
    images, attention = torch.rand(B, 3, H, W), torch.rand(B, K, *CELLS)
    position, scale = (frame.requires_grad_() for frame in frames())
    appearance = look()(images, attention, position, scale, torch.zeros(B, K, Z))
    assert appearance.shape == (B, K, Z)
    appearance.sum().backward()
    assert position.grad is None
    assert scale.grad is None


def test_what_moves_with_its_frame_looks_the_same() -> None:
    """Image and attention moved by one cell, 4 pixels, to the right: 2 / 9 in positions."""
    images, attention = torch.zeros(1, 3, H, W), torch.zeros(1, 1, *CELLS)
    images[..., 8:16, 8:16] = torch.rand(3, 8, 8)
    attention[..., 2:4, 2:4] = 1
    position, scale = torch.tensor([[[12 * 2 / W - 1, 12 * 2 / H - 1]]]), torch.tensor([[[W / 12, H / 12]]])
    network = look()
    here = network.describe(images, attention, position, scale)
    moved = position + torch.tensor([8 / W, 0.0])
    there = network.describe(images.roll(4, -1), attention.roll(1, -1), moved, scale)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here, network.describe(images, attention, moved, scale), atol=1e-3)


def test_attention_tells_what_is_meant_and_its_size_does_not_matter() -> None:
    images, attention = torch.rand(1, 3, H, W), torch.rand(1, 1, *CELLS)
    position, scale = torch.zeros(1, 1, 2), torch.full((1, 1, 2), 2.0)
    network = look()
    here = network.describe(images, attention, position, scale)
    torch.testing.assert_close(here, network.describe(images, attention / 7, position, scale), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here, network.describe(images, attention.flip(-1), position, scale), atol=1e-4)


def test_pooled_features_count_for_nothing_at_first() -> None:
    images, attention = torch.rand(B, 3, H, W), torch.rand(B, K, *CELLS)
    network = look()
    plain = network(images, attention, *frames(), torch.zeros(B, K, Z))
    assert torch.equal(plain, network(images, attention, *frames(), torch.rand(B, K, Z)))
    network.pooled_share.data.fill_(1.0)
    assert not torch.equal(plain, network(images, attention, *frames(), torch.rand(B, K, Z)))


def test_a_model_with_a_second_look_renders_and_learns() -> None:
    config = ModelConfig(
        image_size=(H, W),
        slots=K,
        appearance=Z,
        backbone="cnn",
        glimpse_crop=8,
        background_width="small",
        transformer_width=16,
    )
    torch.manual_seed(0)
    model = build(config)
    images = torch.rand(B, 3, H, W)
    output = model(images)
    assert output.reconstruction.shape == (B, 3, H, W)
    (output.reconstruction - images).square().mean().backward()
    assert model.encoder.glimpse_encoder is not None
    assert all(parameter.grad is not None for parameter in model.encoder.glimpse_encoder.parameters())
    drawn = model.glimpses(images, output.attention, output.latents.position, output.latents.scale)
    side = model.renderer.generator.side
    assert drawn.shape == (B, K, 4, side, side)


def test_only_what_is_drawn_is_looked_at() -> None:
    images, attention = torch.rand(B, 3, H, W), torch.rand(B, K, *CELLS)
    position, scale = frames()
    network = look()
    drawn = torch.tensor([[True, False, True], [False, False, True]])
    everything = network.describe(images, attention, position, scale)
    some = network.describe(images, attention, position, scale, drawn)
    torch.testing.assert_close(some[drawn], everything[drawn], atol=1e-5, rtol=1e-4)
    assert (some[~drawn] == 0).all()
    some.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.network.parameters())
