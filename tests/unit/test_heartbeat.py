from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import Server, until

from sjq.brokers import open_broker
from sjq.brokers.base import Broker, Pulse
from sjq.brokers.redis.broker import RedisBroker
from sjq.config import Config
from sjq.executors.local import LocalExecutor
from sjq.worker.heartbeat import Heartbeat
from sjq.worker.in_flight import InFlight

LEASE_S = 1.5
ME = "here-boot-1-1-abcdef"


class Lost:
    """What the heartbeat says it lost."""

    def __init__(self) -> None:
        self.locks: list[str] = []


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("valkey") as server:
        yield server
        server.thaw()


@pytest.fixture
def heartbeat(server: Server, lost: Lost, tmp_path: Path) -> Iterator[Heartbeat]:
    """The heartbeat of a worker that holds a topic."""
    broker = open_broker(Config(root=tmp_path, job_data=tmp_path / "job_data", broker=server.url))
    executor = LocalExecutor(tmp_path, lock=0)
    heartbeat = Heartbeat(
        broker,
        ME,
        lease_s=LEASE_S,
        facts=lambda: {"host": "here"},
        topics=lambda: ["t"],
        in_flight=InFlight(executor),
        on_lost_locks=lost.locks.extend,
    )
    broker.lock(["t"], ME, LEASE_S)
    heartbeat.start()
    yield heartbeat
    heartbeat.close(5)
    broker.close()


@pytest.mark.parametrize("leases", [0.7, 2])
def test_a_server_that_answers_late_was_away(heartbeat: Heartbeat, server: Server, lost: Lost, leases: float) -> None:
    """Nobody could renew meanwhile: those who seem to be dead have one lease from now on, and what we had is ours."""
    until(lambda: heartbeat.connected_for_s() > LEASE_S, 10, "a lease without a break")
    server.freeze()
    heartbeat.beat_now()
    thaw_at = time.monotonic() + LEASE_S * leases
    until(lambda: time.monotonic() > thaw_at, 10, "the end of the outage")
    server.thaw()
    until(lambda: heartbeat.connected_for_s() > 0, 10, "an answer")
    assert heartbeat.connected_for_s() <= time.monotonic() - thaw_at
    assert not heartbeat.may_take_expired_locks()
    assert lost.locks == []
    assert server.client().get("lock:t") == ME.encode()


class Jumping:
    """The broker's clock, as the heartbeat hears of it: what expires goes when it jumps forwards."""

    def __init__(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        self._broker, self._beat, self._offset_s = broker, broker.heartbeat, 0.0
        self._answering = threading.Lock()
        monkeypatch.setattr(broker, "heartbeat", self._jumped)

    def _jumped(self, *arguments: Any, **named: Any) -> Pulse:
        with self._answering:
            pulse = self._beat(*arguments, **named)
            return replace(pulse, time=pulse.time + self._offset_s)

    def jump(self, seconds: float) -> None:
        with self._answering:  # for a server, its clock and what expired by it are one
            self._offset_s += seconds
            if seconds > 0:
                assert isinstance(self._broker, RedisBroker)
                self._broker.server.client.delete("lock:t", f"worker:{ME}")


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_after_a_jump_of_the_brokers_clock_nobody_is_judged_by_expiry(
    heartbeat: Heartbeat, lost: Lost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, jump_s: float
) -> None:
    broker = heartbeat._broker
    clock = Jumping(broker, monkeypatch)
    until(lambda: heartbeat.connected_for_s() > LEASE_S, 10)
    assert heartbeat.may_take_expired_locks()
    clock.jump(jump_s)
    heartbeat.confirm()
    assert heartbeat.connected_for_s() < LEASE_S
    assert not heartbeat.may_take_expired_locks()
    (said_s,) = re.findall(r"jumped by ([+-][0-9.]+) s", caplog.text)
    assert float(said_s) == pytest.approx(jump_s, abs=LEASE_S)
    assert lost.locks == [], "what expired by the jump is taken again"
    assert [holder.worker for holder in broker.holders(["t"])] == [ME]
    until(lambda: heartbeat.connected_for_s() > LEASE_S, 10)
    assert heartbeat.may_take_expired_locks()


def test_without_a_jump_a_lock_that_is_gone_is_lost(heartbeat: Heartbeat, lost: Lost) -> None:
    assert isinstance(heartbeat._broker, RedisBroker)
    heartbeat._broker.server.client.delete("lock:t")
    heartbeat.confirm()
    assert lost.locks == ["t"]
