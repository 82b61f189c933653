"""One attempt, as a list of steps."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sjq.brokers.base import Broker
from sjq.config import TopicPolicy
from sjq.errors import CancelAsked, Error, KeyTaken, LeaseLost, MessageError
from sjq.executors.base import Executor, Exit, Limits, Runtime, Task
from sjq.jobs import Lease, shown
from sjq.outcomes import Outcome, cancelled, failed, released
from sjq.plain_file import NoRoom
from sjq.records import Record, Records
from sjq.states import Reason, State
from sjq.worker.disk import NO_ROOM, shortage
from sjq.worker.heartbeat import Heartbeat, longer
from sjq.worker.in_flight import InFlight
from sjq.worker.judgement import judge
from sjq.worker.lock_file import LockFile
from sjq.worker.metadata import metadata
from sjq.worker.retries import next_step

_log = logging.getLogger("sjq.worker")


MOST_EXCUSES = 3
"""How often a full disk excuses a failure: a handler that fills it itself must not go round for ever."""


class NotPublished(Exception):
    """The attempt has ended and counts, but its record could not get its final names yet."""

    def __init__(self, record: Record, why: OSError) -> None:
        super().__init__(f"its record cannot be published: {why.strerror or why}")
        self.record = record


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Runs attempts; what every slot of a worker shares."""

    worker: str
    root: Path
    broker: Broker
    executor: Executor
    records: Records
    heartbeat: Heartbeat
    in_flight: InFlight
    lock_file: LockFile
    policy_of: Callable[[str], TopicPolicy]

    def run(self, lease: Lease, runtime: Runtime, slot: int) -> bool:
        """Run one attempt that has begun, from its input to its published record; tell whether it was published.

        Raises OSError or EnvironmentFailed when this machine cannot run it now; the job is released before.
        """
        try:
            return self._run(lease, runtime, slot)
        except LeaseLost as error:
            _log.warning(
                "%s: %s: %s",
                lease.topic,
                shown(lease.job_id),
                error,
                extra={"event": "lease_lost", "job": lease.job_id},
            )
            return False
        finally:
            self.in_flight.end(lease)

    def _run(self, lease: Lease, runtime: Runtime, slot: int) -> bool:
        record = self.records.of(lease)
        try:
            self.records.begin(record, lease)
            task = _task(lease, record, runtime)
            _say_start(lease)
            self.in_flight.running(lease, task)
            end = self.executor.run(task)
            outcome = self._outcome(lease, record, task, end)
            if outcome.state is not State.INCOMING:
                outcome, told = self._sealed(lease, record, task, end, outcome)
        except Exception as error:
            # A fault of this machine, or of our own: the job has done nothing to deserve it.
            self._give_up(lease, record, released(f"it could not be run here: {error}"))
            raise
        if outcome.state is State.INCOMING:
            self._give_up(lease, record, outcome)
            return False
        self.lock_file.settling(slot, lease.job_id)
        try:
            outcome = self._settle_or_fail(lease, outcome, record, told)
        except LeaseLost:
            record.discard()
            raise
        _say_end(lease, end, outcome)
        try:
            record.publish()
        except OSError as error:
            raise NotPublished(record, error) from error
        return True

    def _outcome(self, lease: Lease, record: Record, task: Task, end: Exit) -> Outcome:
        policy = task.runtime.topic.policy
        try:
            outcome = judge(
                lease.message,
                end,
                record.returned,
                self.root,
                copies_in=record.folder,
                max_output=policy.max_output,
                complaint=record.complaint(),
                refused_files=end.open_files is not None and record.was_refused_files(),
            )
        except NoRoom as error:
            if lease.interruptions < MOST_EXCUSES:
                raise
            outcome = failed(Reason.OUTPUT, f"its output cannot be used here: {error}")
        if outcome.state is State.SUCCEEDED:
            return outcome
        if (why := self.in_flight.why_cancelled(lease)) is not None:
            return cancelled(why)
        if end.killed and end.breach is None:
            return released("its worker was stopped")
        if (full := shortage(self.records.folder)) and lease.interruptions < MOST_EXCUSES:
            return released(f"{full}, which may be why it ended badly ({outcome.why})")
        return next_step(outcome, lease, policy)

    def _sealed(
        self, lease: Lease, record: Record, task: Task, end: Exit, outcome: Outcome
    ) -> tuple[Outcome, Mapping[str, object]]:
        """Seal the record, and return what it says; one that never finds room goes without logs, then output."""

        def seal(outcome: Outcome) -> tuple[Outcome, Mapping[str, object]]:
            told = metadata(
                lease, record=record, task=task, end=end, outcome=outcome, worker=self.worker, root=self.root
            )
            record.seal(told)
            return outcome, told

        try:
            return seal(outcome)
        except OSError as error:
            if error.errno not in NO_ROOM or lease.interruptions < MOST_EXCUSES:
                raise
        record.cut_logs()
        try:
            return seal(outcome)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            why = f"the disk has no room for what it wrote: {error.strerror}"
        record.drop_output()
        return seal(next_step(failed(Reason.OUTPUT, why), lease, task.runtime.topic.policy))

    def _give_up(self, lease: Lease, record: Record, outcome: Outcome) -> None:
        """Send the job back to wait."""
        with contextlib.suppress(OSError):  # what cannot be removed now is no reason to keep the job
            record.discard()
        try:
            self._settle(lease, outcome)
        except CancelAsked as error:
            outcome = cancelled(str(error))
            self._settle(lease, outcome)
        how = "cancelled" if outcome.state is State.CANCELLED else outcome.reason or "released"
        extra = {"event": str(how), "job": lease.job_id}
        _log.info("%s: %s %s: %s", lease.topic, shown(lease.job_id), how, shown(outcome.why or ""), extra=extra)

    def _settle_or_fail(self, lease: Lease, outcome: Outcome, record: Record, told: Mapping[str, object]) -> Outcome:
        """Settle; an outcome that can never be settled for what it holds becomes one that can."""
        try:
            self._settle(lease, outcome)
        except CancelAsked as error:
            instead = cancelled(str(error))
        except (KeyTaken, MessageError) as error:
            instead = failed(Reason.OUTPUT, f"its end could not be settled: {error}")
        else:
            return outcome
        reason = {"code": instead.reason, "why": instead.why}
        record.seal({**told, "state": instead.state, "reason": reason, "next_job_ids": []})
        if self._settle(lease, instead):
            return instead
        record.seal(told)  # the broker had taken the first one after all
        return outcome

    def _settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Settle, however long the broker is away or refuses us: the outcome is known, and the record is sealed."""
        pause_s, halting = 0.0, self.policy_of(lease.topic).halts
        while True:
            try:
                return self.broker.settle(lease, outcome, halting=halting)
            except (CancelAsked, KeyTaken, LeaseLost, MessageError):
                raise
            except Error as error:
                self.heartbeat.wait_for_broker(str(error), pause_s)
                pause_s = longer(pause_s)


def _task(lease: Lease, record: Record, runtime: Runtime) -> Task:
    policy = runtime.topic.policy
    return Task(
        runtime=runtime,
        job_id=lease.job_id,
        parent_job_id=lease.message.parent_job_id,
        attempt=lease.attempt,
        input=record.input,
        output=record.output,
        attachment=record.attachment,
        stdout=record.stdout,
        stderr=record.stderr,
        limits=Limits(
            timeout_s=policy.timeout if lease.message.timeout is None else lease.message.timeout,
            memory_bytes=policy.memory,
            cpu_s=policy.cpu,
            processes=policy.processes,
            open_files=policy.open_files,
        ),
    )


def _say_start(lease: Lease) -> None:
    which = f" (attempt {lease.attempt})" if lease.attempt > 1 else ""
    _log.info(
        "%s: %s started%s", lease.topic, shown(lease.job_id), which, extra={"event": "started", "job": lease.job_id}
    )


def _say_end(lease: Lease, end: Exit, outcome: Outcome) -> None:
    topics = Counter(message.topic for message in outcome.next_jobs)
    then = ", ".join(f"{topic} ({count})" if count > 1 else topic for topic, count in topics.items())
    how, again = str(outcome.state), ""
    if outcome.state is State.SCHEDULED:
        how, again = "failed", f"; again in {outcome.delay_s or 0.0:.3g} s"
    _log.log(
        logging.INFO if outcome.state is State.SUCCEEDED else logging.WARNING,
        "%s: %s %s after %.2f s%s%s",
        lease.topic,
        shown(lease.job_id),
        how,
        end.elapsed_s,
        f", next: {then}" if then else f": {shown(outcome.why)}" if outcome.why else "",
        again,
        extra={"event": str(outcome.state), "job": lease.job_id, "elapsed_s": end.elapsed_s},
    )
