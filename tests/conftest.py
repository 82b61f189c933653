"""Brokers for tests, on every backend that there is, each test in a place of its own."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from leaks import Leaks, can_be_found
from servers import Server, Wire, missing

from sjq.brokers import open_broker
from sjq.brokers import redis as redis_brokers
from sjq.brokers.base import Broker
from sjq.brokers.redis.broker import RedisBroker
from sjq.config import Config

BACKENDS = ("memory", "embedded", "redis", "valkey")
_failed = pytest.StashKey[bool]()
_leaks = pytest.StashKey[Leaks]()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SharedFixtures(config))
    config.addinivalue_line("markers", "litters(why): this test leaves keys behind that no sjq would leave")


class SharedFixtures:
    """Knows what many tests share, which is no leak of the one that needs it first.

    A plugin, since what belongs to a whole session asks no conftest.py of a folder.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._stash = config.stash

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        leaks = self._stash.get(_leaks, None)
        if leaks is None or fixturedef.scope == "function":
            return (yield)
        with leaks.shared() as made:
            made.append((yield))
        return made[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.fixture(scope="session")
def leaks(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Leaks | None]:
    """What looks for leaks in this process of pytest; None where that is not possible."""
    if not can_be_found():
        yield None
        return
    with closing(Leaks(tmp_path_factory.getbasetemp())) as looking:
        request.config.stash[_leaks] = looking
        yield looking


@pytest.fixture(autouse=True)
def no_leaks(leaks: Leaks | None, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves processes, threads, descriptors or temporary files behind fails."""
    if leaks is None:
        yield
        return
    with leaks.looked_for() as found:
        yield
    if found and not request.node.stash.get(_failed, True):
        pytest.fail("\n  ".join(["the test left something behind:", *found]), pytrace=False)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Debian's Redis, for this process of pytest alone."""
    with Server("redis") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """The wheel's Valkey, for this process of pytest alone."""
    with Server("valkey") as server:
        yield server


@pytest.fixture(scope="session")
def embedded_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `.sjq/` whose server runs for the whole session, so that not each test has to start one."""
    from sjq.brokers.redis import embedded

    folder = tmp_path_factory.mktemp("embedded")
    with embedded.join(folder / "redis"):
        yield folder


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of one backend; a new broker is one more name in the list."""
    name: str = request.param
    return name


@pytest.fixture
def broker_config(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Config]:
    """A project in `tmp_path`, whose broker no other test shares."""
    url: str | None = None
    if backend == "memory":
        try:
            import fakeredis  # noqa: F401
        except ImportError:
            missing("fakeredis")
        url = f"memory://{secrets.token_hex(8)}"
    elif backend == "embedded":
        (tmp_path / ".sjq").symlink_to(request.getfixturevalue("embedded_state"))
    else:
        server: Server = request.getfixturevalue(f"{backend}_server")
        url = server.url
    yield Config(root=tmp_path, job_data=tmp_path / "job_data", broker=url, prefix=f"{secrets.token_hex(3)}:")
    # A connection of fakeredis holds its last error, with it the frames of the test, and with these all that it took.
    if backend == "memory":
        redis_brokers._memory_client(str(url)).connection_pool.disconnect()
        redis_brokers._memory_client.cache_clear()


@pytest.fixture
def broker(broker_config: Config, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The broker of `broker_config`; what it holds in the end is looked through for leaks, and deleted."""
    broker = open_broker(broker_config)
    yield broker
    assert isinstance(broker, RedisBroker)
    wire = Wire(broker.server.client, broker_config.prefix)
    leaks = []
    if request.node.get_closest_marker("litters") is None and not request.node.stash.get(_failed, True):
        leaks = wire.leaks()
    wire.plain("FLUSHALL")
    broker.close()
    assert not leaks, "the test left keys behind"


@pytest.fixture
def other_broker(broker: Broker, broker_config: Config) -> Iterator[Broker]:
    """A second connection to the same place; for programs elsewhere."""
    del broker
    other = open_broker(broker_config)
    yield other
    other.close()


@pytest.fixture
def wire(other_broker: Broker, broker_config: Config) -> Wire:
    """The same place as a program sees it that has no sjq."""
    assert isinstance(other_broker, RedisBroker)
    return Wire(other_broker.server.client, broker_config.prefix)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test opens on its way, closed at its end."""
    with ExitStack() as opened:
        yield opened
