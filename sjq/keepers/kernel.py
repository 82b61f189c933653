"""How often the kernel has killed a process here for want of memory."""

from __future__ import annotations

import os

_GROUPS = "/sys/fs/cgroup"
_MARK = b"\noom_kill "


class OomKills:
    """The kernel's own count: of our memory cgroup where it keeps one, else of the whole machine."""

    def __init__(self) -> None:
        self._file: int | None = None
        for path in _counters():
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            if _MARK in _read(file):
                self._file = file
                return
            os.close(file)

    def count(self) -> int:
        """Return the count; of no use but to be compared with an earlier one. 0 where there is none."""
        if self._file is None:
            return 0
        _, _, behind = _read(self._file).partition(_MARK)
        return int(behind.split(None, 1)[0]) if behind else 0


def _counters() -> list[str]:
    """Return where the count may stand, the most exact first.

    In a container the paths of cgroups may be those that its host sees; then the mount itself is our group.
    """
    found = []
    try:
        with open("/proc/self/cgroup") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        groups = []
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            found += [f"{_GROUPS}/memory{inside}/memory.oom_control" for inside in (path, "")]
        elif controllers == "":
            found += [f"{_GROUPS}{inside}/memory.events" for inside in (path, "")]
    return [*found, "/proc/vmstat"]


def _read(file: int) -> bytes:
    try:
        return b"\n" + os.pread(file, 1 << 14, 0)
    except OSError:  # the group was removed below us
        return b""
