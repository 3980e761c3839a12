"""Every kind of picture file ends as RGB, every kind of mask as its labels."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astseg.data.formats.pictures import read_labels, read_rgb
from astseg.errors import UserError

HEIGHT, WIDTH = 5, 7


def ramp(channels: int) -> np.ndarray:
    values = np.arange(HEIGHT * WIDTH * channels, dtype=np.uint8).reshape(HEIGHT, WIDTH, channels)
    return values * 2


def write_png(path: Path, values: np.ndarray, bits: int, colour_type: int) -> None:
    """A PNG by hand, palette (3) or grey (0), since Pillow writes no grey of 2 and 4 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = b""
    for row in values:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + bytes(int(digits[start : start + 8], 2) for start in range(0, len(digits), 8))
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits)) if bits < 8 else bytes(768)) if colour_type == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ramp(3)).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_rgb(path, "a", upright=True)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, ramp(3))


def test_transparency_and_text_chunks_are_dropped(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("RenderTime", "00:01.50")
    Image.fromarray(ramp(4)).save(tmp_path / "a.png", pnginfo=text)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", "a", upright=False), ramp(4)[..., :3])


def test_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = ramp(1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png", "a", upright=True), np.stack([grey] * 3, axis=2))
    palette = Image.fromarray(grey // 2 % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    expected = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[grey // 2 % 2]
    np.testing.assert_array_equal(read_rgb(tmp_path / "palette.png", "a", upright=True), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_upper_half(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = read_rgb(tmp_path / f"a.{suffix}", "a", upright=True)
    np.testing.assert_array_equal(image, np.stack([values >> 8] * 3, axis=2))
    assert (image.min(), image.max()) == (0, 255)


def test_32_bit_numbers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="'a.tif' holds 32-bit numbers"):
        read_rgb(tmp_path / "a.tif", "a.tif", upright=True)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp(3)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", "a", upright=True), np.rot90(ramp(3), turns))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", "a", upright=False), ramp(3))


@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "varying"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_every_depth_give_their_labels(tmp_path: Path, bits: int, colour_type: int) -> None:
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % min(2**bits, 11)
    write_png(tmp_path / "m.png", labels, bits, colour_type)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == ("P" if colour_type == 3 else "1" if bits == 1 else "L")
    read = read_labels(tmp_path / "m.png", "m.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_written_by_pillow(tmp_path: Path, bits: int) -> None:
    labels = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % min(2**bits, 11)).astype(np.uint8)
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette([17, 170, 9] * 256)
    mask.save(tmp_path / "m.png", bits=bits)
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png", "m.png"), labels)


def test_16_bit_masks(tmp_path: Path) -> None:
    labels = np.array([[0, 3, 255]], np.uint16)
    Image.fromarray(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png", "m.png"), labels)
    Image.fromarray(labels + np.uint16(1)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="holds label 256, expected at most 255"):
        read_labels(tmp_path / "m.png", "m.png")


def test_coloured_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(ramp(3)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="mask 'm.png' holds colours"):
        read_labels(tmp_path / "m.png", "m.png")


@pytest.mark.parametrize("keep", [0, 20, 60, -9])
def test_truncated_files_are_told_by_name_alone(tmp_path: Path, keep: int) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[: keep if keep != -9 else 900])
    with pytest.raises(UserError, match="'a.png' is not a complete picture") as caught:
        read_rgb(tmp_path / "a.png", "a.png", upright=True)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)
