"""What a user names on the command line to be segmented: a picture, folders, patterns, videos, or a data set.

Pictures alone count: masks that lie beside them are left out, and a picture without its mask is as good as any.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from astseg.data.open import Reading, open_source
from astseg.data.sources.folder import FolderSource
from astseg.data.sources.own_masks import CocoSource, MaskedFolderSource
from astseg.data.sources.video import VIDEO_SUFFIXES, VideoSource
from astseg.errors import UserError

if TYPE_CHECKING:
    from astseg.data.open import SceneSource

__all__ = ["expanded", "open_given"]


def open_given(paths: Sequence[str | os.PathLike[str]], reading: Reading | None = None) -> tuple[SceneSource, Path]:
    """Open what is named.

    Args:
        paths: One path of anything that :func:`astseg.data.open_source` takes; or several pictures and folders of
            them, or several videos. A path that does not exist is a pattern if it has one of ``*?[``; ``**`` goes
            through subfolders.
        reading: What of it is taken; None: everything.

    Returns:
        The source, and the folder that its names are relative to (for a file of scenes, the file).

    Raises:
        UserError: Nothing is named, something does not exist, or pictures and videos are named together.
    """
    found = expanded(paths)
    if len(found) == 1:
        return _open_one(found[0], reading or Reading())
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    if videos and len(videos) < len(found):
        other = next(path for path in found if path not in videos)
        raise UserError(
            f"'{videos[0]}' is a video and '{other}' is not: name videos and pictures in calls of their own"
        )
    root = Path(os.path.commonpath([path.absolute().parent for path in found]))
    if videos:
        names = [path.absolute().relative_to(root).as_posix() for path in videos]
        taken = reading or Reading()
        return VideoSource(root, names, stride=taken.stride, frames=taken.frames), root
    files: list[str] = []
    for path in found:
        inside = path.absolute().relative_to(root).as_posix()
        if not path.is_dir():
            files.append(inside)
            continue
        source, base = _open_one(path, reading or Reading())
        if not isinstance(source, FolderSource):
            raise UserError(f"'{path}' holds {source.name}, not pictures alone: name it in a call of its own")
        below = base.absolute().relative_to(root).as_posix()
        files += [f"{below}/{source.scene_name(index)}" for index in range(len(source))]
    return FolderSource(root, list(dict.fromkeys(files))), root


def expanded(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The paths that exist, with patterns replaced by what they match, in its order.

    Raises:
        UserError: No path, one that does not exist, or a pattern that matches nothing.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if os.path.exists(path) or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"no file matches '{path}': check the pattern")
        found += [Path(match) for match in matches]
    if not found:
        raise UserError("nothing is named: expected a picture, a folder, a pattern such as 'photos/*.jpg' or a video")
    missing = [path for path in found if not os.path.exists(path)]
    if missing:
        more = f" (nor do {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"'{missing[0]}' does not exist{more}: expected a picture, a folder of them or a video")
    return found


def _open_one(path: Path, reading: Reading) -> tuple[SceneSource, Path]:
    """One path as a source of pictures, and what its names are relative to."""
    source = open_source(path, reading)
    if isinstance(source, MaskedFolderSource):
        return source.pictures(), path
    # The json of a few labels lies among all the pictures; only where it is itself named are its own meant.
    if path.is_dir() and isinstance(source, CocoSource):
        return FolderSource(path), path
    if path.is_dir() or isinstance(source, FolderSource | VideoSource):
        return source, path if path.is_dir() else path.parent
    return source, path
