"""The table of states as a model, and brokers that must agree with it whatever is done in whatever order.

The model is written from the table in the design (section 3), not from any broker's code.
"""

from __future__ import annotations

import secrets
import signal
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace as changed
from servers import Server, Wire, until

from sjq.brokers import open_broker
from sjq.brokers.redis.broker import RedisBroker
from sjq.config import Config
from sjq.errors import CancelAsked, LeaseLost, WrongState
from sjq.jobs import Due, Lease, Malformed
from sjq.outcomes import Outcome, cancelled, lost, released, retried, succeeded, timedout
from sjq.states import Reason, State

from .jobs import FACTS, TOPIC, broke, forget, ids_of, job

WORKERS = ("worker-a", "worker-b")
OUTCOMES: dict[str, Outcome] = {
    "success": succeeded(),
    "failure": broke,
    "time limit": timedout("it took 3 s"),
    "cancel": cancelled("asked for"),
    "retry now": retried(broke, 0.0),
    "retry later": retried(broke, 3600.0),
    "release": released("a stop"),
    "loss": lost("its keeper was killed"),
}
WAITS = (State.INCOMING, State.SCHEDULED)
LATER = 3600.0

workers = st.sampled_from(WORKERS)
outcomes = st.sampled_from(list(OUTCOMES))
picks = st.integers(min_value=0, max_value=10**6)


@dataclass
class Known:
    """A job as the table has it."""

    state: State
    fence: str | None = None
    worker: str | None = None
    attempt: int = 0
    tries: int = 0
    losses: int = 0
    interruptions: int = 0
    has_message: bool = True
    given_back: bool = False
    """Whether its last lease ended by giving it back to wait at once."""
    cancel: bool = False
    due: float | None = None


@dataclass
class Model:
    """All jobs of one topic."""

    jobs: dict[str, Known] = field(default_factory=dict)
    incoming: list[str] = field(default_factory=list)
    """Ids that wait, the next one first; an id that was pushed again stands here more than once."""
    processing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Ids that ended badly, in whatever way."""
    paused: bool = False
    events: Counter[str] = field(default_factory=Counter)

    def create(self, job_id: str) -> None:
        if job_id not in self.jobs:
            self.jobs[job_id] = Known(State.INCOMING)
            self.incoming.append(job_id)
            self.events["created"] += 1

    def become_due(self, now: float) -> None:
        """What ran before is taken next, the longest due first; nothing else is scheduled here."""
        due = [(known.due, job_id) for job_id, known in self.jobs.items() if known.due is not None and known.due <= now]
        for _, job_id in due:
            self.jobs[job_id].state, self.jobs[job_id].due = State.INCOMING, None
            self.events["due"] += 1
        self.incoming[:0] = [job_id for _, job_id in sorted(due)]

    def take(self, worker: str, fence: str, *, halting: bool) -> str | None:
        while self.incoming:
            job_id = self.incoming.pop(0)
            known = self.jobs.setdefault(job_id, Known(State.INCOMING, has_message=False))
            if known.state is not State.INCOMING:
                self.events["dropped"] += 1
                continue
            known.state, known.fence, known.worker = State.PROCESSING, fence, worker
            known.attempt += 1
            self.processing.append(job_id)
            self.events["taken"] += 1
            if not known.has_message:
                self.processing.remove(job_id)
                self.put_away(job_id, State.FAILED, halting=halting)
                self.events["failed"] += 1
            return job_id
        return None

    def put_away(self, job_id: str, state: State, *, halting: bool) -> None:
        self.jobs[job_id].state, self.jobs[job_id].due = state, None
        self.failed.append(job_id)
        self.paused = self.paused or (halting and state is not State.CANCELLED)

    def end(self, job_id: str, outcome: Outcome, due: float | None, *, halting: bool) -> None:
        known = self.jobs[job_id]
        self.processing.remove(job_id)
        known.state, known.due, known.given_back = outcome.state, due, outcome.state is State.INCOMING
        if outcome.reason is Reason.LOST:
            known.losses += 1
        elif outcome.state is State.INCOMING:
            known.interruptions += 1
        elif outcome.state not in (State.SUCCEEDED, State.CANCELLED):
            known.tries += 1
        event = str(outcome.state)
        if outcome.state is State.INCOMING:
            self.incoming.insert(0, job_id)
            event = "recovered" if outcome.reason is Reason.LOST else "released"
        elif outcome.state is State.SCHEDULED:
            event = "retried"
        elif outcome.state is not State.SUCCEEDED:
            self.put_away(job_id, outcome.state, halting=halting)
        self.events[event] += 1

    def recover(self, worker: str, losses: int, *, halting: bool) -> dict[str, State]:
        lost = [job_id for job_id in self.processing if self.jobs[job_id].worker == worker]
        back = []
        for job_id in lost:
            known = self.jobs[job_id]
            known.losses += 1
            known.fence, known.given_back = None, False
            self.processing.remove(job_id)
            if known.cancel:
                self.put_away(job_id, State.CANCELLED, halting=halting)
                self.events["cancelled"] += 1
            elif known.losses >= losses:
                self.put_away(job_id, State.FAILED, halting=halting)
                self.events["lost"] += 1
            else:
                known.state = State.INCOMING
                back.append(job_id)
                self.events["recovered"] += 1
        self.incoming[:0] = back
        return {job_id: self.jobs[job_id].state for job_id in lost}

    def cancel(self, job_id: str) -> State:
        known = self.jobs[job_id]
        was = known.state
        if was is State.PROCESSING:
            known.cancel = True
        if was in WAITS:
            self.incoming = [other for other in self.incoming if other != job_id]
            self.put_away(job_id, State.CANCELLED, halting=False)
            self.events["cancelled"] += 1
        return was

    def requeue(self, ids: list[str]) -> list[str]:
        moved = [job_id for job_id in self.failed if job_id in ids]
        for job_id in moved:
            self.failed.remove(job_id)
            known = self.jobs[job_id]
            known.state = State.INCOMING
            known.tries = known.losses = known.interruptions = 0
            known.given_back = known.cancel = False
            self.events["requeued"] += 1
        self.incoming[:0] = moved
        return moved

    def delete(self, job_id: str) -> None:
        if job_id in self.failed:
            self.failed.remove(job_id)
        del self.jobs[job_id]
        self.events["deleted"] += 1

    def waiting(self) -> list[str]:
        """Return what waits in truth: not the ids that were pushed again while their job was elsewhere."""
        return [
            job_id for job_id in self.incoming if job_id not in self.jobs or self.jobs[job_id].state is State.INCOMING
        ]


class BrokerAgainstModel(RuleBasedStateMachine):
    """Does the same to a broker and to the model."""

    config: ClassVar[Config]
    server: ClassVar[Server | None] = None
    """One that is ours to restart."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = open_broker(replace(self.config, prefix=f"{self.config.prefix}{secrets.token_hex(4)}:"))
        assert isinstance(self.broker, RedisBroker)
        self.wire = Wire(self.broker.server.client, self.broker.server.prefix)
        self.model = Model()
        self.leases: list[Lease] = []
        self.numbers = count(1)

    def some(self, pick: int) -> str:
        ids = sorted(self.model.jobs)
        return ids[pick % len(ids)]

    @rule(how_many=st.integers(min_value=1, max_value=3))
    def create(self, how_many: int) -> None:
        ids = [f"job-{next(self.numbers):03}" for _ in range(how_many)]
        self.broker.create([job(job_id) for job_id in ids])
        for job_id in ids:
            self.model.create(job_id)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def create_again(self, pick: int) -> None:
        job_id = self.some(pick)
        if self.model.jobs[job_id].has_message:
            self.broker.create([job(job_id)])
            self.model.create(job_id)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def push_again(self, pick: int) -> None:
        job_id = self.some(pick)
        self.wire.push(TOPIC, job_id)
        self.model.incoming.append(job_id)

    @rule(worker=workers, halting=st.booleans())
    def take(self, worker: str, halting: bool) -> None:
        fence = f"{worker}.{next(self.numbers)}"
        taken = self.broker.take(TOPIC, worker, fence, halting=halting)
        if self.model.paused:
            assert taken is None
            return
        # What is due was so since its retry: it was scheduled without delay.
        self.model.become_due(now=self.now() + LATER / 2)
        expected = self.model.take(worker, fence, halting=halting)
        if expected is None:
            assert (taken is None) is not bool(self.scheduled())
            assert taken is None or (isinstance(taken, Due) and LATER / 2 < taken.in_s <= LATER)
            return
        assert taken is not None
        assert not isinstance(taken, Due)
        assert taken.job_id == expected
        known = self.model.jobs[expected]
        assert isinstance(taken, Malformed) is not known.has_message
        if isinstance(taken, Lease):
            assert (taken.attempt, len(taken.earlier)) == (known.attempt, known.attempt - 1)
            assert (taken.tries, taken.losses, taken.interruptions) == (known.tries, known.losses, known.interruptions)
            self.leases.append(taken)
            assert self.broker.take(TOPIC, worker, fence, again=True) == taken

    def now(self) -> float:
        seconds, micros = self.wire.plain("TIME")
        return float(seconds) + float(micros) / 1e6

    def scheduled(self) -> list[str]:
        due = [(known.due, job_id) for job_id, known in self.model.jobs.items() if known.due is not None]
        return [job_id for _, job_id in sorted(due)]

    @precondition(lambda self: self.leases)
    @rule(pick=picks, how=outcomes, followers=st.integers(min_value=0, max_value=2), halting=st.booleans())
    def settle(self, pick: int, how: str, followers: int, halting: bool) -> None:
        """Settle any lease there ever was: a good one, one that is settled already, or a lost one."""
        lease = self.leases[pick % len(self.leases)]
        known = self.model.jobs.get(lease.job_id)
        outcome = OUTCOMES[how]
        if outcome.state is State.SUCCEEDED:
            next_jobs = [job(f"next-{next(self.numbers):03}") for _ in range(followers)]
            outcome = changed(outcome, next_jobs=tuple(next_jobs))
        given_back = known is not None and known.state is State.INCOMING and known.given_back
        if known is None or known.fence != lease.fence or (given_back and outcome.state is not State.INCOMING):
            with pytest.raises(LeaseLost):
                self.broker.settle(lease, outcome, halting=halting)
            return
        in_time = known.state is State.PROCESSING
        if in_time and known.cancel and outcome.state in WAITS:
            with pytest.raises(CancelAsked, match="asked for"):
                self.broker.settle(lease, outcome, halting=halting)
            return
        assert self.broker.settle(lease, outcome, halting=halting) is in_time
        if in_time:
            got = self.broker.get(lease.job_id)
            assert got is not None
            self.model.end(lease.job_id, outcome, got.due, halting=halting)
            for one in outcome.next_jobs:
                self.model.create(one.job_id)
            assert self.broker.settle(lease, outcome, halting=halting) is False, "its answer was lost"

    @rule(worker=workers, losses=st.integers(min_value=1, max_value=3), halting=st.booleans())
    def recover(self, worker: str, losses: int, halting: bool) -> None:
        back = self.broker.recover(TOPIC, dead=[worker], expired=[], losses=losses, halting=halting)
        assert {one.job_id: one.state for one in back} == self.model.recover(worker, losses, halting=halting)

    @rule(worker=workers, alive=st.booleans())
    def recover_the_silent(self, worker: str, alive: bool) -> None:
        """A worker that stopped renewing, or is only thought to have: it may be back by now."""
        lease_s = 60 if alive else 0.001
        self.broker.heartbeat(worker, FACTS, lease_s=lease_s)
        until(lambda: (worker in self.broker.workers()) is alive)
        back = self.broker.recover(TOPIC, dead=[], expired=[worker], losses=10)
        expected = {} if alive else self.model.recover(worker, 10, halting=False)
        assert {one.job_id: one.state for one in back} == expected

    @rule()
    def requeue_all(self) -> None:
        ids = [job_id for job_id in self.model.failed if self.model.jobs[job_id].state is State.FAILED]
        assert self.broker.requeue(TOPIC, [State.FAILED]) == self.model.requeue(ids)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def requeue_one(self, pick: int) -> None:
        job_id = self.some(pick)
        ended = [State.FAILED, State.TIMEDOUT, State.CANCELLED]
        assert self.broker.requeue(TOPIC, ended, [job_id]) == self.model.requeue([job_id])

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        job_id = self.some(pick)
        assert self.broker.cancel(job_id, "asked for") is self.model.cancel(job_id)

    @rule()
    def pause(self) -> None:
        self.broker.pause([TOPIC], "somebody")
        self.model.paused = True

    @rule()
    def resume(self) -> None:
        assert list(self.broker.resume([TOPIC])) == [TOPIC] * self.model.paused
        self.model.paused = False

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        job_id = self.some(pick)
        if self.model.jobs[job_id].state in (*WAITS, State.PROCESSING):
            with pytest.raises(WrongState):
                self.broker.delete([job_id])
        else:
            assert self.broker.delete([job_id]) == [job_id]
            self.model.delete(job_id)

    @precondition(lambda self: self.server is not None)
    @rule(how=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def restart_the_server(self, how: signal.Signals) -> None:
        assert self.server is not None
        self.server.end(how)
        self.server.start()

    @invariant()
    def every_job_is_in_its_state(self) -> None:
        for job_id, known in self.model.jobs.items():
            got = self.broker.get(job_id)
            assert got is not None
            assert got.state is known.state
            assert got.due == known.due
            if known.state is not State.SUCCEEDED:
                assert got.attempt == known.attempt

    @invariant()
    def every_queue_is_in_its_order(self) -> None:
        assert ids_of(self.broker.list(TOPIC, State.INCOMING)) == self.model.waiting()
        assert ids_of(self.broker.list(TOPIC, State.PROCESSING)) == self.model.processing
        assert ids_of(self.broker.list(TOPIC, State.SCHEDULED)) == self.scheduled()
        for state in (State.FAILED, State.TIMEDOUT, State.CANCELLED):
            ended = [job_id for job_id in self.model.failed if self.model.jobs[job_id].state is state]
            assert ids_of(self.broker.list(TOPIC, state)) == ended

    @invariant()
    def every_event_is_counted(self) -> None:
        (counts,) = self.broker.counts([TOPIC])
        assert dict(counts.totals) == dict(self.model.events)
        assert (counts.pause is not None) is self.model.paused

    def teardown(self) -> None:
        told = Counter(event.event for event in self.broker.events(limit=10**6))
        forget(self.broker)
        assert told == self.model.events


def _agrees(machine: type[BrokerAgainstModel], examples: int) -> None:
    checks = list(HealthCheck)
    steps = settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=steps)


@pytest.mark.parametrize("backend", ["memory"], indirect=True)
def test_the_memory_broker_agrees_with_the_table(broker_config: Config, backend: str) -> None:
    class Here(BrokerAgainstModel):
        config = broker_config

    del backend
    _agrees(Here, 10)  # each step takes five times as long as with a server


def test_a_server_that_is_restarted_agrees_with_the_table(tmp_path: Path) -> None:
    with Server("valkey", "--appendonly", "yes", "--appendfsync", "always") as one:

        class Here(BrokerAgainstModel):
            config = Config(root=tmp_path, job_data=tmp_path / "job_data", broker=one.url)
            server = one

        _agrees(Here, 30)
