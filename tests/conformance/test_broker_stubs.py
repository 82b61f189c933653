"""What is left of a job after its success, until its record is published and for ten minutes more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers.base import Broker
from sjq.outcomes import Outcome, released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, job, state_of

STUB_S = 600
BASIS = {b"events", b"stats:" + TOPIC.encode()}

Publish = Callable[[Broker, str], object]
publishings = pytest.mark.parametrize(
    "publish",
    [
        lambda broker, job_id: broker.confirm([job_id]),
        lambda broker, job_id: Hand(broker).take(published=[job_id]),
        lambda broker, job_id: Hand(broker).take("another topic", published=[job_id]),
    ],
    ids=["confirm", "the next take", "a take elsewhere"],
)


def test_success_leaves_a_stub_that_stays_until_the_record_is_published(broker: Broker, wire: Wire) -> None:
    broker.create([changed(job("a"), attachment=b"x")])
    lease = Hand(broker).lease()
    assert broker.settle(lease, succeeded())
    assert wire.names() == BASIS | {b"job_state:a"}
    assert wire("PTTL", "job_state:a") == -1
    stub = wire("HGETALL", "job_state:a")
    assert set(stub) <= {b"state", b"topic", b"fence", b"end"}
    assert (stub[b"state"], stub[b"fence"]) == (b"succeeded", lease.fence.encode())


@publishings
def test_the_stub_of_a_published_job_lasts_ten_minutes(broker: Broker, wire: Wire, publish: Publish) -> None:
    create(broker, "a")
    Hand(broker).drain()
    publish(broker, "a")
    assert STUB_S - 60 <= wire("TTL", "job_state:a") <= STUB_S
    assert state_of(broker, "a") is State.SUCCEEDED


@publishings
def test_only_succeeded_jobs_have_stubs(broker: Broker, wire: Wire, publish: Publish) -> None:
    hand = Hand(broker)
    fail(broker, "failed")
    create(broker, "released", "runs")
    lease = hand.lease()
    hand.lease()
    assert broker.settle(lease, released("a stop"))
    for job_id in ("failed", "released", "runs", "unheard of"):
        publish(broker, job_id)
    for job_id in ("failed", "released", "runs"):
        assert wire("PTTL", f"job_state:{job_id}") == -1
    assert not wire("EXISTS", "job_state:unheard of")


def test_confirming_many_or_none_is_one_call(broker: Broker, wire: Wire) -> None:
    ids = create(broker, *(f"a{index}" for index in range(20)))
    Hand(broker).drain()
    broker.confirm([])
    broker.confirm(ids)
    assert all(wire("TTL", f"job_state:{job_id}") > 0 for job_id in ids)


def test_after_all_jobs_succeeded_and_were_published_next_to_nothing_is_left(broker: Broker, wire: Wire) -> None:
    hand = Hand(broker)
    hand.beat(topics=[TOPIC])
    broker.create([changed(job(f"a{index}"), attachment=b"x") for index in range(10)])
    for _ in range(10):
        lease = hand.lease()
        child = changed(lease.message.next(TOPIC, b"1"), attachment=b"y") if lease.message.hops == 0 else None
        assert broker.settle(lease, succeeded([child] if child else []))
    done = hand.drain()
    broker.confirm([*done, *(f"a{index}" for index in range(10))])
    broker.leave(hand.id, [TOPIC])
    for name in wire.names() - BASIS:
        assert name.startswith(b"job_state:")
        assert 0 < wire("TTL", name) <= STUB_S


def test_deleting_leaves_nothing_but_the_history(broker: Broker, wire: Wire) -> None:
    broker.create([changed(job("a"), attachment=b"x")])
    Hand(broker).drain(outcome=broke)
    broker.delete(["a"])
    assert wire.names() == BASIS


def test_a_create_that_is_repeated_after_the_success_creates_nothing(broker: Broker) -> None:
    message = job("a")
    broker.create([message])
    Hand(broker).drain()
    broker.create([message])
    assert Hand(broker).take() is None


@pytest.mark.parametrize("outcome", [succeeded([job("child")]), broke, released("a stop")])
def test_a_server_that_forgot_its_scripts_is_told_again(broker: Broker, wire: Wire, outcome: Outcome) -> None:
    """The scripts are lost at every step; each is done once all the same."""
    forget: Callable[[], object] = lambda: wire.plain("SCRIPT", "FLUSH")  # noqa: E731 - one word at each line
    hand = Hand(broker)
    forget()
    create(broker, "a", "b")
    forget()
    lease = hand.lease()
    forget()
    assert broker.lock([TOPIC], hand.id, 60) == []
    forget()
    assert hand.beat(topics=[TOPIC], leases=[lease]).lost_leases == frozenset()
    forget()
    assert broker.settle(lease, outcome) is True
    forget()
    assert broker.settle(lease, outcome) is False
    forget()
    broker.confirm(["a"])
    forget()
    broker.requeue(TOPIC, [State.FAILED])
    forget()
    assert hand.lease().job_id in ("a", "b")
    forget()
    assert len(broker.recover(TOPIC, dead=[hand.id], expired=[], losses=1)) == 1
    forget()
    (lost,) = broker.list(TOPIC, State.FAILED)
    assert broker.delete([lost.job_id]) == [lost.job_id]
    forget()
    (holder,) = broker.holders([TOPIC])
    assert broker.unlock(holder) is True
    forget()
    broker.leave(hand.id, [TOPIC])
