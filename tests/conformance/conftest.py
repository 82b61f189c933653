"""Servers that may be broken, for tests of what happens then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from servers import Loser, Server, Wire

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that may be broken: it writes down every step before it answers."""
    with Server(request.param, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Iterator[Config]:
    yield Config(root=tmp_path, job_data=tmp_path, broker=server.url)
    with closing(server.client()) as client:
        client.flushall()


@pytest.fixture
def sjq(config: Config) -> Iterator[Broker]:
    with closing(open_broker(config)) as broker:
        yield broker


@pytest.fixture
def outside(server: Server) -> Iterator[Wire]:
    with closing(server.client(protocol=2)) as client:
        yield Wire(client, "")


@pytest.fixture
def loser(server: Server, sjq: Broker) -> Iterator[Loser]:
    """A way to the server that loses answers: those of steps, as the server knows all scripts already."""
    hand = Hand(sjq)
    create(sjq, "warm-up")
    hand.lease()
    sjq.recover(TOPIC, dead=[hand.id], expired=[], losses=9)
    assert sjq.settle(hand.lease(), broke)
    sjq.requeue(TOPIC, [State.FAILED])
    assert sjq.settle(hand.lease(), broke)
    sjq.delete(["warm-up"])
    sjq.lock([TOPIC], hand.id, 60)
    sjq.leave(hand.id, [TOPIC])
    with closing(Loser(server)) as loser:
        yield loser
