"""What another program wrote in the places of our keys: a step goes on without it, or is refused before it begins."""

from __future__ import annotations

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.errors import Error
from sjq.jobs import Malformed
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, create, state_of, story, waiting


@pytest.mark.parametrize("kind", ["job_data", "job_state", "job_attachment"])
def test_a_key_of_a_wrong_type_does_not_stop_the_queue(broker: Broker, wire: Wire, kind: str) -> None:
    """Jobs behind the one that somebody spoilt are taken, and people can look at it and forget it."""
    wire.push(TOPIC, "a", '{"data": 1, "attachment": true}' if kind == "job_attachment" else '{"data": 1}')
    wire.push(TOPIC, "b", '{"data": 1}')
    wire("DEL", f"{kind}:a")
    wire("SET" if kind == "job_state" else "RPUSH", f"{kind}:a", "spoilt")
    hand = Hand(broker)
    assert waiting(broker) == ["a", "b"]
    assert broker.get("a") is not None
    first = hand.take()
    if kind == "job_state":
        assert not isinstance(first, Malformed)
    else:
        assert isinstance(first, Malformed)
        assert "a" in [one.job_id for one in broker.list(TOPIC, State.FAILED)]
        assert broker.delete(["a"]) == ["a"]
    assert hand.lease().job_id == "b"


@pytest.mark.litters("a queue that is no list")
@pytest.mark.parametrize("queue", ["incoming", "processing"])
def test_a_queue_of_a_wrong_type_is_an_error_of_ours(broker: Broker, wire: Wire, queue: str) -> None:
    wire("SET", f"{queue}:{TOPIC}", "spoilt")
    wire.push("fine", "b", '{"data": 1}')
    if queue == "processing":
        wire.push(TOPIC, "a", '{"data": 1}')
    with pytest.raises(Error, match=queue):
        Hand(broker).take()
    assert wire.ids(f"incoming:{TOPIC}") == [b"a"] if queue == "processing" else True
    assert Hand(broker).drain("fine") == ["b"]


@pytest.mark.parametrize("spoilt", ["x", "1.5", "9223372036854775807"])
def test_a_counter_that_cannot_count_begins_again(broker: Broker, wire: Wire, spoilt: str) -> None:
    for event in ("created", "taken", "succeeded"):
        wire("HSET", f"stats:{TOPIC}", event, spoilt)
    create(broker, "a")
    lease = Hand(broker).lease()
    assert broker.settle(lease, succeeded([lease.message.next(TOPIC, b"2")]))
    (child,) = waiting(broker)
    assert story(broker, "a") == ["created", "taken", "succeeded"]
    assert story(broker, child) == ["created"]
    (counts,) = broker.counts([TOPIC])
    assert (counts.totals["created"], counts.totals["taken"], counts.totals["succeeded"]) == (2, 1, 1)
    assert Hand(broker).drain() == [child]


@pytest.mark.parametrize("spoilt", ["x", "1.5", "9223372036854775807"])
def test_a_jobs_own_counters_begin_again(broker: Broker, wire: Wire, spoilt: str) -> None:
    create(broker, "a")
    for counter in ("attempt", "interruptions", "losses"):
        wire("HSET", "job_state:a", counter, spoilt)
    hand, gone = Hand(broker), Hand(broker)
    lease = hand.lease()
    assert lease.attempt == 1
    assert broker.settle(lease, released("a stop"))
    assert waiting(broker) == ["a"]
    gone.lease()
    (recovered,) = broker.recover(TOPIC, dead=[gone.id], expired=[], losses=3)
    assert recovered.state is State.INCOMING
    assert waiting(broker) == ["a"]
    assert hand.drain() == ["a"]


def test_a_stream_that_is_full_stops_no_job(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    wire("XADD", "events", "18446744073709551615-18446744073709551615", "event", "x")
    lease = Hand(broker).lease()
    assert broker.settle(lease, succeeded([lease.message.next(TOPIC, b"2")]))
    assert len(Hand(broker).drain()) == 1


def test_entries_of_others_in_the_stream_are_passed_over(broker: Broker, wire: Wire) -> None:
    wire("XADD", "events", "*", "a", "b")
    create(broker, "a")
    assert [event.event for event in broker.events()] == ["created"]


def test_numbers_that_are_none_are_not_shown(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    wire("HSET", "job_state:a", "attempt", "x", "since", "9" * 400)
    wire("HSET", f"stats:{TOPIC}", "created", "x")
    assert state_of(broker, "a") is State.INCOMING
    (counts,) = broker.counts([TOPIC])
    assert counts.totals["created"] == 0
    assert Hand(broker).drain() == ["a"]


@pytest.mark.litters("a lock that is no string")
def test_a_lock_of_a_wrong_type_holds_its_topic_and_no_other(broker: Broker, wire: Wire) -> None:
    wire("RPUSH", "lock:a", "spoilt")
    hand = Hand(broker)
    (holder,) = broker.lock(["a", "b"], hand.id, 60)
    assert (holder.topic, holder.worker, holder.expires) == ("a", "another program", False)
    assert broker.lock(["b"], hand.id, 60) == []
    assert hand.beat(topics=["a", "b"]).lost_locks == {"a"}
    assert hand.alive()
    assert broker.unlock(holder)
    assert broker.lock(["a"], hand.id, 60) == []


@pytest.mark.litters("a list that is none, and a worker that is no hash")
def test_a_spoilt_topic_hides_no_other_from_recovery(broker: Broker, wire: Wire) -> None:
    wire("SET", "processing:spoilt", "x")
    wire("SET", "worker:spoilt", "x")
    create(broker, "a", "b")
    gone = Hand(broker)
    gone.lease()
    gone.lease()
    wire("HSET", "job_state:b", "worker", b"\xff")
    suspects = broker.suspects(["spoilt", TOPIC])
    assert suspects.keys() == {TOPIC}
    assert suspects[TOPIC].keys() == {gone.id, "\udcff"}
    recovered = broker.recover(TOPIC, dead=list(suspects[TOPIC]), expired=[], losses=3)
    assert [one.job_id for one in recovered] == ["b", "a"]
    assert broker.workers() == {}
    (counts, spoilt) = broker.counts(["spoilt", TOPIC])
    assert (spoilt.states[State.PROCESSING], counts.states[State.INCOMING]) == (0, 2)
    assert broker.list("spoilt", State.PROCESSING) == []


def test_a_message_that_is_set_anew_after_success_does_not_stay(broker: Broker, wire: Wire) -> None:
    """A producer repeats both of his commands, as he may after a lost answer."""
    wire.push(TOPIC, "a", '{"data": 1}')
    assert Hand(broker).drain() == ["a"]
    wire("SET", "job_attachment:a", "x")
    wire.push(TOPIC, "a", '{"data": 1}')
    assert Hand(broker).take() is None
    assert not wire("EXISTS", "job_data:a")
    assert not wire("EXISTS", "job_attachment:a")
    assert story(broker, "a") == ["taken", "succeeded", "dropped"]
