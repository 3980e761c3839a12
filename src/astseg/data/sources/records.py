"""The framing of TFRecord files: length, checksum, data, checksum; usually inside one GZIP stream.

Source: TensorFlow's documentation of the format (``tfrecord``): ``uint64 length, uint32 masked_crc32c(length), data,
uint32 masked_crc32c(data)``, little endian. Offsets in error messages are those of the unpacked bytes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

import google_crc32c

from astseg.errors import UserError

__all__ = ["Record", "count_records", "masked_crc32c", "read_records"]

LARGEST_RECORD = 2**26
"""Bytes; twenty times a record of CLEVR, the largest known. A longer one is taken for damage."""

_CHUNK = 2**18


def masked_crc32c(data: bytes) -> int:
    """Checksum of TFRecord files: CRC-32C, rotated and shifted so that checksums of checksums stay sound.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Record:
    """One record, whose data were not checked yet.

    Attributes:
        path: The file.
        index: Its number in the file, from 0.
        begin: Where it begins among the unpacked bytes.
        data: The data, as they were read.
        checksum: What the file says of them.
    """

    path: Path
    index: int
    begin: int
    data: bytes
    checksum: int

    def checked(self) -> bytes:
        """The data. Raises UserError where they do not match the checksum."""
        if masked_crc32c(self.data) != self.checksum:
            raise self.damaged(0, "does not match its checksum")
        return self.data

    def damaged(self, offset: int, what: str) -> UserError:
        """The error of a record; offset: of the fault, from the begin of the record."""
        where = f"record {self.index} at byte {self.begin + offset}"
        return UserError(f"'{self.path}' is damaged: {where} {what}: fetch the file again")


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file, forward.

    Raises:
        UserError: The file is damaged; the line names the file and the offset.
    """
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: gzip.GzipFile | BufferedReader = gzip.GzipFile(fileobj=file) if is_packed else file
        begin = index = 0
        while head := _take(stream, 12, path, begin):
            here = Record(path, index, begin, b"", 0)
            if len(head) < 12:
                raise here.damaged(0, f"ends after {len(head)} bytes")
            length, checksum = struct.unpack("<QI", head)
            if checksum != masked_crc32c(head[:8]):
                raise here.damaged(0, "has a length that does not match its checksum")
            if length > LARGEST_RECORD:
                raise here.damaged(0, f"says it has {length} bytes, more than {LARGEST_RECORD}")
            data = _take(stream, length, path, begin + 12)
            tail = _take(stream, 4, path, begin + 12 + length)
            if len(tail) < 4:
                raise here.damaged(0, f"ends after {12 + len(data) + len(tail)} of {16 + length} bytes")
            yield Record(path, index, begin, data, *struct.unpack("<I", tail))
            begin, index = begin + 16 + length, index + 1


def count_records(path: Path) -> int:
    """Number of records, by one pass over a file; a file that is as it was is not read again.

    Raises:
        UserError: The file is damaged.
    """
    about = path.stat()
    return _count(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _count(path: Path, size: int, changed: int) -> int:
    return sum(1 for _ in read_records(path))


def _take(stream: gzip.GzipFile | BufferedReader, size: int, path: Path, offset: int) -> bytes:
    """The next bytes, fewer only at the end of the file. Memory grows with what is there, not with ``size``."""
    parts, left = [], size
    try:
        while left and (part := stream.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "ends, before it is complete," if isinstance(error, EOFError) else f"breaks ({error})"
        raise UserError(
            f"'{path}' is damaged: its GZIP stream {what} at byte {offset + size - left} of the unpacked data:"
            " fetch the file again"
        ) from None
    return b"".join(parts)
