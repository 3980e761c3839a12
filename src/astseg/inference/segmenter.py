"""The door for users: a trained model that takes images of any kind and size.

A picture is brought to the size the model was trained at: as a whole, its proportions giving way or between black bars,
or cropped; masks come back at its own size. A model trained on a centre crop sees more border here than it did in
training unless ``fit`` is ``crop`` too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from astseg.config import PRECISIONS
from astseg.config.device import resolved_precision
from astseg.data.arrays import images_to_tensor
from astseg.data.inputs import Input, image_from, separate
from astseg.data.resize import place
from astseg.errors import UserError
from astseg.inference.pipeline import at_once, inference
from astseg.inference.prediction import Prediction, may_own_pixels, predictions_from
from astseg.runs.folder import RunFolder, load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.model.astseg import AstSeg
    from astseg.types import SceneOutput

__all__ = ["Segmenter", "choose_device"]


class Segmenter:
    """A trained model that takes images of any kind.

    >>> segmenter = Segmenter.from_pretrained("runs/rooms")  # doctest: +SKIP
    >>> prediction = segmenter.predict("photo.jpg")  # doctest: +SKIP
    >>> [(found.id, found.box) for found in prediction.objects]  # doctest: +SKIP
    [(2, (31, 40, 22, 25))]
    """

    def __init__(self, model: AstSeg, resize: str = "squeeze") -> None:
        """Take a model as it stands, on the device it is on; its modes are left alone.

        Args:
            model: The model.
            resize: How :meth:`predict` brings pictures to its size if it is not told.
        """
        self.model = model
        self.resize = resize

    @classmethod
    def from_pretrained(
        cls, folder: str | PathLike[str], device: str | torch.device | None = None, *, precision: str = "float32"
    ) -> Segmenter:
        """Load the model of a run folder.

        Args:
            folder: The folder.
            device: Where to run, such as ``cpu`` or ``cuda:1``; None: the best there is.
            precision: Of the backbone: ``float32``, ``bfloat16``, which changes few labels (docs/results.md) and takes
                less time where the device is quick in it, or ``auto``: that, where it is.

        Raises:
            UserError: No run folder, broken or missing weights, a device that is not there, another precision.
        """
        chosen = choose_device(device)
        if precision not in PRECISIONS:
            raise UserError(f"precision is '{precision}', choose from {', '.join(PRECISIONS)}")
        path = Path(folder).expanduser()
        model, _ = load_model(path)
        model.encoder.precision = resolved_precision(precision, chosen)
        _, about = RunFolder(path).load_config()
        return cls(model.to(chosen), "letterbox" if about.get("resize") == "letterbox" else "squeeze")

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that pictures are resized to."""
        return self.model.renderer.image_size

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
            batch_size: Images a forward pass, at most; a CPU takes as many at once as its caches have room for.
            resize: How images of other proportions fit in: ``squeeze``, ``letterbox`` or ``crop`` (what is cropped off is
                background); None: ``letterbox`` if the model was trained so, else ``squeeze``.
            layers: Whether :attr:`Prediction.layers` are wanted; without them a prediction takes less time and memory.

        Returns:
            One prediction for one image, a list in the same order for anything else.

        Raises:
            UserError: An input that cannot be read, named by its path or its place; a batch size below 1; another fit.
        """
        values, single = separate(inputs)
        images = (image_from(one, "the image" if single else f"image {i}") for i, one in enumerate(values))
        predictions = list(self.predictions(images, batch_size=batch_size, resize=resize, layers=layers))
        return predictions[0] if single else predictions

    def predictions(
        self,
        images: Iterable[NDArray[np.uint8]],
        *,
        batch_size: int = 32,
        resize: str | None = None,
        layers: bool = True,
    ) -> Iterator[Prediction]:
        """Segment images one after the other; of a batch, only the resized images are kept.

        Args:
            images: H x W x 3 each, uint8, of any sizes.
            batch_size: As for :meth:`predict`.
            resize: As for :meth:`predict`.
            layers: As for :meth:`predict`.

        Raises:
            UserError: As :meth:`predict`.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        fit = resize or self.resize
        places = ((image, place((image.shape[0], image.shape[1]), self.image_size, resize=fit)) for image in images)
        small = ((where.image(image), where.picture) for image, where in places)
        while batch := list(itertools.islice(small, batch_size)):
            size = at_once(self.model, len(batch))
            for part in (batch[start : start + size] for start in range(0, len(batch), size)):
                pictures, sizes = zip(*part, strict=True)
                with inference(self.model):
                    # What weighs next to nothing is not drawn, and layers are drawn of what may own a pixel alone.
                    device = next(self.model.parameters()).device
                    output: SceneOutput = self.model(images_to_tensor(np.stack(pictures), device=device), layers=False)
                    if layers:
                        output.layers = self.model.renderer.colours(
                            output.latents, may_own_pixels(output.responsibilities)
                        )
                    background = self.model.renderer.background_activation().mean().item()
                yield from predictions_from(output, sizes, background_activation=background, resize=fit)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """A device by its name, or the best there is: CUDA, then Apple's, then the CPU.

    Raises:
        UserError: A device that is not there.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{device}' cannot be used ({reason}): choose another, such as cpu") from None
    return chosen
