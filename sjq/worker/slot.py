"""A slot: a worker's room for one running job of a topic, and the thread that fills it again and again."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable

from sjq import clock
from sjq.brokers.base import Broker, Wakeup
from sjq.errors import BrokerDown, ConfigError, EnvironmentFailed, Error
from sjq.executors.base import Runtime
from sjq.jobs import Due, Lease, Malformed, make_fence, shown
from sjq.records import Record
from sjq.worker.attempt import Attempts, NotPublished
from sjq.worker.flood import Flood
from sjq.worker.gate import Gate
from sjq.worker.heartbeat import Heartbeat, longer
from sjq.worker.quota import Quota

LONGEST_NAP_S = 30.0
"""A net below the wake-up: nobody waits longer without a look."""

REFUSED_NAP_S = 0.05
"""How soon a slot asks again whether one of the last attempts has become free, which nobody rings for."""

_log = logging.getLogger("sjq.worker")


class Slot:
    """Takes a job, runs it, and takes the next, until it is told to stop."""

    def __init__(
        self,
        gate: Gate,
        attempts: Attempts,
        *,
        number: int,
        wakeup: Wakeup,
        quota: Quota,
        flood: Flood,
        fence_numbers: itertools.count[int],
        on_change: Callable[[], None],
    ) -> None:
        self.gate = gate
        self.idle = False
        """True while there was nothing to take at the last look."""
        self._number = number
        self._attempts = attempts
        self._broker: Broker = attempts.broker
        self._heartbeat: Heartbeat = attempts.heartbeat
        self._wakeup, self._quota, self._flood, self._on_change = wakeup, quota, flood, on_change
        self._fence_numbers = fence_numbers
        self._stopping = threading.Event()
        self._published: list[str] = []
        self._unpublished: list[tuple[str, Record]] = []
        """What has ended, and whose record waits for room on the disk."""
        self._refused = False
        self._due_at: float | None = None
        """When the next scheduled job's time comes, by the monotonic clock."""
        self.thread = threading.Thread(target=self._run, name=f"sjq-{gate.topic.name}", daemon=True)

    def stop(self) -> None:
        """Take nothing more; what runs goes on to its end."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                mark = self._wakeup.mark(self.gate.topic.name)
                if not self._step_or_hold():
                    self._nap(mark)
            if self._published:
                self._broker.confirm(self._published)
        except (BrokerDown, ConfigError) as error:
            # Only when the worker ends while the broker is away: what is open is recovered later.
            _log.warning("ended while the broker is away: %s", error, extra={"event": "cut_off"})
        finally:
            self.idle = True
            self._on_change()

    def _step_or_hold(self) -> bool:
        """Outlive a fault of our own: the topic is held, and other topics do not wait."""
        try:
            return self._step()
        except (BrokerDown, ConfigError):
            raise
        except OSError as error:
            self.gate.hold(f"this machine cannot fetch a job now: {error.strerror or error}")
            return False
        except Error as error:  # something of another program stands in this topic's place
            self.gate.hold(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - the outermost loop
            _log.exception("a fault in sjq itself", extra={"event": "fault", "topic": self.gate.topic.name})
            self.gate.hold(f"a fault in sjq itself: {error!r}")
            return False

    def _step(self) -> bool:
        """Look for a job, and run it if there is one; tell whether another look is worth while at once."""
        runtime = self.gate.pass_through()
        self._refused, self._due_at = False, None
        if runtime is None or not self._publish_the_rest():
            return False
        if not self._quota.begin():
            self._refused = True
            return False
        taken, began = None, clock.monotonic()
        try:
            taken = self._take()
        finally:
            if not isinstance(taken, Lease):
                self._quota.give_back()
        if isinstance(taken, Due):
            self._due_at = clock.monotonic() + taken.in_s
            return taken.in_s <= 0
        if taken is None:
            return False
        self.idle = False
        if isinstance(taken, Malformed):
            _say_malformed(taken)
            self._flood.rest(clock.monotonic() - began, self._stopping)
            return True
        try:
            self._attempt(taken, runtime)
        finally:
            self._quota.end()
            self._on_change()
        return True

    def _attempt(self, lease: Lease, runtime: Runtime) -> None:
        try:
            if self._attempts.run(lease, runtime, self._number):
                self._published.append(lease.job_id)
                self.gate.ran_well()
        except NotPublished as error:
            self._unpublished.append((lease.job_id, error.record))
            self.gate.hold(f"{shown(lease.job_id)}: {error}")
        except OSError as error:
            self.gate.hold(f"this machine cannot run it now: {error}")
        except EnvironmentFailed as error:
            self.gate.hold(str(error))

    def _publish_the_rest(self) -> bool:
        """Publish what could not be published before; tell whether nothing is left."""
        while self._unpublished:
            job_id, record = self._unpublished[0]
            try:
                record.publish()
            except OSError as error:
                self.gate.hold(f"the record of {shown(job_id)} cannot be published: {error.strerror or error}")
                return False
            self._published.append(self._unpublished.pop(0)[0])
        return True

    def _take(self) -> Lease | Malformed | Due | None:
        """Take, however long the broker is away: a take whose answer was lost is repeated under the same fence."""
        worker = self._attempts.worker
        fence = make_fence(worker, next(self._fence_numbers))
        topic, again = self.gate.topic.name, False
        halting = self.gate.topic.policy.halts
        pause_s = 0.0
        with self._attempts.in_flight.taking(fence):
            while True:
                try:
                    # Meanwhile the lock may be lost, or the worker be told to stop: then it is only asked what we have.
                    anew = not again or (self.gate.locked and not self._stopping.is_set())
                    taken = self._broker.take(
                        topic, worker, fence, published=self._published, again=again, anew=anew, halting=halting
                    )
                except (BrokerDown, ConfigError) as error:
                    self._heartbeat.wait_for_broker(str(error), pause_s)
                    again, pause_s = True, longer(pause_s)
                else:
                    self._published.clear()
                    if isinstance(taken, Lease) and self._attempts.in_flight.begin(taken):
                        self._heartbeat.beat_now()
                    return taken

    def _nap(self, mark: int) -> None:
        retry_s = self.gate.retry_in_s()
        if not self.idle:
            self.idle = True
            self._on_change()
        if not self._stopping.is_set():
            nap_s = LONGEST_NAP_S if retry_s is None else min(retry_s + 0.01, LONGEST_NAP_S)
            if self._due_at is not None:
                nap_s = min(nap_s, max(0.0, self._due_at - clock.monotonic()))
            if self._refused:
                nap_s = REFUSED_NAP_S
            self._wakeup.wait(self.gate.topic.name, mark, nap_s)


def _say_malformed(taken: Malformed) -> None:
    extra = {"event": "failed", "job": taken.job_id}
    _log.warning("%s: %s failed: %s", taken.topic, shown(taken.job_id), shown(taken.why), extra=extra)
