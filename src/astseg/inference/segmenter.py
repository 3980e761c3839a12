"""The interface for users: a trained model that takes images of any kind and size.

An image is brought to the model's size by the preprocessing of the run, so that masks are those that were measured, and
they come back at the image's own size. Pixels that the preprocessing crops off are background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from astseg.config import PRECISIONS
from astseg.config.device import choose_device
from astseg.data.arrays import images_to_tensor
from astseg.data.inputs import Input, image_from, separate
from astseg.data.resize import Placement, Preprocess
from astseg.data.sample import preprocess_of_run
from astseg.discovery.scene_file import load_scene
from astseg.errors import UserError
from astseg.inference.batches import batches
from astseg.inference.pipeline import Pipeline, inference, load_pipeline
from astseg.inference.prediction import Prediction, may_own_pixels, predictions_from
from astseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Segmenter"]


class Segmenter:
    """A trained model that takes images of any kind.

    >>> segmenter = Segmenter.from_pretrained("runs/rooms")  # doctest: +SKIP
    >>> prediction = segmenter.predict("photo.jpg")  # doctest: +SKIP
    >>> [(found.id, found.box) for found in prediction.objects]  # doctest: +SKIP
    [(2, (31, 40, 22, 25))]

    Attributes:
        pipeline: The network and how its output becomes masks.
        preprocess: How images are brought to its size.
    """

    def __init__(self, pipeline: Pipeline, preprocess: Preprocess | None = None) -> None:
        """Take a pipeline as it stands, on the device it is on.

        Args:
            pipeline: The network and its settings.
            preprocess: How images are brought to its size; None: whole, whatever their proportions.
        """
        self.pipeline = pipeline
        self.preprocess = preprocess or Preprocess(pipeline.image_size, "squeeze")

    @classmethod
    def from_pretrained(
        cls, folder: str | PathLike[str], device: str | torch.device | None = None, *, precision: str = "float32"
    ) -> Segmenter:
        """Load the model of a run folder, with its preprocessing and its settings of inference.

        Args:
            folder: The folder.
            device: Where to run, such as ``cpu`` or ``cuda:1``; None: CUDA where there is one, else the CPU.
            precision: Of the backbone: ``float32``, ``bfloat16``, which changes few labels (docs/results.md) and takes
                less time where the device is quick in it, or ``auto``: that, where it is.

        Raises:
            UserError: No run folder, broken or missing weights, a device that is not there, another precision.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision is '{precision}', choose from {', '.join(PRECISIONS)}")
        config, _ = RunFolder(Path(folder)).load_config()
        if config.scene.background != "none":
            from astseg.inference.scene_segmenter import SceneSegmenter  # it is a Segmenter itself

            scene = load_scene(Path(folder), config.scene)
            if scene.finder is None:
                raise UserError(f"'{folder}' has not learned yet: the same 'astseg fit' goes on with it")
            return SceneSegmenter(scene)
        pipeline, config, info = load_pipeline(folder, device=choose_device(device), precision=precision)
        return cls(pipeline, preprocess_of_run(config.model.image_size, info))

    @property
    def precision(self) -> str:
        """In which the backbone computes: ``float32`` or ``bfloat16``."""
        return self.pipeline.precision

    @property
    def appearance_size(self) -> int:
        """Z, numbers of :attr:`ObjectPrediction.appearance`."""
        return self.pipeline.model.renderer.generator.appearance_size

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that images are resized to."""
        return self.pipeline.image_size

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, inputs: Input, *, batch_size: int = ..., resize: str | None = ..., layers: bool = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, inputs: Iterable[Input], *, batch_size: int = ..., resize: str | None = ..., layers: bool = ...
    ) -> list[Prediction]: ...

    def predict(
        self, inputs: Input | Iterable[Input], *, batch_size: int = 32, resize: str | None = None, layers: bool = True
    ) -> Prediction | list[Prediction]:
        """Segment one image or many.

        Args:
            inputs: A path, a Pillow image, an array H x W x 3, H x W or H x W x 4, or a tensor 3 x H x W (arrays and
                tensors: uint8, or float in [0, 1]); or an iterable of them, of any sizes; or an array B x H x W x 3 or
                a tensor B x 3 x H x W.
            batch_size: Images a forward pass, at most; a CPU takes as many at once as its caches have room for, and few
                are held at once where they are large.
            resize: ``squeeze``, ``letterbox`` or ``crop`` (what is cropped off is background), instead of what the
                model was trained with; None: that.
            layers: Whether :attr:`Prediction.layers` are wanted; without them a prediction takes less time and memory.

        Returns:
            One prediction for one image, a list in the same order for anything else.

        Raises:
            UserError: An input that cannot be read, named by its path or its place; a batch size below 1; an unknown
                resize mode.
        """
        values, single = separate(inputs)
        images = (image_from(one, "the image" if single else f"image {i}") for i, one in enumerate(values))
        predictions = list(self.predictions(images, batch_size=batch_size, resize=resize, layers=layers))
        return predictions[0] if single else predictions

    def check_options(self, batch_size: int, resize: str | None) -> Preprocess:
        """How images are brought to the model's size, for the options of :meth:`predict`.

        Raises:
            UserError: A batch size below 1, or an unknown mode of resizing.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        return self.preprocess.instead(resize)

    def predictions(
        self,
        images: Iterable[NDArray[np.uint8]],
        *,
        batch_size: int = 32,
        resize: str | None = None,
        layers: bool = True,
    ) -> Iterator[Prediction]:
        """Segment images one after the other.

        Args:
            images: H x W x 3 each, uint8, of any sizes.
            batch_size: As for :meth:`predict`.
            resize: As for :meth:`predict`.
            layers: As for :meth:`predict`.

        Raises:
            UserError: As :meth:`predict`.
        """
        preprocess = self.check_options(batch_size, resize)
        placed = ((preprocess.place((image.shape[0], image.shape[1])), image) for image in images)
        for batch in batches(placed, batch_size):
            size = self.pipeline.batch_size(len(batch))
            for start in range(0, len(batch), size):
                yield from self._predicted(batch[start : start + size], layers=layers)

    def _predicted(self, batch: list[tuple[Placement, NDArray[np.uint8]]], *, layers: bool) -> Iterator[Prediction]:
        """Predictions for images and where they lie in what the model sees."""
        placements, pictures = zip(*batch, strict=True)
        images = np.stack([where.image(picture) for where, picture in batch])
        renderer = self.pipeline.model.renderer
        output = self.pipeline(images_to_tensor(images, device=self.pipeline.device))
        with inference(self.pipeline.model):
            if layers:  # of what may own a pixel alone
                output.layers = renderer.colours(output.latents, may_own_pixels(output.responsibilities))
            behind = renderer.background_activation().mean().item()
        yield from predictions_from(output, placements, background_activation=behind, pictures=pictures)
