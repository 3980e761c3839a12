"""Writers of the formats that no library of the test environment writes."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

Writer = Callable[..., Path]
Encoder = Callable[..., bytes]


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def strings(values: bytes, *, single: bool) -> bytes:
    """A bytes_list: one string, or one for each byte, as DeepMind's files have it."""
    return field(1, field(1, values) if single else b"".join(field(1, bytes([value])) for value in values))


def example_bytes(features: dict[str, bytes]) -> bytes:
    return field(1, b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()))


def framed(record: bytes) -> bytes:
    def checksum(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + checksum(length) + record + checksum(record)


@pytest.fixture(scope="session")
def scene_record() -> Encoder:
    """Encodes image H x W x 3 and labels H x W as DeepMind does: masks 0 or 255, one for each entity."""

    def encode(
        image: np.ndarray, labels: np.ndarray, *, entities: int, single: bool = False, more: bool = True
    ) -> bytes:
        planes = (labels[None] == np.arange(entities)[:, None, None]).astype(np.uint8) * 255
        features = {
            "mask": strings(planes.tobytes(), single=single),
            "image": strings(image.tobytes(), single=single),
        }
        if more:
            features["visibility"] = field(2, field(1, struct.pack(f"<{entities}f", *range(entities))))
            features["shape"] = strings(bytes(entities), single=False)
        return example_bytes(features)

    return encode


@pytest.fixture(scope="session")
def write_records() -> Writer:
    """Writes records to a TFRecord file, in a GZIP stream or without."""

    def write(path: Path, records: list[bytes], *, packed: bool = True) -> Path:
        data = b"".join(map(framed, records))
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
        return path

    return write


@pytest.fixture(scope="session")
def rooms() -> tuple[np.ndarray, np.ndarray]:
    """Eleven scenes of 64 x 64 with entities 0 to 6, of which 0 to 3 are background in ObjectsRoom."""
    generator = np.random.default_rng(3)
    blocks = generator.integers(0, 7, (11, 8, 16)).astype(np.uint8)
    masks = blocks.repeat(8, axis=1).repeat(4, axis=2)
    return generator.integers(0, 256, (11, 64, 64, 3)).astype(np.uint8), masks


@pytest.fixture(scope="session")
def rooms_file(
    tmp_path_factory: pytest.TempPathFactory,
    rooms: tuple[np.ndarray, np.ndarray],
    scene_record: Encoder,
    write_records: Writer,
) -> Path:
    """The same eleven scenes as ObjectsRoom's file."""
    records = [scene_record(*scene, entities=7) for scene in zip(*rooms, strict=True)]
    return write_records(tmp_path_factory.mktemp("rooms") / "objects_room_train.tfrecords", records)
