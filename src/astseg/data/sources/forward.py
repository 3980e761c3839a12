"""Random access to what can only be read forward: records of a compressed file, frames of a video."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Forward"]

T = TypeVar("T")

WINDOW = 16
"""Items that are kept after they were read: several threads ask for neighbours in any order."""


class Forward(Generic[T]):
    """Items by number, fast where numbers rise; safe to ask from several threads."""

    def __init__(self, begin: Callable[[int], Iterator[T]], *, window: int = WINDOW) -> None:
        """Take what to read from.

        Args:
            begin: Gives the items from a number on, all of them to the end.
            window: Items kept; a jump forward by more begins anew.
        """
        self._begin = begin
        self._window = window
        self._recent: OrderedDict[int, T] = OrderedDict()
        self._items: Iterator[T] | None = None
        self._next = 0
        self._lock = Lock()

    def __getitem__(self, index: int) -> T:
        """Item ``index``. Raises IndexError past the end, and whatever reading raises."""
        with self._lock:
            if index in self._recent:
                return self._recent[index]
            if self._items is None or not self._next <= index <= self._next + self._window:
                self._items, self._next = self._begin(index), index
            try:
                while self._next <= index:
                    item = next(self._items)
                    self._recent[self._next] = item
                    self._next += 1
                    if len(self._recent) > self._window:
                        self._recent.popitem(last=False)
            except StopIteration:
                self._items = None
                raise IndexError(f"there is no item {index}") from None
            except BaseException:
                self._items = None
                raise
            return item
