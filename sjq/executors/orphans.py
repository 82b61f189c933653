"""What is left of a job when its keeper and the root keeper were both killed: finding and killing it.

Nobody is the subreaper above it any more. What was detached has been adopted by init, or by another of our own
ancestors, and is known by what stands of the job in its environment; what is below it, by its parents.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sjq import clock

_PATIENCE_S = 5.0  # how long processes are tried that do not die; they may end by themselves
_PAUSE_S = 0.05
_EMPTY_LOOKS = 3
"""After so many in a row nothing is left. One is not enough: a process that becomes another program has no environment
for a moment, and what a process leaves that is being killed is adopted a moment later."""


class _Process(NamedTuple):
    """A process that has not ended. No other ever has the same pid and start."""

    pid: int
    start: int
    parent: int
    session: int


def kill_orphans(marks: Collection[bytes], *, session: int | None, keepers: Collection[int]) -> int:
    """Kill what is left of a job until nothing is; return how many processes live on after some seconds.

    `marks` stand in the environment of each of its processes, `session` is the job's own, and `keepers` are those that
    were killed.
    """
    adopters = {1, *_ancestors(), *keepers}
    left: set[_Process] = set()
    until = clock.monotonic() + _PATIENCE_S
    empty_looks = 0
    while empty_looks < _EMPTY_LOOKS:
        left = _left(marks, session, adopters, left)
        if left and clock.monotonic() >= until:
            return len(left)
        for process in left:
            _kill(process.pid)
        empty_looks = 0 if left else empty_looks + 1
        time.sleep(_PAUSE_S)
    return 0


def _left(
    marks: Collection[bytes], session: int | None, adopters: Collection[int], known: Collection[_Process]
) -> set[_Process]:
    """Return the processes of the job, with those of `known` that live: their parents may have been killed since.

    A process with the marks that has a parent of another kind is not ours to kill: an id is unique in one broker, and
    there may be another on this host, or a person who rehearses the job.
    """
    living = _living()
    known_pids = {(process.pid, process.start) for process in known}
    below: dict[int, list[_Process]] = {}
    for process in living:
        below.setdefault(process.parent, []).append(process)
    todo = [
        process
        for process in living
        if (process.pid, process.start) in known_pids
        or process.session == session
        or (process.parent in adopters and _has(process.pid, marks))
    ]
    found: set[_Process] = set()
    while todo:
        process = todo.pop()
        if process not in found:
            found.add(process)
            todo += below.get(process.pid, [])
    return found


def _living() -> list[_Process]:
    """Return all processes that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, parent, _, session, *others = path.read_bytes().rpartition(b")")[2].split()
            if state not in (b"Z", b"X"):
                found.append(_Process(int(path.parent.name), int(others[15]), int(parent), int(session)))
    return found


def _ancestors() -> list[int]:
    """Return who may adopt what our descendants leave."""
    found = []
    parents = {process.pid: process.parent for process in _living()}
    pid = os.getppid()
    while pid in parents:
        found.append(pid)
        pid = parents[pid]
    return found


def _has(pid: int, marks: Collection[bytes]) -> bool:
    """Tell whether the marks stand in a process's environment, as far as we may look."""
    try:
        return set(marks) <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
