"""What lies in a record of DeepMind's multi-object data sets: a ``tf.train.Example`` of pixel lists.

Source: the protocol-buffer encoding as Google documents it, and ``example.proto`` and ``feature.proto`` of TensorFlow.
Each pixel byte is a list entry of its own, ``0A 01 xx``; reading every third byte is a hundred times cheaper than
making a Python object of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from astseg.errors import UserError

__all__ = ["BrokenExampleError", "byte_list", "features"]

_BYTES_LIST, _LENGTH_DELIMITED = 1, 2
_FIXED = {1: 8, 5: 4}


class BrokenExampleError(UserError):
    """Bytes that are no Example, or not the expected one.

    Attributes:
        offset: Where in the record.
        what: What is wrong there.
    """

    def __init__(self, offset: int, what: str) -> None:
        """Take what is wrong and where."""
        super().__init__(f"byte {offset} {what}")
        self.offset = offset
        self.what = what


def features(data: bytes) -> dict[str, range]:
    """Names of the features of an Example, and where the value of each lies: a serialized ``Feature``.

    Raises:
        BrokenExampleError: The bytes are no Example.
    """
    found: dict[str, range] = {}
    for _, outer in _delimited(data, range(len(data)), 1):
        for _, entry in _delimited(data, outer, 1):
            name, value = None, None
            for number, part in _delimited(data, entry):
                if number == 1:
                    name = part
                elif number == 2:
                    value = part
            if name is None or value is None:
                raise BrokenExampleError(entry.start, "begins a feature without name or value")
            try:
                found[data[name.start : name.stop].decode()] = value
            except UnicodeDecodeError:
                raise BrokenExampleError(name.start, "begins a name that is no text") from None
    return found


def byte_list(data: bytes, feature: range) -> NDArray[np.uint8]:
    """A list of bytes in a feature of a record: one-byte strings, as DeepMind wrote them, or one string of all.

    Raises:
        BrokenExampleError: Something else lies there.
    """
    lists = list(_delimited(data, feature, _BYTES_LIST))
    if len(lists) != 1:
        raise BrokenExampleError(feature.start, "begins a feature that is no list of strings")
    place = lists[0][1]
    raw = np.frombuffer(data, np.uint8)[place.start : place.stop]
    if len(raw) % 3 == 0 and (raw[0::3] == 0x0A).all() and (raw[1::3] == 1).all():
        return raw[2::3]
    strings = list(_delimited(data, place, 1)) if len(raw) < 2 or raw[1] != 1 else []
    if len(strings) != 1:
        raise BrokenExampleError(place.start, "begins strings that are neither one byte each nor a single one")
    return np.frombuffer(data, np.uint8)[strings[0][1].start : strings[0][1].stop]


def _delimited(data: bytes, place: range, wanted: int | None = None) -> Iterator[tuple[int, range]]:
    """Number and place of the length-delimited fields of a message; other fields are passed over."""
    at = place.start
    while at < place.stop:
        begin = at
        tag, at = _varint(data, at, place.stop)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at, place.stop)
            if length > place.stop - at:
                raise BrokenExampleError(begin, f"begins a field of {length} bytes where {place.stop - at} are left")
            if wanted is None or number == wanted:
                yield number, range(at, at + length)
            at += length
        elif kind == 0:
            _, at = _varint(data, at, place.stop)
        elif kind in _FIXED and at + _FIXED[kind] <= place.stop:
            at += _FIXED[kind]
        else:
            raise BrokenExampleError(begin, "begins no field of a protocol buffer")


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number of variable length, and the place after it."""
    value = shift = 0
    for position in range(at, min(stop, at + 10)):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    raise BrokenExampleError(at, "begins a number that does not end")
