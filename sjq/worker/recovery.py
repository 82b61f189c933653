"""Recovery: what dead workers left in the broker and in `job_data/` is put right by those who live."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from sjq.brokers.base import Broker, Holder
from sjq.errors import BrokerDown, CancelAsked, Error, LeaseLost
from sjq.jobs import Lease, shown
from sjq.outcomes import cancelled, released
from sjq.records import Records
from sjq.states import State
from sjq.topics import Topic
from sjq.worker.in_flight import InFlight
from sjq.worker.lock_file import is_gone
from sjq.worker.repairs import Repairs

_log = logging.getLogger("sjq.worker")

BECAME = {
    State.INCOMING: "waits again",
    State.FAILED: "was lost too often and is failed",
    State.CANCELLED: "is cancelled, as somebody had asked",
}
"""What a job whose worker is gone comes to."""


class Recovery:
    """Looks for dead workers, and takes their jobs and locks back."""

    def __init__(
        self,
        broker: Broker,
        records: Records,
        *,
        worker: str,
        lock_files: Path,
        lease_s: float,
        connected_for_s: Callable[[], float],
        in_flight: InFlight,
    ) -> None:
        self._in_flight = in_flight
        self._repairs_wait = False
        self._strays: dict[str, set[tuple[str, str]]] = {}
        self._broker, self._repairs = broker, Repairs(broker, records, lock_files)
        self._worker, self._lease_s, self._connected_for_s = worker, lease_s, connected_for_s

    def recover(self, topics: Collection[Topic]) -> int:
        """Take back the jobs of dead workers on these topics; return how many there were."""
        suspects = self._broker.suspects([topic.name for topic in topics])
        found = 0
        for topic in topics:
            try:
                found += self._recover(topic, suspects.get(topic.name, {}))
            except BrokerDown:
                raise
            except Error as error:  # something of another program in this topic's place; the others do not wait
                _log.warning("%s: what dead workers left of it cannot be taken back: %s", topic.name, error)
        if found or self._repairs_wait:
            self.repair_records()
        return found

    def _recover(self, topic: Topic, suspects: Mapping[str, Mapping[str, str]]) -> int:
        if self._worker in suspects:
            self._release_strays(topic)
        dead, expired = self._gone(suspects)
        if not dead and not expired:
            return 0
        jobs = self._broker.recover(
            topic.name, dead=dead, expired=expired, losses=topic.policy.losses, halting=topic.policy.halts
        )
        for job in jobs:
            again = BECAME[job.state]
            _log.warning(
                "%s %s: its worker %s is gone",
                shown(job.job_id),
                again,
                shown(job.worker) or "(unknown)",
                extra={"event": "recovered", "job": job.job_id},
            )
        return len(jobs)

    def _release_strays(self, topic: Topic) -> None:
        """Release what is leased to us at two looks in a row and runs nowhere.

        A take whose answer was lost can arrive at the server after its own repetition, and lease a second job.
        """
        leased = self._broker.leased([topic.name], self._worker)
        strays = {(lease.job_id, lease.fence): lease for lease in leased if not self._in_flight.knows(lease)}
        for stray in strays.keys() & self._strays.get(topic.name, set()):
            _log.warning("%s: %s is leased to us and runs nowhere: released", topic.name, shown(stray[0]))
            with contextlib.suppress(LeaseLost):
                self._release(strays[stray])
        self._strays[topic.name] = set(strays)

    def _release(self, stray: Lease) -> None:
        try:
            self._broker.settle(stray, released("its worker never heard that it had it"))
        except CancelAsked as error:
            self._broker.settle(stray, cancelled(str(error)))

    def _gone(self, workers: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[str]]:
        """Return the workers that are dead beyond doubt, and those that stopped renewing."""
        dead, expired = [], []
        for worker, facts in workers.items():
            if worker == self._worker:
                continue
            if worker == "" or (facts and is_gone(facts)):
                dead.append(worker)
            elif not facts and self._may_judge_by_expiry():
                expired.append(worker)
        return dead, expired

    def cut_off(self, topics: Collection[str]) -> Mapping[str, str]:
        """Return, by topic, a worker of its jobs that stopped renewing and may yet come back.

        The lock of such a topic has expired too, but is not free: to take it would be to judge by expiry.
        """
        if not topics or self._may_judge_by_expiry():
            return {}
        return {
            topic: worker
            for topic, workers in self._broker.suspects(topics).items()
            for worker, facts in workers.items()
            if not facts and worker not in ("", self._worker)
        }

    def _may_judge_by_expiry(self) -> bool:
        """After an outage of the broker everybody looks dead, until everybody had the time to renew."""
        return self._connected_for_s() >= self._lease_s

    def free(self, holders: Collection[Holder]) -> list[Holder]:
        """Free the locks of workers that are dead beyond doubt; return the holders that are left."""
        left = []
        for holder in holders:
            if holder.facts and is_gone(holder.facts):
                self._broker.unlock(holder)
            else:
                left.append(holder)
        return left

    def repair_records(self) -> None:
        """Publish what was sealed and settled, delete what came to nothing, and report what nobody knows.

        While another process of this host is at it, perhaps a stopped one, that waits for the next look.
        """
        self._repairs_wait = not self._repairs.repair()
