"""The gate of one topic: whether its jobs may be taken by this worker now, and if not, why."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sjq import clock
from sjq.errors import EnvironmentFailed
from sjq.executors.base import Executor, PreparationStopped, Runtime
from sjq.topics import Topic

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
SHORTAGE_RETRY_S = 1.0
"""How soon it is looked again whether this machine has room; looking costs next to nothing."""

_log = logging.getLogger("sjq.worker")


class Gate:
    """Open while the topic is locked for this worker and its environment is built."""

    def __init__(
        self,
        topic: Topic,
        executor: Executor,
        *,
        on_change: Callable[[], None],
        shortage: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Call `on_change` whenever the topic is held or goes on, which people want to hear of soon.

        `shortage` says why this machine cannot run another job now, if it cannot.
        """
        self.topic = topic
        self.locked_at: str | None = None
        self._executor, self._on_change, self._shortage = executor, on_change, shortage
        self._building = threading.Lock()
        self._changing = threading.Lock()
        self._held: str | None = None
        self._retry_at = 0.0
        self._retry_s = FIRST_RETRY_S

    @property
    def locked(self) -> bool:
        """Whether the topic is ours."""
        return self.locked_at is not None

    @locked.setter
    def locked(self, ours: bool) -> None:
        self.locked_at = clock.rfc3339(clock.now()) if ours else None

    @property
    def held(self) -> str | None:
        """Why no job of the topic is taken although the topic is ours; None when nothing is wrong."""
        return self._held

    def pass_through(self) -> Runtime | None:
        """Return what the topic's next job runs with, building it if need be, or None when none may be taken now."""
        with self._building:  # of several slots one builds, and what it finds holds for all
            if not self.locked or clock.monotonic() < self._retry_at:
                return None
            try:
                runtime = self._executor.prepare(self.topic)
            except PreparationStopped:
                return None
            except EnvironmentFailed as error:
                self.hold(str(error))
                return None
            if why := self._shortage():
                self.hold(why, retry_s=SHORTAGE_RETRY_S)
                return None
        self._release()
        return runtime

    def retry_in_s(self) -> float | None:
        """Return when a held topic is tried again."""
        return None if self._held is None else max(0.0, self._retry_at - clock.monotonic())

    def hold(self, why: str, *, retry_s: float | None = None) -> None:
        """Take nothing for `retry_s`, by default for twice as long at each time in a row."""
        with self._changing:
            if clock.monotonic() < self._retry_at:
                return  # another slot met the same fault at the same time
            known, self._held = self._held == why, why
            pause_s = self._retry_s if retry_s is None else retry_s
            self._retry_at = clock.monotonic() + pause_s
            if retry_s is None:
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
        if known:
            return
        _log.error(
            "topic %s is held, its jobs wait (next try in %.0f s): %s",
            self.topic.name,
            pause_s,
            why,
            extra={"event": "held", "topic": self.topic.name},
        )
        self._on_change()

    def _release(self) -> None:
        with self._changing:
            if self._held is None:
                return
            self._held = None
        _log.info("topic %s goes on", self.topic.name, extra={"event": "resumed", "topic": self.topic.name})
        self._on_change()

    def ran_well(self) -> None:
        """Forget earlier faults: a job was run."""
        with self._changing:
            self._retry_s = FIRST_RETRY_S
