"""Processes below this one: adopting, finding and killing them, and hearing that one has ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection

_PR_SET_CHILD_SUBREAPER = 36
_QUIET_S = 0.0005


def become_subreaper() -> None:
    """Adopt orphaned descendants; only Linux can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(parent: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        return _children_by_parent(parent)
    except OSError:
        return []
    return found


def _children_by_parent(parent: int) -> list[int]:
    """Return the same from every process's own word, where the kernel keeps no list of children."""
    found: list[int] = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rsplit(b")", 1)[1].split()[1]) == parent:
                    found.append(int(name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def tree(root: int) -> list[int]:
    """Return the pids of all descendants of a process, parents before their children."""
    found: list[int] = []
    todo = [root]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def sweep(strays: Callable[[], Collection[int]], *, patience_s: float) -> list[int]:
    """Kill until `strays` finds no process; return those that we may not kill, tried for `patience_s`.

    `strays` names direct children alone, after it has collected those that ended. Killing only them and their groups
    is enough, since what they leave becomes a direct child; and it is faster than a process that forks and exits
    without end, which a walk of the tree never catches.
    """
    mine = os.getpgid(0)
    rounds = 0
    give_up_at = time.monotonic() + patience_s
    while found := strays():
        foreign = [pid for pid in found if not _kill(pid, mine)]
        if foreign and time.monotonic() >= give_up_at:
            return foreign
        rounds += 1
        if rounds > 20:
            time.sleep(min(_QUIET_S * rounds, 0.05))
    return []


def _kill(pid: int, mine: int) -> bool:
    """Kill a process and its group, unless that is `mine`; False when we may not."""
    try:
        group = os.getpgid(pid)
        if group != mine:
            os.killpg(group, signal.SIGKILL)  # reaches those of the group whom we may kill
        os.kill(pid, signal.SIGKILL)
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
