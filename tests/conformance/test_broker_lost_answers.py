"""Answers that get lost on their way: nothing is done twice, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from servers import Loser, Wire

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import BrokerDown
from sjq.jobs import Lease
from sjq.outcomes import Outcome, released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, job, several, story, waiting


def test_connections_that_are_cut_all_the_time_lose_and_double_nothing(sjq: Broker, outside: Wire) -> None:
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.003):
            outside.plain("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    cutter = threading.Thread(target=cut)
    cutter.start()
    ids = several(60)
    hand = Hand(sjq)
    try:
        for job_id in ids:
            insist(lambda job_id=job_id: create(sjq, job_id))  # type: ignore[misc]
            fence = hand.fence()
            lease = insist(lambda fence=fence: sjq.take(TOPIC, hand.id, fence, again=True))  # type: ignore[misc]
            assert isinstance(lease, Lease)
            insist(lambda lease=lease: sjq.settle(lease, succeeded()))  # type: ignore[misc]
    finally:
        done.set()
        cutter.join()
    ends = [event.job_id for event in sjq.events(limit=10**6) if event.event == "succeeded"]
    assert ends == ids
    assert len(sjq.events(limit=10**6)) == 3 * len(ids)


def insist(call: Callable[[], object]) -> object:
    """Repeat a call until the broker answers."""
    while True:
        with suppress(BrokerDown):
            return call()


def test_a_lost_answer_is_no_second_job_and_no_lost_one(config: Config, loser: Loser, sjq: Broker) -> None:
    hand = Hand(sjq)
    with closing(open_broker(replace(config, broker=loser.url))) as far:
        far.topics()
        loser.lose(1)
        create(far, "a", "b")
        loser.lose(1)
        lease = far.take(TOPIC, hand.id, hand.fence())
        assert isinstance(lease, Lease)
        assert (lease.job_id, lease.attempt) == ("a", 1)
        loser.lose(1)
        far.settle(lease, succeeded([job("child")]))
        loser.lose(1)
        assert far.lock([TOPIC], hand.id, 60) == []
        assert loser.lost == 4
    assert story(sjq, "a") == ["created", "taken", "succeeded"]
    assert waiting(sjq) == ["b", "child"]


@pytest.mark.parametrize("outcome", [broke, released("a stop")], ids=["fail", "release"])
def test_a_settle_whose_answers_are_all_lost_can_be_repeated(
    config: Config, loser: Loser, sjq: Broker, outcome: Outcome
) -> None:
    create(sjq, "a")
    lease = Hand(sjq).lease()
    with closing(open_broker(replace(config, broker=loser.url))) as far:
        far.topics()
        loser.lose(2)
        with pytest.raises(BrokerDown):
            far.settle(lease, outcome)
        assert far.settle(lease, outcome) is False
    assert len(story(sjq, "a")) == 3


def test_a_recovery_requeue_and_delete_whose_answers_are_lost_happen_once(
    config: Config, loser: Loser, sjq: Broker
) -> None:
    create(sjq, "a")
    hand = Hand(sjq)
    hand.lease()
    with closing(open_broker(replace(config, broker=loser.url))) as far:
        far.topics()
        loser.lose(1)
        far.recover(TOPIC, dead=[hand.id], expired=[], losses=2)
        hand.drain(outcome=broke)
        loser.lose(1)
        far.requeue(TOPIC, [State.FAILED])
        assert waiting(sjq) == ["a"]
        hand.drain(outcome=broke)
        loser.lose(1)
        far.delete(["a"])
        assert loser.lost == 3
    tale = ["created", "taken", "recovered", "taken", "failed", "requeued", "taken", "failed", "deleted"]
    assert story(sjq, "a") == tale


def test_an_attachment_whose_answer_is_lost_does_not_lose_the_job(config: Config, loser: Loser, sjq: Broker) -> None:
    sjq.create([changed(job("a"), attachment=b"x")])
    hand = Hand(sjq)
    fence = hand.fence()
    with closing(open_broker(replace(config, broker=loser.url))) as far:
        far.topics()
        loser.lose(1, b"job_attachment:a")
        with suppress(BrokerDown):
            far.take(TOPIC, hand.id, fence)
        assert loser.lost == 1
        lease = far.take(TOPIC, hand.id, fence, again=True)
        assert isinstance(lease, Lease)
        assert (lease.attempt, lease.message.attachment) == (1, b"x")


def test_a_take_that_is_repeated_by_a_worker_that_stops_takes_no_other_job(sjq: Broker) -> None:
    create(sjq, "a", "b")
    hand = Hand(sjq)
    fence = hand.fence()
    assert sjq.take(TOPIC, hand.id, fence, again=True, anew=False) is None
    first = sjq.take(TOPIC, hand.id, fence)
    assert sjq.take(TOPIC, hand.id, fence, again=True, anew=False) == first
    assert waiting(sjq) == ["b"]
    assert isinstance(first, Lease)
    assert sjq.settle(first, succeeded())
    assert hand.drain() == ["b"]
