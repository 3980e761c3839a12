"""The package's forward against the plain transcription of the paper: result, loss and every gradient, in float64."""

import pytest
import torch

from astseg.config import ModelConfig
from astseg.model.astseg import build
from astseg.model.reference import plain_losses, plain_scene
from astseg.training.losses import pixel_entropy_loss, reconstruction_loss


@pytest.mark.parametrize("backbone", ["cnn", "segformer-b0"])
@pytest.mark.parametrize("isotropic", [False, True])
def test_a_step_is_that_of_the_plain_transcription(backbone: str, isotropic: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=(32, 36),
        slots=3,
        appearance=5,
        backbone=backbone,
        isotropic=isotropic,
        transformer_width=16,
        transformer_heads=4,
        transformer_layers=2,
        transformer_feedforward=24,
        dropout=0.0,
        background_log_activation=1.0,
        background_width="small",
    )
    model = build(config).double()
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    images, background = torch.rand(2, 2, 3, 32, 36, dtype=torch.float64)
    output = model(images, background, layers=False)
    weights, reconstruction = plain_scene(model, images, background)
    torch.testing.assert_close(output.weights, weights[:, :, 0].transpose(0, 1), rtol=0, atol=1e-9)
    torch.testing.assert_close(output.reconstruction, reconstruction, rtol=0, atol=1e-9)
    ours = reconstruction_loss(output.reconstruction, images) + 0.3 * pixel_entropy_loss(output.weights)
    plain = plain_losses(weights, reconstruction, images, entropy_weight=0.3)
    torch.testing.assert_close(ours, plain)
    parameters = model.object_parameters()
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
