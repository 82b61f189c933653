"""The processes under a worker: found, watched, and killed all at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with its number."""

    pid: int
    started: str

    @classmethod
    def now(cls, pid: int) -> Process:
        return cls(pid, _state_and_start(pid)[1])

    def lives(self) -> bool:
        """Tell whether it still runs; a zombie does not."""
        state, started = _state_and_start(self.pid)
        return started == self.started and state not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.lives():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def family(pid: int) -> list[Process]:
    """Return a process and all its descendants that live."""
    found = [Process.now(pid)]
    for child in _children(pid):
        found += family(child)
    return [process for process in found if process.lives()]


def kill_at_once(heads: Iterable[Process]) -> list[Process]:
    """Kill processes and all their descendants as a power cut would: none sees another die. Return them."""
    found: set[Process] = set()
    fresh = set(heads)
    # Stopped ones have no more children; those that were made on the way down are found by the next look.
    while fresh:
        for process in fresh:
            process.send(signal.SIGSTOP)
        found |= fresh
        fresh = {process for head in found for process in family(head.pid)} - found
    for process in found:
        process.send(signal.SIGKILL)
    return sorted(found, key=lambda process: process.pid)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return state and start time as the kernel tells them, or nothing of a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "X", ""
    return fields[0], fields[19]
