"""What the processes of a job use together, and whether that is more than they may."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Mapping

from .processes import come_first, tree

LOOK_S = 0.02
"""How long a job goes unwatched."""

_LONGEST_LOOK_S = 0.5
_SHARE = 10
"""Of a processor's time, at most one part in so many is spent on looking, however large the tree."""

_PF_FORKNOEXEC = 0x40
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")

Excess = tuple[str, float]
"""The name of a limit, and how much was measured."""


class Gauge:
    """Watches what is limited of all processes below this one: memory, processor time, number, open files of each.

    The kernel has no limit for a tree of processes but those of cgroups, which not everybody may use. Its limits for
    one process fit processor time; memory they count by addresses, of which a sound program may have any number. More
    files than a process may have open the kernel refuses, and tells that nobody else: here they are only counted.
    """

    def __init__(self, limits: Mapping[str, float | None], leader: int) -> None:
        self._memory, self._cpu_s, self._processes = (limits[name] for name in ("memory_bytes", "cpu_s", "processes"))
        self._enough = math.inf if self._processes is None else self._processes + 1
        """How many processes are too many: of a tree that grows without end it is no use to count all."""
        self._counts_files = limits["open_files"] is not None
        self.most_files = 0
        """The most that one process was seen to have open, where that is limited."""
        self._seen = {leader}
        self.due_at: float | None = None
        """When the next look is due, by the monotonic clock; None when nothing is limited."""
        watched = (self._memory, self._cpu_s, self._processes) != (None, None, None) or self._counts_files
        if watched and sys.platform == "linux":
            self.due_at = time.monotonic() + LOOK_S
        if self._processes is not None:
            come_first(True)  # until the sweep at the job's end

    def look(self, reaped_s: float) -> Excess | None:
        """Return what is exceeded. `reaped_s` is the processor time of those whose end was collected here."""
        began_s = time.process_time()
        excess = self._excess(reaped_s, time.monotonic() + _LONGEST_LOOK_S)
        self.due_at = time.monotonic() + max(LOOK_S, _SHARE * (time.process_time() - began_s))
        return excess

    def _excess(self, reaped_s: float, until: float) -> Excess | None:
        pids = tree(os.getpid(), enough=self._enough, until=until)
        if len(pids) >= self._enough:
            living = _living(pids)
            if living < self._enough:
                living = _living(pids := tree(os.getpid(), until=until))
            if living >= self._enough:
                return "processes", living
        if self._memory is not None:
            used = self._memory_of(pids, self._memory)
            if used > self._memory:
                return "memory", used
        if self._cpu_s is not None:
            # A parent's sum of its dead children's is read before they are, so that nothing is counted twice.
            spent_s = reaped_s + sum(map(_cpu_s, pids))
            if spent_s > self._cpu_s:
                return "cpu", spent_s
        if self._counts_files:
            self.most_files = max(self.most_files, *map(_open_files, pids), 0)
        return None

    def _memory_of(self, pids: list[int], limit: float) -> int:
        """Return the bytes that processes use together; exact only when it may be above the limit.

        One counts from the second look on: one that runs in its parent's memory does so for a moment.
        """
        known = self._seen.intersection(pids)
        self._seen.update(pids)
        self._seen.intersection_update(pids)
        used = sum(map(_resident, known))
        return used if used <= limit else _shared_once(known)


def _read(pid: int, name: str) -> bytes:
    """Return a small file of a process; nothing when the process is gone, or not ours to look at."""
    try:
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, 4096)
    except OSError:
        return b""
    finally:
        os.close(file)


def _open_files(pid: int) -> int:
    """Return how many files a process has open; 0 when it is gone, or not ours to look at."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _resident(pid: int) -> int:
    """Return the bytes of a process that are in memory, shared ones too."""
    fields = _read(pid, "statm").split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def _shared_once(pids: Collection[int]) -> int:
    """Return the same of several, with each page that they share divided among those who share it.

    A child that was started by vfork, and has no program of its own yet, is not one who shares its parent's pages: it
    runs in its parent's memory, which does not count once more.
    """
    used = 0
    for pid in pids:
        parent = _parent_of_programless(pid)
        if parent in pids and _waits_for_child(parent):
            continue
        _, _, behind = _read(pid, "smaps_rollup").partition(b"\nPss:")
        used += int(behind.split(None, 1)[0]) * 1024 if behind else _resident(pid)
    return used


def _parent_of_programless(pid: int) -> int:
    """Return the parent of a process that was forked and has no program of its own; 0 for any other."""
    fields = _stat(pid)
    return int(fields[1]) if fields and int(fields[6]) & _PF_FORKNOEXEC else 0


def _waits_for_child(pid: int) -> bool:
    """Tell whether a process may have called vfork, which nothing but its child's program or end interrupts."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return any(_stat(pid, f"task/{thread}/stat")[:1] == [b"D"] for thread in threads)


def _stat(pid: int, name: str = "stat") -> list[bytes]:
    """Return the fields of a process's state from the third on, as proc(5) has them; none when it is gone."""
    return _read(pid, name).rpartition(b")")[2].split()


def _living(pids: list[int]) -> int:
    """Return how many of some processes have not ended."""
    return sum(fields[0] not in (b"Z", b"X") for pid in pids if (fields := _stat(pid)))


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process and of those children of it whose end it has collected."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0
