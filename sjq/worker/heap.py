"""The worker's heap: now and then, what is free in it goes back to the system.

By themselves CPython's free lists and the C library's arenas, of which each thread has one, keep what they needed at
the highest load they have seen, and break up: a worker that runs for weeks would need more with each of them.
"""

from __future__ import annotations

import gc

from sjq import clock

EVERY_S = 60.0


class Heap:
    """Is tidied once a minute, which takes some milliseconds."""

    def __init__(self) -> None:
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
    """Give back what is free, as far as the C library can: glibc is able to, others keep little."""
    import ctypes  # noqa: PLC0415 - a worker that runs for less than a minute does not pay for it

    gc.collect()  # empties the free lists as well
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
