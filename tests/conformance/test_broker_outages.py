"""Real servers that fail: cut connections, lost answers, crashes, full memory. Nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

import pytest
from servers import Server, Wire, free_port, until

from sjq.brokers import open_broker
from sjq.brokers.base import Broker, Fault, Holder, Outdated
from sjq.brokers.redis.broker import RedisBroker
from sjq.client import Client
from sjq.config import Config
from sjq.errors import BrokerDown
from sjq.jobs import Lease
from sjq.outcomes import succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, create, fail, ids_of, job, state_of, story, waiting

SOON_S = 8.0
"""The connect timeout is 5 s; whoever waits longer than this for an error was not told in time."""

LEASE = Lease(message=job("a"), fence="w.1", attempt=1, taken_at=0.0, queued_s=None)
HOLDER = Holder(topic=TOPIC, worker="w", facts={}, expires=True)
FAULT = Fault(code="immortal", where="worker:w", what="never expires", repair="it expires", topic="w")
CALLS: dict[str, Callable[[Broker], object]] = {
    "create": lambda broker: broker.create([job("a")]),
    "promise_disk": lambda broker: broker.promise_disk(),
    "await_disk": lambda broker: broker.await_disk(),
    "take": lambda broker: broker.take(TOPIC, "w", "w.1"),
    "settle": lambda broker: broker.settle(LEASE, succeeded()),
    "confirm": lambda broker: broker.confirm(["a"]),
    "heartbeat": lambda broker: broker.heartbeat("w", {"pid": "1"}, lease_s=1),
    "leave": lambda broker: broker.leave("w", []),
    "workers": lambda broker: broker.workers(),
    "lock": lambda broker: broker.lock([TOPIC], "w", 1),
    "unlock": lambda broker: broker.unlock(HOLDER),
    "holders": lambda broker: broker.holders([TOPIC]),
    "suspects": lambda broker: broker.suspects([TOPIC]),
    "leased": lambda broker: broker.leased([TOPIC], "w"),
    "recover": lambda broker: broker.recover(TOPIC, dead=["w"], expired=[], losses=3),
    "wakeup": lambda broker: broker.wakeup([TOPIC], "w", lambda: None),
    "get": lambda broker: broker.get("a"),
    "attachment": lambda broker: broker.attachment("a"),
    "find": lambda broker: broker.find("a", 1),
    "list": lambda broker: broker.list(TOPIC, State.INCOMING),
    "topics": lambda broker: broker.topics(),
    "counts": lambda broker: broker.counts([TOPIC]),
    "requeue": lambda broker: broker.requeue(TOPIC, [State.FAILED]),
    "cancel": lambda broker: broker.cancel("a", "so"),
    "pause": lambda broker: broker.pause([TOPIC], "me"),
    "resume": lambda broker: broker.resume([TOPIC]),
    "delete": lambda broker: broker.delete(["a"]),
    "events": lambda broker: broker.events(),
    "now": lambda broker: broker.now(),
    "check": lambda broker: list(broker.check()),
    "mend": lambda broker: broker.mend(FAULT, lease_s=1),
    "unconfirmed": lambda broker: list(broker.unconfirmed()),
    "ended": lambda broker: list(broker.ended(TOPIC)),
    "forget": lambda broker: broker.forget([Outdated(job_id="a", state=State.FAILED, before=0.0)]),
}
calls = pytest.mark.parametrize("call", CALLS)


def test_every_method_of_the_contract_is_called_here() -> None:
    quiet = {"describe", "close"}
    assert set(CALLS) == Broker.__abstractmethods__ - quiet


def test_a_server_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with closing(
            open_broker(Config(root=tmp_path, job_data=tmp_path, broker=f"redis://127.0.0.1:{port}"))
        ) as broker:
            for name, call in CALLS.items():
                begun = time.monotonic()
                with pytest.raises(BrokerDown, match=rf"redis://127.0.0.1:{port}.* cannot be reached: .*refused"):
                    call(broker)
                assert time.monotonic() - begun < SOON_S, name


def test_a_host_that_swallows_everything_is_given_up_at_the_connect_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as fillers:
        address = listener.getsockname()
        for _ in range(4):  # nobody accepts, so that the queue of connections is full soon
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        options = {"host": address[0], "port": address[1], "socket_connect_timeout": 0.2, "socket_timeout": 0.2}
        with closing(open_broker(Config(root=tmp_path, job_data=tmp_path, redis=options))) as broker:
            for name in ("create", "take", "get", "wakeup"):
                begun = time.monotonic()
                with pytest.raises(BrokerDown, match="cannot be reached"):
                    CALLS[name](broker)
                assert time.monotonic() - begun < SOON_S


def test_a_frozen_server_is_given_up_at_the_timeout_and_nothing_is_done_twice(server: Server, config: Config) -> None:
    options = {"port": server.port, "socket_timeout": 0.2}
    with closing(open_broker(replace(config, broker=None, redis=options))) as broker:
        create(broker, "a", "b")
        hand = Hand(broker)
        fence = hand.fence()
        server.freeze()
        try:
            with pytest.raises(BrokerDown):
                broker.take(TOPIC, hand.id, fence)
        finally:
            server.thaw()
        lease = until(lambda: take_again(broker, hand, fence), what="an answer of the server that was frozen")
        assert lease is not None
        assert lease.job_id == "a"
        assert broker.settle(lease, succeeded())
        assert story(broker, "a") == ["created", "taken", "succeeded"]
        assert waiting(broker) == ["b"]


def take_again(broker: Broker, hand: Hand, fence: str) -> Lease | None:
    with suppress(BrokerDown):
        lease = broker.take(TOPIC, hand.id, fence, again=True)
        assert isinstance(lease, Lease)
        return lease
    return None


@calls
def test_a_crashed_server_is_down_and_then_serves_again(server: Server, sjq: Broker, call: str) -> None:
    fail(sjq, "before")
    server.end(SIGKILL)
    try:
        with pytest.raises(BrokerDown, match="cannot be reached"):
            CALLS[call](sjq)
    finally:
        server.start()
    assert state_of(sjq, "before") is State.FAILED
    create(sjq, "after")
    assert Hand(sjq).drain() == ["after"]


def test_a_lease_outlives_a_crash_of_the_server(server: Server, sjq: Broker) -> None:
    create(sjq, "a", "b")
    hand = Hand(sjq)
    fence = hand.fence()
    lease = sjq.take(TOPIC, hand.id, fence)
    assert isinstance(lease, Lease)
    server.end(SIGKILL)
    server.start()
    assert sjq.take(TOPIC, hand.id, fence, again=True) == lease
    assert sjq.settle(lease, succeeded([job("child")])) is True
    server.end(SIGKILL)
    server.start()
    assert sjq.settle(lease, succeeded([job("child")])) is False
    assert waiting(sjq) == ["b", "child"]


def test_nothing_acknowledged_is_lost_when_the_server_crashes(server: Server, sjq: Broker) -> None:
    acknowledged: list[str] = []
    tried: list[str] = []
    done = threading.Event()

    def produce(name: str) -> None:
        for index in range(10**6):
            if done.is_set():
                return
            job_id = f"{name}-{index}"
            tried.append(job_id)
            with suppress(BrokerDown):
                create(sjq, job_id)
                acknowledged.append(job_id)

    def crash() -> None:
        server.end(SIGKILL)
        server.start()
        more = len(acknowledged) + 100
        until(lambda: len(acknowledged) > more, what="a hundred more jobs")

    producers = [threading.Thread(target=produce, args=(name,)) for name in "ab"]
    for producer in producers:
        producer.start()
    try:
        until(lambda: len(acknowledged) > 100, what="a hundred jobs")
        crash()
        crash()
    finally:
        done.set()
        for producer in producers:
            producer.join()
    kept = waiting(sjq)
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept) <= set(tried)
    created = [event.job_id for event in sjq.events(limit=10**6)]
    assert created == kept


def kept(config: Config) -> object:
    """Return the pid of the server that the keeper knows to be up."""
    return json.loads((config.state_folder / "redis" / "server.json").read_text()).get("server")


@pytest.mark.parametrize("backend", ["embedded"], indirect=True)
def test_an_embedded_server_that_is_killed_is_started_again_by_whoever_calls(broker_config: Config) -> None:
    (broker_config.root / ".sjq").unlink()  # a server of its own, for this test kills it
    with closing(open_broker(broker_config)) as broker:
        assert isinstance(broker, RedisBroker)
        create(broker, "a", "b")
        hand = Hand(broker)
        with closing(broker.wakeup([TOPIC], hand.id, lambda: None)) as wakeup:
            for call in (hand.lease, broker.topics, lambda: create(broker, "c")):
                pid = int(broker.server.client.info("server")["process_id"])
                until(lambda pid=pid: kept(broker_config) == pid, what="the keeper's look at its server")  # type: ignore[misc]
                os.kill(pid, SIGKILL)
                call()
            assert ids_of(broker.list(TOPIC, State.PROCESSING)) == ["a"]
            assert hand.drain() == ["b", "c"]
            wire = Wire(broker.server.client, broker_config.prefix)
            until(lambda: listening(wire), what="listening again")
            mark = wakeup.mark(TOPIC)
            wire.push(TOPIC, "d", '{"data": 1}')
            assert wakeup.wait(TOPIC, mark, SOON_S)


def test_a_worker_that_waits_through_a_crash_is_woken_after_it(server: Server, sjq: Broker, outside: Wire) -> None:
    with closing(sjq.wakeup([TOPIC], "w", lambda: None)) as wakeup:
        server.end(SIGKILL)
        server.start()
        until(lambda: listening(outside), what="listening again")
        mark = wakeup.mark(TOPIC)
        outside.push(TOPIC, "a", '{"data": 1}')
        assert wakeup.wait(TOPIC, mark, SOON_S)


def listening(outside: Wire) -> bool:
    return b" flags=t" in outside.plain("CLIENT", "LIST")


@calls
def test_a_call_goes_on_when_its_idle_connection_was_cut(sjq: Broker, outside: Wire, call: str) -> None:
    fail(sjq, "before")
    assert outside.plain("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
    if call == "settle":
        create(sjq, "a")
        lease = Hand(sjq).lease()
        outside.plain("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert sjq.settle(lease, succeeded()) is True
        return
    answer = CALLS[call](sjq)
    if call == "wakeup":
        answer.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["create", "list", "cancel", "requeue", "events"])
def test_a_patient_caller_rides_out_a_restart_and_says_so(
    server: Server, config: Config, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_broker(config, patience_s=20)) as patient:
        patient.create([job("before")])
        server.end(SIGKILL)
        back = threading.Timer(0.5, server.start)
        back.start()
        CALLS[name](patient)
        back.join()
        assert patient.get("before") is not None
    assert "trying again for up to 20 s" in caplog.text


def test_patience_ends(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    config = Config(root=tmp_path, job_data=tmp_path, broker=url)
    began = time.monotonic()
    with (
        closing(open_broker(config, patience_s=0.5)) as patient,
        pytest.raises(BrokerDown, match="cannot be reached", check=lambda error: not error.perhaps_done),
    ):
        patient.create([job("a")])
    assert 0.3 < time.monotonic() - began < SOON_S


def test_who_hears_no_answer_is_told_that_it_may_be_done(server: Server, config: Config) -> None:
    with closing(open_broker(config, patience_s=0.5, answer_s=1)) as patient:
        create(patient, "before")  # a server that does not know the script yet would have to be told it later
        server.freeze()
        try:
            with pytest.raises(BrokerDown, check=lambda error: error.perhaps_done):
                patient.create([job("a")])
        finally:
            server.thaw()
        until(lambda: patient.get("a"), 10, "what was asked for is done later")


def test_a_client_that_hears_no_answer_names_what_it_may_have_created(
    server: Server, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sjq.client.ANSWER_S", 1.0)
    monkeypatch.setattr("sjq.client.PATIENCE_S", 0.5)
    with Client(config=config) as client:
        client.create(TOPIC)
        server.freeze()
        try:
            with pytest.raises(
                BrokerDown, match=r"no answer for 1 s.*; \S+ may have been created all the same"
            ) as told:
                client.create(TOPIC, {"n": 1})
            found = re.search(r"(\S+) may have been", str(told.value))
        finally:
            server.thaw()
        assert found
        until(lambda: client.broker.get(found[1]), 10, "what was asked for is done later")
