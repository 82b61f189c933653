"""Processes below this one: adopting, finding and killing them, and hearing that one has ended."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection

_PR_SET_CHILD_SUBREAPER = 36
_QUIET_S = 0.0005
_MOST_PASSES = 100
_LISTED = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # not every kernel keeps such lists


def become_subreaper() -> None:
    """Adopt orphaned descendants; only Linux can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(parent: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    if not _LISTED:
        return _children_by_parent(parent)
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{parent}/task"):
            file = os.open(f"/proc/{parent}/task/{task}/children", os.O_RDONLY | os.O_CLOEXEC)
            try:
                while part := os.read(file, 1 << 16):
                    found += map(int, part.split())
            finally:
                os.close(file)
    except OSError:  # it has ended
        return []
    return found


def _children_by_parent(parent: int) -> list[int]:
    """Return the same from every process's own word."""
    found: list[int] = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rsplit(b")", 1)[1].split()[1]) == parent:
                    found.append(int(name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def tree(root: int, *, enough: float = math.inf, until: float = math.inf) -> list[int]:
    """Return the pids of all descendants of a process, parents before their children.

    Of a tree that grows more quickly than it is walked they are those that were found when there were `enough` of them,
    or when the monotonic clock said `until`.
    """
    found: list[int] = []
    todo = [root]
    while todo and len(found) < enough and time.monotonic() < until:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def come_first(first: bool) -> None:
    """Have the kernel run us before all others, but not what we start; or no more. Not everybody may ask for it.

    Among the processes of a tree that grows without end we would be one of many.
    """
    if sys.platform == "linux":
        usual, ours = (os.SCHED_OTHER, 0), (os.SCHED_RR | os.SCHED_RESET_ON_FORK, 1)
        before, (policy, priority) = (usual, ours) if first else (ours, usual)
        try:
            if os.sched_getscheduler(0) == before[0]:  # who was started in another way stays in that
                os.sched_setscheduler(0, policy, os.sched_param(priority))
        except OSError:
            return


def sweep(strays: Callable[[], Collection[int]], *, patience_s: float) -> list[int]:
    """Kill until `strays` finds no process; return those that we may not kill, tried for `patience_s`.

    `strays` names direct children alone, after it has collected those that ended. What they leave when they are dead
    becomes a direct child.
    """
    rounds = 0
    give_up_at = time.monotonic() + patience_s
    try:
        while strays():
            come_first(True)
            foreign = [pid for pid in _stopped(strays) if not _send(pid, signal.SIGKILL)]
            if foreign and time.monotonic() >= give_up_at:
                return foreign
            rounds += 1
            if rounds > 5:
                time.sleep(min(_QUIET_S * rounds, 0.05))
    finally:
        come_first(False)
    return []


def _stopped(strays: Callable[[], Collection[int]]) -> set[int]:
    """Stop all processes below us, and return them.

    A tree whose every process forks without end grows more quickly than it is killed: to die takes time, of which each
    of its processes gets as much as we do. One that is stopped takes none, and forks no more.
    """
    stopped: set[int] = set()
    for _ in range(_MOST_PASSES):
        found = _stop_below(strays())
        if found <= stopped:
            break
        stopped |= found
    return stopped


def _stop_below(pids: Collection[int]) -> set[int]:
    """Stop processes, their groups, and all their descendants, each before its children are listed; return them all."""
    groups = {os.getpgid(0)}
    found: set[int] = set()
    todo = list(pids)
    while todo:
        found.add(pid := todo.pop())
        try:
            if (group := os.getpgid(pid)) not in groups:
                groups.add(group)
                os.killpg(group, signal.SIGSTOP)
        except (ProcessLookupError, PermissionError):
            pass
        _send(pid, signal.SIGSTOP)
        todo += children(pid)
    return found


def _send(pid: int, number: int) -> bool:
    """Send a signal; False when we may not."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


class Bell:
    """Wakes a `select` that waits for it when a child has ended."""

    def __init__(self) -> None:
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Return what `select` waits for."""
        return self._woken

    def quiet(self) -> None:
        """Let the next child that ends be heard again."""
        try:
            while os.read(self._woken, 4096):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close a bell that a fork has copied."""
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._wake)
