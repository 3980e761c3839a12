import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astseg.data.arrays import images_to_tensor
from astseg.data.resize import place
from astseg.errors import UserError
from astseg.inference.prediction import Prediction, predictions_from
from astseg.inference.segmenter import Segmenter, choose_device
from astseg.inference.upsample import enlarged, window_of
from astseg.inference.writers.folder import KINDS
from astseg.inference.writers.run import segment_folder
from astseg.runs.folder import RunFolder
from astseg.types import ObjectLatents, SceneOutput
from tiny import ROUNDS_ALIKE

Z, H, W = 5, 32, 48  # as spread_run has them


@pytest.fixture(scope="module")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def same(one: Prediction, other: Prediction) -> bool:
    ids = [[found.id for found in prediction.objects] for prediction in (one, other)]
    return np.array_equal(one.labels, other.labels) and ids[0] == ids[1]


def check(prediction: Prediction, size: tuple[int, int]) -> None:
    """Everything that a prediction promises."""
    labels, objects = prediction.labels, prediction.objects
    assert labels.shape == size
    assert labels.dtype == np.int32
    assert set(np.unique(labels)) - {0} == {found.id for found in objects}
    assert len({found.id for found in objects}) == len(objects)
    assert [found.order for found in objects] == list(range(len(objects)))
    assert [found.activation for found in objects] == sorted((found.activation for found in objects), reverse=True)
    for found in objects:
        mask = labels == found.id
        x, y, w, h = found.box
        assert found.area == mask.sum() > 0
        assert mask[y : y + h, x : x + w].sum() == found.area
        for edge in (mask[y, x : x + w], mask[y + h - 1, x : x + w], mask[y : y + h, x], mask[y : y + h, x + w - 1]):
            assert edge.any()
        assert 0 < found.visibility <= 1
        assert 0 < found.score <= 1
        assert len(found.scale) == 2
        assert found.appearance.shape == (Z,)
        assert -0.5 <= found.position[0] <= size[1] - 0.5
        assert -0.5 <= found.position[1] <= size[0] - 0.5
    assert prediction.background.shape == prediction.reconstruction.shape == (*size, 3)
    assert prediction.layers.shape == (len(objects), *size, 4)
    assert prediction.attention.shape == (len(objects), *size)
    for array in (prediction.background, prediction.reconstruction, prediction.layers, prediction.attention):
        assert array.dtype == np.uint8


@pytest.mark.parametrize("size", [(37, 53), (H, W), (90, 41), (7, 200), (1, 1)])
def test_predictions_keep_their_promises_at_any_size(segmenter: Segmenter, size: tuple[int, int]) -> None:
    prediction = segmenter.predict(picture(*size))
    check(prediction, size)
    assert len(prediction.objects) > 1 or size == (1, 1)  # else these tests test nothing


def test_at_the_model_size_nothing_is_lost(segmenter: Segmenter) -> None:
    image = picture(H, W)
    prediction = segmenter.predict(image)
    output = segmenter.pipeline(images_to_tensor(image[None]), layers=True)
    np.testing.assert_array_equal(prediction.labels, output.weights[0].argmax(0).numpy())
    expected = (output.reconstruction[0].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(prediction.reconstruction, expected)
    for found in prediction.objects:
        position = output.latents.position[0, found.id - 1]
        assert found.position[0] == pytest.approx((position[0].item() + 1) / 2 * W - 0.5, abs=1e-4)
        assert found.position[1] == pytest.approx((position[1].item() + 1) / 2 * H - 0.5, abs=1e-4)
        relative = (
            output.latents.log_activation[0, found.id - 1] - segmenter.pipeline.model.renderer.background_activation()
        )
        assert found.activation == pytest.approx(relative.item(), abs=1e-5)


@pytest.mark.parametrize("size", [(37, 53), (H, W), (7, 200), (150, 41)])
def test_what_is_not_drawn_changes_nothing(segmenter: Segmenter, size: tuple[int, int]) -> None:
    """Layers of objects that own no pixel, and objects that are off: the same as if everything is drawn."""
    images = np.stack([picture(*size, seed=seed) for seed in range(3)])
    small = np.stack([place(size, (H, W), resize="squeeze").image(image) for image in images])
    whole = segmenter.pipeline(images_to_tensor(small), layers=True)
    behind = segmenter.pipeline.model.renderer.background_activation().item()
    placements = [place(size, (H, W), resize="squeeze")] * 3
    expected = list(predictions_from(whole, placements, background_activation=behind, pictures=list(images)))
    without = segmenter.predict(images, layers=False)
    for one, other, bare in zip(segmenter.predict(images), expected, without, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.labels, bare.labels)
        np.testing.assert_allclose(one.layers.astype(int), other.layers, atol=1)
        assert [found.visibility for found in one.objects] == [found.visibility for found in bare.objects]
    with pytest.raises(UserError, match="made without layers"):
        _ = without[0].layers


@pytest.mark.parametrize("size", [(37, 53), (9, 11), (20, 28), (64, 5)])
def test_a_window_is_enlarged_like_the_whole(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    weight = torch.zeros(20, 28)
    weight[3:11, 17:26] = torch.rand(8, 9)
    whole = torch.nn.functional.interpolate(
        weight[None, None], size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0]
    inner, outer = window_of(weight, size)
    part = torch.zeros(size)
    part[outer] = enlarged(weight, size, inner, outer)
    torch.testing.assert_close(part, whole, atol=1e-6, rtol=0)
    assert part[outer].numel() < whole.numel()
    assert enlarged(weight * 0, size, *window_of(weight * 0, size)).numel() == 0


def test_every_form_of_a_picture_gives_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    image = picture()
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = segmenter.predict(image)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(image),
        image / 255,
        np.dstack([image, np.zeros(image.shape[:2], np.uint8)]),
        torch.from_numpy(image.copy()).permute(2, 0, 1),
        images_to_tensor(image[None])[0],
    ]
    for form in forms:
        assert same(segmenter.predict(form), expected)
    grey = image[:, :, 1]
    assert same(segmenter.predict(grey), segmenter.predict(np.dstack([grey] * 3)))


def test_one_gives_one_and_many_give_a_list_in_order(segmenter: Segmenter) -> None:
    images = [picture(20 + 3 * index, 50 - index, seed=index) for index in range(5)]
    assert isinstance(segmenter.predict(images[0]), Prediction)
    for many in (images, tuple(images), iter(images)):
        predictions = segmenter.predict(many, batch_size=2)
        assert isinstance(predictions, list)
        assert [one.labels.shape for one in predictions] == [image.shape[:2] for image in images]
        for one, image in zip(predictions, images, strict=True):
            assert same(one, segmenter.predict(image))
    assert segmenter.predict([]) == []
    assert len(segmenter.predict(np.stack(images[:1] * 3))) == 3
    assert len(segmenter.predict(torch.rand(2, 3, 37, 53))) == 2


def test_wrong_inputs_are_named_by_their_place(segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match="image 1 holds values that are not finite"):
        segmenter.predict([picture(), np.full((5, 7, 3), np.nan)])
    with pytest.raises(UserError, match="the image is an array 5 x 7 x 2"):
        segmenter.predict(np.zeros((5, 7, 2), np.uint8))
    with pytest.raises(UserError, match="batch_size is 0"):
        segmenter.predict([], batch_size=0)


def test_loading_tells_what_is_wrong(spread_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run folder"):
        Segmenter.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="device 'gpu' cannot be used"):
        Segmenter.from_pretrained(spread_run, device="gpu")
    with pytest.raises(UserError, match="precision is 'half', choose from float32, bfloat16, auto"):
        Segmenter.from_pretrained(spread_run, precision="half")
    assert Segmenter.from_pretrained(str(spread_run)).image_size == (H, W)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in {"cpu", "cuda", "mps"}


def test_large_pictures_decide_about_their_outlines(segmenter: Segmenter) -> None:
    """The same output with and without the picture: other outlines, the same objects; near the model's size, none."""
    for factor, moves in ((4, True), (1.25, False)):
        size = int(H * factor), int(W * factor)
        image = picture(*size)
        where = place(size, (H, W), resize="squeeze")
        output = segmenter.pipeline(images_to_tensor(where.image(image)[None]), layers=True)
        behind = segmenter.pipeline.model.renderer.background_activation().item()
        (drawn,) = predictions_from(output, [where], background_activation=behind)
        (sharp,) = predictions_from(output, [where], background_activation=behind, pictures=[image])
        check(sharp, size)
        assert [one.id for one in sharp.objects] == [one.id for one in drawn.objects]
        assert np.array_equal(sharp.labels, drawn.labels) is not moves


def test_occlusion_by_hand() -> None:
    """Slot 2 (id 2) covers the right half of slot 1 (id 1); slot 3 is wholly hidden, slot 4 too weak to be seen."""
    masks = torch.zeros(1, 4, 8, 12)
    masks[0, 0, 2:6, 2:6] = 1
    masks[0, 1, 2:6, 4:10] = 1
    masks[0, 2, 3:5, 5:7] = 1
    masks[0, 3, 7, 0] = 0.5
    log_activation = torch.tensor([[3.0, 9.0, 2.0, 0.0]])
    strength = torch.cat([torch.ones(1, 1, 8, 12), log_activation.exp()[..., None, None] * masks], dim=1)
    weights = strength / strength.sum(1, keepdim=True)
    colours = torch.linspace(0.1, 0.9, 4).view(1, 4, 1, 1, 1).expand(1, 4, 3, 8, 12)
    latents = ObjectLatents(torch.zeros(1, 4, 2), torch.full((1, 4, 1), 2.0), log_activation, torch.zeros(1, 4, Z))
    output = SceneOutput(latents, masks, torch.zeros(1, 3, 8, 12), colours, masks, weights, torch.ones(1, 3, 8, 12))
    (prediction,) = predictions_from(output, [place((8, 12), (8, 12))], background_activation=0.0)
    check(prediction, (8, 12))
    assert [found.id for found in prediction.objects] == [2, 1]
    front, back = prediction.objects
    assert (front.area, front.visibility, front.box) == (24, 1.0, (4, 2, 6, 4))
    assert (back.area, back.visibility, back.box) == (8, 0.5, (2, 2, 2, 4))
    assert back.scale == (2.0, 2.0)
    assert back.position == (5.5, 3.5)
    assert back.activation == 3.0
    assert front.score == pytest.approx(np.exp(9) / (np.exp(9) + np.exp(3) * 2 / 3 + 1), abs=0.01)
    opacity = prediction.layers[1, :, :, 3] / 255
    np.testing.assert_allclose(opacity, masks[0, 0] * np.exp(3) / (1 + np.exp(3)), atol=1 / 255)
    (large,) = predictions_from(output, [place((80, 120), (8, 12), resize="squeeze")], background_activation=0.0)
    check(large, (80, 120))
    assert large.objects[1].visibility == pytest.approx(0.5, abs=0.06)


def read_table(out: Path) -> list[dict[str, str]]:
    with (out / "objects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_is_segmented_to_files(segmenter: Segmenter, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    names = ["b.png", "sub/a.jpg", "sub/c.png"]
    for seed, name in enumerate(names):
        Image.fromarray(picture(30 + seed, 50, seed)).save(source / name)
    (source / "broken.png").write_bytes((source / "b.png").read_bytes()[:99])
    told = []
    summary = segment_folder(
        segmenter, source, out, batch_size=2, write=KINDS, progress=lambda done, total: told.append((done, total))
    )
    assert summary.images == 3
    assert told[-1] == (4, 4)
    assert len(summary.skipped) == 1
    assert "broken.png" in summary.skipped[0]
    rows = read_table(out)
    assert len(rows) == summary.objects > 0
    for name in names:
        stem = name.rsplit(".", 1)[0]
        labels = np.asarray(Image.open(out / "masks" / f"{stem}.png"))
        mine = [row for row in rows if row["file"] == name]
        assert {int(row["id"]) for row in mine} == set(np.unique(labels)) - {0}
        prediction = segmenter.predict(source / name)
        np.testing.assert_array_equal(labels, prediction.labels)
        for row, found in zip(mine, prediction.objects, strict=True):
            mask = labels == int(row["id"])
            x, y, w, h = (int(row[key]) for key in "xywh")
            assert mask[y : y + h, x : x + w].sum() == mask.sum() == int(row["area"])
            assert float(row["visibility"]) == pytest.approx(found.visibility, rel=1e-5)
            assert float(row[f"a_{Z - 1}"]) == pytest.approx(found.appearance[-1], rel=1e-4)
            cut = np.asarray(Image.open(out / "cutouts" / f"{stem}_{found.id}.png"))
            np.testing.assert_array_equal(cut[..., 3] == 255, mask[y : y + h, x : x + w])
            whole = np.asarray(Image.open(source / name).convert("RGB"))
            np.testing.assert_array_equal(cut[..., :3], whole[y : y + h, x : x + w])
        with np.load(out / "layers" / f"{stem}.npz") as arrays:
            for kind in ("layers", "background"):
                difference = arrays[kind].astype(int) - getattr(prediction, kind)
                assert abs(difference).max() <= (0 if ROUNDS_ALIKE else 1)
                assert (difference == 0).mean() > 0.99
            np.testing.assert_array_equal(arrays["labels"], labels)
            assert arrays["ids"].tolist() == [found.id for found in prediction.objects]
        for kind in ("overlays", "backgrounds", "reconstructions"):
            assert (out / kind / f"{stem}.png").is_file()
    about = json.loads((out / "segment.json").read_text())
    assert about["complete"] is True
    assert (about["images"], about["objects"], about["skipped"]) == (3, summary.objects, list(summary.skipped))
    assert not list(out.rglob("*.part"))


def test_earlier_results_are_replaced_and_other_things_kept(segmenter: Segmenter, tmp_path: Path) -> None:
    for folder, name in (("first", "a.png"), ("second", "b.png")):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture()).save(tmp_path / folder / name)
    out = tmp_path / "out"
    segment_folder(segmenter, tmp_path / "first", out, write=KINDS)
    (out / "masks" / "mine.txt").write_text("keep")
    (out / "cutouts" / "mine_1.png").write_text("keep")
    segment_folder(segmenter, tmp_path / "second", out)
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["b.png", "mine.txt"]
    assert not list((out / "layers").iterdir())
    assert {path.name.partition("_")[0] for path in (out / "cutouts").iterdir()} == {"b", "mine"}
    assert {row["file"] for row in read_table(out)} == {"b.png"}


def test_names_that_would_collide_keep_their_suffix(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(picture()).save(tmp_path / "in" / name)
    segment_folder(segmenter, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.jpg.png", "a.png.png"]


def test_one_picture_is_a_folder_of_one(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    summary = segment_folder(segmenter, tmp_path / "a.png", tmp_path / "out")
    assert summary.images == 1
    assert (tmp_path / "out" / "masks" / "a.png").is_file()


def test_nothing_is_written_where_something_is_wrong(segmenter: Segmenter, tmp_path: Path) -> None:
    source, foreign = tmp_path / "in", tmp_path / "foreign"
    source.mkdir()
    foreign.mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        segment_folder(segmenter, source, tmp_path / "out")
    with pytest.raises(UserError, match="does not exist"):
        segment_folder(segmenter, tmp_path / "none", tmp_path / "out")
    (source / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of the 1 pictures .* can be read: 'a\.png'"):
        segment_folder(segmenter, source, tmp_path / "out")
    Image.fromarray(picture()).save(source / "a.png")
    (foreign / "thesis.txt").write_text("only copy")
    with pytest.raises(UserError, match="was not made by this command"):
        segment_folder(segmenter, source, foreign)
    with pytest.raises(UserError, match="is a file"):
        segment_folder(segmenter, source, foreign / "thesis.txt")
    with pytest.raises(UserError, match="lie in each other"):
        segment_folder(segmenter, source, source / "out")
    with pytest.raises(UserError, match="batch_size"):
        segment_folder(segmenter, source, tmp_path / "out", batch_size=0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "foreign", "in", "thesis.txt"]


# Pictures of other proportions


def test_letterboxed_pictures_come_back_without_their_bars(segmenter: Segmenter) -> None:
    image = picture(H, W - 14)
    framed = np.zeros((H, W, 3), np.uint8)
    framed[:, 7:-7] = image
    inside, whole = segmenter.predict(image, resize="letterbox"), segmenter.predict(framed)
    np.testing.assert_array_equal(inside.labels, whole.labels[:, 7:-7])
    np.testing.assert_array_equal(inside.reconstruction, whole.reconstruction[:, 7:-7])
    assert inside.layers.shape == (len(inside.objects), H, W - 14, 4)
    known = {found.id: found for found in whole.objects}
    for found in inside.objects:
        assert found.position == pytest.approx((known[found.id].position[0] - 7, known[found.id].position[1]), abs=1e-3)
        assert found.scale[0] == pytest.approx(known[found.id].scale[0] * (W - 14) / W)
        assert found.scale[1] == pytest.approx(known[found.id].scale[1])
    check(segmenter.predict(picture(90, 41), resize="letterbox"), (90, 41))


def test_what_is_cropped_off_is_background(segmenter: Segmenter) -> None:
    image = picture(H, W + 20)
    cropped, middle = segmenter.predict(image, resize="crop"), segmenter.predict(image[:, 10:-10].copy())
    np.testing.assert_array_equal(cropped.labels[:, 10:-10], middle.labels)
    assert not cropped.labels[:, :10].any() and not cropped.background[:, -10:].any()
    for found, other in zip(cropped.objects, middle.objects, strict=True):
        assert found.position[0] == pytest.approx(other.position[0] + 10, abs=1e-3)
        assert found.box[0] == other.box[0] + 10
    check(segmenter.predict(picture(90, 41), resize="crop"), (90, 41))


def test_a_run_that_was_letterboxed_segments_so(spread_run: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    config, info = RunFolder(spread_run).load_config()
    run.save_config(config, replace(info, resize="letterbox"))
    (run.path / "model.safetensors").write_bytes((spread_run / "model.safetensors").read_bytes())
    segmenter = Segmenter.from_pretrained(run.path, "cpu")
    image = picture(90, 41)
    assert same(segmenter.predict(image), segmenter.predict(image, resize="letterbox"))
    assert not same(segmenter.predict(image), segmenter.predict(image, resize="squeeze"))
    with pytest.raises(UserError, match="resize is 'stretch'"):
        segmenter.predict(image, resize="stretch")


def test_a_run_that_was_cropped_segments_what_was_measured(spread_run: Path, tmp_path: Path) -> None:
    """The centred half of an image, as in training: the labels there are those of that half, the rest is background."""
    run = RunFolder(tmp_path / "run")
    config, info = RunFolder(spread_run).load_config()
    run.save_config(config, replace(info, resize="crop", crop=0.5))
    (run.path / "model.safetensors").write_bytes((spread_run / "model.safetensors").read_bytes())
    image = picture(128, 192)
    where = place((128, 192), (H, W), crop=0.5)
    assert where.box == (48, 32, 144, 96)
    as_trained = Segmenter.from_pretrained(run.path, "cpu").predict(image)
    centre = Segmenter.from_pretrained(spread_run, "cpu").predict(np.ascontiguousarray(image[32:96, 48:144]))
    np.testing.assert_array_equal(as_trained.labels[32:96, 48:144], centre.labels)
    assert as_trained.labels.any()
    assert np.count_nonzero(as_trained.labels) == np.count_nonzero(centre.labels)


def test_attention_peaks_where_the_encoder_looked(segmenter: Segmenter) -> None:
    prediction = segmenter.predict(picture(320, 480))
    assert prediction.drawing.attention is not None
    assert len(prediction.attention) > 1
    for drawn, seen in zip(prediction.attention, prediction.drawing.attention, strict=True):
        row, column = np.unravel_index(drawn.argmax(), drawn.shape)
        cell = np.unravel_index(seen.argmax(), seen.shape)
        assert abs(row * seen.shape[0] / 320 - 0.5 - cell[0]) <= 1
        assert abs(column * seen.shape[1] / 480 - 0.5 - cell[1]) <= 1
        assert drawn.max() > 200
