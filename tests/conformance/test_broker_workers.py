"""Heartbeats and locks: who is alive, and who has which topic."""

from __future__ import annotations

import pytest
from servers import Wire, until

from sjq.brokers.base import Broker, Holder
from sjq.jobs import Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import FACTS, TOPIC, Hand, broke, create, several

SHORT_S = 0.1


def held(topic: str, worker: str, facts: dict[str, str] | None = None, *, expires: bool = True) -> Holder:
    return Holder(topic=topic, worker=worker, facts=facts or {}, expires=expires)


def test_a_heartbeat_makes_a_worker_known_with_its_facts(broker: Broker) -> None:
    assert broker.workers() == {}
    facts = {"host": "grün", "pid": "12", "note": "a b\nc", "empty": ""}
    pulse = broker.heartbeat("w", facts, lease_s=60)
    assert broker.workers() == {"w": facts}
    assert (pulse.lost_locks, pulse.lost_leases) == (frozenset(), frozenset())


def test_the_next_heartbeat_replaces_the_facts(broker: Broker) -> None:
    broker.heartbeat("w", {"host": "here", "in_flight": "2"}, lease_s=60)
    broker.heartbeat("w", {"host": "here"}, lease_s=60)
    assert broker.workers() == {"w": {"host": "here"}}


def test_workers_are_told_apart(broker: Broker) -> None:
    hands = [Hand(broker, name) for name in ("a", "a.b", "a-b", "[a]", "*")]
    for hand in hands:
        hand.beat()
    assert set(broker.workers()) == {hand.id for hand in hands}


def test_a_silent_worker_is_forgotten(broker: Broker) -> None:
    hand = Hand(broker)
    hand.beat(SHORT_S)
    assert hand.alive()
    until(lambda: not hand.alive(), what="the end of the lease")


def test_heartbeats_keep_worker_and_locks_alive_beyond_the_lease(broker: Broker) -> None:
    hand = Hand(broker)
    canary = Hand(broker)
    assert broker.lock(["a", "b"], hand.id, 0.5) == []
    hand.beat(0.5)
    canary.beat(0.7)

    def canary_is_gone() -> bool:
        hand.beat(0.5, ["a", "b"])
        return not canary.alive()

    until(canary_is_gone, what="the end of a lease that nobody renewed")
    assert hand.alive()
    assert {holder.worker for holder in broker.holders(["a", "b"])} == {hand.id}


def test_a_worker_that_leaves_is_forgotten_with_its_locks(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    hand.beat()
    other.beat()
    broker.lock(["a", "b"], hand.id, 60)
    broker.lock(["c"], other.id, 60)
    broker.leave(hand.id, ["a", "b", "c", "never locked"])
    assert set(broker.workers()) == {other.id}
    assert broker.holders(["a", "b", "c"]) == [held("c", other.id, FACTS)]
    broker.leave(hand.id, [])


def test_a_lock_names_its_holder_with_facts(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    assert broker.lock(["a"], hand.id, 60) == []
    assert broker.holders(["a", "b"]) == [held("a", hand.id)]
    hand.beat(topics=["a"])
    assert broker.lock(["a"], other.id, 60) == [held("a", hand.id, FACTS)]


def test_all_locks_or_none(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    broker.lock(["b", "d"], hand.id, 60)
    assert [holder.topic for holder in broker.lock(["a", "b", "c", "d"], other.id, 60)] == ["b", "d"]
    assert broker.holders(["a", "c"]) == []
    broker.leave(hand.id, ["b", "d"])
    assert broker.lock(["a", "b", "c", "d"], other.id, 60) == []
    assert [holder.worker for holder in broker.holders(["a", "b", "c", "d"])] == [other.id] * 4


def test_locking_what_is_mine_is_no_conflict(broker: Broker) -> None:
    hand = Hand(broker)
    assert broker.lock(["a"], hand.id, 60) == []
    assert broker.lock(["a", "b"], hand.id, 60) == []
    assert broker.lock([], hand.id, 60) == []
    assert broker.holders([]) == []


def test_a_lock_expires_and_is_free_then(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    broker.lock(["a"], hand.id, SHORT_S)
    assert broker.lock(["a"], other.id, 60)
    until(lambda: not broker.lock(["a"], other.id, 60), what="the end of the lock")
    assert [holder.worker for holder in broker.holders(["a"])] == [other.id]


def test_locking_again_renews(broker: Broker) -> None:
    hand = Hand(broker)
    canary = Hand(broker)
    broker.lock(["a"], hand.id, SHORT_S)
    broker.lock(["a"], hand.id, 60)
    canary.beat(2 * SHORT_S)
    until(lambda: not canary.alive(), what="the end of a later lease")
    assert broker.holders(["a"])


def test_a_heartbeat_tells_of_locks_that_another_took(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    broker.lock(["a", "b"], hand.id, SHORT_S)
    until(lambda: not broker.lock(["a"], other.id, 60), what="the end of the lock")
    assert hand.beat(topics=["a", "b"], expired=True).lost_locks == {"a"}
    assert {holder.topic: holder.worker for holder in broker.holders(["a", "b"])} == {"a": other.id, "b": hand.id}


def test_a_heartbeat_takes_back_a_lock_that_expired_and_nobody_took(broker: Broker) -> None:
    hand = Hand(broker)
    broker.lock(["a"], hand.id, SHORT_S)
    until(lambda: not broker.holders(["a"]), what="the end of the lock")
    assert hand.beat(topics=["a"], expired=True).lost_locks == frozenset()
    assert broker.holders(["a"]) == [held("a", hand.id, FACTS)]


def test_a_lock_that_somebody_freed_is_lost_to_a_worker_that_was_never_away(broker: Broker) -> None:
    hand = Hand(broker)
    broker.lock(["a", "b"], hand.id, 60)
    assert hand.beat(topics=["a", "b"]).lost_locks == frozenset()
    assert broker.unlock(held("a", hand.id))
    assert hand.beat(topics=["a", "b"]).lost_locks == {"a"}
    assert {holder.topic for holder in broker.holders(["a", "b"])} == {"b"}


def test_a_heartbeat_does_not_renew_locks_that_it_does_not_name(broker: Broker) -> None:
    hand = Hand(broker)
    broker.lock(["a", "b"], hand.id, SHORT_S)
    hand.beat(topics=["a"])
    until(lambda: not broker.holders(["b"]), what="the end of the lock")
    assert broker.holders(["a"])


def test_unlock_frees_only_the_holder_that_was_seen(broker: Broker) -> None:
    hand, other = Hand(broker), Hand(broker)
    broker.lock(["a"], hand.id, 60)
    (seen,) = broker.holders(["a"])
    broker.leave(hand.id, ["a"])
    broker.lock(["a"], other.id, 60)
    assert broker.unlock(seen) is False
    (now,) = broker.holders(["a"])
    assert now.worker == other.id
    assert broker.unlock(now) is True
    assert broker.holders(["a"]) == []
    assert broker.unlock(now) is False


def test_the_lock_of_an_older_sjq_counts_as_held_until_somebody_unlocks_it(broker: Broker, wire: Wire) -> None:
    wire("SET", "lock:a", "4711")
    hand = Hand(broker)
    older = held("a", "4711", expires=False)
    assert broker.lock(["a", "b"], hand.id, 60) == [older]
    assert broker.holders(["a", "b"]) == [older]
    assert hand.beat(topics=["a"]).lost_locks == {"a"}
    assert broker.unlock(older) is True
    assert broker.lock(["a", "b"], hand.id, 60) == []


@pytest.mark.parametrize("end", ["taken by nobody", "settled", "recovered", "taken by another", "deleted"])
def test_a_heartbeat_tells_of_lost_leases(broker: Broker, end: str) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    lease, kept = hand.lease(), hand.lease()
    lost = end in ("recovered", "taken by another", "deleted")
    if end == "settled":
        assert broker.settle(lease, succeeded())
    if end in ("recovered", "taken by another"):
        broker.recover(TOPIC, dead=[hand.id], expired=[], losses=3)
        kept = Hand(broker).lease()
    if end == "taken by another":
        assert broker.settle(kept, released("to have it taken by another"))
        kept = Hand(broker).lease()
    if end == "deleted":
        assert broker.settle(lease, broke)
        assert broker.delete(["a"])
    assert hand.beat(leases=[lease, kept]).lost_leases == ({lease.fence} if lost else frozenset())


def test_a_heartbeat_carries_hundreds_of_locks_and_leases(broker: Broker) -> None:
    ids = several(300)
    create(broker, *ids)
    hand = Hand(broker)
    leases = [hand.lease() for _ in ids]
    topics = several(300, "topic")
    assert broker.lock(topics, hand.id, 60) == []
    pulse = hand.beat(topics=topics, leases=leases)
    assert (pulse.lost_locks, pulse.lost_leases) == (frozenset(), frozenset())
    broker.recover(TOPIC, dead=[hand.id], expired=[], losses=3)
    other = Hand(broker)
    broker.leave(hand.id, topics)
    broker.lock(topics, other.id, 60)
    pulse = hand.beat(topics=topics, leases=leases)
    assert pulse.lost_locks == set(topics)
    assert pulse.lost_leases == {lease.fence for lease in leases}


def test_two_connections_see_the_same_workers_and_locks(broker: Broker, other_broker: Broker) -> None:
    hand = Hand(broker)
    broker.lock(["a"], hand.id, 60)
    hand.beat(topics=["a"])
    assert other_broker.workers() == {hand.id: FACTS}
    assert other_broker.holders(["a"]) == [held("a", hand.id, FACTS)]


def test_suspects_are_the_workers_of_leased_jobs(broker: Broker) -> None:
    create(broker, "a", "b", "c")
    create(broker, "d", topic="other")
    alive, silent, idle = Hand(broker), Hand(broker), Hand(broker)
    assert broker.suspects([TOPIC, "other"]) == {}
    for hand in (alive, silent, alive):
        assert isinstance(hand.take(), Lease)
    silent.lease("other")
    alive.beat()
    idle.beat()
    assert broker.suspects([TOPIC, "other", "unheard of"]) == {
        TOPIC: {alive.id: FACTS, silent.id: {}},
        "other": {silent.id: {}},
    }
    assert set(broker.suspects(["other"])) == {"other"}
    assert broker.suspects([]) == {}


def test_what_is_leased_to_a_worker_can_be_settled_by_it(broker: Broker) -> None:
    create(broker, "a", "b")
    create(broker, "c", topic="other")
    mine, another = Hand(broker), Hand(broker)
    first, _, third = mine.lease(), another.lease(), mine.lease("other")
    leased = broker.leased([TOPIC, "other", "unheard of"], mine.id)
    assert [(lease.job_id, lease.topic, lease.fence) for lease in leased] == [
        (lease.job_id, lease.topic, lease.fence) for lease in (first, third)
    ]
    for lease in leased:
        assert broker.settle(lease, released("nobody runs it"))
    assert broker.leased([TOPIC, "other"], mine.id) == []
    assert broker.leased([], mine.id) == []


def test_jobs_that_an_older_sjq_left_are_suspected_under_the_empty_id(broker: Broker, wire: Wire) -> None:
    wire("RPUSH", f"processing:{TOPIC}", "a")
    assert broker.suspects([TOPIC]) == {TOPIC: {"": {}}}
    assert broker.recover(TOPIC, dead=[""], expired=[], losses=3)[0].state is State.INCOMING
