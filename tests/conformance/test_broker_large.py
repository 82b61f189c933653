"""Messages and attachments above a megabyte: brought before the step, whole or not at all, and held in no memory."""

from __future__ import annotations

import json
import mmap
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace as changed
from redis.connection import Connection
from servers import Wire

from sjq.brokers.base import Broker
from sjq.brokers.redis.broker import RedisBroker
from sjq.brokers.redis.staging import MOST_BYTES_PER_CALL
from sjq.errors import LeaseLost
from sjq.jobs import Lease, new_message
from sjq.large import LARGE_BYTES
from sjq.outcomes import succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, create, job, real_servers, state_of

BIG = {"text": "ü" * LARGE_BYTES * 2}


@pytest.fixture
def view(tmp_path: Path) -> Iterator[memoryview]:
    """An attachment of some megabytes that is in no memory."""
    path = tmp_path / "attachment"
    path.write_bytes(bytes(range(256)) * (3 * LARGE_BYTES // 256) + b"end")
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as mapped:
        content = memoryview(mapped)
        yield content
        content.release()


def test_what_is_large_comes_back_to_the_byte(broker: Broker, view: memoryview, wire: Wire) -> None:
    message = changed(new_message(TOPIC, BIG, retries=3), job_id="a", attachment=view)
    broker.create([job("before"), message, job("after")])
    assert not [name for name in wire.names() if name.startswith(b"staged")]
    assert wire("TTL", "job_data:a") == wire("TTL", "job_attachment:a") == -1
    hand = Hand(broker)
    assert hand.lease().job_id == "before"
    lease = hand.lease()
    assert isinstance(lease.message.data, memoryview)
    assert isinstance(lease.message.attachment, memoryview)
    assert json.loads(bytes(lease.message.data)) == BIG
    assert lease.message.attachment == view
    assert lease.message.retries == 3
    assert hand.lease().job_id == "after"
    known = broker.get("a")
    assert known is not None
    assert json.loads(known.data or b"") == BIG


def test_a_foreign_message_may_be_large_and_malformed(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "good", json.dumps({"job_id": "good", "data": BIG}, ensure_ascii=False))
    wire.push(TOPIC, "bad", b'{"data": "' + b"x" * LARGE_BYTES + b'\xff"}')
    wire.push(TOPIC, "cut", b'{"data": "' + b"x" * LARGE_BYTES)
    hand = Hand(broker)
    assert json.loads(bytes(hand.lease().message.data)) == BIG
    assert f"not UTF-8 (byte {LARGE_BYTES + 10})" in hand.malformed().why
    assert "ends too early" in hand.malformed().why


def test_next_jobs_may_be_large(broker: Broker, view: memoryview) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    child = changed(lease.message.next(TOPIC, json.dumps(BIG).encode(), attachment=view), job_id="child")
    assert broker.settle(lease, succeeded([child, job("small")]))
    assert broker.settle(lease, succeeded([child, job("small")])) is False, "its answer was lost"
    taken = hand.lease()
    assert taken.job_id == "child"
    assert json.loads(bytes(taken.message.data)) == BIG
    assert taken.message.parent_job_id == "a"


def test_who_lost_the_lease_leaves_nothing_that_was_staged(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9)
    with pytest.raises(LeaseLost):
        broker.settle(lease, succeeded([lease.message.next(TOPIC, json.dumps(BIG).encode())]))
    assert not [name for name in wire.names() if name.startswith(b"staged")]


def test_what_was_staged_and_is_gone_is_staged_again(
    broker: Broker, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expired while the broker was away for hours, or the server lost its last second."""
    assert isinstance(broker, RedisBroker)
    create(broker, "a")
    lease = Hand(broker).lease()
    run, times = broker.server.run, []

    def late(name: str, *arguments: object, **named: object) -> object:
        times.append(name)
        if times.count("settle") == 1:
            for key in wire.names():
                if key.startswith(b"staged"):
                    wire("DEL", key)
        return run(name, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(broker.server, "run", late)
    child = changed(lease.message.next(TOPIC, json.dumps(BIG).encode()), job_id="child")
    assert broker.settle(lease, succeeded([child]))
    assert times.count("settle") == 2
    assert state_of(broker, "child") is State.INCOMING


@real_servers
def test_no_call_carries_more_than_its_most(broker: Broker, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the next jobs of one end hold together: messages, attachments, and what they inherit."""
    create(broker, "a")
    lease = Hand(broker).lease()
    content = bytes(LARGE_BYTES - 1000)
    labels = {"labels": msgspec.Raw(b'"%b"' % (b"l" * 700_000))}
    data = [changed(job(f"data-{number}"), data=b'"%b"' % (b"d" * 900_000)) for number in range(20)]
    attached = [changed(job(f"attached-{number}"), attachment=content) for number in range(20)]
    labelled = [changed(job(f"labelled-{number}"), inherited=labels) for number in range(20)]
    sizes = _sizes_sent(monkeypatch)
    assert broker.settle(lease, succeeded([*data, *attached, *labelled]))
    assert max(sizes) < MOST_BYTES_PER_CALL + 100_000
    assert sum(sizes) < 58_000_000 + 1_000_000, "nothing is sent twice"
    assert not [name for name in wire.names() if name.startswith(b"staged")]
    hand = Hand(broker)
    for message in (*data, *attached, *labelled):
        taken = hand.lease().message
        assert (taken.job_id, taken.data, taken.attachment) == (message.job_id, message.data, message.attachment)
        assert taken.inherited == message.inherited


@real_servers
def test_no_call_that_creates_jobs_carries_more_than_its_most(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = _sizes_sent(monkeypatch)
    broker.create([changed(job(str(number)), data=b'"%b"' % (b"d" * 900_000)) for number in range(20)])
    assert max(sizes) < MOST_BYTES_PER_CALL + 100_000
    assert len(Hand(broker).drain()) == 20


def _sizes_sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the sizes of what connections send in one go."""
    sizes: list[int] = []
    send: Callable[..., None] = Connection.send_packed_command

    def counted(self: Connection, command: Any, *arguments: Any, **named: Any) -> None:
        parts = [command] if isinstance(command, bytes | str) else list(command)
        sizes.append(sum(map(len, parts)))
        send(self, parts, *arguments, **named)

    monkeypatch.setattr(Connection, "send_packed_command", counted)
    return sizes


@real_servers
def test_a_check_holds_no_large_message(broker: Broker, wire: Wire) -> None:
    text = b'{"data": "%b", "topic": "resize", "attachment": true}' % (b"x" * 20 * LARGE_BYTES)
    wire("SET", "job_data:a", text)
    wire("SET", "job_attachment:a", text)
    del text
    tracemalloc.start()
    try:
        (fault,) = broker.check()
        assert broker.get("a", data=False) is not None
        assert tracemalloc.get_traced_memory()[1] < 10 * LARGE_BYTES
    finally:
        tracemalloc.stop()
    assert (fault.code, fault.topic) == ("unpushed", TOPIC)
    wire("DEL", "job_data:a", wire.key("job_attachment:a"))


def test_a_job_without_its_data_is_what_its_state_tells(broker: Broker, wire: Wire) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    lease = hand.lease()
    taken, waits = broker.get("a", data=False), broker.get("b", data=False)
    assert taken is not None
    assert waits is not None
    assert (taken.state, taken.fence, taken.topic, taken.data) == (State.PROCESSING, lease.fence, TOPIC, None)
    assert (waits.state, waits.fence) == (State.INCOMING, None)
    assert broker.get("c", data=False) is None
    wire("DEL", "job_data:a")
    assert broker.get("a", data=False) == taken
    wire("SET", "job_data:a", "{}")


def test_what_is_staged_expires_by_itself(broker: Broker, wire: Wire) -> None:
    from sjq.brokers.redis.staging import STAGED_SECONDS, Load, stage

    assert isinstance(broker, RedisBroker)
    large = [changed(job(job_id), data=json.dumps(BIG).encode()) for job_id in "ab"]
    small = [changed(job(str(number)), data=b'"%b"' % bytes([97] * LARGE_BYTES)[:-1000]) for number in range(6)]
    stage(broker.server, Load(broker.keys, [*large, *small]).ahead)
    names = [f"staged_data:{job_id}".encode() for job_id in "ab45"]
    assert sorted(wire.names()) == sorted(names)
    assert all(0 < wire("TTL", name) <= STAGED_SECONDS for name in names)


def test_a_large_job_that_is_created_twice_is_one(broker: Broker, wire: Wire) -> None:
    message = changed(new_message(TOPIC, BIG), job_id="a")
    broker.create([message])
    broker.create([message])
    lease = Hand(broker).lease()
    assert isinstance(lease, Lease)
    assert Hand(broker).take() is None
    assert not [name for name in wire.names() if name.startswith(b"staged")]


def test_a_job_that_cannot_be_fetched_here_waits_again_unharmed(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.create([changed(new_message(TOPIC, BIG), job_id="a")])
    hand = Hand(broker)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"cannot be fetched into .*nowhere"):
        hand.take()
    assert state_of(broker, "a") is State.INCOMING
    monkeypatch.undo()
    lease = hand.lease()
    assert (lease.attempt, lease.interruptions, lease.losses) == (2, 1, 0)
