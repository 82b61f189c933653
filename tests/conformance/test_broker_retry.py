"""Jobs that failed and wait for their next try, and the three counters."""

from __future__ import annotations

import pytest
from servers import Wire, until

from sjq.brokers.base import Broker
from sjq.brokers.redis.broker import RedisBroker
from sjq.jobs import Due
from sjq.outcomes import Outcome, lost, released, retried, timedout
from sjq.states import Reason, State

from .jobs import TOPIC, Hand, broke, create, ids_of, state_of, story, waiting

SOON = retried(broke, 0.0)
LATER = retried(broke, 3600.0)


def test_a_retried_job_waits_for_its_time(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), LATER)
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.why) == (State.SCHEDULED, Reason.EXIT, broke.why)
    assert known.since is not None
    assert known.due == pytest.approx(known.since + 3600)
    due = hand.take()
    assert isinstance(due, Due)
    assert 3590 < due.in_s <= 3600
    assert ids_of(broker.list(TOPIC, State.SCHEDULED)) == ["a"]
    assert [count.states[State.SCHEDULED] for count in broker.counts([TOPIC])] == [1]
    assert broker.topics() == [TOPIC]


def test_its_time_comes_by_itself(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), retried(broke, 0.05))
    until(lambda: _now(broker) > (broker.list(TOPIC, State.SCHEDULED)[0].due or 0), what="it is due")
    again = hand.lease()
    assert (again.job_id, again.attempt, again.tries) == ("a", 2, 1)
    assert story(broker, "a") == ["created", "taken", "retried", "due", "taken"]
    known = broker.get("a")
    assert known is not None
    assert (known.reason, known.why, known.due) == (None, None, None)


def test_what_is_tried_again_goes_before_what_waits_the_longest_due_first(broker: Broker) -> None:
    create(broker, "a", "b", "c")
    hand = Hand(broker)
    first, second = hand.lease(), hand.lease()
    assert broker.settle(second, SOON)
    assert broker.settle(first, retried(broke, 0.02))
    due = broker.list(TOPIC, State.SCHEDULED)[-1].due
    assert due is not None
    until(lambda: _now(broker) > due, what="both are due")
    assert [hand.lease().job_id for _ in range(3)] == ["b", "a", "c"]


def _now(broker: Broker) -> float:
    assert isinstance(broker, RedisBroker)
    seconds, micros = broker.server.ask("TIME")
    return int(seconds) + int(micros) / 1e6


def test_a_delayed_job_joins_at_the_tail(broker: Broker, wire: Wire) -> None:
    """One that never ran, as a producer may schedule it."""
    create(broker, "a", "b")
    wire("LREM", "incoming:resize", 0, "a")
    wire("HSET", "job_state:a", "state", "scheduled", "topic", TOPIC)
    wire("ZADD", "scheduled:resize", 1, "a")
    assert [Hand(broker).lease().job_id for _ in range(2)] == ["b", "a"]


@pytest.mark.parametrize(
    ("outcome", "counters"),
    [
        (SOON, (1, 0, 0)),
        (lost("its keeper was killed"), (0, 1, 0)),
        (released("a stop"), (0, 0, 1)),
    ],
    ids=["try", "loss", "interruption"],
)
def test_each_end_counts_in_its_own_counter(broker: Broker, outcome: Outcome, counters: tuple[int, int, int]) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), outcome)
    lease = hand.lease()
    assert (lease.tries, lease.losses, lease.interruptions) == counters
    assert broker.settle(lease, broke)
    broker.requeue(TOPIC, [State.FAILED])
    lease = hand.lease()
    assert (lease.tries, lease.losses, lease.interruptions) == (0, 0, 0)
    assert lease.attempt == 3


def test_a_lost_attempt_is_recovered_and_not_released(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), lost("its keeper was killed"))
    assert waiting(broker) == ["a"]
    assert story(broker, "a")[-1] == "recovered"
    assert [entry["end"] for entry in hand.lease().earlier] == ["lost"]


def test_a_time_limit_is_a_state_of_its_own(broker: Broker) -> None:
    create(broker, "a", "b")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), timedout("it took 3 s"))
    assert broker.settle(hand.lease(), broke)
    assert state_of(broker, "a") is State.TIMEDOUT
    assert ids_of(broker.list(TOPIC, State.TIMEDOUT)) == ["a"]
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["b"]
    assert broker.requeue(TOPIC, [State.FAILED, State.TIMEDOUT]) == ["a", "b"]


def test_the_history_tells_how_each_attempt_ended(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), SOON)
    assert broker.settle(hand.lease(), retried(timedout("it took 3 s"), 0.0))
    entries = hand.lease().earlier
    assert [(entry["end"], entry["reason"]) for entry in entries] == [("failed", "exit"), ("timedout", "timeout")]


def test_an_id_that_is_pushed_again_runs_not_before_its_time(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), LATER)
    wire.push(TOPIC, "a")
    assert isinstance(hand.take(), Due)
    assert story(broker, "a")[-1] == "dropped"
    assert state_of(broker, "a") is State.SCHEDULED


def test_a_schedule_of_ids_that_are_elsewhere_is_forgotten(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    hand = Hand(broker)
    assert broker.settle(hand.lease(), broke)
    wire("ZADD", "scheduled:resize", 1, "a")
    assert hand.take() is None
    assert state_of(broker, "a") is State.FAILED


def test_the_history_keeps_the_newest_hundreds(broker: Broker) -> None:
    create(broker, "a")
    hand = Hand(broker)
    for _ in range(400):
        assert broker.settle(hand.lease(), SOON)
    lease = hand.lease()
    assert lease.attempt == 401
    assert 100 < len(lease.earlier) < 400
    numbers = [entry["attempt"] for entry in lease.earlier]
    assert numbers == list(range(401 - len(numbers), 401))
