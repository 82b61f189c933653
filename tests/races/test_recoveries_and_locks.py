"""Recovery, locks, requeue and delete, against each other."""

from __future__ import annotations

import threading

from conformance.jobs import TOPIC, Hand, create, fail, ids_of, several, state_of, story, waiting
from servers import until

from sjq.brokers.base import Broker
from sjq.errors import WrongState
from sjq.outcomes import succeeded
from sjq.states import State

from .threads import at_once


def test_two_recoveries_at_once_recover_once(broker: Broker, other_broker: Broker) -> None:
    ids = several(20)
    create(broker, *ids)
    dead = Hand(broker)
    for _ in ids:
        dead.lease()
    answers = at_once(
        *(lambda one=one: one.recover(TOPIC, dead=[dead.id], expired=[], losses=3) for one in (broker, other_broker))
    )
    assert sorted(len(answer) for answer in answers if isinstance(answer, list)) == [0, 20]
    assert waiting(broker) == ids
    assert story(broker, ids[0]) == ["created", "taken", "recovered"]


def test_a_worker_that_comes_back_while_it_is_recovered_keeps_all_its_jobs_or_none(
    broker: Broker, other_broker: Broker
) -> None:
    for index in range(20):
        create(broker, f"a{index}", f"b{index}")
        hand = Hand(broker)
        leases = [hand.lease(), hand.lease()]
        _, recovered = at_once(
            hand.beat,
            lambda hand=hand: other_broker.recover(TOPIC, dead=[], expired=[hand.id], losses=9),  # type: ignore[misc]
        )
        assert isinstance(recovered, list)
        assert len(recovered) in (0, 2)
        lost = hand.beat(leases=leases).lost_leases
        assert lost == ({lease.fence for lease in leases} if recovered else frozenset())
        if recovered:
            assert Hand(broker).drain() == [f"a{index}", f"b{index}"]
        else:
            assert all(broker.settle(lease, succeeded()) for lease in leases)
        broker.leave(hand.id, [])


def test_a_requeue_races_with_a_delete_and_the_job_is_waiting_or_forgotten(
    broker: Broker, other_broker: Broker
) -> None:
    for index in range(40):
        (job_id,) = fail(broker, f"job-{index}")
        moved, gone = at_once(
            lambda: broker.requeue(TOPIC, [State.FAILED]),
            lambda job_id=job_id: other_broker.delete([job_id]),  # type: ignore[misc]
        )
        if moved:
            assert gone == [] or isinstance(gone, WrongState)
            assert state_of(broker, job_id) is State.INCOMING
            assert Hand(broker).drain() == [job_id]
        else:
            assert gone == [job_id]
            assert broker.get(job_id) is None
            assert Hand(broker).take() is None


def test_two_requeues_at_once_send_each_job_back_once(broker: Broker, other_broker: Broker) -> None:
    ids = fail(broker, *several(30))
    answers = at_once(*(lambda one=one: one.requeue(TOPIC, [State.FAILED]) for one in (broker, other_broker)))
    moved = [job_id for answer in answers if isinstance(answer, list) for job_id in answer]
    assert sorted(moved) == ids
    assert sorted(waiting(broker)) == ids
    assert ids_of(broker.list(TOPIC, State.FAILED)) == []


def test_two_workers_that_want_overlapping_topics_never_get_half_of_them(broker: Broker, other_broker: Broker) -> None:
    for _ in range(40):
        one, two = Hand(broker), Hand(other_broker)
        at_once(
            lambda one=one: broker.lock(["a", "b", "c"], one.id, 60),  # type: ignore[misc]
            lambda two=two: other_broker.lock(["d", "c", "b"], two.id, 60),  # type: ignore[misc]
        )
        held = {holder.topic: holder.worker for holder in broker.holders(["a", "b", "c", "d"])}
        winner = held["b"]
        assert held == dict.fromkeys(["a", "b", "c"] if winner == one.id else ["b", "c", "d"], winner)
        broker.leave(winner, ["a", "b", "c", "d"])


def test_a_lock_that_expires_while_somebody_asks_for_it_is_not_taken_for_granted(
    broker: Broker, other_broker: Broker
) -> None:
    """An empty answer means that the topic is locked for who asked, at whatever moment the rival's lock expired."""
    hand, rival = Hand(broker), Hand(other_broker)
    for _ in range(300):
        other_broker.lock([TOPIC], rival.id, 0.001)
        if not (holders := broker.lock([TOPIC], hand.id, 60)):
            assert [holder.worker for holder in broker.holders([TOPIC])] == [hand.id]
            broker.leave(hand.id, [TOPIC])
        assert all(holder.expires for holder in holders), "a lock that expires was taken for one that does not"


def test_a_lock_that_expires_while_it_is_looked_at_is_not_one_of_an_older_sjq(
    broker: Broker, other_broker: Broker
) -> None:
    """Whoever believes that it never expires tells people to unlock it by hand."""
    rival = Hand(other_broker)
    done = threading.Event()

    def renew() -> None:
        while not done.is_set():
            other_broker.lock([TOPIC, "more"], rival.id, 0.001)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        seen = [holder for _ in range(400) for holder in broker.holders([TOPIC, "more"])]
    finally:
        done.set()
        renewing.join()
    assert all(holder.expires for holder in seen)
    until(lambda: not broker.holders([TOPIC]), what="the end of the lock")


def test_a_worker_that_leaves_frees_nothing_of_its_successor(broker: Broker, other_broker: Broker) -> None:
    for _ in range(40):
        hand, successor = Hand(broker), Hand(other_broker)
        broker.lock([TOPIC], hand.id, 60)
        _, refused = at_once(
            lambda hand=hand: broker.leave(hand.id, [TOPIC]),  # type: ignore[misc]
            lambda successor=successor: other_broker.lock([TOPIC], successor.id, 60),  # type: ignore[misc]
        )
        if refused == []:
            assert [holder.worker for holder in broker.holders([TOPIC])] == [successor.id]
        other_broker.leave(successor.id, [TOPIC])


def test_a_job_that_goes_from_topic_to_topic_is_counted_once_at_every_instant(
    broker: Broker, other_broker: Broker
) -> None:
    create(broker, "first", topic="ping")
    done = threading.Event()

    def go_on() -> None:
        hand = Hand(other_broker)
        while not done.is_set():
            for here, there in (("ping", "pong"), ("pong", "ping")):
                lease = hand.lease(here)
                assert other_broker.settle(lease, succeeded([lease.message.next(there, b"1")]))

    def count() -> list[int]:
        try:
            return [sum(sum(one.states.values()) for one in broker.counts(["ping", "pong"])) for _ in range(200)]
        finally:
            done.set()

    wrong, sums = at_once(go_on, count)
    assert wrong is None
    assert sums == [1] * 200
