"""What segmenting a video adds to segmenting its frames: ids that stay with the objects, and a video to look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.errors import UserError
from astseg.inference.tracking import Tracker
from astseg.inference.writers.overlay import overlay
from astseg.runs.atomic import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.data.sources.video import VideoSource
    from astseg.inference.prediction import ObjectPrediction, Prediction

__all__ = ["OverlayVideo", "VideoResults"]


class VideoResults:
    """The ids of a source's objects, frame after frame; and where it is of videos, ``OUT/videos``.

    Single images have nothing to do with each other: their ids are the model's.
    """

    def __init__(self, out: Path, source: VideoSource | None, kinds: Collection[str]) -> None:
        """Begin.

        Args:
            out: The folder of the results.
            source: The videos, or None for images.
            kinds: What is to be written; overlays of videos are videos.
        """
        self._source = source
        self._folder = out / "videos" if source is not None and "overlays" in kinds else None
        self.kinds_of_frames = tuple(kind for kind in kinds if source is None or kind != "overlays")
        self._video: str | None = None
        self._tracker = Tracker()
        self._overlays: OverlayVideo | None = None
        self._stack = ExitStack()

    def __enter__(self) -> VideoResults:
        """Return the results."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the last video, or leave nothing of it where something went wrong."""
        self._stack.__exit__(*error)

    def follow(
        self, name: str, image: NDArray[np.uint8], prediction: Prediction
    ) -> tuple[NDArray[np.int32], list[tuple[int, ObjectPrediction]]]:
        """Give the objects of the next image their ids.

        Args:
            name: Its name; frames of a video come in order, one video after the other.
            image: H x W x 3.
            prediction: What the model says of it.

        Returns:
            Its label map H x W, and its objects with their numbers there.

        Raises:
            UserError: The video of overlays cannot be written.
        """
        if self._source is None:
            return prediction.labels, [(found.id, found) for found in prediction.objects]
        video = str(PurePosixPath(name).parent)
        if video != self._video:
            self._begin(video, self._source)
        ids = self._tracker.step(image, prediction.labels, prediction.objects)
        table = np.zeros(1 + max((found.id for found in prediction.objects), default=0), np.int32)
        for found, number in zip(prediction.objects, ids, strict=True):
            table[found.id] = number
        labels = table[prediction.labels]
        if self._overlays is not None:
            self._overlays.add(np.asarray(overlay(image, labels)))
        return labels, list(zip(ids, prediction.objects, strict=True))

    def _begin(self, video: str, source: VideoSource) -> None:
        self._stack.close()
        self._video, self._tracker = video, Tracker()
        if self._folder is not None:
            name = video if video.endswith(".mp4") else f"{video}.mp4"
            self._overlays = self._stack.enter_context(OverlayVideo(self._folder / name, rate=source.rate(video)))


class OverlayVideo:
    """An MP4 file, H.264 where PyAV has it, while it is entered; under its name only once it is whole."""

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        """Take a name and the frames a second; the size is that of the first frame, and there must be one."""
        self._path = path
        self._rate = rate
        self._stack = ExitStack()
        self._stream: Any = None

    def __enter__(self) -> OverlayVideo:
        """Begin the file.

        Raises:
            UserError: It cannot be written there.
        """
        import av

        with ExitStack() as stack:
            part = stack.enter_context(atomic_path(self._path))
            with self._errors():
                self._container = av.open(str(part), "w", format="mp4", options={"movflags": "faststart"})
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the file and give it its name if all went well, or remove what there is of it.

        Raises:
            UserError: The file cannot be written to its end.
        """
        self._stack.__exit__(*error)

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, H x W x 3; one of another size than the first is resized.

        Raises:
            UserError: The file cannot be written.
        """
        import av

        height, width = frame.shape[:2]
        with self._errors():
            if self._stream is None:
                self._stream = self._opened_stream(height + height % 2, width + width % 2)
            padding = ((0, height % 2), (0, width % 2), (0, 0))  # H.264 wants even sides
            pixels = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            size = (self._stream.width, self._stream.height)
            if (picture.width, picture.height) != size:
                picture = picture.reformat(*size)
            self._container.mux(self._stream.encode(picture))

    def _opened_stream(self, height: int, width: int) -> Any:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        return stream

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        import av

        try:
            if kind is None:
                with self._errors():
                    self._container.mux(self._stream.encode())
                    self._container.close()
        finally:
            with suppress(av.FFmpegError, OSError, ValueError):
                self._container.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the errors of writing into UserErrors."""
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"'{self._path}' cannot be written ({error}): choose another folder or free space"
            ) from None
