"""One job: its process and all that it starts, its limits, and its end."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from .gauge import Excess, Gauge
from .processes import children, sweep, tree

_FOREIGN_S = 5.0  # how long processes are tried that we may not kill; they may end by themselves
_LONGEST_WAIT_S = 3600.0  # a time beyond all calendars is none that `select` takes
_OOM_SCORE = 500  # more than ours: as if it used half of all memory, so that the kernel takes it before a worker
_DEFAULTED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Job:
    """The one job that runs now."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """Start it. Raises OSError when its process cannot be started."""
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        # What this process ignores, its children would ignore too: the job starts with every signal at its default.
        self.pid = os.posix_spawn(
            order["argv"][0],
            order["argv"],
            order["env"],
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, order["stdout"], write, 0o644),
                (os.POSIX_SPAWN_OPEN, 2, order["stderr"], write, 0o644),
            ],
            setsid=True,
            setsigdef=_DEFAULTED,
            setsigmask=[],
        )
        self.status: int | None = None
        self.max_rss_bytes = 0
        self.user_s = self.system_s = 0.0
        self.excess: Excess | None = None
        """The limit for which it was ended, and what was measured then."""
        self._began = time.monotonic()
        self._kill_after_s: float = order["kill_after_s"]
        self._kill_at: float | None = None
        limits: Mapping[str, float | None] = order["limits"]
        self._timeout_at = math.inf if limits["timeout_s"] is None else self._began + limits["timeout_s"]
        self._gauge = Gauge(limits, self.pid)
        self._cpu_s = limits["cpu_s"]  # of which the kernel's own limit, for each process, is a net below ours
        self._files_limit = _set_limits(self.pid, limits)

    def reap(self) -> bool:
        """Collect children that have ended; tell whether none is left."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid:
                self.status = status
                if self._cpu_s is not None and os.waitstatus_to_exitcode(status) == -signal.SIGXCPU:
                    self.excess = self.excess or ("cpu", used.ru_utime + used.ru_stime)
            self.max_rss_bytes = max(self.max_rss_bytes, used.ru_maxrss * (1024 if sys.platform == "linux" else 1))
            self.user_s += used.ru_utime
            self.system_s += used.ru_stime

    @property
    def open_files(self) -> tuple[int, int] | None:
        """The most that one of its processes was seen to have open, and how many each may; None for no limit."""
        return None if self._files_limit is None else (self._gauge.most_files, self._files_limit)

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._kill_at is not None

    def stop(self) -> None:
        """Ask every process of the job to end, and have what is left killed after its time. Twice is fine."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._kill_after_s
            self._ask_to_end(self._kill_at)

    def _ask_to_end(self, until: float) -> None:
        """Send SIGTERM to every process of the job; a stopped one is woken to receive it."""
        for pid in {self.pid, *tree(os.getpid(), until=until)}:
            for number in (signal.SIGTERM, signal.SIGCONT):
                try:
                    os.kill(pid, number)
                except (ProcessLookupError, PermissionError):
                    break

    def must_die(self) -> bool:
        """Hold the job to its limits; tell whether what is left of it must be killed now."""
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            return True
        if self._kill_at is None and now >= self._timeout_at:
            self.excess = "timeout", now - self._began
            self.stop()
        if self._gauge.due_at is not None and now >= self._gauge.due_at:
            excess = self._gauge.look(self.user_s + self.system_s)
            if excess and self._kill_at is None:
                self.excess = excess
            return excess is not None
        return False

    def quiet_s(self) -> float | None:
        """How long nothing is due of what `must_die` does; None is for ever."""
        next_at = min(
            self._timeout_at if self._kill_at is None else self._kill_at,
            math.inf if self._gauge.due_at is None else self._gauge.due_at,
        )
        return None if next_at == math.inf else min(max(0.0, next_at - time.monotonic()), _LONGEST_WAIT_S)

    def sweep(self) -> int:
        """Kill until no child remains; return how many are left that another user started and we may not kill."""
        me = os.getpid()
        return len(sweep(lambda: [] if self.reap() else children(me) or [self.pid], patience_s=_FOREIGN_S))


def _set_limits(pid: int, limits: Mapping[str, float | None]) -> int | None:
    """Have the kernel limit each process of the job on its own, and take them before others when memory runs out.

    Return how many files each may have open, which may be less than was asked for; None for no limit of ours.
    They run already, but are still being loaded. Where one of this fails, the job has ended, or may not be looked at.
    """
    if sys.platform != "linux":
        return None
    try:
        file = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, _oom_score())
        finally:
            os.close(file)
    except OSError:
        pass
    files_limit = None
    if limits["open_files"] is not None or limits["cpu_s"] is not None:
        import resource

        if (files := limits["open_files"]) is not None:
            files_limit = _limit(pid, resource.RLIMIT_NOFILE, files, files)
        if (cpu_s := limits["cpu_s"]) is not None:
            _limit(pid, resource.RLIMIT_CPU, math.ceil(cpu_s) + 1, math.ceil(cpu_s) + 2)
    return files_limit


@cache
def _oom_score() -> bytes:
    """Return the score of a job's process. It stays the same as long as we run."""
    with open("/proc/self/oom_score_adj") as ours:
        return b"%d" % min(1000, int(ours.read()) + _OOM_SCORE)


def _limit(pid: int, which: int, soft: float, hard: float) -> int | None:
    """Return the limit that a process has from now on; None when it has ended, or may not be limited by us."""
    import resource

    if sys.platform != "linux":
        return None
    try:
        _, most = resource.prlimit(pid, which)
        if most == resource.RLIM_INFINITY:
            most = sys.maxsize
        soft = int(min(soft, most))
        resource.prlimit(pid, which, (soft, int(min(hard, most))))
    except OSError:
        return None
    return soft
