"""Foreign producers: SET and RPUSH, in any language, from any time."""

from __future__ import annotations

import json

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.jobs import Malformed
from sjq.outcomes import succeeded
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, job, state_of, story, waiting


def refused(broker: Broker, job_id: str) -> str:
    """Take an id that must be malformed; return why it is."""
    malformed = Hand(broker).malformed()
    assert (malformed.job_id, malformed.topic) == (job_id, TOPIC)
    known = broker.get(job_id)
    assert known is not None
    assert (known.state, known.reason, known.why) == (State.FAILED, Reason.MESSAGE, malformed.why)
    assert Hand(broker).take() is None
    assert broker.list(TOPIC, State.PROCESSING) == []
    return malformed.why


def test_two_commands_make_a_job(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", '{"job_id": "a", "data": {"w": 64}, "parent_job_id": "p"}')
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.topic, known.parent_job_id, known.attempt) == (State.INCOMING, TOPIC, "p", 0)
    lease = Hand(broker).lease()
    assert (lease.job_id, lease.attempt, lease.message.data) == ("a", 1, b'{"w": 64}')
    assert lease.message.parent_job_id == "p"
    assert lease.queued_s is None
    assert broker.settle(lease, succeeded())
    assert story(broker, "a") == ["taken", "succeeded"]


def test_a_waiting_job_has_no_state_key(broker: Broker, wire: Wire) -> None:
    create(broker, "ours")
    wire.push(TOPIC, "theirs", '{"data": 1}')
    assert not wire("EXISTS", "job_state:ours")
    assert not wire("EXISTS", "job_state:theirs")
    assert Hand(broker).drain() == ["ours", "theirs"]


def test_what_we_write_is_what_the_protocol_says(broker: Broker, wire: Wire) -> None:
    message = job("a", data={"w": 1})
    broker.create([message])
    text = json.loads(wire("GET", "job_data:a"))
    assert text == {"job_id": "a", "data": {"w": 1}, "topic": TOPIC, "created_at": message.created_at}
    assert wire.ids(f"incoming:{TOPIC}") == [b"a"]
    assert wire("TYPE", f"incoming:{TOPIC}") == b"list"
    hand = Hand(broker)
    lease = hand.lease()
    assert wire.ids(f"processing:{TOPIC}") == [b"a"]
    state = wire("HGETALL", "job_state:a")
    assert state[b"state"] == b"processing"
    assert state[b"topic"] == TOPIC.encode()
    assert state[b"fence"] == lease.fence.encode()
    assert state[b"worker"] == hand.id.encode()
    assert state[b"attempt"] == b"1"
    assert broker.settle(lease, broke)
    assert wire.ids(f"failed:{TOPIC}") == [b"a"]


def test_repeating_both_commands_runs_the_job_once(broker: Broker, wire: Wire) -> None:
    for _ in range(2):
        wire.push(TOPIC, "a", '{"job_id": "a", "data": 1}')
    assert Hand(broker).drain() == ["a"]
    assert story(broker, "a") == ["taken", "succeeded", "dropped"]
    assert broker.events()[-1].details == {"state": "succeeded"}


def test_a_repeated_push_does_not_run_a_job_past_its_failure(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", '{"data": 1}')
    assert Hand(broker).drain(outcome=broke) == ["a"]
    wire.push(TOPIC, "a", '{"data": 2}')
    assert Hand(broker).take() is None
    assert state_of(broker, "a") is State.FAILED
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    assert Hand(broker).lease().message.data == b"1"


@pytest.mark.parametrize("state", ["inbox", "scheduled", "timedout", "cancelled", "rejected"])
def test_a_push_gets_no_job_past_its_review_or_its_time(broker: Broker, wire: Wire, state: str) -> None:
    wire.push(TOPIC, "a", '{"data": 1}')
    wire("HSET", "job_state:a", "state", state, "topic", TOPIC)
    assert Hand(broker).take() is None
    assert [event.details for event in broker.events()] == [{"state": state}]
    wire("DEL", "job_state:a")
    wire("DEL", "job_data:a")


def test_a_push_to_two_topics_runs_on_the_first_that_takes_it(broker: Broker, wire: Wire) -> None:
    wire.push("one", "a", '{"data": 1}')
    wire.push("two", "a", '{"data": 1}')
    lease = Hand(broker).lease("two")
    assert Hand(broker).take("one") is None
    assert broker.settle(lease, succeeded())


def test_the_id_in_the_list_wins(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", '{"job_id": "b", "data": 1}')
    wire.push(TOPIC, "c", '{"job_id": 7, "data": 1}')
    wire.push(TOPIC, "d", '{"data": 1}')
    assert Hand(broker).drain() == ["a", "c", "d"]
    assert broker.get("b") is None


def test_an_id_that_waits_without_a_message_fails_and_says_so(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a")
    assert "SET job_data:<id> before the push" in refused(broker, "a")


def test_a_failed_push_runs_after_its_message_came(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a")
    refused(broker, "a")
    wire("SET", "job_data:a", '{"data": 1}')
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    assert Hand(broker).drain() == ["a"]


@pytest.mark.litters("a message that nobody pushed")
def test_a_message_that_nobody_pushed_does_nothing(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", '{"data": 1}')
    assert Hand(broker).take() is None
    known = broker.get("a")
    assert known is not None
    assert known.topic is None
    assert broker.find("a", 5) == ["a"]
    broker.create([job("a", data=2)])
    assert waiting(broker) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "JSON"),
        (b"resize this", "JSON"),
        (b'{"data": 1', "JSON"),
        (b"[1]", "JSON object"),
        (b"null", "JSON object"),
        (b'"text"', "JSON object"),
        (b"{}", 'no "data"'),
        (b'{"job_id": "a"}', 'no "data"'),
        (b'{"Data": 1}', 'no "data"'),
        (b'{"data": 1} {"data": 2}', "JSON"),
        (b'{"data": NaN}', "JSON"),
        (b'{"data": "\xff"}', "UTF-8"),
        (b'{"data": 1, "parent_job_id": 5}', "parent_job_id"),
        (b'{"data": 1, "parent_job_id": ""}', "parent_job_id"),
        (b'{"data": 1, "parent_job_id": "a\\u0000"}', "NUL"),
        (b'{"data": 1, "attachment": true}', "job_attachment:<id> is not there"),
        (b'{"data": 1, "attachment": "yes"}', "attachment"),
        (b'{"data": 1, "priority": 5}', '"priority": 5 is not supported yet'),
        (b'{"data": 1, "priority": "high"}', '"priority": "high" is not supported yet'),
        (b'{"data": 1, "run_at": "2030-01-01T00:00:00Z"}', "is not supported yet"),
        (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
    ],
)
def test_a_malformed_message_fails_and_says_why(broker: Broker, wire: Wire, text: bytes, why: str) -> None:
    wire.push(TOPIC, "a", text)
    assert why in refused(broker, "a")
    assert story(broker, "a") == ["taken", "failed"]
    assert wire("GET", "job_data:a") == text
    assert broker.delete(["a"]) == ["a"]


@pytest.mark.parametrize("field", ['"priority": 0', '"priority": null', '"run_at": null', '"parent_job_id": null'])
def test_fields_that_say_nothing_are_no_fault(broker: Broker, wire: Wire, field: str) -> None:
    wire.push(TOPIC, "a", f'{{"data": 1, {field}}}')
    assert Hand(broker).drain() == ["a"]


def test_a_malformed_message_does_not_stop_those_behind_it(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "bad", "no JSON")
    wire.push(TOPIC, "good", '{"data": 1}')
    hand = Hand(broker)
    assert isinstance(hand.take(), Malformed)
    assert hand.lease().job_id == "good"


def test_unknown_fields_are_kept_on_requeue(broker: Broker, wire: Wire) -> None:
    text = b'{ "job_id": "a", "data": 1,  "retries": 3, "key": "k", "x-new": [1.0] }'
    wire.push(TOPIC, "a", text)
    assert Hand(broker).drain(outcome=broke) == ["a"]
    broker.requeue(TOPIC, [State.FAILED])
    assert wire("GET", "job_data:a") == text
    assert Hand(broker).drain() == ["a"]


def test_fifty_megabytes_of_data_come_through(broker: Broker, wire: Wire) -> None:
    data = b'"' + b"x" * (50 << 20) + b'"'
    wire.push(TOPIC, "a", b'{"data": ' + data + b"}")
    lease = Hand(broker).lease()
    assert lease.message.data == data
    assert broker.settle(lease, succeeded())


def test_an_attachment_by_foreign_hand_is_handed_over(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_attachment:a", b"\0\xff")
    wire.push(TOPIC, "a", '{"data": 1, "attachment": true}')
    lease = Hand(broker).lease()
    assert lease.message.attachment == b"\0\xff"
    assert broker.settle(lease, succeeded())
    assert not wire("EXISTS", "job_attachment:a")


@pytest.mark.parametrize("said", ["", ', "attachment": false', ', "attachment": null'])
def test_an_attachment_that_the_message_does_not_name_is_not_handed_over(broker: Broker, wire: Wire, said: str) -> None:
    wire("SET", "job_attachment:a", b"x")
    wire.push(TOPIC, "a", f'{{"data": 1{said}}}')
    lease = Hand(broker).lease()
    assert lease.message.attachment is None
    assert broker.settle(lease, succeeded())
    assert not wire("EXISTS", "job_attachment:a")
