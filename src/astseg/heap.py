"""The memory of a process is kept from one step to the next, in large pages: training takes 2 to 10 % less time.

A training step frees and asks for the same hundreds of megabytes again and again. As it comes, glibc gives large blocks
back to the system at once, and the system hands them out anew page by page, each cleared first. Here they stay with the
process, as other allocators do it, and where the system offers large pages the heap is made of them.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_heap"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
LARGE_PAGES = 14  # MADV_HUGEPAGE of madvise, in mman.h
PAGE = 2**21
LARGEST = 2**31 - 1

HEAP = 2**30
"""Bytes of the heap that are made of large pages. They are set aside in name alone: what is not used takes nothing."""


def keep_heap() -> bool:
    """Have this process keep what it frees: all code of it, so this is for a command, at its very start.

    Nothing changes on other systems than Linux with glibc, nor where the environment says how memory is to be allotted
    (``GLIBC_TUNABLES``, ``MALLOC_...``, or another allocator in ``LD_PRELOAD``).

    Returns:
        Whether it does.
    """
    told = any(name in ("GLIBC_TUNABLES", "LD_PRELOAD") or name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux"):
        return False
    c = ctypes.CDLL(None)
    if not hasattr(c, "gnu_get_libc_version"):
        return False
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.argtypes = [ctypes.c_void_p]
    c.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (c.mallopt(MMAP_THRESHOLD, LARGEST) and c.mallopt(TRIM_THRESHOLD, LARGEST)):
        return False
    block = c.malloc(HEAP)
    if block:  # else memory is limited by number, and there is no room for it
        first = -(-block // PAGE) * PAGE
        c.madvise(first, (block + HEAP - first) // PAGE * PAGE, LARGE_PAGES)  # fails where there are none
        c.free(block)  # back into the heap, of which it stays a part
    return True
