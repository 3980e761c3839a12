import json
import math

import numpy as np
import pytest
import torch

from astseg.config import ModelConfig
from astseg.data.arrays import images_to_tensor
from astseg.errors import UserError
from astseg.evaluation.evaluate import evaluate
from astseg.evaluation.metrics import segmentation_metrics
from astseg.inference.pipeline import Pipeline
from astseg.model.astseg import AstSeg, build
from astseg.types import SceneArrays

N, K, H, W = 5, 3, 32, 48
LABEL_FREE = {"mse", "slots_used", "foreground"}


@pytest.fixture(scope="module")
def model() -> AstSeg:
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=(H, W),
        backbone="cnn",
        slots=K,
        appearance=5,
        transformer_width=8,
        transformer_heads=2,
        transformer_layers=1,
        transformer_feedforward=12,
        background_log_activation=-1.0,
        background_width="small",
    )
    return build(config)


def make_scenes(*, labelled: bool = True, count: int = N) -> SceneArrays:
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (count, H, W, 3), dtype=np.uint8)
    labels = random.integers(0, 6, (count, H // 8, W // 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    names = tuple(f"scene {index}" for index in range(count))
    return SceneArrays(images, labels if labelled else None, names, "made up")


def test_means_are_over_all_images_whatever_the_batches(model: AstSeg) -> None:
    scenes = make_scenes()
    told = []
    one = evaluate(Pipeline(model), scenes, batch_size=2, progress=lambda done, total: told.append((done, total)))
    all_at_once = evaluate(Pipeline(model), scenes, batch_size=N)
    assert told == [(2, N), (4, N), (5, N)]
    assert one.count == N
    assert one.names == scenes.names
    assert set(one.mean) == LABEL_FREE | {
        *("ari", "ari_fg", "miou", "msc", "msc_fg", "scaled_sc", "scaled_sc_fg", "background_mse")
    }
    for name, values in one.per_image.items():
        assert values.shape == (N,)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, all_at_once.per_image[name], rtol=1e-4, atol=1e-5)
        assert one.mean[name] == pytest.approx(values.mean())


def test_values_are_those_of_the_model_output(model: AstSeg) -> None:
    scenes = make_scenes()
    assert scenes.labels is not None
    scenes.labels[1] = 3  # no background at all
    result = evaluate(Pipeline(model), scenes, keep=4)
    output = Pipeline(model)(images_to_tensor(scenes.images))
    predicted = output.weights.argmax(1)
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255
    expected = segmentation_metrics(torch.from_numpy(scenes.labels), predicted)
    np.testing.assert_allclose(result.per_image["miou"], expected["miou"].numpy())
    squared = (output.reconstruction - images).square()
    np.testing.assert_allclose(result.per_image["mse"], squared.sum((1, 2, 3)).numpy(), rtol=1e-5)
    used = [len(set(one.unique().tolist()) - {0}) for one in predicted]
    assert result.per_image["slots_used"].tolist() == used
    np.testing.assert_allclose(result.per_image["foreground"], (predicted > 0).float().mean((1, 2)), rtol=1e-6)
    error = (output.background - images).square()[2].mean(0)[torch.from_numpy(scenes.labels[2]) == 0].mean()
    assert result.per_image["background_mse"][2] == pytest.approx(error.item(), rel=1e-5)
    assert math.isnan(result.per_image["background_mse"][1])
    assert result.mean["background_mse"] == pytest.approx(np.nanmean(result.per_image["background_mse"]))
    assert result.first_output.weights.shape == (4, K + 1, H, W)
    assert result.first_output.latents.position.shape == (4, K, 2)
    torch.testing.assert_close(result.first_output.reconstruction, output.reconstruction[:4])


def test_without_labels_only_what_needs_none(model: AstSeg) -> None:
    result = evaluate(Pipeline(model), make_scenes(labelled=False))
    assert set(result.mean) == LABEL_FREE
    assert json.loads(json.dumps(result.summary(), allow_nan=False)) == {"count": N, **result.mean}


def test_protocols(model: AstSeg) -> None:
    scenes = make_scenes()
    own, reference, clevrtex = (
        evaluate(Pipeline(model), scenes, protocol=name) for name in ("astseg", "reference", "clevrtex")
    )
    assert own.protocol == "astseg"
    assert own.mean["miou"] != reference.mean["miou"]  # there are labels above K
    assert "ARI_FG" in clevrtex.mean
    json.dumps(clevrtex.summary(), allow_nan=False)


def test_summary_has_none_for_what_is_not_a_number(model: AstSeg) -> None:
    scenes = make_scenes()
    assert scenes.labels is not None
    scenes.labels[:] = 1
    assert evaluate(Pipeline(model), scenes).summary()["background_mse"] is None


def test_modes_and_random_state_come_back(model: AstSeg) -> None:
    model.train()
    model.background_model.eval()  # as in phase 2 of the curriculum
    before = [module.training for module in model.modules()]
    images = torch.rand(2, 3, H, W)
    state = torch.get_rng_state()
    evaluate(Pipeline(model), make_scenes(count=2))
    Pipeline(model)(images)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "other"}, "protocol is 'other', choose from astseg"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_arguments_are_refused(model: AstSeg, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(Pipeline(model), make_scenes(), **changes)  # type: ignore[arg-type]


def test_wrong_scenes_are_refused(model: AstSeg) -> None:
    with pytest.raises(UserError, match="no scenes in made up"):
        evaluate(Pipeline(model), make_scenes(count=0))
    turned = SceneArrays(np.zeros((2, W, H, 3), np.uint8), None, ("a", "b"), "made up")
    with pytest.raises(UserError, match="scenes are 48x32, expected the model's 32x48"):
        evaluate(Pipeline(model), turned)
