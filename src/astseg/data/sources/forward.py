"""Items by number of what can only be read forward: records of a compressed file, frames of a video."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Forward"]

T = TypeVar("T")


class Forward(Generic[T]):
    """Items by number, fast where numbers rise; safe to ask from several threads."""

    def __init__(self, begin: Callable[[], Iterator[T]], *, window: int = 16) -> None:
        """Take what to read from.

        Args:
            begin: Gives all items, from the first one on; called again to go back.
            window: Latest items that are kept, as several threads ask for neighbours in any order.
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
            items, self._items = self._items, None  # none are left after an error
            if items is None or index < self._next:
                items, self._next = self._begin(), 0
                self._recent.clear()
            while self._next <= index:
                try:
                    self._recent[self._next] = next(items)
                except StopIteration:
                    raise IndexError(f"there is no item {index}") from None
                self._next += 1
                if len(self._recent) > self._window:
                    self._recent.popitem(last=False)
            self._items = items
            return self._recent[index]
