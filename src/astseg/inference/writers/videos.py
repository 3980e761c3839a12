"""What segmenting a video adds to segmenting its frames: ids that stay with the objects, and a video to look at."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from astseg.errors import UserError
from astseg.inference.tracking import Tracker
from astseg.inference.writers.overlay import overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.data.sources.video import VideoSource
    from astseg.inference.prediction import ObjectPrediction, Prediction

__all__ = ["OverlayVideo", "VideoResults"]


class VideoResults:
    """The ids of a source's pictures, frame after frame; and where they are frames of videos, ``OUT/videos``.

    Single pictures have nothing to do with each other: their ids are the model's.
    """

    def __init__(self, out: Path, source: VideoSource | None, kinds: Collection[str]) -> None:
        """Begin.

        Args:
            out: The folder of the results.
            source: The videos, or None for pictures.
            kinds: What is to be written; overlays of videos are videos.
        """
        self._source = source
        self._folder = out / "videos" if source is not None and "overlays" in kinds else None
        self.kinds_of_frames = tuple(kind for kind in kinds if source is None or kind != "overlays")
        self._video: str | None = None
        self._tracker = Tracker()
        self._writer: OverlayVideo | None = None

    def __enter__(self) -> VideoResults:
        """Return the results."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the last video, or leave nothing of it where something went wrong."""
        if self._writer is not None:
            self._writer.close(whole=kind is None)

    def follow(
        self, name: str, image: NDArray[np.uint8], prediction: Prediction
    ) -> tuple[NDArray[np.int32], list[tuple[int, ObjectPrediction]]]:
        """Give the objects of the next picture their ids.

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
        if self._writer is not None:
            self._writer.add(np.asarray(overlay(image, labels)))
        return labels, list(zip(ids, prediction.objects, strict=True))

    def _begin(self, video: str, source: VideoSource) -> None:
        if self._writer is not None:
            self._writer.close(whole=True)
        self._video, self._tracker = video, Tracker()
        if self._folder is not None:
            name = video if video.endswith(".mp4") else f"{video}.mp4"
            self._writer = OverlayVideo(self._folder / name, rate=source.rate(video))


class OverlayVideo:
    """An MP4 file, H.264 where PyAV has it; under its name only once it is whole."""

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        """Take a name and the frames a second; the size is that of the first frame."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, H x W x 3; one of another size than the first is resized.

        Raises:
            UserError: The file cannot be written.
        """
        import av

        try:
            if self._container is None:
                self._open(frame.shape[0], frame.shape[1])
            # H.264 wants even sides.
            odd = ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0))
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, odd, mode="edge")), format="rgb24")
            size = (self._stream.width, self._stream.height)
            if (picture.width, picture.height) != size:
                picture = picture.reformat(*size)
            self._container.mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"'{self._path}' cannot be written ({error}): choose another folder or free space"
            ) from None

    def close(self, *, whole: bool) -> None:
        """Finish the file and give it its name, or remove what there is of it.

        Raises:
            UserError: The file cannot be written to its end.
        """
        import av

        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if whole:
                container.mux(self._stream.encode())
                container.close()
                self._part.replace(self._path)
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"'{self._path}' cannot be written ({error}): choose another folder or free space"
            ) from None
        finally:
            with suppress(av.FFmpegError, OSError, ValueError):
                container.close()
            self._part.unlink(missing_ok=True)

    def _open(self, height: int, width: int) -> None:
        import av

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            self._stream.bit_rate = 4_000_000
