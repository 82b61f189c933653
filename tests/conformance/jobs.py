"""Jobs and workers for tests of brokers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count

import pytest
from msgspec.structs import replace as changed

from sjq.brokers.base import Broker, Pulse
from sjq.brokers.redis.broker import RedisBroker
from sjq.jobs import Due, Job, Lease, Malformed, Message, make_fence, new_message
from sjq.outcomes import Outcome, failed, succeeded
from sjq.states import Reason, State

TOPIC = "resize"
FACTS = {"host": "here", "pid": "1"}
real_servers = pytest.mark.parametrize("backend", ["redis", "valkey"], indirect=True)
broke = failed(Reason.EXIT, "the process ended with exit code 1")

_numbers = count(1)


class Hand:
    """A worker as a broker knows it: an id that makes fences."""

    def __init__(self, broker: Broker, worker: str | None = None) -> None:
        self.broker = broker
        self.id = worker or f"host-boot-{next(_numbers)}-0-abcdef"
        self._taken = count(1)

    def fence(self) -> str:
        return make_fence(self.id, next(self._taken))

    def take(self, topic: str = TOPIC, *, published: Collection[str] = ()) -> Lease | Malformed | Due | None:
        return self.broker.take(topic, self.id, self.fence(), published=published)

    def lease(self, topic: str = TOPIC) -> Lease:
        """Take a job that must be there and well-formed."""
        taken = self.take(topic)
        assert isinstance(taken, Lease), taken
        return taken

    def malformed(self, topic: str = TOPIC) -> Malformed:
        """Take an id that must be there and malformed."""
        taken = self.take(topic)
        assert isinstance(taken, Malformed), taken
        return taken

    def drain(self, topic: str = TOPIC, outcome: Outcome | None = None) -> list[str]:
        """Take and settle until nothing waits; return the ids in the order in which they came."""
        ids = []
        while isinstance(lease := self.take(topic), Lease):
            ids.append(lease.job_id)
            assert self.broker.settle(lease, outcome or succeeded())
        assert lease is None
        return ids

    def beat(
        self,
        lease_s: float = 60,
        topics: Collection[str] = (),
        leases: Collection[Lease] = (),
        *,
        expired: bool = False,
    ) -> Pulse:
        return self.broker.heartbeat(self.id, FACTS, lease_s=lease_s, topics=topics, leases=leases, expired=expired)

    def alive(self) -> bool:
        return self.id in self.broker.workers()


def job(job_id: str | None = None, topic: str = TOPIC, data: object = None) -> Message:
    """Return a message, under an id of the test's choice."""
    message = new_message(topic, data)
    return message if job_id is None else changed(message, job_id=job_id)


def create(broker: Broker, *ids: str, topic: str = TOPIC) -> list[str]:
    """Let jobs of these ids wait."""
    broker.create([job(job_id, topic) for job_id in ids])
    return list(ids)


def fail(broker: Broker, *ids: str, topic: str = TOPIC) -> list[str]:
    """Have jobs of these ids fail, in this order."""
    create(broker, *ids, topic=topic)
    assert Hand(broker).drain(topic, broke) == list(ids)
    return list(ids)


def ids_of(jobs: Iterable[Job]) -> list[str]:
    return [one.job_id for one in jobs]


def waiting(broker: Broker, topic: str = TOPIC) -> list[str]:
    """Return the ids that wait, the next one first."""
    return ids_of(broker.list(topic, State.INCOMING, limit=10**6))


def state_of(broker: Broker, job_id: str) -> State | None:
    known = broker.get(job_id)
    return known.state if known else None


def story(broker: Broker, job_id: str) -> list[str]:
    """Return a job's events by name."""
    return [event.event for event in broker.events(limit=10**6) if event.job_id == job_id]


def several(count: int, name: str = "job") -> list[str]:
    return [f"{name}-{index:05}" for index in range(count)]


def forget(broker: Broker) -> None:
    """Delete all that a broker of another prefix than the test's own holds, and close it."""
    assert isinstance(broker, RedisBroker)
    prefix = broker.server.prefix.encode()
    for name in list(broker.server.client.scan_iter(count=1000)):
        if name.startswith(prefix):
            broker.server.client.delete(name)
    broker.close()
