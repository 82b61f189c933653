"""failed -> incoming, and failed -> none: what people do with ended jobs."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.errors import WrongState
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, ids_of, several, state_of, story, waiting

FAILED = [State.FAILED]


def test_a_requeued_job_waits_with_all_that_it_had(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", '{"data": {"w": 1}, "parent_job_id": "p"}')
    Hand(broker).drain(outcome=broke)
    assert broker.requeue(TOPIC, FAILED) == ["a"]
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.topic, known.attempt, known.parent_job_id) == (State.INCOMING, TOPIC, 1, "p")
    assert (known.reason, known.why, known.data) == (None, None, b'{"w": 1}')
    assert broker.list(TOPIC, State.FAILED) == []
    assert story(broker, "a") == ["taken", "failed", "requeued"]


def test_requeued_jobs_are_taken_next_in_their_old_order(broker: Broker) -> None:
    ids = fail(broker, *several(5))
    create(broker, "new")
    assert broker.requeue(TOPIC, FAILED) == ids
    assert waiting(broker) == [*ids, "new"]


def test_more_than_a_page_of_jobs_is_sent_back_in_order(broker: Broker, wire: Wire) -> None:
    ids = several(1203)
    for job_id in ids:
        wire("HSET", f"job_state:{job_id}", "state", "failed", "topic", TOPIC)
        wire("SET", f"job_data:{job_id}", '{"data": 1}')
    wire("RPUSH", f"failed:{TOPIC}", *ids)
    assert broker.requeue(TOPIC, FAILED) == ids
    assert waiting(broker) == ids


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_jobs_sent_back_by_id_keep_their_old_order_too(broker: Broker, order: list[int]) -> None:
    ids = fail(broker, *several(5))
    assert sorted(broker.requeue(TOPIC, FAILED, [ids[index] for index in order])) == ids[:4]
    assert waiting(broker) == ids[:4]
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ids[4:]


def test_only_jobs_in_the_named_states_are_sent_back(broker: Broker, wire: Wire) -> None:
    ids = fail(broker, *several(6))
    for job_id, state in zip(ids, ["failed", "timedout", "cancelled"] * 2, strict=True):
        wire("HSET", f"job_state:{job_id}", "state", state)
    assert broker.requeue(TOPIC, []) == []
    assert broker.requeue(TOPIC, [State.FAILED, State.TIMEDOUT]) == [ids[0], ids[1], ids[3], ids[4]]
    assert ids_of(broker.list(TOPIC, State.CANCELLED)) == [ids[2], ids[5]]
    assert broker.requeue(TOPIC, [State.CANCELLED], [ids[5]]) == [ids[5]]
    assert waiting(broker) == [ids[5], ids[0], ids[1], ids[3], ids[4]]


@pytest.mark.parametrize("ids", [[], ["unheard of"], ["waits"], ["runs"], ["succeeded"], ["waits", "runs"]])
def test_jobs_that_have_not_failed_are_not_sent_back(broker: Broker, ids: Collection[str]) -> None:
    hand = Hand(broker)
    create(broker, "succeeded", "runs", "waits")
    assert broker.settle(hand.lease(), succeeded())
    hand.lease()
    before = broker.events()
    assert broker.requeue(TOPIC, list(State), ids) == []
    assert broker.requeue(TOPIC, list(State)) == []
    assert broker.events() == before
    assert waiting(broker) == ["waits"]


def test_a_job_is_sent_back_once_though_it_is_named_twice(broker: Broker) -> None:
    fail(broker, "a")
    assert broker.requeue(TOPIC, FAILED, ["a", "a"]) == ["a"]
    assert broker.requeue(TOPIC, FAILED, ["a"]) == []
    assert waiting(broker) == ["a"]


def test_a_job_is_not_sent_to_another_topic(broker: Broker) -> None:
    fail(broker, "a")
    assert broker.requeue("other", FAILED, ["a"]) == []
    assert broker.requeue("other", FAILED) == []
    assert state_of(broker, "a") is State.FAILED


def test_a_released_job_is_not_sent_back(broker: Broker) -> None:
    create(broker, "a")
    assert broker.settle(Hand(broker).lease(), released("a stop"))
    assert broker.requeue(TOPIC, list(State), ["a"]) == []
    assert waiting(broker) == ["a"]


def test_a_deleted_job_is_forgotten(broker: Broker, wire: Wire) -> None:
    fail(broker, "a", "b")
    assert broker.delete(["a"]) == ["a"]
    assert broker.get("a") is None
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["b"]
    assert not [name for name in wire.names() if name.endswith(b":a")]
    assert story(broker, "a") == ["created", "taken", "failed", "deleted"]
    assert broker.delete(["a"]) == []


def test_deleting_says_which_jobs_were(broker: Broker) -> None:
    ids = fail(broker, *several(3))
    assert sorted(broker.delete([*ids, "unheard of"])) == ids
    assert broker.delete([]) == []


def test_more_than_a_page_of_jobs_can_be_deleted(broker: Broker, wire: Wire) -> None:
    ids = several(1203)
    for job_id in ids:
        wire("HSET", f"job_state:{job_id}", "state", "failed", "topic", TOPIC)
    wire("RPUSH", f"failed:{TOPIC}", *ids)
    assert sorted(broker.delete(ids)) == ids
    assert wire.names() == {b"events", b"stats:" + TOPIC.encode()}


@pytest.mark.parametrize("unended", ["waits", "runs", "released"])
def test_deleting_deletes_nothing_when_one_job_has_not_ended(broker: Broker, unended: str) -> None:
    hand = Hand(broker)
    fail(broker, "failed")
    create(broker, "released", "runs", "waits")
    assert broker.settle(hand.lease(), released("a stop"))
    if unended != "released":
        hand.lease()
        hand.lease()
        create(broker, "waits more")
    if unended == "waits":
        unended = "waits more"
    with pytest.raises(WrongState, match=unended):
        broker.delete(["failed", unended])
    assert state_of(broker, "failed") is State.FAILED


@pytest.mark.parametrize("state", ["timedout", "cancelled", "rejected"])
def test_jobs_that_ended_in_any_bad_way_can_be_deleted(broker: Broker, wire: Wire, state: str) -> None:
    fail(broker, "a")
    wire("HSET", "job_state:a", "state", state)
    if state == "rejected":
        wire("RENAME", f"failed:{TOPIC}", wire.key(f"rejected:{TOPIC}"))
    assert broker.delete(["a"]) == ["a"]
    assert wire.names() == {b"events", b"stats:" + TOPIC.encode()}


def test_the_stub_of_a_succeeded_job_can_be_forgotten(broker: Broker) -> None:
    create(broker, "a")
    Hand(broker).drain()
    assert broker.delete(["a"]) == ["a"]
    assert broker.get("a") is None


def test_an_id_is_free_again_after_its_deletion(broker: Broker) -> None:
    fail(broker, "a")
    broker.delete(["a"])
    create(broker, "a")
    lease = Hand(broker).lease()
    assert (lease.attempt, lease.earlier) == (1, ())
    assert broker.settle(lease, succeeded())
