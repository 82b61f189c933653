"""The worker's heap: what is free goes back to the system, once a minute."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from sjq import clock
from sjq.worker import heap
from sjq.worker.heap import EVERY_S, Heap

HOLED = """
import mmap
from sjq.worker.heap import trim

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE

blocks = [bytes(1000) for _ in range(50_000)]
blocks = blocks[::100]  # in the way of what the C library would give back by itself
before = resident()
trim()
print(before - resident())
"""

CROWDED = """
import ctypes, threading
from sjq.worker.heap import Heap

Heap()
together = threading.Barrier(8)

def fill() -> None:
    together.wait()
    held = [bytes(2000) for _ in range(1000)]
    together.wait()

threads = [threading.Thread(target=fill) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""
glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc's heap can be told")


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@glibc
def test_all_threads_share_one_arena() -> None:
    told = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, check=True)
    assert told.stdout.count("<heap nr=") == 1


@glibc
def test_trimming_gives_back_what_is_free_between_what_is_used() -> None:
    freed = subprocess.run([sys.executable, "-c", HOLED], capture_output=True, text=True, check=True)
    assert int(freed.stdout) > 30_000_000


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say what time it is, in seconds from now."""
    began = clock.monotonic()
    return lambda seconds: monkeypatch.setattr(clock, "monotonic", lambda: began + seconds)


@pytest.mark.usefixtures("thawed")
def test_a_heap_is_trimmed_once_a_minute(at: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []
    monkeypatch.setattr(heap, "trim", lambda: trimmed.append(clock.monotonic()))
    at(0)
    tended = Heap()
    for seconds, times in ((0, 0), (EVERY_S - 1, 0), (EVERY_S, 1), (2 * EVERY_S - 1, 1), (2 * EVERY_S, 2)):
        at(seconds)
        tended.tend()
        assert len(trimmed) == times


@pytest.mark.usefixtures("thawed")
def test_what_is_there_after_the_first_minute_is_not_looked_through_again(at: Callable[[float], None]) -> None:
    at(0)
    tended = Heap()
    tended.tend()
    assert gc.get_freeze_count() == 0
    at(EVERY_S)
    tended.tend()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 10_000
