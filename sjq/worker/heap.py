"""The worker's heap: it is one for all threads, and now and then what is free in it goes back to the system.

By themselves CPython's free lists, and an arena of the C library for each thread, keep what they needed at the highest
load, and break up: a worker that runs for weeks would need more with each of them.
"""

from __future__ import annotations

import ctypes
import gc

from sjq import clock

EVERY_S = 60.0
_M_ARENA_MAX = -8
"""From glibc's `malloc.h`."""


class Heap:
    """Is made before there are threads, and tidied once a minute, which takes some milliseconds.

    Only glibc can be told what is done here; the heaps of other C libraries are left as they are.
    """

    def __init__(self) -> None:
        if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
            set_option(_M_ARENA_MAX, 1)  # threads that take turns, as Python's do, need no arenas of their own
        self._next = clock.monotonic() + EVERY_S
        self._settled = False

    def tend(self) -> None:
        """Tidy up, if it is time to."""
        if clock.monotonic() < self._next:
            return
        trim()
        if not self._settled:
            gc.freeze()  # what a worker has after its first minute, it keeps: no later collection looks through it
            self._settled = True
        self._next = clock.monotonic() + EVERY_S


def trim() -> None:
    """Give back what is free."""
    gc.collect()  # empties the free lists as well
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
