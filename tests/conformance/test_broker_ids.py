"""Ids: any non-empty UTF-8 of up to 512 bytes without NUL; others fail, and can be looked at and forgotten."""

from __future__ import annotations

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.jobs import id_from_bytes
from sjq.outcomes import succeeded
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, ids_of, job, state_of, story, waiting

GOOD = [
    "a",
    "a/b",
    "../../etc/passwd",
    "..",
    ".",
    "-rf",
    "a b",
    " ",
    "\n",
    "two\nlines\r\n\ttab",
    "*",
    "a[b]?\\*",
    "%d %s {} {0}",
    "'; FLUSHALL; --",
    "\x1b[31m\x07",
    "job_state:a",
    "grün-東京-🦜",
    "\u202e",
    "null",
    "0",
    "x" * 512,
    "ü" * 256,
]
BAD = {
    b"": "is empty",
    b"\0": "NUL",
    b"a\0b": "NUL",
    b"\xff": "not UTF-8",
    b"a\xc3": "not UTF-8",
    b"\xed\xa0\x80": "not UTF-8",
    b"x" * 513: "513 bytes",
    "ü".encode() * 257: "514 bytes",
}


def shown(value: object) -> str:
    return ascii(value)[:30]


@pytest.mark.parametrize("job_id", GOOD, ids=shown)
def test_a_good_id_lives_the_whole_life_of_a_job(broker: Broker, wire: Wire, job_id: str) -> None:
    wire.push(TOPIC, job_id, '{"data": 1}')
    create(broker, "next")
    assert waiting(broker) == [job_id, "next"]
    hand = Hand(broker)
    lease = hand.lease()
    assert lease.job_id == job_id
    assert hand.beat(leases=[lease]).lost_leases == frozenset()
    (lost,) = broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9)
    assert lost.job_id == job_id
    assert broker.settle(hand.lease(), broke)
    assert ids_of(broker.list(TOPIC, State.FAILED)) == [job_id]
    assert broker.find(job_id, 5) == [job_id]
    assert broker.requeue(TOPIC, [State.FAILED], [job_id]) == [job_id]
    lease = hand.lease()
    child = lease.message.next("upload", b"1")
    assert broker.settle(lease, succeeded([child]))
    broker.confirm([job_id])
    assert state_of(broker, job_id) is State.SUCCEEDED
    assert story(broker, job_id) == ["taken", "recovered", "taken", "failed", "requeued", "taken", "succeeded"]
    assert hand.lease("upload").message.parent_job_id == job_id
    assert hand.lease().job_id == "next"


@pytest.mark.parametrize("raw_id", BAD, ids=shown)
def test_a_bad_id_fails_and_can_be_looked_at_and_forgotten(broker: Broker, wire: Wire, raw_id: bytes) -> None:
    wire.push(TOPIC, raw_id, '{"data": 1}')
    create(broker, "next")
    job_id = id_from_bytes(raw_id)
    assert waiting(broker) == [job_id, "next"]
    hand = Hand(broker)
    malformed = hand.malformed()
    assert malformed.job_id == job_id
    assert BAD[raw_id] in malformed.why
    malformed.why.encode()
    known = broker.get(job_id)
    assert known is not None
    assert (known.state, known.reason) == (State.FAILED, Reason.MESSAGE)
    assert ids_of(broker.list(TOPIC, State.FAILED)) == [job_id]
    assert broker.requeue(TOPIC, [State.FAILED], [job_id]) == [job_id]
    assert hand.malformed() == malformed
    assert job_id in broker.find(job_id, 5)
    assert broker.delete([job_id]) == [job_id]
    assert broker.get(job_id) is None
    assert hand.drain() == ["next"]
    assert wire.names() <= {b"events", b"stats:" + TOPIC.encode(), b"job_state:next"}


def test_ids_that_differ_in_one_byte_are_different_jobs(broker: Broker) -> None:
    ids = ["a", "A", "a ", " a", "a\n", "ä", "a\u0308"]
    create(broker, *ids)
    assert Hand(broker).drain() == ids


def test_an_id_that_looks_like_another_ones_key_hurts_nobody(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    broker.create([job("a:state"), job(":a"), job("job_data:a")])
    assert Hand(broker).drain() == ["a", "a:state", ":a", "job_data:a"]
    assert not [name for name in wire.names() if name.startswith(b"job_data")]
