"""none -> incoming, and the order in which jobs are taken."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers.base import Broker
from sjq.errors import WrongState
from sjq.jobs import LONGEST_ID_BYTES, Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, ids_of, job, several, state_of, story, waiting


def test_a_created_job_waits_with_its_data(broker: Broker) -> None:
    message = job(data={"w": 64, "name": "ü"})
    broker.create([message])
    known = broker.get(message.job_id)
    assert known is not None
    assert (known.state, known.topic, known.attempt) == (State.INCOMING, TOPIC, 0)
    assert json.loads(known.data or b"") == {"w": 64, "name": "ü"}
    assert known.created_at == message.created_at
    assert (known.parent_job_id, known.worker, known.reason, known.why) == (None, None, None, None)


def test_a_created_job_has_one_event_and_one_count(broker: Broker) -> None:
    create(broker, "a")
    assert story(broker, "a") == ["created"]
    (counts,) = broker.counts([TOPIC])
    assert counts.states[State.INCOMING] == 1
    assert counts.totals == {"created": 1}


def test_creating_nothing_is_no_error(broker: Broker) -> None:
    broker.create([])
    assert broker.topics() == []


def test_jobs_are_taken_in_the_order_of_their_creation(broker: Broker) -> None:
    ids = several(5)
    create(broker, *ids)
    assert waiting(broker) == ids
    assert Hand(broker).drain() == ids


def test_topics_do_not_meet(broker: Broker) -> None:
    create(broker, "a", topic="one")
    create(broker, "b", topic="one.more")
    assert Hand(broker).drain("one.more") == ["b"]
    assert Hand(broker).take("on") is None
    assert waiting(broker, "one") == ["a"]
    assert Hand(broker).drain("one") == ["a"]


def test_more_jobs_than_one_call_takes_keep_their_order(broker: Broker) -> None:
    ids = several(1203)
    create(broker, *ids)
    assert waiting(broker) == ids
    assert [event.job_id for event in broker.events(limit=10**6)] == ids


def test_one_call_may_fill_several_topics(broker: Broker) -> None:
    broker.create([job("a", "one"), job("b", "two"), job("c", "one")])
    assert (waiting(broker, "one"), waiting(broker, "two")) == (["a", "c"], ["b"])


def test_repeating_a_create_creates_nothing_twice(broker: Broker) -> None:
    messages = [job("a"), job("b")]
    broker.create(messages)
    broker.create(messages)
    assert waiting(broker) == ["a", "b"]
    assert story(broker, "a") == ["created"]


def test_a_repeated_create_leaves_jobs_alone_in_whatever_state_they_are(broker: Broker) -> None:
    hand = Hand(broker)
    fail(broker, "failed")
    create(broker, "succeeded", "released", "processing")
    assert broker.settle(hand.lease(), succeeded())
    assert broker.settle(hand.lease(), released("a deploy"))
    hand.lease()
    hand.lease()
    before = {job_id: state_of(broker, job_id) for job_id in ("failed", "succeeded", "released", "processing")}
    broker.create([job(job_id) for job_id in before])
    assert {job_id: state_of(broker, job_id) for job_id in before} == before
    assert waiting(broker) == []


def test_one_id_twice_in_a_call_is_one_job(broker: Broker) -> None:
    broker.create([job("a", data=1), job("a", data=2), job("a", "elsewhere")])
    assert Hand(broker).drain() == ["a"]
    assert Hand(broker).take("elsewhere") is None


def test_parent_and_attachment_travel_with_the_job(broker: Broker) -> None:
    broker.create([changed(job("a"), parent_job_id="the-parent", attachment=b"\0bytes\xff" * 1000)])
    known = broker.get("a")
    assert known is not None
    assert known.parent_job_id == "the-parent"
    (created,) = broker.events()
    assert created.details == {"parent": "the-parent"}
    lease = Hand(broker).lease()
    assert lease.message.parent_job_id == "the-parent"
    assert lease.message.attachment == b"\0bytes\xff" * 1000
    assert broker.settle(lease, succeeded())


def test_an_empty_attachment_is_an_attachment(broker: Broker) -> None:
    broker.create([changed(job("a"), attachment=b"")])
    lease = Hand(broker).lease()
    assert lease.message.attachment == b""
    assert broker.settle(lease, succeeded())


def test_the_attachment_is_gone_after_success_and_stays_after_failure(broker: Broker, wire: Wire) -> None:
    hand = Hand(broker)
    broker.create([changed(job("good"), attachment=b"x"), changed(job("bad"), attachment=b"x")])
    assert broker.settle(hand.lease(), succeeded())
    assert broker.settle(hand.lease(), broke)
    assert not wire("EXISTS", "job_attachment:good")
    assert broker.requeue(TOPIC, [State.FAILED]) == ["bad"]
    lease = hand.lease()
    assert lease.message.attachment == b"x"
    assert broker.settle(lease, succeeded())
    assert not wire("EXISTS", "job_attachment:bad")


def test_large_data_and_attachments_are_split_over_calls_and_arrive_whole(broker: Broker) -> None:
    big = "x" * (3 << 20)
    broker.create([changed(job(job_id, data=big), attachment=big.encode()) for job_id in ("a", "b", "c")])
    hand = Hand(broker)
    for job_id in ("a", "b", "c"):
        lease = hand.lease()
        assert lease.job_id == job_id
        assert json.loads(bytes(lease.message.data)) == big
        assert lease.message.attachment == big.encode()
        assert broker.settle(lease, succeeded())


def test_data_is_kept_to_the_byte(broker: Broker, wire: Wire) -> None:
    data = b'{"z": 1.0, "a": 12345678901234567890123, "a": "\\u00fc"}'
    wire.push(TOPIC, "a", b'{"job_id": "a", "data": ' + data + b"}")
    lease = Hand(broker).lease()
    assert lease.message.data == data
    assert broker.settle(lease, succeeded())


def test_a_job_that_waits_cannot_be_deleted(broker: Broker) -> None:
    create(broker, "a")
    with pytest.raises(WrongState, match="a is incoming"):
        broker.delete(["a"])


def test_the_longest_id_is_an_id(broker: Broker) -> None:
    longest = "ü" * (LONGEST_ID_BYTES // 2)
    create(broker, longest)
    assert ids_of(broker.list(TOPIC, State.INCOMING)) == [longest]
    taken = Hand(broker).take()
    assert isinstance(taken, Lease)
    assert broker.settle(taken, succeeded())
