"""The contract of brokers: where jobs wait and their states live. Every broker passes `tests/conformance/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from sjq.jobs import Due, Job, JobEvent, Lease, Malformed, Message, shown
from sjq.outcomes import Outcome
from sjq.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a topic's lock."""

    topic: str
    worker: str
    facts: Mapping[str, str]
    """What the broker knows of the worker, for `identity.is_dead`; empty when it knows nothing (any more)."""
    expires: bool
    """False for the lock of an older sjq, which nobody renews."""

    @property
    def since(self) -> str | None:
        """When the worker locked the topic, as it says itself; before it has said so, when it started."""
        try:
            topics = msgspec.json.decode(self.facts.get("topics", "{}"), type=dict[str, str])
        except msgspec.DecodeError:
            topics = {}
        return topics.get(self.topic) or self.facts.get("started")

    def described(self) -> str:
        """Return who holds which topic since when, as a terminal may show it."""
        since = f", since {shown(self.since)}" if self.since else ""
        return f"topic {self.topic!r} is held by worker {shown(self.worker)}{since}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A job whose worker is gone, and what became of it."""

    job_id: str
    worker: str
    state: State
    """`incoming`, `failed` when it was lost too often, or `cancelled` when a person had asked for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a heartbeat brought back."""

    lost_locks: frozenset[str]
    lost_leases: frozenset[str]
    """Fences that no longer are the fences of their jobs."""
    time: float
    """Seconds since the epoch, by the broker's clock, by which locks and workers expire."""
    cancelled: Mapping[str, str] = field(default_factory=dict)
    """Fences of attempts that a person wants to end -> why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why no job of a topic is taken by anybody."""

    by: str | None = None
    """Who paused it."""
    since: float | None = None
    """Since when, in seconds since the epoch, by the broker's clock."""
    halted_by: str | None = None
    """The failed job at which it stopped by itself, as its policy says; it may be paused as well."""
    halted_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many jobs of a topic are in which state."""

    topic: str
    states: Mapping[State, int]
    totals: Mapping[str, int] = field(default_factory=dict)
    """How often each event happened since the counters began; `succeeded` among them."""
    pause: Pause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something in the broker that no step of sjq leaves so."""

    code: str
    """What is wrong, in one word."""
    where: str
    """The id or the key, as a terminal may show it."""
    what: str
    """What is wrong, in words that go on from `where`."""
    repair: str | None
    """What `mend` would do; None where that is for people to decide."""
    job_id: str | None = None
    place: str = ""
    topic: str = ""
    patient: bool = False
    """Whether somebody may be about to put it right: then it is mended only if it is still there a lease later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """A job that may be forgotten: if it is in this state, since `before` or longer (in seconds since the epoch)."""

    job_id: str
    state: State
    before: float


class Broker(ABC):
    """Where jobs wait and their states live. Thread-safe.

    Every method raises BrokerDown when the broker does not answer.
    """

    # What programs and people create.

    @abstractmethod
    def create(self, messages: Sequence[Message]) -> None:
        """Let the jobs wait, each with its event. Repeating it after a lost answer creates nothing twice."""

    @abstractmethod
    def promise_disk(self) -> None:
        """Raise ConfigError when the broker's settings do not allow `await_disk` to keep its word."""

    @abstractmethod
    def await_disk(self) -> None:
        """Return when all that the broker accepted before would survive a power cut.

        Raises ConfigError when the broker's settings promise no such thing.
        """

    # The life of an attempt.

    @abstractmethod
    def take(
        self,
        topic: str,
        worker: str,
        fence: str,
        *,
        published: Collection[str] = (),
        again: bool = False,
        anew: bool = True,
        halting: bool = False,
    ) -> Lease | Malformed | Due | None:
        """Lease the next job of `topic` under `fence`, which no lease ever had before. Never blocks.

        Scheduled jobs whose time has come wait again first. What cannot be a job is settled as `failed (message)` and
        comes back as Malformed, and halts the topic if `halting`. Due says that nothing waits yet; None is an empty
        queue or a paused topic. `published` are ids whose records are in place. With `again`, the call repeats one
        whose answer was lost: it returns the job that the lost call took, if it took one; without `anew`, it takes no
        other.
        """

    @abstractmethod
    def settle(self, lease: Lease, outcome: Outcome, *, halting: bool = False) -> bool:
        """End the attempt: its end, its next jobs, the counters and the event are one step.

        True when this call ended it, False when an earlier one with the same fence had. Raises LeaseLost when
        `lease` is no longer the job's current one, and CancelAsked when the job was to wait again and a person has
        cancelled it. A failure halts the topic in the same step if `halting`.
        """

    @abstractmethod
    def confirm(self, job_ids: Collection[str]) -> None:
        """Note that the records of these ended jobs are published, so that their stubs may expire."""

    # Workers.

    @abstractmethod
    def heartbeat(
        self,
        worker: str,
        facts: Mapping[str, str],
        *,
        lease_s: float,
        topics: Collection[str] = (),
        leases: Collection[Lease] = (),
        expired: bool = False,
    ) -> Pulse:
        """Keep the worker and its locks alive for `lease_s`, in one round trip; say what it lost meanwhile.

        A lock that nobody holds is lost too, since somebody freed it; unless our locks may have `expired`.
        """

    @abstractmethod
    def leave(self, worker: str, topics: Collection[str]) -> None:
        """Forget the worker and free its locks."""

    @abstractmethod
    def workers(self) -> dict[str, dict[str, str]]:
        """Return the facts of every worker that is alive, by id."""

    @abstractmethod
    def lock(self, topics: Collection[str], worker: str, lease_s: float) -> Sequence[Holder]:
        """Lock all of `topics` for the worker, or none; return who holds those that are not free."""

    @abstractmethod
    def unlock(self, holder: Holder) -> bool:
        """Free a topic if `holder` still is its holder; tell whether it was."""

    @abstractmethod
    def holders(self, topics: Collection[str]) -> Sequence[Holder]:
        """Return who holds which of `topics`."""

    @abstractmethod
    def suspects(self, topics: Collection[str]) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        """Return, by topic, the workers of its leased jobs with their facts, which are empty for those not alive.

        The empty id stands for jobs that are leased to nobody, as an older sjq left them.
        """

    @abstractmethod
    def leased(self, topics: Collection[str], worker: str) -> Sequence[Lease]:
        """Return what of these topics is leased to a worker; of the messages only id and topic."""

    @abstractmethod
    def recover(
        self,
        topic: str,
        *,
        dead: Collection[str],
        expired: Collection[str],
        losses: int,
        halting: bool = False,
        look: bool = False,
    ) -> Sequence[Recovered]:
        """Take the jobs of gone workers (as `suspects` names them) back, to be taken next in their old order.

        `dead` ones are gone beyond doubt; `expired` ones only if they are still not alive when it happens. A job
        that was lost `losses` times is `failed (lost)`, which halts the topic if `halting`. With `look` nothing is
        changed: the states are those that the jobs would have.
        """

    @abstractmethod
    def wakeup(self, topics: Collection[str] | None, worker: str, on_order: Callable[[], None]) -> Wakeup:
        """Return what tells the worker that topics may have work; None is every topic there is or will be.

        `on_order` is called when somebody has an order for the worker.
        """

    # What people ask for. These may take time in proportion to what they look at.

    @abstractmethod
    def get(self, job_id: str, *, data: bool = True) -> Job | None:
        """Return the job with its data, or None when the broker does not know it.

        Without `data`, its message is not read: what only that tells is left out.
        """

    @abstractmethod
    def attachment(self, job_id: str) -> bytes | None:
        """Return the attachment of a job that has not succeeded, or None when it has none."""

    @abstractmethod
    def find(self, prefix: str, limit: int) -> Sequence[str]:
        """Return up to `limit` ids that the broker knows and that start with `prefix`."""

    @abstractmethod
    def list(self, topic: str, state: State, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        """Return jobs of a topic in a state, without their data, as they stand there from position `after` on."""

    @abstractmethod
    def topics(self) -> Sequence[str]:
        """Return every topic that the broker has heard of, sorted."""

    @abstractmethod
    def counts(self, topics: Collection[str]) -> Sequence[Counts]:
        """Return how many jobs of each topic are in which state, all at one instant."""

    @abstractmethod
    def requeue(self, topic: str, states: Collection[State], job_ids: Collection[str] | None = None) -> Sequence[str]:
        """Send ended jobs of a topic back to wait, to be taken next in their old order; return their ids."""

    @abstractmethod
    def cancel(self, job_id: str, why: str) -> State | None:
        """Cancel a job that waits; have the worker of a running one stop it, and never let it run again.

        Returns the state in which the job was found, None for one that the broker does not know. An ended job stays
        as it is.
        """

    @abstractmethod
    def pause(self, topics: Collection[str], by: str) -> None:
        """Let nobody take jobs of these topics until they are resumed; what runs goes on."""

    @abstractmethod
    def resume(self, topics: Collection[str]) -> Mapping[str, Pause]:
        """Let jobs of these topics be taken again; return those that were paused or halted, and why."""

    @abstractmethod
    def delete(self, job_ids: Collection[str]) -> Sequence[str]:
        """Forget ended jobs; return the ids of those that were. Raises WrongState for a job that has not ended."""

    @abstractmethod
    def events(self, after: str = "0", limit: int = 1000) -> Sequence[JobEvent]:
        """Return events behind position `after`, oldest first."""

    # Upkeep. These look at everything, in bounded steps, and may run while jobs come and go.

    @abstractmethod
    def check(self) -> Iterator[Fault]:
        """Yield what is wrong, each seen at one instant. Of dead workers `suspects` and `holders` tell."""

    @abstractmethod
    def mend(self, fault: Fault, *, lease_s: float, halting: bool = False) -> bool:
        """Mend a fault if it is still there, which is looked at in the same step; tell whether it was.

        A job that fails by it halts its topic if `halting`.
        """

    @abstractmethod
    def unconfirmed(self) -> Iterator[Job]:
        """Yield the succeeded jobs of which nobody confirmed that their records are published."""

    @abstractmethod
    def ended(self, topic: str) -> Iterator[Job]:
        """Yield the topic's jobs that ended badly, the last first; those that were yielded may be forgotten."""

    @abstractmethod
    def now(self) -> float:
        """Return the broker's time, in seconds since the epoch: that by which ends are noted."""

    @abstractmethod
    def forget(self, jobs: Sequence[Outdated], *, look: bool = False) -> Sequence[str]:
        """Forget jobs that are still as they are described; return the ids that the broker does not know (any more).

        Their records may go. With `look` nothing is changed: the ids are those that it would not know.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return where the broker is, without secrets."""

    @abstractmethod
    def close(self) -> None:
        """Free what the broker holds on this side."""


class Wakeup(ABC):
    """Tells a worker that topics may have work, or that there are orders for it.

    False alarms are allowed, missed ones are not, but for orders, of which the next heartbeat hears in any case.
    """

    hears_orders: bool
    """Whether orders are told at once; where they are not, one has to ask."""

    @abstractmethod
    def mark(self, topic: str) -> int:
        """Return a mark of now, to be set before the take that turns out empty."""

    @abstractmethod
    def wait(self, topic: str, mark: int, timeout_s: float) -> bool:
        """Return as soon as something happened to `topic` since `mark`, or after `timeout_s`; tell which."""

    @abstractmethod
    def poke(self) -> None:
        """Wake everybody who waits."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""
