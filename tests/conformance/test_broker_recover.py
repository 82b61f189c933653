"""processing -> incoming or failed, when the worker is gone."""

from __future__ import annotations

import pytest
from servers import Wire, until

from sjq.brokers.base import Broker, Recovered
from sjq.outcomes import failed, released, succeeded
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, ids_of, several, state_of, story, waiting


def recover(broker: Broker, *dead: str, losses: int = 3, topic: str = TOPIC) -> dict[str, State]:
    return {job.job_id: job.state for job in broker.recover(topic, dead=dead, expired=[], losses=losses)}


def test_jobs_of_a_dead_worker_wait_again_in_their_old_order(broker: Broker) -> None:
    ids = several(7)
    create(broker, *ids)
    dead, alive = Hand(broker), Hand(broker)
    for hand in (dead, alive, dead, dead):
        hand.lease()
    back = broker.recover(TOPIC, dead=[dead.id], expired=[], losses=3)
    assert {(job.job_id, job.worker, job.state) for job in back} == {
        (ids[index], dead.id, State.INCOMING) for index in (0, 2, 3)
    }
    assert waiting(broker) == [ids[index] for index in (0, 2, 3, 4, 5, 6)]
    assert ids_of(broker.list(TOPIC, State.PROCESSING)) == [ids[1]]
    assert story(broker, ids[0]) == ["created", "taken", "recovered"]


def test_jobs_of_several_dead_workers_keep_their_order_too(broker: Broker) -> None:
    ids = several(6)
    create(broker, *ids)
    one, two = Hand(broker), Hand(broker)
    for hand in (one, two, two, one):
        hand.lease()
    recover(broker, one.id, two.id)
    assert waiting(broker) == ids


def test_recovery_knows_its_topic_only(broker: Broker) -> None:
    create(broker, "a")
    create(broker, "b", topic="other")
    hand = Hand(broker)
    hand.lease()
    hand.lease("other")
    assert recover(broker, hand.id) == {"a": State.INCOMING}
    assert state_of(broker, "b") is State.PROCESSING


def test_a_look_tells_what_a_recovery_would_do_and_changes_nothing(broker: Broker, wire: Wire) -> None:
    create(broker, "a", "b", "c")
    hand, expired, back_again = Hand(broker), Hand(broker), Hand(broker)
    create(broker, "d", "e")
    leases = [one.lease() for one in (hand, hand, expired, back_again)]
    broker.cancel("a", "a change of mind")
    wire("HSET", "job_state:b", "losses", 2)
    wire("RPUSH", f"processing:{TOPIC}", "e")
    back_again.beat()
    keys = {name: wire("DUMP", name) for name in wire.names()}

    def recover(*, look: bool) -> dict[str, State]:
        gone = [expired.id, back_again.id]
        back = broker.recover(TOPIC, dead=[hand.id, ""], expired=gone, losses=3, look=look)
        return {job.job_id: job.state for job in back}

    seen = recover(look=True)
    assert {name: wire("DUMP", name) for name in wire.names()} == keys
    assert seen == recover(look=False)
    assert seen == {"a": State.CANCELLED, "b": State.FAILED, "c": State.INCOMING, "e": State.INCOMING}
    assert broker.settle(leases[3], succeeded())


def test_recovery_twice_recovers_once(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    assert recover(broker, hand.id) == {"a": State.INCOMING}
    assert recover(broker, hand.id) == {}
    assert waiting(broker) == ["a"]


def test_recovery_of_nobody_does_nothing(broker: Broker) -> None:
    create(broker, "a")
    Hand(broker).lease()
    assert broker.recover(TOPIC, dead=[], expired=[], losses=3) == []
    assert recover(broker, "unheard of") == {}
    assert broker.recover("unheard of", dead=["w"], expired=["v"], losses=3) == []
    assert state_of(broker, "a") is State.PROCESSING


def test_a_worker_thought_expired_that_is_alive_keeps_its_jobs(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    hand.beat()
    assert broker.recover(TOPIC, dead=[], expired=[hand.id], losses=3) == []
    assert broker.settle(lease, succeeded()) is True


def test_a_worker_that_came_back_in_time_keeps_its_jobs(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    hand.beat(0.05)
    until(lambda: broker.suspects([TOPIC]) == {TOPIC: {hand.id: {}}}, what="the end of the lease")
    hand.beat()
    assert broker.recover(TOPIC, dead=[], expired=[hand.id], losses=3) == []
    assert broker.settle(lease, succeeded()) is True


def test_an_expired_worker_loses_its_jobs(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    hand.beat(0.05)
    until(lambda: not hand.alive(), what="the end of the lease")
    back = broker.recover(TOPIC, dead=[], expired=[hand.id], losses=3)
    assert back == [Recovered(job_id="a", worker=hand.id, state=State.INCOMING)]


def test_a_dead_worker_is_dead_though_its_lease_still_runs(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    hand.beat()
    assert recover(broker, hand.id) == {"a": State.INCOMING}


def test_dead_and_expired_are_told_apart_in_one_call(broker: Broker) -> None:
    create(broker, "a", "b", "c")
    dead, back_again, expired = Hand(broker), Hand(broker), Hand(broker)
    for hand in (dead, back_again, expired):
        hand.lease()
    dead.beat()
    back_again.beat()
    back = broker.recover(TOPIC, dead=[dead.id], expired=[back_again.id, expired.id], losses=3)
    assert {job.job_id for job in back} == {"a", "c"}


def test_a_job_lost_too_often_fails(broker: Broker) -> None:
    create(broker, "a")
    for expected in (State.INCOMING, State.INCOMING, State.FAILED):
        hand = Hand(broker)
        hand.lease()
        assert recover(broker, hand.id) == {"a": expected}
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.attempt) == (State.FAILED, Reason.LOST, 3)
    assert "3 times" in (known.why or "")
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["a"]
    assert story(broker, "a")[-3:] == ["recovered", "taken", "lost"]
    last = broker.events()[-1].details
    assert last["reason"] == "lost"
    assert last["why"] == known.why


def test_one_loss_can_be_one_too_many(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    assert recover(broker, hand.id, losses=1) == {"a": State.FAILED}


def test_a_loss_is_neither_a_try_nor_an_interruption(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    recover(broker, hand.id)
    lease = hand.lease()
    assert (lease.tries, lease.losses, lease.interruptions) == (0, 1, 0)


def test_releases_and_failures_are_no_losses(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    for _ in range(5):
        assert broker.settle(hand.lease(), released("a stop"))
        assert broker.settle(hand.lease(), broke)
        broker.requeue(TOPIC, [State.FAILED])
    hand.lease()
    assert recover(broker, hand.id, losses=2) == {"a": State.INCOMING}


def test_a_release_does_not_reset_the_losses(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    assert recover(broker, hand.id, losses=2) == {"a": State.INCOMING}
    assert broker.settle(hand.lease(), released("a stop"))
    hand.lease()
    assert recover(broker, hand.id, losses=2) == {"a": State.FAILED}


def test_a_requeue_resets_the_losses(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    for expected in (State.INCOMING, State.FAILED):
        hand.lease()
        assert recover(broker, hand.id, losses=2) == {"a": expected}
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    known = broker.get("a")
    assert known is not None
    assert (known.reason, known.why) == (None, None)
    hand.lease()
    assert recover(broker, hand.id, losses=2) == {"a": State.INCOMING}


def test_jobs_that_are_lost_together_are_sent_back_in_their_old_order(broker: Broker) -> None:
    ids = several(4)
    create(broker, *ids)
    hand = Hand(broker)
    for _ in ids:
        hand.lease()
    recover(broker, hand.id, losses=1)
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ids
    broker.requeue(TOPIC, [State.FAILED])
    assert waiting(broker) == ids


def test_ids_without_a_state_are_recovered_in_their_order(broker: Broker, wire: Wire) -> None:
    for job_id in ("a", "b", "c"):
        wire("SET", f"job_data:{job_id}", '{"data": 1}')
        wire("RPUSH", f"processing:{TOPIC}", job_id)
    create(broker, "d")
    assert ids_of(broker.list(TOPIC, State.PROCESSING)) == ["a", "b", "c"]
    back = broker.recover(TOPIC, dead=[], expired=[""], losses=1)
    assert {(job.job_id, job.worker, job.state) for job in back} == {(name, "", State.INCOMING) for name in "abc"}
    assert waiting(broker) == ["a", "b", "c", "d"]
    assert Hand(broker).drain() == ["a", "b", "c", "d"]


def test_ids_without_a_state_are_left_alone_unless_they_are_named(broker: Broker, wire: Wire) -> None:
    wire("RPUSH", f"processing:{TOPIC}", "a")
    assert recover(broker, "w") == {}
    assert wire.ids(f"processing:{TOPIC}") == [b"a"]
    assert recover(broker, "") == {"a": State.INCOMING}
    assert Hand(broker).malformed().job_id == "a"


def test_an_id_that_an_older_sjq_left_twice_is_one_job(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", '{"data": 1}')
    wire("RPUSH", f"processing:{TOPIC}", "a", "a")
    assert recover(broker, "") == {"a": State.INCOMING}
    assert Hand(broker).drain() == ["a"]


@pytest.mark.litters("a message of a wrong type")
def test_a_spoilt_state_does_not_stop_the_recovery_of_others(broker: Broker, wire: Wire) -> None:
    create(broker, "a", "b", "c")
    hand = Hand(broker)
    for _ in "abc":
        hand.lease()
    wire("DEL", "job_state:b")
    wire("SET", "job_state:b", "spoilt")
    assert hand.id in broker.suspects([TOPIC])[TOPIC]
    back = recover(broker, hand.id, "")
    assert set(back) >= {"a", "c"}


def test_a_recovered_job_tells_nothing_of_its_old_fence(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    recover(broker, hand.id)
    known = broker.get("a")
    assert known is not None
    assert known.fence != lease.fence
    assert known.since is not None
    assert known.since >= lease.taken_at
    assert hand.beat(leases=[lease]).lost_leases == {lease.fence}
    assert broker.events()[-1].details == {"fence": lease.fence}


def test_hundreds_of_jobs_of_a_dead_worker_come_back_in_order(broker: Broker) -> None:
    ids = several(300)
    create(broker, *ids)
    hand = Hand(broker)
    for _ in ids:
        hand.lease()
    assert len(recover(broker, hand.id)) == len(ids)
    assert waiting(broker) == ids


def test_a_job_that_failed_before_its_worker_died_stays_failed(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), failed(Reason.EXIT, "so"))
    assert recover(broker, hand.id) == {}
    assert state_of(broker, "a") is State.FAILED
