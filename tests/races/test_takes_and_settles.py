"""Two who want the same job."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from conformance.jobs import TOPIC, Hand, broke, create, job, several, state_of, story, waiting
from servers import until

from sjq.brokers.base import Broker
from sjq.errors import LeaseLost
from sjq.jobs import Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .threads import at_once


def test_two_workers_who_take_one_job_do_not_both_get_it(broker: Broker, other_broker: Broker) -> None:
    for index in range(50):
        create(broker, f"job-{index}")
        hands = Hand(broker), Hand(other_broker)
        taken = at_once(*(hand.take for hand in hands))
        (lease,) = [one for one in taken if one is not None]
        assert isinstance(lease, Lease)
        assert broker.settle(lease, succeeded())


def test_four_workers_empty_a_queue_and_each_job_goes_to_one(broker: Broker, other_broker: Broker) -> None:
    ids = several(200)
    create(broker, *ids)
    drained = at_once(*(Hand(one).drain for one in (broker, broker, other_broker, other_broker)))
    lists = [one for one in drained if isinstance(one, list)]
    assert sorted(job_id for one in lists for job_id in one) == ids
    assert all(one == sorted(one) for one in lists)


def test_a_stale_worker_cannot_settle_a_recovered_job(broker: Broker, other_broker: Broker) -> None:
    create(broker, "a")
    sleeper = Hand(broker)
    stale = sleeper.lease()
    sleeper.beat(0.05)
    until(lambda: other_broker.recover(TOPIC, dead=[], expired=[sleeper.id], losses=3), what="the recovery of the job")
    successor = Hand(other_broker)
    fresh = successor.lease()
    with pytest.raises(LeaseLost):
        broker.settle(stale, succeeded([job("child of the stale one")]))
    assert sleeper.beat(leases=[stale]).lost_leases == {stale.fence}
    assert other_broker.settle(fresh, succeeded([job("child")])) is True
    with pytest.raises(LeaseLost):
        broker.settle(stale, broke)
    assert waiting(broker) == ["child"]
    assert story(broker, "a") == ["created", "taken", "recovered", "taken", "succeeded"]


def test_a_settle_races_with_the_recovery_and_one_of_them_wins(broker: Broker, other_broker: Broker) -> None:
    for index in range(40):
        (job_id,) = create(broker, f"job-{index}")
        hand = Hand(broker)
        lease = hand.lease()
        settled, recovered = at_once(
            lambda lease=lease: broker.settle(lease, succeeded()),  # type: ignore[misc]
            lambda hand=hand: other_broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9),  # type: ignore[misc]
        )
        if settled is True:
            assert recovered == []
            assert state_of(broker, job_id) is State.SUCCEEDED
        else:
            assert isinstance(settled, LeaseLost)
            assert isinstance(recovered, list)
            assert len(recovered) == 1
            assert Hand(broker).drain() == [job_id]


def test_one_lease_that_is_settled_from_two_threads_ends_once(broker: Broker, other_broker: Broker) -> None:
    for index in range(40):
        (job_id,) = create(broker, f"job-{index}")
        lease = Hand(broker).lease()
        answers = at_once(
            lambda lease=lease: broker.settle(lease, succeeded([job("s", "next")])),  # type: ignore[misc]
            lambda lease=lease: other_broker.settle(lease, broke),  # type: ignore[misc]
        )
        assert sorted(map(str, answers)) == ["False", "True"]
        assert story(broker, job_id)[2:] == (["succeeded"] if answers[0] else ["failed"])
    Hand(broker).drain("next")


def test_a_taker_whose_answer_was_lost_gets_its_job_while_others_take(broker: Broker, other_broker: Broker) -> None:
    ids = several(60)
    create(broker, *ids)
    taken: list[str] = []

    def repeat() -> None:
        hand = Hand(broker)
        while True:
            fence = hand.fence()
            first = broker.take(TOPIC, hand.id, fence)
            if not isinstance(first, Lease):
                return
            assert broker.take(TOPIC, hand.id, fence, again=True) == first
            taken.append(first.job_id)
            broker.settle(first, succeeded())

    repeated, drained = at_once(repeat, Hand(other_broker).drain)
    assert repeated is None
    assert isinstance(drained, list)
    assert sorted(taken + drained) == ids


def test_producers_who_repeat_themselves_while_workers_take_make_each_job_once(
    broker: Broker, other_broker: Broker
) -> None:
    messages = [job(job_id) for job_id in several(100)]
    done = threading.Event()

    def produce() -> None:
        for message in messages:
            other_broker.create([message])
            other_broker.create([message])

    def work() -> list[str]:
        hand = Hand(broker)
        ids: list[str] = []
        while not done.is_set() or waiting(broker):
            ids += hand.drain()
        return ids

    def produce_and_say() -> None:
        try:
            at_once(produce, produce)
        finally:
            done.set()

    _, ids = at_once(produce_and_say, work)
    assert isinstance(ids, list)
    assert sorted(ids) == several(100)


def test_eight_threads_end_each_of_five_hundred_jobs_once(broker: Broker, other_broker: Broker, backend: str) -> None:
    """Created, released, lost and failed on the way: by the event stream each job has exactly one end."""
    share = 20 if backend == "memory" else 125
    total = 4 * share
    ended = threading.Semaphore(0)
    everything_ended = threading.Event()

    def produce(index: int) -> None:
        one = (broker, other_broker)[index % 2]
        for number in range(share):
            create(one, f"job-{index}-{number}")

    def work(index: int) -> None:
        hand = Hand((broker, other_broker)[index % 2])
        step = 0
        while not everything_ended.is_set():
            lease = hand.take()
            if not isinstance(lease, Lease):
                everything_ended.wait(0.002)
                continue
            step += 1
            if lease.attempt == 1 and step % 3 == 0:
                hand.broker.settle(lease, released("a stop"))
            elif lease.attempt == 1 and step % 5 == 0:
                hand.broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9)
                with pytest.raises(LeaseLost):
                    hand.broker.settle(lease, succeeded())
            else:
                assert hand.broker.settle(lease, broke if step % 7 == 0 else succeeded()) is True
                ended.release()

    def watch() -> None:
        try:
            for _ in range(total):
                assert ended.acquire(timeout=30)
        finally:
            everything_ended.set()

    producers = [lambda index=index: produce(index) for index in range(4)]
    hands = [lambda index=index: work(index) for index in range(4)]
    assert at_once(*producers, *hands, watch) == [None] * 9
    events = broker.events(limit=10**6)
    ends = Counter(event.job_id for event in events if event.event in ("succeeded", "failed"))
    assert len(ends) == total
    assert set(ends.values()) == {1}
    balance = Counter(event.event for event in events)
    assert balance["created"] == total
    assert balance["taken"] == total + balance["released"] + balance["recovered"]
    (counts,) = broker.counts([TOPIC])
    assert counts.states == {
        State.INCOMING: 0,
        State.PROCESSING: 0,
        State.FAILED: balance["failed"],
        State.SCHEDULED: 0,
    }
    assert Hand(broker).take() is None
