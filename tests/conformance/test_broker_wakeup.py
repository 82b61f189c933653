"""A worker that waits is woken; false alarms are allowed, missed ones are not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import pytest
from servers import Wire, until

from sjq.brokers import open_broker
from sjq.brokers.base import Broker, Wakeup
from sjq.brokers.redis.wakeup import NoticedWakeup
from sjq.config import Config
from sjq.jobs import Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, forget, job, real_servers

SOON_S = 3.0
"""How late a call may be on a busy machine; what waits without being woken waits ten times as long."""
LONG_S = 30.0


@contextmanager
def listening(broker: Broker, *topics: str) -> Iterator[Wakeup]:
    """Listen for topics; for all of them when none is named."""
    with closing(broker.wakeup(topics or None, "the worker", lambda: None)) as wakeup:
        yield wakeup


def woken(wakeup: Wakeup, mark: int, topic: str = TOPIC) -> bool:
    """Tell whether a wait from `mark` on ends soon, and not at its timeout."""
    begun = time.monotonic()
    return wakeup.wait(topic, mark, LONG_S) and time.monotonic() - begun < SOON_S


def at_rest(wakeup: Wakeup, topic: str = TOPIC) -> int:
    """Return a mark behind whatever the server still had to tell."""
    while wakeup.wait(topic, mark := wakeup.mark(topic), 0.05):
        pass
    return mark


WAYS: dict[str, Callable[[Broker, Wire], object]] = {
    "create": lambda broker, _: create(broker, "new"),
    "foreign push": lambda _, wire: wire.push(TOPIC, "new", '{"data": 1}'),
    "foreign push to the left": lambda _, wire: wire("LPUSH", f"incoming:{TOPIC}", "new"),
    "requeue": lambda broker, _: broker.requeue(TOPIC, [State.FAILED]),
    "recover": lambda broker, _: broker.recover(TOPIC, dead=["dead"], expired=[], losses=9),
}


@pytest.mark.parametrize("topics", [(TOPIC,), ("a", TOPIC, "z"), ()], ids=["one", "several", "all"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_makes_a_job_wait_wakes(
    broker: Broker, other_broker: Broker, wire: Wire, way: str, topics: tuple[str, ...]
) -> None:
    fail(broker, "failed")
    create(broker, "leased")
    Hand(broker, "dead").lease()
    with listening(broker, *topics) as wakeup:
        mark = wakeup.mark(TOPIC)
        assert Hand(broker).take() is None
        WAYS[way](other_broker, wire)
        assert woken(wakeup, mark)
        assert Hand(broker).take() is not None


@pytest.mark.parametrize("how", ["release", "next job"])
def test_a_settle_that_makes_a_job_wait_wakes(broker: Broker, other_broker: Broker, how: str) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    with listening(broker, TOPIC) as wakeup:
        mark = wakeup.mark(TOPIC)
        other_broker.settle(lease, released("a stop") if how == "release" else succeeded([job("b")]))
        assert woken(wakeup, mark)


def test_a_push_while_somebody_waits_wakes_him(broker: Broker, other_broker: Broker) -> None:
    with listening(broker, TOPIC) as wakeup:
        mark = wakeup.mark(TOPIC)
        pusher = threading.Thread(target=create, args=(other_broker, "a"))
        waiter = threading.Thread(target=wakeup.wait, args=(TOPIC, mark, LONG_S))
        waiter.start()
        pusher.start()
        waiter.join(SOON_S)
        assert not waiter.is_alive()
        pusher.join()


def test_a_topic_that_never_existed_wakes(broker: Broker, wire: Wire) -> None:
    with listening(broker) as every, listening(broker, "brand-new") as named:
        marks = every.mark("brand-new"), named.mark("brand-new")
        wire.push("brand-new", "a", '{"data": 1}')
        assert woken(every, marks[0], "brand-new")
        assert woken(named, marks[1], "brand-new")


@pytest.mark.parametrize("pushed", ["a", "ab", "abc", "b"])
@pytest.mark.parametrize("order", [("a", "ab", "abc", "b"), ("b", "abc", "ab", "a")], ids=["up", "down"])
def test_topics_whose_names_begin_alike_all_wake(
    broker: Broker, wire: Wire, order: tuple[str, ...], pushed: str
) -> None:
    with listening(broker, *order) as wakeup:
        mark = wakeup.mark(pushed)
        wire.push(pushed, "job", '{"data": 1}')
        assert woken(wakeup, mark, pushed)


def test_several_pushes_in_one_step_wake_all_their_topics(broker: Broker, other_broker: Broker) -> None:
    with listening(broker, "a", "b", "c") as wakeup:
        marks = {topic: wakeup.mark(topic) for topic in "abc"}
        other_broker.create([job(f"for {topic}", topic) for topic in "abc"])
        assert all(woken(wakeup, mark, topic) for topic, mark in marks.items())


def test_poke_wakes_everybody_who_waits(broker: Broker) -> None:
    with listening(broker) as wakeup:
        waiters = [
            threading.Thread(target=wakeup.wait, args=(topic, wakeup.mark(topic), LONG_S)) for topic in ("a", "a", "b")
        ]
        for waiter in waiters:
            waiter.start()
        wakeup.poke()
        for waiter in waiters:
            waiter.join(SOON_S)
        assert not any(waiter.is_alive() for waiter in waiters)


def test_closing_wakes_whoever_waits_and_ends_in_time(broker: Broker) -> None:
    wakeup = broker.wakeup([TOPIC], "the worker", lambda: None)
    waiter = threading.Thread(target=wakeup.wait, args=(TOPIC, wakeup.mark(TOPIC), LONG_S))
    waiter.start()
    begun = time.monotonic()
    wakeup.close()
    waiter.join(SOON_S)
    assert not waiter.is_alive()
    assert time.monotonic() - begun < SOON_S


def test_a_wait_ends_at_its_timeout(broker: Broker) -> None:
    with listening(broker, TOPIC) as wakeup:
        begun = time.monotonic()
        wakeup.wait(TOPIC, wakeup.mark(TOPIC), 0.05)
        assert time.monotonic() - begun < SOON_S


def test_a_wait_from_an_old_mark_returns_at_once(broker: Broker) -> None:
    with listening(broker, TOPIC) as wakeup:
        mark = wakeup.mark(TOPIC)
        wakeup.poke()
        assert woken(wakeup, mark)
        assert woken(wakeup, mark)


def test_no_push_is_missed(broker: Broker, other_broker: Broker, wire: Wire, backend: str) -> None:
    """The worker's own loop, mark, take, wait, against pushes at random moments, by us and by others."""
    pushes = 100 if backend == "memory" else 500
    rng = random.Random(7)

    def push() -> None:
        for index in range(pushes):
            if rng.random() < 0.5:
                create(other_broker, f"job-{index}")
            else:
                wire.push(TOPIC, f"job-{index}", '{"data": 1}')
            if rng.random() < 0.2:
                done.wait(rng.random() * 0.002)

    done = threading.Event()
    pusher = threading.Thread(target=push)
    hand = Hand(broker)
    taken: list[str] = []
    with listening(broker, TOPIC) as wakeup:
        pusher.start()
        while len(taken) < pushes:
            mark = wakeup.mark(TOPIC)
            lease = hand.take()
            if isinstance(lease, Lease):
                taken.append(lease.job_id)
                broker.settle(lease, succeeded())
            else:
                assert woken(wakeup, mark), f"a push was missed after {len(taken)} jobs"
    pusher.join()
    assert taken == [f"job-{index}" for index in range(pushes)]


@real_servers
@pytest.mark.parametrize("topics", [("quiet",), ("quiet", "loud"), ()], ids=["alone", "beside", "all"])
def test_nothing_wakes_a_topic_while_nothing_happens_there(
    broker: Broker, other_broker: Broker, topics: tuple[str, ...]
) -> None:
    with listening(broker, *topics) as wakeup:
        mark = at_rest(wakeup, "quiet")
        create(other_broker, "a", topic="loud")
        Hand(other_broker).drain("loud")
        Hand(other_broker).beat()
        assert wakeup.wait("quiet", mark, 0.2) is False


@real_servers
def test_another_prefix_does_not_wake(broker: Broker, broker_config: Config, stack: ExitStack) -> None:
    stranger = open_broker(replace(broker_config, prefix=broker_config.prefix + "x:"))
    stack.callback(forget, stranger)
    with listening(broker, TOPIC) as named, listening(broker) as every:
        marks = at_rest(named), at_rest(every)
        create(stranger, "a")
        assert Hand(stranger).drain() == ["a"]
        assert named.wait(TOPIC, marks[0], 0.2) is False
        assert every.wait(TOPIC, marks[1], 0.2) is False


@real_servers
def test_a_failing_job_wakes_nobody(broker: Broker, other_broker: Broker) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    with listening(broker, TOPIC) as wakeup:
        mark = at_rest(wakeup)
        assert other_broker.settle(lease, broke)
        assert wakeup.wait(TOPIC, mark, 0.2) is False


@real_servers
def test_a_wakeup_outlives_the_loss_of_its_connection(broker: Broker, wire: Wire) -> None:
    with listening(broker, TOPIC) as wakeup:
        for index in range(3):
            mark = at_rest(wakeup)
            assert kill_listeners(wire) == 1
            wire.push(TOPIC, f"job-{index}", '{"data": 1}')
            assert woken(wakeup, mark), "the push while nobody listened was missed"
            until(lambda: len(listeners(wire)) == 1, what="listening again")
            mark = at_rest(wakeup)
            wire.push(TOPIC, f"more-{index}", '{"data": 1}')
            assert woken(wakeup, mark), "it does not listen any more"


@real_servers
def test_closing_gives_the_connection_back(broker: Broker, wire: Wire) -> None:
    for index in range(20):
        with listening(broker, TOPIC) as wakeup:
            if index % 2:
                kill_listeners(wire)
            wakeup.poke()
    until(lambda: not listeners(wire), what="the end of all listening connections")
    until(lambda: not [one for one in threading.enumerate() if one.name == "sjq-wakeup"], what="the end of all threads")


def listeners(wire: Wire) -> list[bytes]:
    """Return the ids of the connections to which the server sends notices."""
    lines: list[bytes] = wire.plain("CLIENT", "LIST").splitlines()
    return [line.split()[0].removeprefix(b"id=") for line in lines if b" flags=t" in line]


def kill_listeners(wire: Wire) -> int:
    return sum(wire.plain("CLIENT", "KILL", "ID", number) for number in listeners(wire))


@real_servers
def test_names_that_nobody_asked_for_leave_nothing_in_memory(broker: Broker, wire: Wire) -> None:
    with listening(broker) as wakeup:
        assert isinstance(wakeup, NoticedWakeup)
        mark = wakeup.mark(TOPIC)
        for number in range(200):
            wire("RPUSH", f"incoming:foreign-{number}", "a")
            wire("DEL", f"incoming:foreign-{number}")
        wire.push(TOPIC, "a", "{}")
        assert wakeup.wait(TOPIC, mark, LONG_S)
        assert set(wakeup._bells) == {TOPIC}
    wire("DEL", "incoming:resize", wire.key("job_data:a"))
