"""Cancelling: what waits at once, what runs by way of its worker, and what has ended not at all."""

from __future__ import annotations

import pytest
from servers import Wire, until

from sjq.brokers.base import Broker
from sjq.errors import CancelAsked
from sjq.jobs import Lease
from sjq.outcomes import Outcome, cancelled, released, retried, succeeded
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, fail, ids_of, state_of, story, waiting

WHY = "kim wants it"


def test_a_waiting_job_is_cancelled_at_once(broker: Broker) -> None:
    create(broker, "a", "b")
    assert broker.cancel("a", WHY) is State.INCOMING
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.why) == (State.CANCELLED, Reason.CANCELLED, WHY)
    assert waiting(broker) == ["b"]
    assert ids_of(broker.list(TOPIC, State.CANCELLED)) == ["a"]
    assert story(broker, "a") == ["created", "cancelled"]
    assert broker.requeue(TOPIC, [State.CANCELLED], ["a"]) == ["a"]
    assert Hand(broker).lease().job_id == "a"


def test_a_foreign_job_is_found_where_it_waits(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", '{"job_id": "a", "data": 1}')
    wire.push(TOPIC, "a")
    assert broker.cancel("a", WHY) is State.INCOMING
    assert waiting(broker) == []
    assert Hand(broker).take() is None


def test_a_scheduled_job_is_cancelled_at_once(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), retried(broke, 3600))
    assert broker.cancel("a", WHY) is State.SCHEDULED
    assert state_of(broker, "a") is State.CANCELLED
    assert hand.take() is None
    assert broker.list(TOPIC, State.SCHEDULED) == []


def test_a_running_job_is_its_workers_to_stop(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    assert hand.beat(leases=[lease]).cancelled == {}
    assert broker.cancel("a", WHY) is State.PROCESSING
    assert state_of(broker, "a") is State.PROCESSING
    assert hand.beat(leases=[lease]).cancelled == {lease.fence: WHY}
    assert hand.beat(leases=[lease]).cancelled == {lease.fence: WHY}, "it is told until it has done so"
    assert broker.settle(lease, cancelled(WHY))
    assert state_of(broker, "a") is State.CANCELLED
    assert [entry["end"] for entry in _requeued(broker, hand).earlier] == ["cancelled"]


def _requeued(broker: Broker, hand: Hand) -> Lease:
    assert broker.requeue(TOPIC, [State.CANCELLED], ["a"]) == ["a"]
    lease = hand.lease()
    assert hand.beat(leases=[lease]).cancelled == {}, "the job has been sent back since"
    return lease


def test_success_may_be_faster(broker: Broker) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    broker.cancel("a", WHY)
    assert broker.settle(lease, succeeded())
    assert state_of(broker, "a") is State.SUCCEEDED
    assert broker.cancel("a", WHY) is State.SUCCEEDED


@pytest.mark.parametrize("outcome", [retried(broke, 0), released("a stop")], ids=["retry", "release"])
def test_a_cancelled_job_never_waits_again(broker: Broker, outcome: Outcome) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    broker.cancel("a", WHY)
    with pytest.raises(CancelAsked, match=WHY):
        broker.settle(lease, outcome)
    assert state_of(broker, "a") is State.PROCESSING
    assert broker.settle(lease, cancelled(WHY))


def test_a_dead_worker_s_cancelled_job_is_not_taken_back(broker: Broker) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    hand.lease(), hand.lease()
    broker.cancel("a", WHY)
    back = {one.job_id: one.state for one in broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9)}
    assert back == {"a": State.CANCELLED, "b": State.INCOMING}
    assert story(broker, "a")[-1] == "cancelled"
    assert waiting(broker) == ["b"]


def test_an_ended_job_stays_as_it_is(broker: Broker) -> None:
    fail(broker, "a")
    assert broker.cancel("a", WHY) is State.FAILED
    assert state_of(broker, "a") is State.FAILED


def test_who_is_not_there_cannot_be_cancelled(broker: Broker) -> None:
    assert broker.cancel("a", WHY) is None


@pytest.mark.parametrize("backend", ["redis", "valkey", "embedded"], indirect=True)
def test_an_order_reaches_the_worker_that_listens(broker: Broker, other_broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    heard: list[str] = []
    wakeup = broker.wakeup([TOPIC], hand.id, lambda: heard.append("order"))
    try:
        assert wakeup.hears_orders
        other_broker.cancel("a", WHY)
        until(lambda: heard)
    finally:
        wakeup.close()
    hand.beat()
    broker.leave(hand.id, [])
