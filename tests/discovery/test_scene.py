"""A scene that is looked at in full: its background, regions, cut-outs, votes, and what is stored of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from astseg.autofit.scene_survey import SceneSurvey, scene_from, survey_scene
from astseg.config import SceneConfig
from astseg.discovery.cast_shadows import shadow_place
from astseg.discovery.collage import Collage
from astseg.discovery.cutouts import first_regions
from astseg.discovery.finder import CHANNELS, Finder, finder_input
from astseg.discovery.regions import find_regions, region_map
from astseg.discovery.scene_background import fixed_background, smooth_background
from astseg.discovery.scene_file import SCENE_FILE, load_scene, save_scene
from astseg.discovery.scene_model import SceneModel, Sizes
from astseg.discovery.votes import objects_from
from astseg.errors import UserError
from tank import tank

CONFIG = SceneConfig(background="fixed")


def scene_of(pictures: np.ndarray, kind: str = "fixed") -> SceneModel:
    seen = SceneSurvey(kind, "", Sizes(12.0, 10.0), 4.0, 1.0)
    return scene_from(seen, list(pictures), replace(CONFIG, background=kind), list(pictures[:3]))


def test_a_fixed_background_is_seen_through_what_moves_in_the_light_of_each_picture() -> None:
    pictures, labels, ground = tank(30, light=0.2)
    scene = fixed_background(list(pictures), block=64)
    for picture, mask in zip(pictures[:5], labels, strict=False):
        off = np.abs(scene.of(picture) * 255 - picture).mean(axis=2)
        assert np.median(off[mask == 0]) < 3
    assert 1 < 255 * np.median(scene.noise) < 3


def test_light_that_falls_on_one_half_alone_is_no_object() -> None:
    pictures, labels, _ = tank(30, size=(128, 256), light=0)
    pictures = pictures.astype(float)
    pictures[20:, :, :128] *= np.linspace(1.4, 1.0, 128)[None, None, :, None]
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)
    scene = fixed_background(list(pictures), block=64)
    found = region_map(find_regions(pictures[25], scene.of(pictures[25]), scene, CONFIG), (128, 256)) > 0
    assert np.mean(found[labels[25] == 0]) < 0.02
    assert np.mean(found[labels[25] > 0]) > 0.85


def test_a_smooth_background_is_found_below_things_that_hardly_move() -> None:
    pictures, labels, _ = tank(12, size=(160, 200), things=8, plain=True, still=True)
    scene = smooth_background(list(pictures), block=64)
    for picture, mask in zip(pictures[:4], labels, strict=False):
        found = region_map(find_regions(picture, scene.of(picture), scene, CONFIG), mask.shape) > 0
        assert np.mean(found[mask > 0]) > 0.85
        assert np.mean(found[mask == 0]) < 0.02


def test_regions_know_darker_from_brighter() -> None:
    pictures, labels, ground = tank(30, light=0)
    scene = fixed_background(list(pictures), block=64)
    picture, mask = pictures[3], labels[3]
    brightness = np.array([picture[mask == k].mean() - ground[mask == k].mean() for k in range(5)])
    for objects, wanted in (("darker", brightness < -20), ("brighter", brightness > 20)):
        regions = find_regions(picture, scene.of(picture), scene, replace(CONFIG, objects=objects))
        found = region_map(regions, mask.shape) > 0
        for number in range(1, 5):
            if (mask == number).sum() > 100:
                assert (np.mean(found[mask == number]) > 0.6) == wanted[number] or abs(brightness[number]) < 40


def test_a_shifted_background_is_no_region() -> None:
    pictures, _, ground = tank(20, light=0)
    scene = fixed_background(list(pictures), block=64)
    shaken = np.concatenate([ground[:, :1], ground[:, :-1]], axis=1)
    assert not find_regions(shaken, scene.of(shaken), scene, CONFIG)


def test_shadows_have_their_place() -> None:
    rng = np.random.default_rng(0)
    masks, shadows = [], []
    for _ in range(60):
        mask = np.ones((20, 30), np.bool_)
        shadow = np.zeros(mask.shape, np.float32)
        shadow[14:] = rng.normal(0.5, 0.02)  # always
        if rng.random() < 0.2:  # a grey one, now and then
            shadow[:14] = rng.uniform(0.1, 0.9)
        masks.append(mask)
        shadows.append(shadow)
    place = shadow_place(masks, shadows)
    assert place.cells[12:].all() and not place.cells[:10].any()
    left = place.without(masks[0], np.full(masks[0].shape, 0.5, np.float32))
    assert left[:12].all() and not left[16:].any()
    assert place.without(masks[0], np.full(masks[0].shape, 0.2, np.float32)).all()  # a black one's own dark
    everything = shadow_place(masks, [np.full(mask.shape, 0.5, np.float32) for mask in masks])
    assert not everything.cells.any()  # where all looks like shadow, nothing is one


@pytest.fixture(scope="module")
def scene_and_pictures() -> tuple[SceneModel, np.ndarray, np.ndarray]:
    pictures, labels, _ = tank(40, size=(96, 128), light=0.05)
    return scene_of(pictures), pictures, labels


def test_cutouts_hold_whole_objects(scene_and_pictures: tuple[SceneModel, np.ndarray, np.ndarray]) -> None:
    scene, pictures, labels = scene_and_pictures
    material = first_regions(scene, list(pictures))
    assert len(material.cutouts) > 60
    usual = np.median([one.area for one in material.cutouts])
    assert abs(usual - np.pi * 9 * 5) < 25
    taken = np.stack([frame.taken for frame in material.frames])
    assert np.mean(taken[labels > 0]) > 0.9


def test_pictures_without_objects_are_refused_before_anything_is_learned() -> None:
    pictures, _, _ = tank(20, size=(96, 128), things=0)
    with pytest.raises(UserError, match="0 objects stand out from the background in 20 pictures"):
        first_regions(scene_of(pictures), list(pictures))


def test_training_pictures_and_what_is_known_of_them(
    scene_and_pictures: tuple[SceneModel, np.ndarray, np.ndarray],
) -> None:
    scene, pictures, _ = scene_and_pictures
    material = first_regions(scene, list(pictures))
    first, second = (
        Collage(scene.background, material, side=64, reach=12.0, rng=np.random.default_rng(3)) for _ in range(2)
    )
    for _ in range(20):
        inputs, targets, counts = first.sample()
        assert inputs.shape == (64, 64, CHANNELS) and targets.shape == (64, 64, 4) and counts.shape == (64, 64)
        assert np.isfinite(inputs).all() and set(np.unique(targets[..., 0])) <= {0, 1} and (counts >= 0).all()
        for other, mine in zip(second.sample(), (inputs, targets, counts), strict=True):
            assert np.array_equal(other, mine)
        exact = objects_from(targets.transpose(2, 0, 1), reach=12.0, smallest=8)
        assert (exact.labels > 0).sum() > 0.8 * targets[..., 0].sum() or targets[..., 0].sum() < 40


def test_votes_part_what_touches_and_hold_together_what_is_large() -> None:
    maps = np.zeros((4, 60, 90), np.float32)
    rows, columns = np.mgrid[:60, :90]
    for centre, radius in (((20, 15), 10), ((20, 35), 10), ((30, 70), 20)):
        inside = np.hypot(rows - centre[0], columns - centre[1]) <= radius
        maps[0][inside] = 1
        maps[1][inside], maps[2][inside] = ((centre[1] - columns) / 16)[inside], ((centre[0] - rows) / 16)[inside]
        maps[3][inside] = np.log(inside.sum() ** 0.5 / 16)
    maps[1:3] += np.random.default_rng(0).normal(0, 0.08, maps[1:3].shape) * maps[0]
    found = objects_from(maps, reach=16.0, smallest=20)
    assert found.labels.max() == 3 == len(found.scores)
    assert len({found.labels[20, 15], found.labels[20, 35], found.labels[30, 70]}) == 3
    assert np.mean(found.labels[maps[0] > 0] > 0) == 1
    assert not objects_from(np.zeros((4, 32, 32), np.float32), reach=16.0, smallest=20).labels.any()


def test_tiles_decide_as_the_whole_picture_does() -> None:
    pictures, _, _ = tank(20, size=(320, 560), things=20, light=0)
    torch.manual_seed(0)
    finder = Finder(width=8, reach=12.0).eval()
    scene = replace(scene_of(pictures), finder=finder)
    background = scene.background.of(pictures[0])
    maps = scene.maps(pictures[0], background)
    seen = finder_input(pictures[0], background, scene.background, (slice(None), slice(None)))
    with torch.no_grad():
        whole = finder(torch.from_numpy(seen.transpose(2, 0, 1)[None]))[0, 0].sigmoid().numpy()
    looked = maps[0] > 0
    assert 0.05 < looked.mean() < 0.9  # what is empty was passed over
    assert np.quantile(np.abs(maps[0] - whole)[looked], 0.95) < 0.03  # bfloat16, and a halo of 48 pixels


def test_a_scene_is_stored_whole(tmp_path: Path, scene_and_pictures: tuple[SceneModel, np.ndarray, np.ndarray]) -> None:
    scene, pictures, _ = scene_and_pictures
    scene = replace(scene, finder=Finder(width=16, reach=scene.sizes.width).eval(), full_template=pictures[0])
    scene = replace(scene, sizes=replace(scene.sizes, mask=50.0))
    save_scene(tmp_path, scene)
    again = load_scene(tmp_path, scene.config)
    assert again.sizes == scene.sizes and again.picture_size == scene.picture_size
    background = scene.background.of(pictures[1])
    assert np.array_equal(again.background.of(pictures[1]), background)
    assert np.array_equal(again.maps(pictures[1], background), scene.maps(pictures[1], background))
    file = tmp_path / SCENE_FILE
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 64
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is broken"):
        load_scene(tmp_path, scene.config)
    file.unlink()
    with pytest.raises(UserError, match="is not there"):
        load_scene(tmp_path, scene.config)


def test_a_picture_of_another_camera_is_refused(
    scene_and_pictures: tuple[SceneModel, np.ndarray, np.ndarray],
) -> None:
    scene = scene_and_pictures[0]
    assert scene.working_size((192, 256)) == (96, 128)
    with pytest.raises(UserError, match="same camera"):
        scene.working_size((96, 96))


@pytest.mark.parametrize(
    ("values", "kind"),
    [({}, "fixed"), ({"plain": True, "still": True}, "smooth"), ({"plain": True}, "fixed")],
)
def test_the_background_is_chosen(values: dict[str, bool], kind: str) -> None:
    pictures, _, _ = tank(20, size=(160, 200), things=6, **values)  # type: ignore[arg-type]
    seen = survey_scene(list(pictures), SceneConfig())
    assert seen.kind == kind
    assert seen.sizes is not None and abs(seen.sizes.width - 12) < 3
    assert 3 < seen.count < 7


def test_what_is_never_absent_is_found_against_pictures_without_it() -> None:
    pictures, _, ground = tank(20, light=0.05)
    pictures[:, 40:52, 60:72] = (200, 40, 40)
    seen = survey_scene(list(pictures), SceneConfig(), [ground])
    assert seen.kind == "given"
    for empty, found in (([ground], True), ([], False)):
        scene = fixed_background(list(pictures), block=64, empty=empty)
        regions = find_regions(pictures[0], scene.of(pictures[0]), scene, CONFIG)
        assert region_map(regions, pictures.shape[1:3])[40:52, 60:72].all() == found


def test_places_that_have_nothing_in_common_have_no_background() -> None:
    pictures = np.stack([tank(1, seed=seed)[0][0] for seed in range(12)])
    pictures = np.clip(128 + 4 * (pictures.astype(float) - 128), 0, 255).astype(np.uint8)
    assert survey_scene(list(pictures), SceneConfig()).kind == "none"
