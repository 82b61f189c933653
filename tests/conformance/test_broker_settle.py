"""processing -> succeeded, failed or incoming, under the fence; and the birth of the next jobs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers.base import Broker
from sjq.errors import LeaseLost
from sjq.jobs import MOST_NEXT_JOBS, Lease
from sjq.outcomes import Outcome, failed, released, succeeded
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, ids_of, job, several, state_of, story, waiting


def leased(broker: Broker, job_id: str = "a") -> Lease:
    create(broker, job_id)
    return Hand(broker).lease()


def test_success_ends_a_job(broker: Broker) -> None:
    lease = leased(broker)
    assert broker.settle(lease, succeeded()) is True
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.topic, known.fence, known.data) == (State.SUCCEEDED, TOPIC, lease.fence, None)
    assert known.since is not None
    assert known.since >= lease.taken_at
    assert broker.list(TOPIC, State.PROCESSING) == []
    assert story(broker, "a") == ["created", "taken", "succeeded"]
    assert broker.events()[-1].details == {"fence": lease.fence, "attempt": "1"}


def test_failure_keeps_the_job_with_its_reason(broker: Broker) -> None:
    lease = leased(broker)
    assert broker.settle(lease, failed(Reason.SIGNAL, "SIGSEGV ended it")) is True
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.why) == (State.FAILED, Reason.SIGNAL, "SIGSEGV ended it")
    assert (known.attempt, known.worker, known.fence) == (1, lease.fence.rpartition(".")[0], lease.fence)
    assert known.data == b"null"
    assert known.since is not None
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["a"]
    assert broker.list(TOPIC, State.PROCESSING) == []
    end = {"fence": lease.fence, "attempt": "1", "reason": "signal", "why": "SIGSEGV ended it"}
    assert broker.events()[-1].details == end


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_comes_back(broker: Broker, reason: Reason) -> None:
    assert broker.settle(leased(broker), failed(reason, "so"))
    known = broker.get("a")
    assert known is not None
    assert known.reason is reason


@pytest.mark.parametrize("why", ["", "ü \0 \n \x1b[31m", "lone \udc80", "x" * 100_000])
def test_any_sentence_can_be_said_of_a_failure(broker: Broker, why: str) -> None:
    assert broker.settle(leased(broker), failed(Reason.OUTPUT, why))
    known = broker.get("a")
    assert known is not None
    assert known.state is State.FAILED
    assert known.why == why.encode("utf-8", "backslashreplace").decode()


def test_release_lets_the_job_wait_unharmed(broker: Broker) -> None:
    lease = leased(broker)
    assert broker.settle(lease, released("the worker stops")) is True
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.data) == (State.INCOMING, None, b"null")
    assert known.since is not None
    assert known.since >= lease.taken_at
    assert waiting(broker) == ["a"]
    assert broker.list(TOPIC, State.PROCESSING) == []
    assert story(broker, "a")[-1] == "released"
    assert broker.events()[-1].details["why"] == "the worker stops"


@pytest.mark.parametrize("outcome", [succeeded(), broke, released("a stop")], ids=["succeed", "fail", "release"])
def test_settling_twice_is_true_and_then_false(broker: Broker, outcome: Outcome) -> None:
    lease = leased(broker)
    assert broker.settle(lease, outcome) is True
    before = broker.get("a")
    assert broker.settle(lease, outcome) is False
    if outcome.state is not State.INCOMING:
        assert broker.settle(lease, succeeded([job("child")])) is False
    assert broker.get("a") == before
    assert broker.get("child") is None
    assert len(story(broker, "a")) == 3


@pytest.mark.parametrize("outcome", [succeeded(), broke, released("a stop")], ids=["succeed", "fail", "release"])
def test_a_lost_lease_settles_nothing(broker: Broker, outcome: Outcome) -> None:
    stale = leased(broker)
    broker.recover(TOPIC, dead=[stale.fence.rpartition(".")[0]], expired=[], losses=3)
    with pytest.raises(LeaseLost, match="job a "):
        broker.settle(stale, outcome)
    assert state_of(broker, "a") is State.INCOMING
    fresh = Hand(broker).lease()
    with pytest.raises(LeaseLost):
        broker.settle(stale, outcome)
    assert state_of(broker, "a") is State.PROCESSING
    assert broker.settle(fresh, succeeded()) is True
    with pytest.raises(LeaseLost):
        broker.settle(stale, outcome)
    assert story(broker, "a") == ["created", "taken", "recovered", "taken", "succeeded"]


def test_a_lost_lease_bears_no_next_jobs(broker: Broker) -> None:
    stale = leased(broker)
    broker.recover(TOPIC, dead=[stale.fence.rpartition(".")[0]], expired=[], losses=3)
    with pytest.raises(LeaseLost):
        broker.settle(stale, succeeded([job("child", "upload")]))
    assert broker.get("child") is None
    assert waiting(broker, "upload") == []


def test_the_lease_of_a_deleted_job_is_lost(broker: Broker) -> None:
    lease = leased(broker)
    assert broker.settle(lease, broke)
    assert broker.delete(["a"]) == ["a"]
    with pytest.raises(LeaseLost):
        broker.settle(lease, succeeded())
    assert broker.get("a") is None


def test_the_lease_of_an_earlier_attempt_is_lost_after_a_requeue_and_a_take(broker: Broker) -> None:
    first = leased(broker)
    assert broker.settle(first, broke)
    broker.requeue(TOPIC, [State.FAILED])
    second = Hand(broker).lease()
    with pytest.raises(LeaseLost):
        broker.settle(first, broke)
    assert broker.settle(second, succeeded())


def test_next_jobs_are_born_with_their_parents_end(broker: Broker) -> None:
    parent = leased(broker, "parent")
    children = [parent.message.next("upload", b"1"), parent.message.next("index", b'{"x": [2]}')]
    assert broker.settle(parent, succeeded(children))
    assert waiting(broker, "upload") == [children[0].job_id]
    child = Hand(broker).lease("index")
    assert child.message.data == b'{"x": [2]}'
    assert child.message.parent_job_id == "parent"
    assert child.message.hops == 1


def test_the_parents_end_comes_before_its_childrens_birth(broker: Broker) -> None:
    parent = leased(broker, "parent")
    children = [changed(job(job_id, "upload"), parent_job_id="parent") for job_id in several(3)]
    assert broker.settle(parent, succeeded(children))
    events = broker.events()[2:]
    assert [(event.event, event.job_id) for event in events] == [
        ("succeeded", "parent"),
        *(("created", child) for child in several(3)),
    ]
    assert all(event.details == {"parent": "parent"} for event in events[1:])


def test_a_job_may_be_followed_by_jobs_of_its_own_topic(broker: Broker) -> None:
    parent = leased(broker, "parent")
    create(broker, "waits already")
    assert broker.settle(parent, succeeded([job("child")]))
    assert waiting(broker) == ["waits already", "child"]


def test_a_next_job_that_exists_already_is_left_alone(broker: Broker) -> None:
    create(broker, "child", topic="upload")
    parent = leased(broker, "parent")
    assert broker.settle(parent, succeeded([job("child", "upload", data="another")]))
    assert waiting(broker, "upload") == ["child"]
    known = broker.get("child")
    assert known is not None
    assert known.data == b"null"


def test_next_jobs_bring_their_attachments(broker: Broker) -> None:
    parent = leased(broker, "parent")
    assert broker.settle(parent, succeeded([changed(job("child", "upload"), attachment=b"\0\xff")]))
    child = Hand(broker).lease("upload")
    assert child.message.attachment == b"\0\xff"
    assert broker.settle(child, succeeded())


def test_ten_thousand_next_jobs_are_born_in_one_step(broker: Broker, backend: str) -> None:
    parent = leased(broker, "parent")
    ids = several(500 if backend == "memory" else MOST_NEXT_JOBS)  # there, a millisecond and more for each
    assert broker.settle(parent, succeeded([job(job_id, "upload") for job_id in ids]))
    (counts,) = broker.counts(["upload"])
    assert counts.states[State.INCOMING] == counts.totals["created"] == len(ids)
    assert ids_of(broker.list("upload", State.INCOMING, after=len(ids) - 2)) == ids[-2:]


def test_what_next_jobs_inherit_goes_down_the_chain(broker: Broker, wire: Wire) -> None:
    trace = '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"'
    labels = '{"run": "2026-11", "n": 1.50}'
    fields = f'"labels": {labels}, "requester": "ada", "traceparent": {trace}, "hops": 4, "other": "not inherited"'
    wire.push(TOPIC, "a", f'{{"job_id": "a", "data": 1, {fields}}}')
    lease = Hand(broker).lease()
    for hops in (5, 6):
        child = lease.message.next(TOPIC, b"2")
        assert broker.settle(lease, succeeded([child]))
        text: bytes = wire("GET", b"job_data:" + child.job_id.encode())
        for part in (f'"labels":{labels}', '"requester":"ada"', f'"traceparent":{trace}', f'"hops":{hops}'):
            assert part.encode() in text
        assert b"not inherited" not in text
        lease = Hand(broker).lease()
    assert broker.settle(lease, succeeded())


def test_the_counters_are_those_of_the_events(broker: Broker) -> None:
    create(broker, "a", "b", "c")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), succeeded([job("d")]))
    assert broker.settle(hand.lease(), broke)
    assert broker.settle(hand.lease(), released("a stop"))
    broker.requeue(TOPIC, [State.FAILED])
    (counts,) = broker.counts([TOPIC])
    totals = {"created": 4, "taken": 3, "succeeded": 1, "failed": 1, "released": 1, "requeued": 1}
    assert counts.totals == totals
    assert counts.states == {State.INCOMING: 3, State.PROCESSING: 0, State.FAILED: 0, State.SCHEDULED: 0}


def test_an_end_that_comes_after_a_release_under_its_own_fence_is_too_late(broker: Broker) -> None:
    """As when a take is answered so slowly that its worker gives the job back as one that it never had."""
    create(broker, "a")
    hand = Hand(broker)
    lease = hand.lease()
    assert broker.settle(lease, released("nobody runs it"))
    assert not broker.settle(lease, released("nobody runs it"))
    with pytest.raises(LeaseLost):
        broker.settle(lease, succeeded())
    assert hand.drain() == ["a"]


def test_an_end_that_is_repeated_after_a_person_sent_the_job_back_is_known(broker: Broker) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    assert broker.settle(lease, broke)
    broker.requeue(TOPIC, [State.FAILED])
    assert not broker.settle(lease, broke)
    assert waiting(broker) == ["a"]
    assert Hand(broker).drain() == ["a"]
