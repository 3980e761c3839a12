"""ShapeStacks in its own folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.data import load_scenes, open_source, select
from astseg.data.open import Reading
from astseg.data.sources.shapestacks import ShapeStacksSource
from astseg.errors import UserError

HEIGHT, WIDTH = 24, 28
SCENARIOS = ("env_ccs-easy-h=2-vcom=1-vpsf=0-v=1", "env_blocks-hard-h=3-vcom=0-vpsf=1-v=2")


def scene(scenario: str, camera: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([camera, len(scenario)])
    labels = generator.integers(0, 7, (HEIGHT, WIDTH)).astype(np.uint8)
    return generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for scenario in SCENARIOS:
        for camera in (1, 2, 10):
            image, labels = scene(scenario, camera)
            picture = tmp_path / "recordings" / scenario / f"rgb-w=2-f=5-l={camera}-c=unique-cam_{camera}-mono-0.png"
            mask = tmp_path / "iseg" / scenario / f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map"
            for file in (picture, mask):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(picture)
            rgba = np.dstack([labels * 32] * 3 + [np.full_like(labels, 255)])
            Image.fromarray(rgba).save(mask, format="PNG")
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "splits" / "default" / "train.txt").write_text(SCENARIOS[0])  # without a last newline
    (tmp_path / "splits" / "default" / "eval.txt").write_text(SCENARIOS[1] + "\n")
    return tmp_path


def test_pictures_and_masks_belong_together_by_camera(root: Path) -> None:
    source = open_source(root)
    assert (source.name, len(source), source.has_labels, source.crop) == ("ShapeStacks", 6, True, 0.875)
    names = [source.scene_name(index) for index in range(6)]
    assert names == [f"{scenario}/cam_{camera}" for scenario in sorted(SCENARIOS) for camera in (1, 2, 10)]
    for index, name in enumerate(names):
        image, labels = scene(name.split("/")[0], int(name.split("_")[-1]))
        found_image, found_labels = source.read(index)
        np.testing.assert_array_equal(found_image, image)
        np.testing.assert_array_equal(found_labels, labels)


def test_splits_name_scenarios(root: Path) -> None:
    source = open_source(root)
    assert select(source, "train") == [3, 4, 5]
    assert select(source, "val") == select(source, "test") == [0, 1, 2]
    (root / "splits" / "default" / "test.txt").write_text("\n".join([*SCENARIOS, ""]))
    assert select(source, "test") == [0, 1, 2, 3, 4, 5]
    (root / "splits" / "default" / "test.txt").write_text("env_gone")
    with pytest.raises(UserError, match=r"names 1 scenarios that are not there \(env_gone\): fetch them"):
        select(source, "test")
    for file in (root / "splits" / "default").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="has no 'train' split: expected splits/default/train.txt"):
        select(source, "train")


def test_one_camera(root: Path) -> None:
    arrays = load_scenes(root, size=16, reading=Reading(camera=2))
    assert arrays.names == tuple(f"{scenario}/cam_2" for scenario in sorted(SCENARIOS))
    with pytest.raises(UserError, match=r"no pictures of camera 3 \(there are 1, 2, 10\)"):
        open_source(root, Reading(camera=3))
    with pytest.raises(UserError, match="camera is 0, expected at least 1"):
        Reading(camera=0)


def test_what_is_missing_or_wrong_is_told_by_name(root: Path) -> None:
    folder = root / "iseg" / SCENARIOS[0]
    masks = sorted(folder.iterdir())
    masks[0].unlink()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 45, np.uint8)).save(masks[1], format="PNG")
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint8)).save(masks[2], format="PNG")
    (root / "recordings" / SCENARIOS[1] / "rgb-w=2-f=5-l=1-c=unique-cam_1-mono-0.png").unlink()
    with pytest.raises(UserError) as caught:
        load_scenes(root, size=16)
    message = str(caught.value)
    assert message.startswith("4 problems in")
    assert f"the mask of '{SCENARIOS[0]}/cam_1' is missing" in message
    assert f"the picture of '{SCENARIOS[1]}/cam_1' is missing" in message
    assert "holds grey level 45, expected multiples of 32" in message
    assert "is 24x29 but its image is 24x28" in message


def test_two_pictures_of_one_camera(root: Path) -> None:
    folder = root / "recordings" / SCENARIOS[0]
    (folder / "rgb-w=0-f=0-l=0-c=original-cam_1-mono-0.png").touch()
    with pytest.raises(UserError, match="are of one scenario and camera: remove one of them"):
        open_source(root)


@pytest.mark.dataset
def test_the_folders_hold_what_their_decoded_copy_holds(dataset_root: Path) -> None:
    arrays = load_scenes(dataset_root / "shapestacks", size=64)
    decoded = load_scenes(dataset_root / "shapestacks" / "shapestacks_64.npz", size=64)
    chosen = [decoded.names.index(name) for name in arrays.names]
    np.testing.assert_array_equal(arrays.images, decoded.images[chosen])
    assert arrays.labels is not None and decoded.labels is not None
    np.testing.assert_array_equal(arrays.labels, decoded.labels[chosen])
    source = open_source(dataset_root / "shapestacks")
    assert isinstance(source, ShapeStacksSource)
    assert [len(select(source, name)) for name in ("train", "val", "test")] == [160, 32, 32]
