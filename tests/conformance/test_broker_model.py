"""The table of states as a model, and brokers that must agree with it whatever is done in whatever order.

The model is written from the table in the design (section 3), not from any broker's code.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers import open_broker
from sjq.brokers.redis.broker import RedisBroker
from sjq.config import Config
from sjq.errors import LeaseLost, WrongState
from sjq.jobs import Lease, Malformed, Outcome, released, succeeded
from sjq.states import State

from .jobs import TOPIC, broke, forget, ids_of, job

WORKERS = ("worker-a", "worker-b")
OUTCOMES: dict[State, Outcome] = {State.SUCCEEDED: succeeded(), State.FAILED: broke, State.INCOMING: released("a stop")}

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
    losses: int = 0
    has_message: bool = True
    released: bool = False


@dataclass
class Model:
    """All jobs of one topic."""

    jobs: dict[str, Known] = field(default_factory=dict)
    incoming: list[str] = field(default_factory=list)
    """Ids that wait, the next one first; an id that was pushed again stands here more than once."""
    processing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    def create(self, job_id: str) -> None:
        if job_id not in self.jobs:
            self.jobs[job_id] = Known(State.INCOMING)
            self.incoming.append(job_id)
            self.events["created"] += 1

    def take(self, worker: str, fence: str) -> str | None:
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
                self.end(job_id, State.FAILED)
            return job_id
        return None

    def end(self, job_id: str, state: State) -> None:
        self.jobs[job_id].state = state
        self.processing.remove(job_id)
        if state is State.FAILED:
            self.failed.append(job_id)
        if state is State.INCOMING:
            self.incoming.insert(0, job_id)
            self.jobs[job_id].released = True
        self.events["released" if state is State.INCOMING else state] += 1

    def recover(self, worker: str, losses: int) -> dict[str, State]:
        lost = [job_id for job_id in self.processing if self.jobs[job_id].worker == worker]
        back = []
        for job_id in lost:
            known = self.jobs[job_id]
            known.losses += 1
            known.fence = None
            self.processing.remove(job_id)
            if known.losses >= losses:
                known.state = State.FAILED
                self.failed.append(job_id)
            else:
                known.state = State.INCOMING
                back.append(job_id)
            self.events["lost" if known.state is State.FAILED else "recovered"] += 1
        self.incoming[:0] = back
        return {job_id: self.jobs[job_id].state for job_id in lost}

    def requeue(self, ids: list[str]) -> list[str]:
        moved = [job_id for job_id in self.failed if job_id in ids]
        for job_id in moved:
            self.failed.remove(job_id)
            self.jobs[job_id].state = State.INCOMING
            self.jobs[job_id].losses = 0
            self.jobs[job_id].released = False
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

    @rule(worker=workers)
    def take(self, worker: str) -> None:
        fence = f"{worker}.{next(self.numbers)}"
        taken = self.broker.take(TOPIC, worker, fence)
        expected = self.model.take(worker, fence)
        assert (taken and taken.job_id) == expected
        if expected is None:
            return
        known = self.model.jobs[expected]
        assert isinstance(taken, Malformed) is not known.has_message
        if isinstance(taken, Lease):
            assert (taken.attempt, len(taken.earlier)) == (known.attempt, known.attempt - 1)
            self.leases.append(taken)
            assert self.broker.take(TOPIC, worker, fence, again=True) == taken

    @precondition(lambda self: self.leases)
    @rule(pick=picks, outcome=outcomes, followers=st.integers(min_value=0, max_value=2))
    def settle(self, pick: int, outcome: State, followers: int) -> None:
        """Settle any lease there ever was: a good one, one that is settled already, or a lost one."""
        lease = self.leases[pick % len(self.leases)]
        known = self.model.jobs.get(lease.job_id)
        next_jobs = []
        if outcome is State.SUCCEEDED:
            next_jobs = [job(f"next-{next(self.numbers):03}") for _ in range(followers)]
        end = changed(OUTCOMES[outcome], next_jobs=tuple(next_jobs))
        given_back = known is not None and known.state is State.INCOMING and known.released
        if known is None or known.fence != lease.fence or (given_back and outcome is not State.INCOMING):
            with pytest.raises(LeaseLost):
                self.broker.settle(lease, end)
            return
        in_time = known.state is State.PROCESSING
        assert self.broker.settle(lease, end) is in_time
        if in_time:
            self.model.end(lease.job_id, outcome)
            for one in next_jobs:
                self.model.create(one.job_id)

    @rule(worker=workers, losses=st.integers(min_value=1, max_value=3))
    def recover(self, worker: str, losses: int) -> None:
        back = self.broker.recover(TOPIC, dead=[worker], expired=[], losses=losses)
        assert {one.job_id: one.state for one in back} == self.model.recover(worker, losses)

    @rule()
    def requeue_all(self) -> None:
        assert self.broker.requeue(TOPIC, [State.FAILED]) == self.model.requeue(list(self.model.failed))

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def requeue_one(self, pick: int) -> None:
        job_id = self.some(pick)
        assert self.broker.requeue(TOPIC, [State.FAILED], [job_id]) == self.model.requeue([job_id])

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        job_id = self.some(pick)
        if self.model.jobs[job_id].state in (State.INCOMING, State.PROCESSING):
            with pytest.raises(WrongState):
                self.broker.delete([job_id])
        else:
            assert self.broker.delete([job_id]) == [job_id]
            self.model.delete(job_id)

    @invariant()
    def every_job_is_in_its_state(self) -> None:
        for job_id, known in self.model.jobs.items():
            got = self.broker.get(job_id)
            assert got is not None
            assert got.state is known.state
            if known.state is not State.SUCCEEDED:
                assert got.attempt == known.attempt

    @invariant()
    def every_queue_is_in_its_order(self) -> None:
        assert ids_of(self.broker.list(TOPIC, State.INCOMING)) == self.model.waiting()
        assert ids_of(self.broker.list(TOPIC, State.PROCESSING)) == self.model.processing
        assert ids_of(self.broker.list(TOPIC, State.FAILED)) == self.model.failed

    @invariant()
    def every_event_is_counted(self) -> None:
        (counts,) = self.broker.counts([TOPIC])
        assert dict(counts.totals) == dict(self.model.events)

    def teardown(self) -> None:
        told = Counter(event.event for event in self.broker.events(limit=10**6))
        forget(self.broker)
        assert told == self.model.events


@pytest.mark.parametrize("backend", ["memory", "valkey"], indirect=True)
def test_a_broker_agrees_with_the_table(broker_config: Config, backend: str) -> None:
    class Here(BrokerAgainstModel):
        config = broker_config

    examples = 10 if backend == "memory" else 30  # there, each step takes five times as long
    steps = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Here, settings=steps)
