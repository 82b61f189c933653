"""incoming -> processing."""

from __future__ import annotations

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.errors import WrongState
from sjq.jobs import Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, ids_of, job, several, state_of, story, waiting


def test_an_empty_topic_gives_nothing_at_once(broker: Broker) -> None:
    assert Hand(broker).take() is None
    assert broker.topics() == []


def test_a_lease_says_all_of_the_job(broker: Broker) -> None:
    message = job("a", data=[1, 2])
    broker.create([message])
    hand = Hand(broker)
    lease = broker.take(TOPIC, hand.id, "the-fence.1")
    assert isinstance(lease, Lease)
    assert (lease.job_id, lease.topic, lease.fence, lease.attempt) == ("a", TOPIC, "the-fence.1", 1)
    assert lease.message == message
    assert lease.earlier == ()
    assert lease.queued_s is not None
    assert 0 <= lease.queued_s < 60
    assert abs(lease.taken_at - (message.created_s or 0)) < 60


def test_a_taken_job_is_processing_under_its_worker_and_fence(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.worker, known.fence, known.attempt) == (State.PROCESSING, hand.id, lease.fence, 1)
    assert known.since == lease.taken_at
    assert waiting(broker) == []
    assert ids_of(broker.list(TOPIC, State.PROCESSING)) == ["a"]
    assert story(broker, "a") == ["created", "taken"]
    taken = broker.events()[-1]
    assert taken.details == {"fence": lease.fence, "attempt": "1"}


def test_a_taken_job_is_taken_once(broker: Broker, other_broker: Broker) -> None:
    create(broker, "a")
    Hand(broker).lease()
    assert Hand(broker).take() is None
    assert Hand(other_broker).take() is None


def test_a_taken_job_cannot_be_deleted_or_sent_back(broker: Broker) -> None:
    create(broker, "a")
    Hand(broker).lease()
    with pytest.raises(WrongState, match="a is processing"):
        broker.delete(["a"])
    assert broker.requeue(TOPIC, [State.FAILED], ["a"]) == []
    assert state_of(broker, "a") is State.PROCESSING


def test_taking_again_with_the_same_fence_returns_the_same_lease(broker: Broker) -> None:
    create(broker, "a", "b", "c")
    hand = Hand(broker)
    hand.lease()
    fence = hand.fence()
    first = broker.take(TOPIC, hand.id, fence)
    assert isinstance(first, Lease)
    assert broker.take(TOPIC, hand.id, fence, again=True) == first
    assert story(broker, first.job_id) == ["created", "taken"]
    assert waiting(broker) == ["c"]


def test_taking_again_takes_the_next_job_when_the_lost_call_took_none(broker: Broker) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    hand.lease()
    second = broker.take(TOPIC, hand.id, hand.fence(), again=True)
    assert isinstance(second, Lease)
    assert second.job_id == "b"


def test_taking_again_from_an_empty_topic_gives_nothing(broker: Broker) -> None:
    assert broker.take(TOPIC, "worker", "worker.1", again=True) is None


def test_attempts_go_on_counting_through_releases_and_requeues(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), released("a deploy"))
    second = hand.lease()
    assert second.attempt == 2
    assert broker.settle(second, broke)
    broker.requeue(TOPIC, [State.FAILED])
    third = hand.lease()
    assert third.attempt == 3
    assert len({second.fence, third.fence}) == 2
    assert broker.settle(third, succeeded())


def test_a_lease_tells_of_earlier_attempts(broker: Broker) -> None:
    create(broker, "a")
    first, second, third = Hand(broker), Hand(broker), Hand(broker)
    assert broker.settle(first.lease(), released("a deploy"))
    assert broker.settle(second.lease(), broke)
    broker.requeue(TOPIC, [State.FAILED])
    third.lease()
    assert broker.recover(TOPIC, dead=[third.id], expired=[], losses=3)
    lease = Hand(broker).lease()
    brief = [(one["attempt"], one["end"], one["reason"], one["worker"]) for one in lease.earlier]
    assert brief == [
        (1, "released", None, first.id),
        (2, "failed", "exit", second.id),
        (3, "lost", "lost", third.id),
    ]
    for one in lease.earlier:
        taken_ms, ended_ms = one["taken_ms"], one["ended_ms"]
        assert isinstance(taken_ms, int)
        assert isinstance(ended_ms, int)
        assert taken_ms <= ended_ms
    assert broker.settle(lease, succeeded())


def test_a_hundred_earlier_attempts_are_told_too(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    for _ in range(100):
        assert broker.settle(hand.lease(), released("a stop"))
    lease = hand.lease()
    assert [one["attempt"] for one in lease.earlier] == list(range(1, 101))
    assert broker.settle(lease, succeeded())


def test_the_wait_counts_from_when_the_job_was_sent_back(broker: Broker, wire: Wire) -> None:
    old = b'{"job_id": "a", "data": 1, "created_at": "2001-01-01T00:00:00Z"}'
    wire.push(TOPIC, "a", old)
    hand = Hand(broker)
    first = hand.lease()
    assert first.queued_s is not None
    assert first.queued_s > 10**8
    assert broker.settle(first, broke)
    broker.requeue(TOPIC, [State.FAILED])
    second = hand.lease()
    assert second.queued_s is not None
    assert second.queued_s < 60
    assert broker.settle(second, succeeded())


@pytest.mark.parametrize("created_at", ["null", '"yesterday"', "5", "{}", '"2999-01-01T00:00:00Z"'])
def test_a_strange_time_of_creation_stops_nothing(broker: Broker, wire: Wire, created_at: str) -> None:
    wire.push(TOPIC, "a", f'{{"data": 1, "created_at": {created_at}}}')
    lease = Hand(broker).lease()
    assert lease.queued_s in (None, 0.0)
    assert broker.settle(lease, succeeded())


def test_a_topic_that_fails_and_recovers_takes_what_came_back_first(broker: Broker) -> None:
    fail(broker, "old-1", "old-2")
    create(broker, "new")
    assert broker.requeue(TOPIC, [State.FAILED]) == ["old-1", "old-2"]
    assert Hand(broker).drain() == ["old-1", "old-2", "new"]


def test_a_released_job_is_taken_next(broker: Broker) -> None:
    ids = several(4)
    create(broker, *ids)
    hand = Hand(broker)
    lease = hand.lease()
    assert broker.settle(lease, released("a stop"))
    assert hand.drain() == ids


def test_jobs_released_from_the_last_to_the_first_are_in_their_old_order(broker: Broker) -> None:
    ids = several(4)
    create(broker, *ids)
    hand = Hand(broker)
    for lease in reversed([hand.lease(), hand.lease(), hand.lease()]):
        assert broker.settle(lease, released("a stop"))
    assert hand.drain() == ids


def test_two_hundred_and_fifty_repeated_pushes_are_dropped_in_one_take(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    for _ in range(250):
        wire.push(TOPIC, "a")
    wire.push(TOPIC, "b", '{"data": 1}')
    assert hand.lease().job_id == "b"
    assert story(broker, "a") == ["created", "taken"] + ["dropped"] * 250
    assert broker.settle(lease, succeeded())


def test_a_worker_that_lost_its_topic_takes_nothing_of_it(broker: Broker) -> None:
    create(broker, "a", "b")
    late, holder = Hand(broker), Hand(broker)
    lease = late.lease()
    broker.lock([TOPIC], holder.id, 60)
    assert late.take() is None
    again = broker.take(TOPIC, late.id, lease.fence, again=True)
    assert isinstance(again, Lease)
    assert again.job_id == "a", "what it has it may hear of once more"
    assert holder.lease().job_id == "b"


def test_a_topic_that_nobody_holds_is_free_to_take_from(broker: Broker) -> None:
    create(broker, "a")
    holder = Hand(broker)
    broker.lock([TOPIC], holder.id, 60)
    broker.leave(holder.id, [TOPIC])
    assert Hand(broker).lease().job_id == "a"
