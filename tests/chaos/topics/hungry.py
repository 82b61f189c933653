"""Uses more and more memory, in one of the ways there are: its data is the name of one."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from _note import note

MB = 1_000_000
MOST_MB = 600
"""Where it stops, in case that nobody stops it."""
PROCESSES = 4


def grow(step_mb: int, pause_s: float, most_mb: int = MOST_MB) -> None:
    blocks = []
    for _ in range(0, most_mb, step_mb):
        blocks.append(bytearray(step_mb * MB))
        time.sleep(pause_s)
    time.sleep(60)


def together(step_mb: int, pause_s: float, *, detached: bool = False) -> None:
    """Have several processes grow, each of which stays below the limit by far."""
    for _ in range(PROCESSES):
        if not os.fork():
            if detached:
                os.setsid()
            grow(step_mb, pause_s, MOST_MB // PROCESSES // 3)
            os._exit(0)
    time.sleep(60)


WAYS = {
    "at once": lambda: grow(MOST_MB, 0),
    "quickly": lambda: grow(5, 0),
    "slowly": lambda: grow(10, 0.08),
    "together": lambda: together(10, 0.1),
    "together, quickly": lambda: together(5, 0),
    "detached": lambda: together(10, 0.1, detached=True),
}

note("start")
WAYS[Path(sys.argv[2]).read_text().strip('"\n')]()
