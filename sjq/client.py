"""The client: what a program can ask of sjq, and all that the command line does. Thread-safe and fork-safe."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import msgspec
from msgspec.structs import replace

from sjq import config as configuration
from sjq import identity
from sjq.brokers import open_broker
from sjq.brokers.base import Broker, Counts, Holder
from sjq.clock import monotonic
from sjq.config import Config
from sjq.errors import BrokerDown, LockHeld, NoSuchJob, UsageError, WrongState
from sjq.job_policy import JobPolicy, checked
from sjq.jobs import Job, JobEvent, Message, check_topic, new_message, shown
from sjq.states import ENDED, RETRYABLE, State
from sjq.topic_status import TopicStatus, topic_status, why_stopped

if TYPE_CHECKING:
    from sjq.recorded_jobs import RecordedJobs
    from sjq.records import Records

MOST_PER_BATCH = 1000
PATIENCE_S = 5.0
"""How long a call waits for a broker that is away, before it raises BrokerDown."""
_FEW = 3
_OPEN_OR_FAILED = (State.PROCESSING, State.INCOMING, State.SCHEDULED, State.FAILED, State.TIMEDOUT, State.CANCELLED)
ANSWER_S = 10.0
"""How long it waits for an answer."""
CANCEL_PATIENCE_S = 5.0
"""How long `cancel` waits for the worker of a running job, which should answer within 2 s."""
_LOOK_S = 0.02


class Client:
    """A project's jobs: create them, look at them, send them back, forget them.

    Opens the broker at the first call, so that making a client costs nothing and cannot fail for want of a server.
    """

    def __init__(self, folder: Path | str | None = None, *, config: Config | None = None) -> None:
        """Use the project in `folder`, by default the current directory, or a configuration that is at hand."""
        self.config = config or configuration.load(None if folder is None else Path(folder))
        self._broker: Broker | None = None
        self._pid = 0
        self._opening: dict[int, threading.Lock] = {}

    @cached_property
    def records(self) -> Records:
        """The records of this host."""
        from sjq.records import Records  # noqa: PLC0415 - create does not pay for it

        return Records(self.config.job_data)

    @cached_property
    def _recorded(self) -> RecordedJobs:
        from sjq.recorded_jobs import RecordedJobs  # noqa: PLC0415 - create does not pay for it

        return RecordedJobs(self.records)

    @property
    def broker(self) -> Broker:
        """The broker, opened when it is first needed; a forked child opens its own."""
        pid = os.getpid()
        # A lock for each process: a child that was forked while a thread held ours would wait for ever.
        with self._opening.setdefault(pid, threading.Lock()):
            if self._broker is None or self._pid != pid:
                self._broker = open_broker(self.config, patience_s=PATIENCE_S, answer_s=ANSWER_S)
                self._pid = pid
            return self._broker

    def close(self) -> None:
        """Free the connections."""
        if self._broker is not None and self._pid == os.getpid():
            self._broker.close()
        self._broker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Creating.

    def create(
        self,
        topic: str,
        data: object = msgspec.Raw(b"{}"),
        *,
        attachment: bytes | Path | None = None,
        parent_job_id: str | None = None,
        durable: bool = False,
        **policy: Unpack[JobPolicy],
    ) -> str:
        """Create a job and return its id; if `durable`, when it would survive a power cut.

        `data` is any JSON value, or JSON text as `msgspec.Raw`.
        An attachment is its bytes, or the path of a file that holds them. `retries`, `backoff` and `timeout` win over
        the topic's policy. Raises UsageError for what cannot be.
        """
        own = checked(**policy)
        if durable:
            self.broker.promise_disk()
        message = new_message(topic, data, attachment=_content(attachment), parent_job_id=parent_job_id, **own)
        self._create([message], durable=durable)
        return message.job_id

    def _create(self, messages: Sequence[Message], *, durable: bool) -> None:
        which = shown(messages[0].job_id) + (f" and {len(messages) - 1} more" if len(messages) > 1 else "")
        try:
            self.broker.create(messages)
        except BrokerDown as error:
            if not error.perhaps_done and len(messages) == 1:  # of several, some may have gone before
                raise
            raise BrokerDown(f"{error}; {which} may have been created all the same: sjq show tells") from error
        if durable:
            try:
                self.broker.await_disk()
            except BrokerDown as error:
                raise BrokerDown(f"{error}; {which} is created, but may not survive a power cut") from error

    def create_many(
        self,
        topic: str,
        items: Iterable[object],
        *,
        parent_job_id: str | None = None,
        durable: bool = False,
        **policy: Unpack[JobPolicy],
    ) -> Iterator[str]:
        """Create a job for each item, and yield their ids as they are created, a thousand at a time.

        Lazy: nothing is created until the ids are asked for. A wrong item ends it with UsageError, before any job of
        its thousand is created.
        """
        own = checked(**policy)
        if durable:
            self.broker.promise_disk()
        messages = (new_message(topic, data, parent_job_id=parent_job_id, **own) for data in items)
        while batch := list(islice(messages, MOST_PER_BATCH)):
            self._create(batch, durable=durable)
            yield from (message.job_id for message in batch)

    # Looking.

    def get(self, job_id: str) -> Job:
        """Return a job as the broker knows it, or else as its record here tells. Raises NoSuchJob."""
        job = self.broker.get(job_id)
        if job is None or (job.state is State.SUCCEEDED and job.data is None):
            recorded = self._recorded.get(job_id)
            if job is None or recorded is None:
                job = job or recorded or self.broker.get(job_id)
            elif recorded.state is State.SUCCEEDED:
                job = replace(recorded, fence=job.fence)
            else:  # an earlier attempt's: the one that succeeded ran elsewhere, or is about to be published
                job = replace(job, data=recorded.data, parent_job_id=recorded.parent_job_id)
        if job is None:
            raise NoSuchJob(f"no job {shown(job_id)}: neither the broker nor {self.config.job_data.name}/ knows it")
        return job

    def resolve(self, prefix: str) -> str:
        """Return the one id that is `prefix` or starts with it. Raises NoSuchJob, or UsageError when several do."""
        if not prefix or "\0" in prefix:
            raise UsageError(f"{prefix!r} is the beginning of no id: name at least one character of it")
        if self.broker.get(prefix) is not None or self.records.metadata(prefix) is not None:
            return prefix
        found = set(self.broker.find(prefix, _FEW + 1)) | set(self._recorded.find(prefix, _FEW + 1))
        if not found:
            raise NoSuchJob(f"no job starts with {shown(prefix)}")
        if len(found) > 1:
            some = ", ".join(shown(job_id) for job_id in sorted(found)[:_FEW])
            more = ", ..." if len(found) > _FEW else ""
            raise UsageError(f"{shown(prefix)} is the beginning of several ids: {some}{more}")
        return found.pop()

    def list(self, topic: str | None = None, state: State | str | None = None, *, limit: int = 100) -> Sequence[Job]:
        """Return jobs by topic and state: what the broker has, then what has succeeded by the records here, new first.

        At most `limit` of each topic and state; without `data`, which `get` returns.
        """
        if state is not None and state not in list(State):
            raise UsageError(f"{state!r} is no state: the states are {', '.join(State)}")
        wanted = [State(state)] if state else _OPEN_OR_FAILED
        topics = self.broker.topics() if topic is None else [check_topic(topic)]
        jobs = [job for name in topics for one in wanted for job in self.broker.list(name, one, limit=limit)]
        if state is None or State(state) is State.SUCCEEDED:
            jobs += self._recorded.list(topic, limit)
        return jobs

    def children(self, job_id: str) -> Sequence[str]:
        """Return the ids of the jobs that this one's attempt created, as its record here tells."""
        metadata = self.records.metadata(job_id) or {}
        return [str(child) for child in metadata.get("next_job_ids", [])]

    def counts(self) -> Mapping[str, Mapping[State, int]]:
        """Return how many jobs of each topic are in which state; `succeeded` counts all that ever did."""
        return {
            count.topic: {**count.states, State.SUCCEEDED: count.totals.get("succeeded", 0)}
            for count in self._all_counts()
        }

    def status(self) -> Sequence[TopicStatus]:
        """Return how each topic does, sorted by name: those with jobs, and those with a handler here."""
        from sjq.topics import find_topics  # noqa: PLC0415 - create does not pay for it

        counts = self._all_counts()
        handled = find_topics(self.config)[0]
        holders = {holder.topic: holder for holder in self.broker.holders([count.topic for count in counts])}
        return [topic_status(count, holders.get(count.topic), handled=count.topic in handled) for count in counts]

    def known_topics(self) -> Sequence[str]:
        """Return the topics that the broker has heard of, and those with a handler here."""
        from sjq.topics import find_topics  # noqa: PLC0415 - create does not pay for it

        return sorted({*self.broker.topics(), *find_topics(self.config)[0]})

    def _all_counts(self) -> Sequence[Counts]:
        return self.broker.counts(self.known_topics())

    def events(self, after: str = "0", *, limit: int = 1000) -> Sequence[JobEvent]:
        """Return up to `limit` events behind the position `after`, oldest first."""
        return self.broker.events(after, limit)

    # Sending back and forgetting.

    def retry(self, topics: Collection[str] = (), *, job_ids: Collection[str] = ()) -> Sequence[str]:
        """Send `failed` and `timedout` jobs of topics, or single jobs, back to wait; return their ids.

        Without topics and ids: of all topics. A `cancelled` job goes back only by its id. Raises WrongState for an id
        whose job has not ended badly.
        """
        sent = [*self._retry_by_id(job_ids)] if job_ids else []
        named = [check_topic(topic) for topic in topics]
        for topic in named or (() if job_ids else self.broker.topics()):  # other programs may name theirs as they like
            sent += self.broker.requeue(topic, RETRYABLE)
        return sent

    def _retry_by_id(self, job_ids: Collection[str]) -> Iterator[str]:
        """Send jobs back in their old order, however they are named; none when one of them cannot go."""
        allowed = [State.FAILED, State.TIMEDOUT, State.CANCELLED]
        by_topic: defaultdict[str, set[str]] = defaultdict(set)
        for job_id in job_ids:
            job = self.get(job_id)
            if job.state not in allowed:
                raise WrongState(
                    f"job {shown(job_id)} is {job.state}: only failed, timedout and cancelled jobs go back"
                )
            if self.broker.get(job_id) is None:
                raise WrongState(f"job {shown(job_id)} is {job.state}, but only its record is left: create it anew")
            by_topic[job.topic or ""].add(job_id)
        for topic, ids in by_topic.items():
            yield from self.broker.requeue(topic, allowed, ids)

    def cancel(self, job_id: str, *, patience_s: float = CANCEL_PATIENCE_S) -> State:
        """Cancel a job that waits or runs, and return its state then.

        That is `cancelled`, or how it ended if it was faster, or `processing` when its worker has not stopped it within
        `patience_s`, or is dead; it never runs again then. Raises NoSuchJob, and WrongState for a job that had ended.
        """
        found = self.broker.cancel(job_id, f"cancelled by {identity.person()}")
        if found is None:
            return self._cancelled_already(job_id)
        if found in (State.INCOMING, State.SCHEDULED, State.CANCELLED):
            return State.CANCELLED
        if found in ENDED:
            raise WrongState(f"job {shown(job_id)} is {found}: only a job that has not ended can be cancelled")
        deadline = monotonic() + patience_s
        job = self.broker.get(job_id)
        if job and self.is_abandoned(job):
            return job.state
        while job and job.state not in ENDED and monotonic() < deadline:
            time.sleep(_LOOK_S)
            job = self.broker.get(job_id)
        return self.get(job_id).state if job is None else job.state

    def is_abandoned(self, job: Job) -> bool:
        """Tell whether a job is running by its state, and its worker is dead, or has been silent for a whole lease."""
        if job.state is not State.PROCESSING or job.topic is None:
            return False
        workers = self.broker.suspects([job.topic]).get(job.topic, {})
        return any(worker == job.worker and (not facts or identity.is_dead(facts)) for worker, facts in workers.items())

    def _cancelled_already(self, job_id: str) -> State:
        """Say of a job that the broker could not cancel why that is; return `cancelled` for one that was before."""
        job = self.get(job_id)
        if self.broker.get(job_id) is not None:
            raise WrongState(f"job {shown(job_id)} has a message, but waits on no topic yet: cancel it when it does")
        if job.state is not State.CANCELLED:
            where = "" if job.state in ENDED else ", but only its record is left: nothing runs it"
            raise WrongState(
                f"job {shown(job_id)} is {job.state}{where}; only a job that has not ended can be cancelled"
            )
        return job.state

    def pause(self, topics: Collection[str]) -> None:
        """Let no worker take jobs of these topics until they are resumed; what runs goes on."""
        self.broker.pause([check_topic(topic) for topic in topics], identity.person())

    def resume(self, topics: Collection[str]) -> Mapping[str, str]:
        """Let jobs of these topics be taken again; return those that were paused, or had halted, and why in words."""
        resumed = self.broker.resume([check_topic(topic) for topic in topics])
        return {topic: why_stopped(pause) for topic, pause in resumed.items()}

    def delete(self, job_ids: Collection[str]) -> Sequence[str]:
        """Make the broker forget ended jobs; their records stay. Returns the ids of those that it knew.

        Raises WrongState, before anything is deleted, when one has not ended.
        """
        return self.broker.delete(job_ids)

    def purge(self, topic: str, states: Collection[State] = (State.FAILED, State.TIMEDOUT)) -> int:
        """Make the broker forget all jobs of a topic in these states; their records stay. Returns how many."""
        return sum(len(self.broker.delete(ids)) for ids in self._purgeable(topic, states))

    def count_purgeable(self, topic: str, states: Collection[State] = (State.FAILED, State.TIMEDOUT)) -> int:
        """Return how many jobs `purge` would make the broker forget."""
        return sum(len(ids) for ids in self._purgeable(topic, states))

    def _purgeable(self, topic: str, states: Collection[State]) -> Iterator[Sequence[str]]:
        check_topic(topic)
        if unended := [state for state in states if state not in ENDED]:
            raise WrongState(f"{unended[0]} jobs have not ended: only ended ones can be purged")
        for state in states:
            jobs = self.broker.list(topic, state, limit=10**9)
            for start in range(0, len(jobs), MOST_PER_BATCH):
                yield [job.job_id for job in jobs[start : start + MOST_PER_BATCH]]

    def unlock(self, topics: Collection[str] = (), *, force: bool = False) -> Sequence[Holder]:
        """Free the locks of topics, by default of all; return who held them.

        Raises LockHeld, before anything is freed, for a holder that lives, unless forced. A lock without expiry counts
        as dead: only an older sjq made such.
        """
        topics = [check_topic(topic) for topic in topics] or self.broker.topics()
        if not force:
            self.refuse_held(topics, "stop it, or use --force")
        return [holder for holder in self.broker.holders(topics) if self.broker.unlock(holder)]

    def refuse_held(self, topics: Collection[str], advice: str = "stop it first") -> None:
        """Raise LockHeld when a worker that lives, as far as anybody can tell, holds one of the topics."""
        for holder in self.broker.holders(topics):
            if holder.expires and not identity.is_dead(holder.facts):
                raise LockHeld(f"{holder.described()}: {advice}")


def _content(attachment: bytes | Path | None) -> bytes | None:
    if isinstance(attachment, Path):
        try:
            return attachment.read_bytes()
        except OSError as error:
            raise UsageError(f"the attachment {attachment} cannot be read: {error.strerror}") from None
    if attachment is not None and not isinstance(attachment, bytes):
        raise UsageError(f"the attachment is {attachment!r}; expected its bytes, or a Path to a file that holds them")
    return attachment
