"""How fast scenes come in: batches from a cache, TFRecords, and what both cost a training step.

    taskset -c 0 python benchmarks/loading.py                # made-up data, one core
    python benchmarks/loading.py --records FILE.tfrecords    # records of a real file instead of made-up ones

Every figure is a median of this process's own time on its core, so that other programs do not count; things that are
compared are measured in turns. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from astseg.config.presets import preset
from astseg.data import load_scenes
from astseg.data.cache import prepare
from astseg.data.sources.records import Record, read_records
from astseg.data.sources.tfrecord import TFRecordSource, scene_from
from astseg.model.astseg import build
from astseg.training import loop, schedule
from astseg.training.batches import Batches

CPU = torch.device("cpu")
BATCH = 64


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="a TFRecord file of ObjectsRoom or CLEVR")
    parser.add_argument("--images", type=int, default=20_000, help="images of the cache at 64x64; a quarter at 128x128")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        caches = {side: made_up_cache(Path(folder), side, arguments.images * 64**2 // side**2) for side in (64, 128)}
        print("random batches of 64, float in [0, 1], one thread    images/s")
        for side, cache in caches.items():
            for where, memory in (("cache on disk", 0), ("cache in memory", 2**40)):
                print(f"  {side}x{side}, {where:<42}{batch_rate(cache, side, memory):>10,.0f}")
        print("records                                              ms a record")
        for name, milliseconds in record_times(arguments.records or made_up_records(Path(folder))).items():
            print(f"  {name:<51}{milliseconds:>10.2f}")
        fixed, loaded = step_times(caches[64], arguments.steps)
        print("training step, preset small, batch 16                         ms")
        print(f"  one fixed batch{'':<36}{1000 * fixed:>10.2f}")
        print(f"  batches from the cache on disk{'':<21}{1000 * loaded:>10.2f}  ({100 * (loaded / fixed - 1):+.1f} %)")


def made_up_cache(folder: Path, side: int, count: int) -> Path:
    """A cache of noise."""
    images = np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    np.savez(folder / f"{side}.npz", images=images)
    prepare(folder / f"{side}.npz", folder / f"cache-{side}", size=(side, side))
    (folder / f"{side}.npz").unlink()
    return folder / f"cache-{side}"


def batch_rate(cache: Path, side: int, memory: int, *, batches: int = 300) -> float:
    """Images a second."""
    source = Batches(load_scenes(cache, size=side, memory=memory), size=BATCH, seed=0, flip=False, device=CPU)
    return BATCH / median(seconds(lambda step=step: source.draw(step)) for step in range(batches))


def seconds(work: Callable[[], object]) -> float:
    """How long something keeps the core busy."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


# Records -------------------------------------------------------------------------------------------------------------


def made_up_records(folder: Path) -> Path:
    """Twelve records of CLEVR's size, in the form in which TensorFlow writes them."""
    import gzip

    from astseg.data.sources.records import masked_crc32c

    generator = np.random.default_rng(0)
    data = b""
    for _ in range(12):
        image = generator.integers(0, 256, 240 * 320 * 3, dtype=np.uint8)
        labels = generator.integers(0, 11, (24, 32)).repeat(10, axis=0).repeat(10, axis=1)
        mask = ((labels == np.arange(11)[:, None, None]) * 255).astype(np.uint8).ravel()
        example = example_type()()
        for name, values in (("image", image), ("mask", mask)):
            example.features.feature[name].bytes_list.value.extend(bytes([value]) for value in values)
        record = example.SerializeToString()
        length = struct.pack("<Q", len(record))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, record)]
        data += length + checksums[0] + record + checksums[1]
    path = folder / "made_up.tfrecords"
    path.write_bytes(gzip.compress(data))
    return path


def example_type() -> type:
    """The message ``tf.train.Example``, its description spelled out."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="benchmark", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> None:
        made = file.message_type.add(name=name)
        for label, number, kind, repeated, type_name in fields:
            made.field.add(name=label, number=number, type=kind, label=repeated, type_name=type_name or None)

    once, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", 1, field.TYPE_BYTES, many, ""))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, many, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, many, ""))
    kinds = [("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List")]
    message("Feature", *((n, i, field.TYPE_MESSAGE, once, f".benchmark.{t}") for n, i, t in kinds))
    message("Features", ("feature", 1, field.TYPE_MESSAGE, many, ".benchmark.Features.FeatureEntry"))
    entry = file.message_type[-1].nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=once)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=once, type_name=".benchmark.Feature")
    message("Example", ("features", 1, field.TYPE_MESSAGE, once, ".benchmark.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("benchmark.Example"))
    return made


def record_times(path: Path) -> dict[str, float]:
    """Milliseconds a record, by reader."""
    source = TFRecordSource(path)
    records = [record for record, _ in zip(read_records(path), range(12), strict=False)]
    height, width = source.read(0)[1].shape
    kind = example_type()

    def ours(record: Record) -> tuple[np.ndarray, np.ndarray]:
        return scene_from(record, (height, width), source.benchmark)[:2]

    def generic(record: Record) -> tuple[np.ndarray, np.ndarray]:
        features = kind.FromString(record.data).features.feature
        image, mask = (np.frombuffer(b"".join(features[key].bytes_list.value), np.uint8) for key in ("image", "mask"))
        labels = mask.reshape(-1, height, width).argmax(axis=0)
        labels -= len(source.benchmark.background_labels) - 1
        return image.reshape(height, width, 3), labels.clip(0).astype(np.uint8)

    times: dict[str, list[float]] = {"ours": [], "generic": []}
    for record in records:
        assert all(map(np.array_equal, ours(record), generic(record)))
        times["ours"].append(seconds(lambda record=record: ours(record)))
        times["generic"].append(seconds(lambda record=record: generic(record)))
    unpacking = median(spaced(read_records(path), len(records)))
    fast, slow = (1000 * median(times[name]) for name in ("ours", "generic"))
    unpack = 1000 * unpacking
    return {
        f"ours, {height}x{width}, from its bytes to image and labels": fast,
        f"google.protobuf and numpy ({slow / fast:.1f} times ours)": slow,
        "unpacking and checksum, the same for both": unpack,
        "ours from the file": unpack + fast,
        f"generic from the file ({(unpack + slow) / (unpack + fast):.1f} times ours)": unpack + slow,
    }


def spaced(items: Iterator[object], count: int) -> list[float]:
    """Seconds until each of the next items."""
    return [seconds(lambda: next(items)) for _ in range(count)]


# Steps ---------------------------------------------------------------------------------------------------------------


def step_times(cache: Path, steps: int) -> tuple[float, float]:
    """Seconds of a training step on one fixed batch, and on batches from a cache, in turns."""
    config = preset("small")
    torch.manual_seed(0)
    model = build(config.model).train()
    optimizer = torch.optim.Adam(model.object_parameters(), lr=1e-4, fused=True)
    source = Batches(load_scenes(cache, size=64, memory=0), size=config.objects.batch, seed=0, flip=True, device=CPU)
    fixed, _, _ = source.draw(0)

    def step(number: int | None) -> None:
        images = fixed if number is None else source.draw(number)[0]
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images)
        losses = loop.object_losses(model, output, images, config, components=None, position=0)
        weight = schedule.entropy_weight(1000, weight=config.objects.entropy_weight, ramp=config.objects.entropy_ramp)
        optimizer.zero_grad(set_to_none=True)
        (losses["reconstruction"] + weight * losses["pixel_entropy"]).backward()
        optimizer.step()

    times: tuple[list[float], list[float]] = ([], [])
    for number in range(steps + 5):
        pair = seconds(lambda: step(None)), seconds(lambda number=number: step(number))
        for kept, value in zip(times, pair, strict=True):
            if number >= 5:  # the first ones also allocate
                kept.append(value)
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    main()
