"""The attempts that run in this worker now: what the heartbeat proves, and what a stop or a lost lease ends."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from sjq import clock
from sjq.executors.base import Executor, Task
from sjq.jobs import Lease


class InFlight:
    """A table of attempts, shared by the slots, the heartbeat and the worker."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._changing = threading.Lock()
        self._tasks: dict[str, tuple[Lease, Task | None]] = {}
        self._taking: dict[str, bool] = {}
        """Whether there was a beat meanwhile, which did not ask for what is being taken."""
        self._lost: set[str] = set()
        self._cancelled: dict[str, str] = {}
        self._interrupted = False
        self.ended_at = -math.inf
        """When the last attempt ended, by the monotonic clock."""

    @contextmanager
    def taking(self, fence: str) -> Iterator[None]:
        """Note that a job may be leased under this fence before we hear of it: a large one takes its time."""
        with self._changing:
            self._taking[fence] = False
        try:
            yield
        finally:
            with self._changing:
                self._taking.pop(fence, None)

    def knows(self, lease: Lease) -> bool:
        """Tell whether this job runs under this fence, or a take under it is under way."""
        with self._changing:
            attempt = self._tasks.get(lease.fence)
            return lease.fence in self._taking or (attempt is not None and attempt[0].job_id == lease.job_id)

    def begin(self, lease: Lease) -> bool:
        """Note that an attempt has begun; from now on its lease is proved.

        Return whether it was taken across a beat, which was deaf to what a person may have ordered of it.
        """
        with self._changing:
            self._tasks[lease.fence] = (lease, None)
            return self._taking.get(lease.fence, False)

    def running(self, lease: Lease, task: Task) -> None:
        """Note the task of an attempt, so that it can be killed; kill it at once if that is due already."""
        with self._changing:
            self._tasks[lease.fence] = (lease, task)
            due = self._interrupted or lease.fence in self._lost or lease.fence in self._cancelled
        if due:
            self._executor.kill(task)

    def end(self, lease: Lease) -> None:
        """Note that an attempt has been settled, or was lost."""
        with self._changing:
            self._tasks.pop(lease.fence, None)
            self._lost.discard(lease.fence)
            self._cancelled.pop(lease.fence, None)
            self.ended_at = clock.monotonic()

    def leases(self) -> list[Lease]:
        """Return the leases of all attempts."""
        with self._changing:
            return [lease for lease, _ in self._tasks.values()]

    def leases_to_prove(self) -> list[Lease]:
        """Return them for a beat, which asks what becomes of each; takes that are under way miss it."""
        with self._changing:
            self._taking = dict.fromkeys(self._taking, True)
            return [lease for lease, _ in self._tasks.values()]

    def lose(self, fences: Collection[str]) -> None:
        """Kill the attempts whose leases are lost."""
        with self._changing:
            self._lost |= self._tasks.keys() & fences
            tasks = [self._tasks[fence][1] for fence in self._lost]
        self._kill(tasks)

    def cancel(self, fences: Mapping[str, str]) -> None:
        """Kill the attempts that a person has cancelled, and remember why."""
        with self._changing:
            new = (self._tasks.keys() & fences.keys()) - self._cancelled.keys()
            self._cancelled |= {fence: fences[fence] for fence in new}
            tasks = [self._tasks[fence][1] for fence in new]
        self._kill(tasks)

    def why_cancelled(self, lease: Lease) -> str | None:
        """Return why a person cancelled an attempt, or None when nobody did."""
        with self._changing:
            return self._cancelled.get(lease.fence)

    def interrupt(self) -> None:
        """Kill every attempt, for a stop: they are released."""
        with self._changing:
            self._interrupted = True
            tasks = [task for _, task in self._tasks.values()]
        self._kill(tasks)

    def _kill(self, tasks: Collection[Task | None]) -> None:
        for task in tasks:
            if task is not None:
                self._executor.kill(task)
