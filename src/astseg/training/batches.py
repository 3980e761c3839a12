"""The training images on their device: batches of them, and the backgrounds and components of each once frozen.

A batch depends on (seed, loop, step) alone, so that a run repeats bit for bit on one machine and can be continued.
Source of the frozen backgrounds: curriculum training, phase 2 (paper, section 3); the components are ours
(:mod:`astseg.discovery`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from astseg.config import DiscoveryConfig
from astseg.data.arrays import images_to_tensor
from astseg.discovery.background_subtraction import find_components
from astseg.discovery.components import Components
from astseg.errors import UserError
from astseg.model.background import BackgroundModel
from astseg.runs.distributed import SINGLE, World
from astseg.types import SceneArrays

__all__ = ["LOOPS", "Batch", "Batches", "FrozenBackground", "freeze_background", "mirror"]

LOOPS = ("background", "objects")
"""The loops of a run, each of which has random streams of its own."""

IN_MEMORY_BYTES = 4e9
"""Frozen backgrounds beyond this size lie in a memory-mapped file."""

AT_ONCE = 128
"""Images whose backgrounds a process draws at once."""


class Batch(NamedTuple):
    """Images B x 3 x H x W in [0, 1]; indices B, which scenes; mirrored B, bool, which of them are flipped."""

    images: Tensor
    indices: Tensor
    mirrored: Tensor

    def split(self, parts: int) -> Iterator[Batch]:
        """Equal parts, in order."""
        return map(Batch, *(whole.chunk(parts) for whole in self))


class Batches:
    """The training images on their device, and batches of them that depend on (seed, loop, step) alone."""

    def __init__(
        self,
        scenes: SceneArrays,
        *,
        size: int,
        seed: int,
        flip: bool,
        device: torch.device,
        loop: str = "objects",
        world: World = SINGLE,
    ) -> None:
        """Have the images on the device, without a copy where they are there; those of a large cache stay on disk.

        Args:
            scenes: The images; labels are not used.
            size: B.
            seed: Seed of the run.
            flip: Mirror every second image, at random.
            device: Where to train.
            loop: One of :data:`LOOPS`.
            world: The processes that divide each batch among them.

        Raises:
            UserError: The batch cannot be divided evenly.
        """
        self.world = world
        if size % self.world.size:
            raise UserError(
                f"a batch of {size} cannot be divided evenly among {self.world.size} processes: choose a multiple"
            )
        stored = not isinstance(scenes.images, np.ndarray)
        self.stored = scenes.images if stored else None  # N x H x W x 3, uint8, as is the next
        self.images = None if stored else torch.from_numpy(np.require(scenes.images, requirements="W")).to(device)
        self.shape = tuple(scenes.images.shape)
        self.device, self.size, self.flip = device, size, flip
        self.seed, self.loop = seed, loop

    def draw(self, step: int) -> Batch:
        """The batch of a step, or this rank's part of it; also seeds torch for the dropout of that step."""
        torch.manual_seed(stream_seed(self.seed, self.loop, step))
        indices = torch.randint(self.shape[0], (self.size,)).to(self.device)
        mirrored = (torch.rand(self.size) < (0.5 if self.flip else 0.0)).to(self.device)
        rank, size = self.world.rank, self.world.size
        if size > 1:  # each rank has other images, and other noise
            indices, mirrored = indices.chunk(size)[rank], mirrored.chunk(size)[rank]
            torch.manual_seed(stream_seed(self.seed, self.loop, step, rank))
        return Batch(self.take(indices, mirrored), indices, mirrored)

    def take(self, indices: Tensor | Sequence[int], mirrored: Tensor | None = None) -> Tensor:
        """Images by index, B x 3 x H x W in [0, 1], those that ``mirrored`` marks flipped."""
        indices = torch.as_tensor(indices, device=self.device)
        if self.images is not None:
            images = images_to_tensor(self.images.index_select(0, indices))
        else:
            assert self.stored is not None
            images = images_to_tensor(self.stored[indices.cpu().numpy()], device=self.device)
        return images if mirrored is None else mirror(images, mirrored)


def stream_seed(seed: int, loop: str, step: int, rank: int | None = None) -> int:
    """The seed of the generator for a step, which on a CPU takes 32 bits of it.

    Steps of the background are counted through, a million a seed. Those of the objects and of ranks are hashed, so that
    no seed shares its objects' stream with the background of another.
    """
    if loop == "background" and rank is None:
        return seed * 1_000_003 + step
    key = () if rank is None else (rank,)
    return int(np.random.SeedSequence([seed, LOOPS.index(loop), step], spawn_key=key).generate_state(1, np.uint32)[0])


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images B x ... x W, those that ``mirrored`` (B, bool) marks flipped from left to right."""
    if not mirrored.any():
        return images
    return torch.where(mirrored.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


@dataclass(frozen=True)
class FrozenBackground:
    """What a background model that no longer changes gives for the N training images, in memory or memory-mapped.

    Attributes:
        images: N x 3 x H x W, float16 in [0, 1] or uint8.
        components: What differs from the background; None where there are no pseudo-labels.
    """

    images: Tensor
    components: Components | None

    def draw(self, batch: Batch) -> Tensor:
        """The backgrounds of a batch, B x 3 x H x W in [0, 1]."""
        chosen = self.images[batch.indices.to(self.images.device)].to(batch.indices.device)
        return mirror(chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float(), batch.mirrored)

    def pseudo_labels(self, batch: Batch) -> Components | None:
        """The components of a batch."""
        if self.components is None:
            return None
        home, device = self.components.labels.device, batch.indices.device
        return self.components.take(batch.indices.to(home), batch.mirrored.to(home)).to(device)


@torch.no_grad()
def freeze_background(
    model: BackgroundModel,
    batches: Batches,
    *,
    limit: int,
    folder: Path,
    config: DiscoveryConfig,
    storage: str = "float16",
) -> FrozenBackground:
    """Draw the background of every training image, and find the components that differ from it; each rank a part.

    Args:
        model: The trained background model.
        batches: The training images.
        limit: R, components of an image at most; 0: none are looked for.
        folder: Where a memory-mapped file may lie; it has no name any more when this returns.
        config: How components are found.
        storage: ``float16``, or ``uint8`` to round to 8 bits as the reference does.
    """
    model.eval()
    n, h, w = batches.shape[:3]
    world, home, eight_bits = batches.world, batches.device, storage == "uint8"
    dtype = torch.uint8 if eight_bits else torch.float16
    mapped = n * h * w * (3 * dtype.itemsize + bool(limit)) > IN_MEMORY_BYTES

    def room(*shape: int, dtype: torch.dtype) -> Tensor:
        if mapped:
            return _memory_mapped(folder / f"backgrounds-{world.rank}.part", shape, dtype)
        return torch.empty(shape, dtype=dtype, device=home)

    images = room(n, 3, h, w, dtype=dtype)
    labels = room(n, h, w, dtype=torch.uint8) if limit else None
    boxes, present = [], []
    for start in range(0, n, AT_ONCE * world.size):
        end = min(n, start + AT_ONCE * world.size)
        # Parts of equal length: where images run out, the last one is repeated.
        part = math.ceil((end - start) / world.size)
        own = batches.take((start + world.rank * part + torch.arange(part)).clamp(max=n - 1))
        background, predicted_error = model(own)
        drawn = (background * 255).round().byte() if eight_bits else background.half()
        images[start:end] = world.all_gather(drawn)[: end - start].to(images.device)
        if labels is not None:
            found = find_components(own, background, predicted_error, limit=limit, config=config)
            labels[start:end] = world.all_gather(found.labels)[: end - start].to(labels.device)
            boxes.append(world.all_gather(found.box)[: end - start])
            present.append(world.all_gather(found.present.byte())[: end - start].bool())
    if labels is None:
        return FrozenBackground(images, None)
    return FrozenBackground(
        images, Components(torch.cat(boxes).to(labels.device), torch.cat(present).to(labels.device), labels)
    )


def _memory_mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU in a file without a name, which the system removes with the tensor, however the process ends.

    Raises:
        UserError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a disk that is full is noticed now and not by a signal
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
        tensor = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    except OSError as error:
        raise UserError(
            f"the backgrounds of the training images do not fit in '{path.parent}' ({error.strerror}): free"
            f" {math.prod(shape) * dtype.itemsize / 1e9:.1f} GB there"
        ) from None
    finally:
        path.unlink(missing_ok=True)
    return tensor
