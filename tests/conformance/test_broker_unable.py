"""Servers that answer, but cannot serve: full, read-only, busy, loading, without a disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import redis
from chaos.network import Network
from servers import Server, Wire, until

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import BrokerDown
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, job, state_of, waiting

STEPS: dict[str, Callable[[Broker], object]] = {
    "create": lambda broker: broker.create([job("new")]),
    "take": lambda broker: broker.take(TOPIC, "w", "w.1"),
    "heartbeat": lambda broker: broker.heartbeat("w", {"pid": "1"}, lease_s=1),
    "lock": lambda broker: broker.lock([TOPIC], "w", 1),
    "get": lambda broker: broker.get("new"),
}


def test_a_full_server_takes_no_new_jobs_and_lets_running_ones_end(sjq: Broker, outside: Wire) -> None:
    create(sjq, "a", "b")
    hand = Hand(sjq)
    lease = hand.lease()
    outside.plain("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BrokerDown, match=r"cannot serve now.*maxmemory"):
            create(sjq, "c")
        with pytest.raises(BrokerDown, match="cannot serve now"):
            hand.take()
        assert sjq.settle(lease, broke) is True
    finally:
        outside.plain("CONFIG", "SET", "maxmemory", "0")
    assert sjq.get("c") is None
    assert state_of(sjq, "a") is State.FAILED
    assert waiting(sjq) == ["b"]
    assert [event.job_id for event in sjq.events()] == ["a", "b", "a", "a"]


def test_a_replica_cannot_serve(sjq: Broker, outside: Wire) -> None:
    create(sjq, "z")
    outside.plain("REPLICAOF", "127.0.0.1", 1)
    try:
        for name in ("create", "take", "heartbeat", "lock"):
            with pytest.raises(BrokerDown, match="cannot serve now"):
                STEPS[name](sjq)
        assert state_of(sjq, "z") is State.INCOMING
    finally:
        outside.plain("REPLICAOF", "NO", "ONE")
    assert Hand(sjq).drain() == ["z"]


def test_an_address_that_leads_to_a_new_primary_is_connected_to_anew(tmp_path: Path) -> None:
    """After a failover the old primary may live on as a replica, and keep its connections."""
    with Server("redis") as old, Server("redis") as new, ExitStack() as stack:
        network = stack.enter_context(closing(Network(old.port)))
        broker = stack.enter_context(closing(open_broker(Config(root=tmp_path, job_data=tmp_path, broker=network.url))))
        there, here = (stack.enter_context(closing(server.client())) for server in (old, new))
        create(broker, "before")
        stack.enter_context(closing(broker.wakeup([TOPIC], "w", lambda: None)))
        there.replicaof("127.0.0.1", "1")
        network.lead_to(new.port)
        until(lambda: _is_created(broker, "after"), 5, "a connection to the new primary")
        assert here.lrange(f"incoming:{TOPIC}", 0, -1) == [b"after"]
        until(lambda: b"flags=t" in Wire(here, "").plain("CLIENT", "LIST"), 15, "one of the wake-up")


def _is_created(broker: Broker, job_id: str) -> bool:
    try:
        create(broker, job_id)
    except BrokerDown:
        return False
    return True


def test_a_server_that_loads_its_data_is_waited_for(tmp_path: Path) -> None:
    """A key takes so long to load here that the whole takes a second."""
    slow = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    with Server("redis", *slow) as server, ExitStack() as stack:
        config = Config(root=tmp_path, job_data=tmp_path, broker=server.url)
        broker = stack.enter_context(closing(open_broker(config)))
        patient = stack.enter_context(closing(open_broker(config, patience_s=20)))
        for number in range(100):
            create(broker, f"a-{number:02}")
        stack.enter_context(closing(server.client())).save()
        server.end(signal.SIGKILL)
        back = threading.Thread(target=server.start)
        back.start()
        until(lambda: "loading" in _why_down(broker), 10, "an answer while it loads")
        create(patient, "b")
        back.join()
        assert Hand(broker).drain() == [*(f"a-{number:02}" for number in range(100)), "b"]


def _why_down(broker: Broker) -> str:
    try:
        STEPS["get"](broker)
    except BrokerDown as error:
        return str(error)
    return ""


def test_a_server_whose_snapshots_fail_takes_nothing_until_they_do_not(
    server: Server, sjq: Broker, outside: Wire
) -> None:
    create(sjq, "a")
    outside.plain("CONFIG", "SET", "save", "3600 1")
    in_its_place = server.folder / "dump.rdb"
    in_its_place.mkdir()
    try:
        _snapshot(server)
        for name in ("create", "take", "heartbeat", "lock"):
            with pytest.raises(BrokerDown, match=r"cannot serve now: .*MISCONF|cannot serve now: .*snapshot"):
                STEPS[name](sjq)
        assert waiting(sjq) == ["a"]
    finally:
        in_its_place.rmdir()
        _snapshot(server)
        outside.plain("CONFIG", "SET", "save", "")
    assert Hand(sjq).drain() == ["a"]


def _snapshot(server: Server) -> None:
    with closing(server.client()) as client:
        client.bgsave()
        until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], 10, "the end of a snapshot")


def test_a_server_that_is_busy_with_somebody_elses_script_cannot_serve(
    server: Server, sjq: Broker, outside: Wire
) -> None:
    sjq.topics()
    outside.plain("CONFIG", "SET", "busy-reply-threshold", 1)

    def occupy() -> None:
        with closing(server.client(protocol=2)) as client, suppress(Exception):
            Wire(client, "").plain("EVAL", "while true do end", 0)

    occupant = threading.Thread(target=occupy)
    occupant.start()
    try:
        until(lambda: is_busy(outside), what="a busy server")
        for name in ("create", "get"):
            with pytest.raises(BrokerDown, match="cannot serve now"):
                STEPS[name](sjq)
    finally:
        outside.plain("SCRIPT", "KILL")
        occupant.join()
    create(sjq, "a")
    assert Hand(sjq).drain() == ["a"]


def is_busy(outside: Wire) -> bool:
    try:
        outside.plain("PING")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False
