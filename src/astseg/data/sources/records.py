"""The framing of TFRecord files: length, checksum, data, checksum; usually inside one GZIP stream.

Source: TensorFlow's documentation of the format (``tfrecord``): ``uint64 length, uint32 masked_crc32c(length), data,
uint32 masked_crc32c(data)``, little endian. Offsets in error messages are those of the unpacked bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c

from astseg.errors import UserError

if TYPE_CHECKING:
    from typing import IO
    from zlib import _Decompress

__all__ = ["Record", "RecordFile", "masked_crc32c"]

LARGEST_RECORD = 2**26
"""Bytes; twenty times a record of CLEVR, the largest known. A longer one is taken for damage."""

_CHUNK = 2**18
_MARKS = 512


def masked_crc32c(data: bytes) -> int:
    """Checksum of TFRecord files: CRC-32C, rotated and shifted so that checksums of checksums stay sound.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        index: Its number in the file, from 0.
        offset: Where its data begin among the unpacked bytes.
        data: The data.
    """

    index: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class _Mark:
    """A place to go on from: before record ``index``."""

    index: int
    offset: int
    position: int
    unpacker: _Decompress | None


class RecordFile:
    """Records of one file, read forward from any of them; places passed on the way are kept to go on from."""

    def __init__(self, path: Path) -> None:
        """Take the file, which is opened anew for each pass over it."""
        self.path = path
        self._marks: list[_Mark] = []
        self._spacing = 1
        self._count: int | None = None

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from a number on; their checksums hold.

        Raises:
            UserError: The file is damaged; the line names the file and the offset.
        """
        for record in self._walk(start):
            if record is not None:
                yield record

    def count(self) -> int:
        """Number of records, by one pass over the lengths. Raises UserError for a damaged file."""
        if self._count is None:
            for _ in self._walk(None):
                pass
            assert self._count is not None
        return self._count

    def _walk(self, start: int | None) -> Iterator[Record | None]:
        """The records from ``start`` on (None: none of them is read), None for each that is passed over."""
        with _Unpacked(self.path) as stream:
            mark = max((mark for mark in self._marks if mark.index <= (start or 0)), key=_index, default=None)
            index = stream.go_on(mark) if mark is not None else 0
            while True:
                self._note(index, stream)
                begin = stream.offset
                head = stream.read(12)
                if not head:
                    self._count = index
                    return
                length = self._length(head, index, begin)
                wanted = start is not None and index >= start
                data = stream.read(length) if wanted else b""
                if not wanted:
                    stream.skip(length)
                tail = stream.read(4)
                if stream.offset < begin + 16 + length:
                    raise self._damaged(index, begin, f"ends after {stream.offset - begin} of {16 + length} bytes")
                if wanted and struct.unpack("<I", tail)[0] != masked_crc32c(data):
                    raise self._damaged(index, begin, "does not match its checksum")
                yield Record(index, begin + 12, data) if wanted else None
                index += 1

    def _length(self, head: bytes, index: int, begin: int) -> int:
        """The length of a record, from the 12 bytes in front of it."""
        if len(head) < 12:
            raise self._damaged(index, begin, f"ends after {len(head)} bytes")
        length, checksum = struct.unpack("<QI", head)
        if checksum != masked_crc32c(head[:8]):
            raise self._damaged(index, begin, "has a length that does not match its checksum")
        if length > LARGEST_RECORD:
            raise self._damaged(index, begin, f"says it has {length} bytes, more than {LARGEST_RECORD}")
        return int(length)

    def _damaged(self, index: int, offset: int, what: str) -> UserError:
        return UserError(f"'{self.path}' is damaged: record {index} at byte {offset} {what}: fetch the file again")

    def _note(self, index: int, stream: _Unpacked) -> None:
        """Keep this place if it is due; of too many places, every second one is dropped."""
        if index % self._spacing or (self._marks and self._marks[-1].index >= index):
            return
        self._marks.append(stream.mark(index))
        if len(self._marks) > _MARKS:
            self._marks = self._marks[::2]
            self._spacing *= 2


def _index(mark: _Mark) -> int:
    return mark.index


class _Unpacked:
    """The unpacked bytes of a file, or its own bytes if it is not packed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("rb")
        packed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        self._unpacker: _Decompress | None = zlib.decompressobj(31) if packed else None
        self._pending = b""
        self.offset = 0

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def mark(self, index: int) -> _Mark:
        """This place, which is that of a record."""
        unpacker = None if self._unpacker is None else self._unpacker.copy()
        return _Mark(index, self.offset, self._file.tell() - len(self._pending), unpacker)

    def go_on(self, mark: _Mark) -> int:
        """Go to a place; the number of its record."""
        self._file.seek(mark.position)
        self._unpacker = None if mark.unpacker is None else mark.unpacker.copy()
        self._pending, self.offset = b"", mark.offset
        return mark.index

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end of the file. Memory grows with what is there, not with ``size``."""
        parts = []
        while size > 0 and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over bytes, as far as there are any."""
        while size > 0 and (part := self._some(min(size, _CHUNK))):
            size -= len(part)

    def _some(self, size: int) -> bytes:
        """At least one byte and at most ``size``, or nothing at the end."""
        part = self._file.read(min(size, _CHUNK)) if self._unpacker is None else self._unpack(size)
        self.offset += len(part)
        return part

    def _unpack(self, size: int) -> bytes:
        assert self._unpacker is not None
        while True:
            if self._unpacker.eof:  # another GZIP stream may follow
                self._pending = self._unpacker.unused_data or self._file.read(_CHUNK)
                if not self._pending:
                    return b""
                self._unpacker = zlib.decompressobj(31)
            packed = self._pending or self._file.read(_CHUNK)
            try:
                part = self._unpacker.decompress(packed, size)
            except zlib.error as error:
                raise UserError(
                    f"'{self._path}' is damaged: its GZIP stream breaks at byte {self.offset} of the unpacked data"
                    f" ({error}): fetch the file again"
                ) from None
            self._pending = self._unpacker.unconsumed_tail
            if part:
                return part
            if not packed and not self._unpacker.eof:
                raise UserError(
                    f"'{self._path}' is damaged: its GZIP stream ends at byte {self.offset} of the unpacked data,"
                    f" before it is complete: fetch the file again"
                )
