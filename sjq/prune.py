"""Pruning: old jobs are forgotten and their records go, so that `job_data/` and the broker stay bounded.

Never what waits, runs or is not published: the broker decides, in the step in which it forgets, and only then files are
removed. They go in small portions, each with a rest several times as long as it took: a file system that has
thousands of files to delete at once makes everybody beside it wait for seconds.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sjq import clock
from sjq.brokers.base import Broker, Outdated
from sjq.config import Config
from sjq.errors import LockHeld
from sjq.job_data import JobData
from sjq.jobs import Job, id_from_bytes, id_to_bytes, worker_of
from sjq.records import Record, Records, digest_of, file_name
from sjq.states import ENDED, RETRYABLE, State

PORTION = 20
"""How many jobs are forgotten, and their records removed, before a rest."""

LOOKS = 500
"""How many files are only looked at before a rest."""

REST = 4
"""How many times as long as a portion took is the rest behind it."""

T = TypeVar("T")
_When = Callable[[str, State], float | None]
"""When a job of a topic and state must have ended to go; None where it may not go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which ended jobs go: those above an age, and the oldest while `job_data/` is above a size.

    For its size, what a person could still send back goes only when all else has gone.
    """

    configured: Config | None = None
    """The configuration whose ages count, where no other is given."""
    older_than: float | None = None
    """Seconds."""
    size: int | None = None
    """Bytes."""
    states: frozenset[State] = ENDED
    topic: str | None = None

    def cover(self, topic: str, state: State) -> bool:
        """Tell whether jobs of a topic and state may go at all."""
        return state in self.states and self.topic in (None, topic)

    def age(self, topic: str, state: State) -> float | None:
        """Return the age in seconds above which such a job goes; None where age is no reason."""
        if not self.cover(topic, state):
            return None
        return self.configured.policy(topic).retention.get(state) if self.configured else self.older_than

    def shortest_age(self) -> float | None:
        """Return the age that nothing is below that goes; None where age is no reason."""
        if self.configured is None:
            return self.older_than
        policies = (self.configured.defaults, *self.configured.topics.values())
        return min((age for policy in policies for age in policy.retention.values()), default=None)

    def __bool__(self) -> bool:
        return self.size is not None or self.shortest_age() is not None


@dataclass(slots=True)
class Pruned:
    """How much of a topic and state went, or would go."""

    jobs: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Due:
    """A job that may go."""

    job_id: str
    topic: str
    state: State
    end: float
    before: float
    """When it must have ended, for the broker to forget it."""


_TurnToGo = tuple[bool, int]
_NOBODYS: _TurnToGo = (False, -1)


def _turn_to_go(due: _Due) -> _TurnToGo:
    """Return what sorts jobs by whose turn it is where there is no room: by the second, who waits for a person last."""
    return due.state in RETRYABLE, int(due.end)


class Stopped(Exception):
    """Nobody waits for the pruning any more."""


class Pace:
    """Rests behind each portion of work, in proportion to it."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._since = clock.monotonic()

    def rest(self) -> None:
        """Rest from what was done since the last rest. Raises Stopped when there is to be no more."""
        if self._stopping.wait(REST * (clock.monotonic() - self._since)):
            raise Stopped
        self._since = clock.monotonic()


class Turn:
    """The right to prune, which one process on a host has at a time, and a note of what it is about to do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def note(self, job_ids: Iterable[str]) -> None:
        """Write down which jobs are about to be forgotten: nobody could find those that have no metadata again."""
        text = b"\0".join(map(id_to_bytes, job_ids))
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def noted(self) -> list[str]:
        """Return what was written down last."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        return [id_from_bytes(raw_id) for raw_id in text.split(b"\0") if raw_id]


@contextmanager
def turn_to_prune(state_folder: Path) -> Iterator[Turn]:
    """Prune alone on this host; raises LockHeld while another does."""
    path = turn_file(state_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"{path} is locked: another process prunes here; wait for its end") from None
        yield Turn(file.fileno())


def turn_file(state_folder: Path) -> Path:
    """Return the file that is locked while somebody prunes, and was written when somebody did last."""
    return state_folder / "pruning"


class Pruning:
    """One pass over the broker and over `job_data/`."""

    def __init__(self, broker: Broker, folder: Path, rules: Rules, pace: Pace, turn: Turn | None) -> None:
        """Look only, and change nothing, without a turn."""
        self._broker, self._rules, self._pace, self._turn = broker, rules, pace, turn
        self._records, self._job_data = Records(folder), JobData(folder)
        self._now = min(clock.now(), broker.now())  # a clock that is ahead would prune what has just ended
        self._pruned: defaultdict[tuple[str, State], Pruned] = defaultdict(Pruned)
        self._told: set[str] = set()
        """Without a turn: the jobs that would be gone by now."""

    def run(self) -> Mapping[tuple[str, State], Pruned]:
        """Prune; return how much of which topic and state went, or without a turn would go."""
        if self._turn is not None:
            self._finish(self._turn)
        if (shortest := self._rules.shortest_age()) is not None:
            self._prune(self._ended_in_broker())
            self._prune(self._ended_before(self._now - shortest, self._by_age))
        if self._rules.size is not None:
            self._prune(self._above(self._rules.size))
        return self._pruned

    def _by_age(self, topic: str, state: State) -> float | None:
        """Return when a job must have ended to go for its age."""
        age = self._rules.age(topic, state)
        return None if age is None else self._now - age

    def _by_size(self, topic: str, state: State) -> float | None:
        return self._now if self._rules.cover(topic, state) else None

    # What may go.

    def _ended_in_broker(self) -> Iterator[_Due]:
        """Yield old jobs that the broker still knows, wherever their records are."""
        for topic in self._broker.topics():
            if any(self._by_age(topic, state) is not None for state in ENDED):
                yield from filter(None, map(self._due, self._broker.ended(topic)))
        alive = self._broker.workers()
        for job in self._broker.unconfirmed():
            if worker_of(job.fence or "") not in alive and (due := self._due(job)):
                yield due

    def _due(self, job: Job) -> _Due | None:
        """Return a job of the broker as one that may go for its age, unless its record is about to be published."""
        before = self._by_age(job.topic or "", job.state)
        if before is None or job.since is None or job.since > before or self._is_unpublished(job.job_id, job.fence):
            return None
        return _Due(job.job_id, job.topic or "", job.state, job.since, before)

    def _is_unpublished(self, job_id: str, fence: str | None) -> bool:
        record = Record(self._job_data.folder, file_name(job_id), digest_of(fence or ""), attached=False)
        return record.own("metadata.json").exists()

    def _ended_before(self, last: float, when: _When) -> Iterator[_Due]:
        """Yield jobs by their records here; those that were written after `last` are not even read."""
        for number, (name, written) in enumerate(self._job_data.written("metadata.json"), 1):
            if number % LOOKS == 0:
                self._pace.rest()
            if written > last or (metadata := self._records.by_name(name)) is None:
                continue
            topic, state = metadata["topic"], State(metadata["state"])
            end, before = clock.from_rfc3339(metadata["end_time"]), when(topic, state)
            if before is not None and end <= before and metadata["job_id"] not in self._told:
                yield _Due(metadata["job_id"], topic, state, end, before)

    def _above(self, size: int) -> Iterator[_Due]:
        """Yield the jobs that have to go for `job_data/` to be no larger than `size`.

        First it is found in which second the last of them ended, so that for a million records a number for each
        second is held, and not for each record; of that second no more go than have to.
        """
        excess = self._excess(size)
        if excess <= 0:
            return
        by_turn: Counter[_TurnToGo] = Counter()
        for due in self._freed(self._ended_before(self._now, self._by_size)):
            by_turn[_turn_to_go(due)] += self._size_of(due)
        last = _NOBODYS
        for last in sorted(by_turn):
            if by_turn[last] >= excess:
                break
            excess -= by_turn[last]
        of_last: list[_Due] = []
        for due in self._ended_before(self._now, self._by_size):
            if _turn_to_go(due) < last:
                yield due
            elif _turn_to_go(due) == last:
                of_last.append(due)
        for due in self._freed(sorted(of_last, key=lambda due: (due.end, due.job_id))):
            if excess <= 0:
                return
            excess -= self._size_of(due)
            yield due

    def _excess(self, size: int) -> int:
        """Return how many bytes `job_data/` has above a size; without a turn, what would be gone by now is."""
        excess = -size - sum(pruned.bytes for pruned in self._pruned.values()) * (self._turn is None)
        for number, found in enumerate(self._job_data.size(), 1):
            excess += found
            if number % LOOKS == 0:
                self._pace.rest()
        return excess

    def _freed(self, found: Iterable[_Due]) -> Iterator[_Due]:
        """Yield those jobs of which the broker says that they may go."""
        for portion in _portions(found):
            yield from self._free(portion, look=True)
            self._pace.rest()

    def _size_of(self, due: _Due) -> int:
        return self._job_data.size_of(file_name(due.job_id))

    # How it goes.

    def _prune(self, found: Iterator[_Due]) -> None:
        for portion in _portions(found):
            self._prune_portion(portion)
            self._pace.rest()

    def _prune_portion(self, portion: list[_Due]) -> None:
        if self._turn is not None:
            self._turn.note(due.job_id for due in portion)
        asked_at = clock.now()
        for due in self._free(portion, look=self._turn is None):
            size = self._size_of(due)
            if self._turn is None:
                self._told.add(due.job_id)
            elif not self._job_data.take_away(file_name(due.job_id), since=asked_at):
                continue
            pruned = self._pruned[due.topic, due.state]
            pruned.jobs += 1
            pruned.bytes += size
        if self._turn is not None:
            self._turn.note(())

    def _free(self, portion: list[_Due], *, look: bool) -> list[_Due]:
        """Have the broker forget jobs, or only say which; return those whose records may go."""
        outdated = [Outdated(job_id=due.job_id, state=due.state, before=due.before) for due in portion]
        unknown = set(self._broker.forget(outdated, look=look))
        return [due for due in portion if due.job_id in unknown]

    def _finish(self, turn: Turn) -> None:
        """Remove what the broker had forgotten when an earlier pruning was killed, and no metadata tells of."""
        noted = turn.noted()
        asked_at = clock.now()
        outdated = [Outdated(job_id=job_id, state=State.SUCCEEDED, before=0.0) for job_id in noted]
        for job_id in self._broker.forget(outdated, look=True) if noted else ():
            if not self._job_data.has_metadata(file_name(job_id)):
                self._job_data.take_away(file_name(job_id), since=asked_at)


def _portions(found: Iterable[T]) -> Iterator[list[T]]:
    items = iter(found)
    while portion := list(islice(items, PORTION)):
        yield portion
