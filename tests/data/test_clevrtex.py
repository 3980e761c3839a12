"""Folders in the CLEVRTEX layout, with everything that hides in them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from astseg.data import load_scenes, open_source, select
from astseg.errors import UserError

HEIGHT, WIDTH = 20, 28


def write_scene(root: Path, number: int, *, prefix: str = "CLEVRTEX", variant: str = "full", bits: int = 8) -> str:
    """One scene as the generator leaves it: RGBA with text chunks, palette mask, description, extra passes."""
    folder = root / f"{prefix}_{variant}".lower() / str(number // 1000)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}_{variant}_{number:06d}"
    text = PngInfo()
    text.add_text("File", "<untitled>")
    image, labels = picture(number)
    alpha = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([image, alpha], axis=2)).save(folder / f"{stem}.png", pnginfo=text)
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette([200, 10, 70] * 256)
    mask.save(folder / f"{stem}_flat.png", bits=bits)
    for extra in ("depth", "albedo", "normal"):
        Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / f"{stem}_{extra}_0001.png")
    (folder / f"{stem}.json").write_text("{}")
    return stem


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(number)
    labels = generator.integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    return generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), labels


def test_three_doors_to_the_same_data_set(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        write_scene(tmp_path, number)
    for path in (tmp_path, tmp_path / "clevrtex_full", tmp_path / "clevrtex_full" / "0"):
        source = open_source(path)
        assert (len(source), source.has_labels, source.crop) == (3, True, 0.8)
        assert [source.scene_name(index) for index in range(3)] == [f"CLEVRTEX_full_00000{n}" for n in range(3)]
        assert "CLEVRTEX" in source.name
        image, labels = source.read(2)
        np.testing.assert_array_equal(image, picture(2)[0])
        np.testing.assert_array_equal(labels, picture(2)[1])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_labels_are_palette_indices_of_any_depth(tmp_path: Path, bits: int) -> None:
    write_scene(tmp_path, 0, bits=bits)
    np.testing.assert_array_equal(open_source(tmp_path).read(0)[1], picture(0)[1])


@pytest.mark.parametrize(("prefix", "crop"), [("CLEVR", 0.8), ("CLEVRTEX", 0.8), ("DESK", 1.0)])
def test_declared_crop_is_that_of_the_benchmark(tmp_path: Path, prefix: str, crop: float) -> None:
    write_scene(tmp_path, 0, prefix=prefix)
    assert open_source(tmp_path).crop == crop


def test_thousands_go_on_in_the_next_folder(tmp_path: Path) -> None:
    for number in (998, 999, 1000, 1001):
        write_scene(tmp_path, number)
    source = open_source(tmp_path)
    assert len(source) == 4
    np.testing.assert_array_equal(source.read(3)[0], picture(1001)[0])


def test_splits_by_index(tmp_path: Path) -> None:
    for number in range(21):
        write_scene(tmp_path, number)
    source = open_source(tmp_path)
    assert source.split("test") == [0, 1]
    assert source.split("val") == [2, 3]
    assert source.split("train") == list(range(4, 21))
    assert select(source, "val") == [2, 3]


def test_outd_has_no_splits(tmp_path: Path) -> None:
    write_scene(tmp_path, 0, variant="outd")
    with pytest.raises(UserError, match="outd variant, which has no 'test' split: use 'all'"):
        load_scenes(tmp_path, size=9, selection="test")
    assert len(load_scenes(tmp_path, size=9)) == 1


def test_gaps_and_unfinished_scenes_are_told_by_name_all_at_once(tmp_path: Path) -> None:
    stems = [write_scene(tmp_path, number) for number in range(10)]
    folder = tmp_path / "clevrtex_full" / "0"
    for end in (".png", "_flat.png", ".json"):
        (folder / f"{stems[3]}{end}").unlink()
    (folder / f"{stems[5]}.json").unlink()
    (folder / f"{stems[6]}_flat.png").unlink()
    (folder / f"{stems[7]}.png").unlink()
    (folder / f"{stems[8]}.png").write_bytes((folder / f"{stems[8]}.png").read_bytes()[:300])
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH), np.uint8)).save(folder / f"{stems[9]}_flat.png")
    with pytest.raises(UserError) as caught:
        load_scenes(tmp_path, size=9)
    message = str(caught.value)
    assert message.startswith(f"6 problems in '{tmp_path}': ") and message.endswith("; and 1 more")
    assert "'CLEVRTEX_full_000003.png' is missing" in message
    assert "'CLEVRTEX_full_000005' is unfinished, its .json is missing" in message
    assert "mask 'CLEVRTEX_full_000006_flat.png' is missing" in message
    assert "'CLEVRTEX_full_000007.png' is missing" in message
    assert "'CLEVRTEX_full_000008.png' is not a complete picture" in message
    with pytest.raises(UserError, match="1 problem in .*mask .*9_flat.png' is 21x28 but its image is 20x28"):
        load_scenes(tmp_path, size=9, selection="9:")
    # What is not selected does no harm, and what is incomplete can be left out.
    assert load_scenes(tmp_path, size=9, selection=":3").names == tuple(stems[:3])
    assert load_scenes(tmp_path, size=9, selection=":8", skip_incomplete=True).names == (*stems[:3], stems[4])
    with pytest.raises(UserError, match="none of the scenes '5:8' .* is complete"):
        load_scenes(tmp_path, size=9, selection="5:8", skip_incomplete=True)


def test_images_without_any_mask_are_no_fault(tmp_path: Path) -> None:
    for number in range(3):
        stem = write_scene(tmp_path, number)
        (tmp_path / "clevrtex_full" / "0" / f"{stem}_flat.png").unlink()
    arrays = load_scenes(tmp_path, size=9)
    assert arrays.labels is None and len(arrays) == 3


def test_masks_without_descriptions_are_no_fault(tmp_path: Path) -> None:
    for number in range(3):
        stem = write_scene(tmp_path, number)
        (tmp_path / "clevrtex_full" / "0" / f"{stem}.json").unlink()
    assert load_scenes(tmp_path, size=9).labels is not None


def test_several_data_sets_and_doubles_are_refused(tmp_path: Path) -> None:
    stem = write_scene(tmp_path, 0)
    write_scene(tmp_path, 0, variant="camo")
    with pytest.raises(UserError, match=r"2 data sets \(clevrtex_camo, clevrtex_full\): name the folder of one"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / "clevrtex_full")) == 1
    double = tmp_path / "clevrtex_full" / "1"
    double.mkdir()
    (double / f"{stem}.png").touch()
    with pytest.raises(UserError, match="'CLEVRTEX_full_000000.png' lies in both"):
        open_source(tmp_path / "clevrtex_full")


def test_masks_never_pass_for_pictures_of_a_plain_folder(tmp_path: Path) -> None:
    write_scene(tmp_path / "deep" / "deeper", 0)
    with pytest.raises(UserError, match="holds a labelled data set in .*clevrtex_full"):
        open_source(tmp_path)
