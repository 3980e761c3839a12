"""A command keeps the memory that it frees, where the system and the environment allow it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from astseg import cli
from astseg.heap import keep_heap

FREED = """
import sys
from pathlib import Path

import numpy as np

from astseg.heap import HEAP, keep_heap


def resident():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line).split()[1])


{before}
kept = {call}
before = resident()
block = np.ones(8_000_000)  # 64 MB
del block
print(kept, resident() - before > 50_000)
"""
LARGE_PAGES = """
from pathlib import Path

from astseg.heap import HEAP, keep_heap

keep_heap()
size = 0
for line in Path("/proc/self/smaps").read_text().splitlines():
    name, *words = line.split()
    if name == "Size:":
        size = int(words[0]) * 1024
    if name == "VmFlags:" and "hg" in words:
        print(size > 0.99 * HEAP)
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (HEAP // 2, HEAP // 2))"

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)


def said(code: str, **variables: str) -> str:
    """What a process prints that runs this, in an environment that says nothing of memory but what the variables do."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "LD_PRELOAD") and not name.startswith("MALLOC_")
    }
    words = [sys.executable, "-c", code]
    return subprocess.run(
        words, env={**environment, **variables}, capture_output=True, text=True, check=True
    ).stdout.strip()


def tried(call: str, *, before: str = "", **variables: str) -> str:
    """What a process says that calls this: whether the heap is kept, and whether what was freed is still there."""
    return said(FREED.format(before=before, call=call), **variables)


@glibc
def test_what_is_freed_is_kept() -> None:
    assert tried("keep_heap()") == "True True"
    assert tried("None") == "None False"


@glibc
@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_the_environment_has_its_way(name: str) -> None:
    value = "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "2"
    assert tried("keep_heap()", **{name: value}) == "False False"


@glibc
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs a system that offers large pages"
)
def test_the_heap_is_of_large_pages() -> None:
    assert said(LARGE_PAGES) == "True"


@glibc
def test_where_memory_is_limited_by_number() -> None:
    assert tried("keep_heap()", before=LIMITED) == "True True"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_heap()


def test_the_command_line_does_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(cli, "keep_heap", lambda: called.append("heap"))
    monkeypatch.setattr(cli, "run", lambda words: called.append(*words) or 0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["presets"])
    assert (ended.value.code, called) == (0, ["heap", "presets"])
