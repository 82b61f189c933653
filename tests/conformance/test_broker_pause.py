"""Topics of which nothing may be taken: a person paused them, or they halted at a failed job."""

from __future__ import annotations

import pytest
from servers import Wire

from sjq.brokers.base import Broker, Pause
from sjq.jobs import Lease, Malformed
from sjq.outcomes import Outcome, cancelled, failed, released, retried, succeeded, timedout
from sjq.states import Reason

from .jobs import TOPIC, Hand, broke, create


def pause_of(broker: Broker) -> Pause | None:
    (counts,) = broker.counts([TOPIC])
    return counts.pause


def test_nothing_is_taken_of_a_paused_topic_until_it_is_resumed(broker: Broker) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    lease = hand.lease()
    broker.pause([TOPIC], "kim@here")
    assert hand.take() is None
    pause = pause_of(broker)
    assert pause is not None
    assert (pause.by, pause.halted_by) == ("kim@here", None)
    assert pause.since is not None
    assert broker.settle(lease, succeeded())
    assert broker.resume([TOPIC, "other"]) == {TOPIC: pause}
    assert pause_of(broker) is None
    assert hand.lease().job_id == "b"


def test_what_was_taken_before_the_pause_is_told_when_the_answer_was_lost(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    fence = hand.fence()
    lease = broker.take(TOPIC, hand.id, fence)
    broker.pause([TOPIC], "kim@here")
    assert broker.take(TOPIC, hand.id, fence, again=True) == lease


@pytest.mark.parametrize("outcome", [broke, timedout("it took 3 s"), failed(Reason.LOST, "again and again")], ids=str)
def test_a_topic_halts_at_a_failed_job_if_it_is_to(broker: Broker, outcome: Outcome) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), outcome, halting=True)
    assert hand.take() is None
    pause = pause_of(broker)
    assert pause is not None
    assert (pause.halted_by, pause.by) == ("a", None)
    broker.resume([TOPIC])
    assert hand.lease().job_id == "b"


@pytest.mark.parametrize("outcome", [succeeded(), cancelled("so"), released("a stop"), retried(broke, 9)], ids=str)
def test_it_halts_at_nothing_else(broker: Broker, outcome: Outcome) -> None:
    create(broker, "a")
    assert broker.settle(Hand(broker).lease(), outcome, halting=True)
    assert pause_of(broker) is None


def test_it_halts_at_the_first_of_several(broker: Broker) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    first, second = hand.lease(), hand.lease()
    assert broker.settle(second, broke, halting=True)
    assert broker.settle(first, broke, halting=True)
    pause = pause_of(broker)
    assert pause is not None
    assert pause.halted_by == "b"


@pytest.mark.parametrize("first", ["pause", "halt"])
def test_a_topic_can_halt_and_be_paused_in_either_order(broker: Broker, first: str) -> None:
    """Whoever pauses it, or resumes it, does not make the failure go unseen."""
    create(broker, "a", "b")
    lease = Hand(broker).lease()
    if first == "pause":
        broker.pause([TOPIC], "kim@here")
    assert broker.settle(lease, broke, halting=True)
    if first == "halt":
        broker.pause([TOPIC], "kim@here")
    pause = pause_of(broker)
    assert pause is not None
    assert (pause.halted_by, pause.by) == ("a", "kim@here")
    assert None not in (pause.halted_at, pause.since)
    assert broker.resume([TOPIC]) == {TOPIC: pause}
    assert Hand(broker).lease().job_id == "b"


def test_it_halts_at_a_malformed_message(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", "no JSON")
    hand = Hand(broker)
    assert isinstance(broker.take(TOPIC, hand.id, hand.fence(), halting=True), Malformed)
    pause = pause_of(broker)
    assert pause is not None
    assert pause.halted_by == "a"


def test_it_halts_at_a_job_that_was_lost_too_often(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    hand.lease()
    broker.recover(TOPIC, dead=[hand.id], expired=[], losses=1, halting=True)
    pause = pause_of(broker)
    assert pause is not None
    assert pause.halted_by == "a"


def test_a_paused_topic_is_known(broker: Broker) -> None:
    broker.pause(["quiet"], "kim@here")
    assert broker.topics() == ["quiet"]
    assert list(broker.resume(["quiet"])) == ["quiet"]


@pytest.mark.parametrize("backend", ["redis", "valkey", "embedded"], indirect=True)
def test_who_waits_is_woken_by_a_resume(broker: Broker, other_broker: Broker) -> None:
    create(broker, "a")
    broker.pause([TOPIC], "kim@here")
    hand = Hand(broker)
    wakeup = broker.wakeup([TOPIC], hand.id, lambda: None)
    try:
        mark = wakeup.mark(TOPIC)
        assert hand.take() is None
        other_broker.resume([TOPIC])
        assert wakeup.wait(TOPIC, mark, 8)
        assert isinstance(hand.take(), Lease)
    finally:
        wakeup.close()
