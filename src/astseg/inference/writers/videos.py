"""What segmenting a video adds to segmenting its frames: ids that stay with the objects, and a video to look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from astseg.errors import UserError
from astseg.inference.tracking import Tracker
from astseg.inference.writers.overlay import overlay
from astseg.runs.atomic import atomic_path, writing_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astseg.inference.prediction import ObjectPrediction, Prediction
    from astseg.inference.writers.read_ahead import Picture

__all__ = ["OverlayVideo", "VideoResults"]


_TICKS = 90_000
"""Units of time a second in a video of overlays, so that it has the times of its source."""


class VideoResults:
    """The ids of a source's objects, frame after frame; and where it is of videos, ``OUT/videos`` and MOT text.

    Single images have nothing to do with each other: their ids are the model's.
    """

    def __init__(
        self, out: Path, rate_of: Callable[[str], Fraction] | None, kinds: Collection[str], *, several: bool = False
    ) -> None:
        """Begin.

        Args:
            out: The folder of the results.
            rate_of: About how many frames a second a video has, or None for images.
            kinds: What is to be written; overlays of videos are videos.
            several: Whether there is more than one video.
        """
        self._rate_of, self._several = rate_of, several
        self._out, self._draws = out, rate_of is not None and "overlays" in kinds
        self.kinds_of_frames = tuple(kind for kind in kinds if rate_of is None or kind != "overlays")
        self._video: str | None = None
        self._tracker = Tracker()
        self._overlays: OverlayVideo | None = None
        self._mot: IO[str] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> VideoResults:
        """Return the results."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the last video, or leave nothing of it where something went wrong."""
        self._stack.__exit__(*error)

    def follow(
        self, picture: Picture, prediction: Prediction
    ) -> tuple[NDArray[np.int32], list[tuple[int, ObjectPrediction]]]:
        """Give the objects of the next image their ids.

        Args:
            picture: The image; frames of a video come in order, one video after the other.
            prediction: What the model says of it.

        Returns:
            Its label map H x W, and its objects with their numbers there.

        Raises:
            UserError: A file cannot be written.
        """
        if self._rate_of is None or picture.video is None:
            return prediction.labels, [(found.id, found) for found in prediction.objects]
        if picture.video != self._video:
            self._begin(picture.video, self._rate_of)
        ids = self._tracker.step(picture.image, prediction.labels, prediction.objects)
        table = np.zeros(1 + max((found.id for found in prediction.objects), default=0), np.int32)
        for found, number in zip(prediction.objects, ids, strict=True):
            table[found.id] = number
        labels, objects = table[prediction.labels], list(zip(ids, prediction.objects, strict=True))
        if self._overlays is not None:
            self._overlays.add(np.asarray(overlay(picture.image, labels)), picture.seconds)
        if self._mot is not None:
            with writing_errors(self._mot_path):
                self._mot.writelines(mot_line(picture.frame or 0, number, found) for number, found in objects)
        return labels, objects

    def _begin(self, video: str, rate_of: Callable[[str], Fraction]) -> None:
        self._stack.close()
        self._video, self._tracker = video, Tracker()
        self._mot_path = self._out / (f"mot/{video}.txt" if self._several else "mot.txt")
        part = self._stack.enter_context(atomic_path(self._mot_path))
        with writing_errors(self._mot_path):
            self._mot = self._stack.enter_context(part.open("w", encoding="ascii"))
        if self._draws:
            name = video if video.endswith(".mp4") else f"{video}.mp4"
            path = self._out / "videos" / name
            self._overlays = self._stack.enter_context(OverlayVideo(path, rate=rate_of(video)))


def mot_line(frame: int, number: int, found: ObjectPrediction) -> str:
    """An object as a line of the MOTChallenge: frame, id and corner counted from 1, no place in the world.

    Source: the format of motchallenge.net.
    """
    x, y, width, height = found.box
    return f"{frame + 1},{number},{x + 1},{y + 1},{width},{height},{found.score:.6g},-1,-1,-1\n"


class OverlayVideo:
    """An MP4 file, H.264 where PyAV has it, while it is entered; under its name only once it is whole."""

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        """Take a name and the usual frames a second; the size is that of the first frame, and there must be one."""
        self._path = path
        self._rate = rate
        self._shown = -1
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

    def add(self, frame: NDArray[np.uint8], seconds: float | None = None) -> None:
        """Add a frame, H x W x 3; one of another size than the first is resized.

        Args:
            frame: H x W x 3.
            seconds: When it is shown; None, or a time before that of the last frame: after that frame.

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
            usual = round(_TICKS / self._rate)
            at = self._shown + (usual if self._shown >= 0 else 1)
            picture.pts = at if seconds is None or seconds * _TICKS <= self._shown else round(seconds * _TICKS)
            picture.time_base, picture.duration = Fraction(1, _TICKS), usual
            self._shown = picture.pts
            self._container.mux(self._stream.encode(picture))

    def _opened_stream(self, height: int, width: int) -> Any:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
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
