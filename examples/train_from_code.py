"""For researchers: build the network, then take the steps of the curriculum by hand.

    python examples/train_from_code.py

Nothing is saved, and the objects are only begun: ``astseg train`` does the same in full, with schedules and
pseudo-labels.
"""

from __future__ import annotations

import torch

from astseg import build
from astseg.config import ModelConfig
from astseg.config.presets import preset
from astseg.data.arrays import images_to_tensor
from astseg.data.synthetic.generate import render_scenes
from astseg.training.losses import background_loss, pixel_entropy_loss, reconstruction_loss
from astseg.training.schedule import background_beta


def main(config: ModelConfig, *, scenes: int = 400, background_steps: int = 100, object_steps: int = 10) -> list[float]:
    """Learn a background, then take some steps of the objects on it; returns the losses of the latter."""
    torch.manual_seed(0)
    rendered = render_scenes("desk", seed=0, count=scenes, size=config.image_size, backgrounds=True)
    assert rendered.backgrounds is not None
    images, truth = images_to_tensor(rendered.images), images_to_tensor(rendered.backgrounds)  # N x 3 x H x W in [0, 1]
    model = build(config).train()

    # Phase 1: the background alone. The larger beta, the less do pixels count that look like foreground.
    model.background_model.start_from(images)
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.AdamW(model.background_model.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(background_steps):
        batch = images[torch.randint(len(images), (32,))]
        background, predicted_error = model.background_model(batch)
        beta = background_beta(step, steps=background_steps, beta=6.0)
        losses = background_loss(batch, background, predicted_error, beta=beta)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    with torch.no_grad():
        error = 255 * (model.background_model(images)[0] - truth).abs().mean()
    print(f"the background is {error:.1f} grey levels off the true one, without its objects")

    # Phase 2: the objects, the background frozen. Their gradients are minute at first, hence Adam's eps.
    model.background_model.requires_grad_(False)
    optimizer = torch.optim.Adam(model.object_parameters(), lr=1e-3, betas=(0.90, 0.98), eps=1e-9)
    history = []
    for step in range(object_steps):
        batch = images[torch.randint(len(images), (16,))]
        output = model(batch)  # a SceneOutput: latents, attention, layers, masks, weights, reconstruction
        loss = reconstruction_loss(output.reconstruction, batch) + 1e-2 * pixel_entropy_loss(output.weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
        print(f"objects, step {step}: loss {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    main(preset("small").model)
