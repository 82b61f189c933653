"""Jobs in Redis or Valkey: a server by URL, the embedded one, or fakeredis in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING

import redis

from sjq.brokers.base import Wakeup
from sjq.brokers.redis.broker import RedisBroker
from sjq.brokers.redis.connection import Server, connect
from sjq.brokers.redis.wakeup import PolledWakeup
from sjq.config import Config, without_password
from sjq.errors import ConfigError

if TYPE_CHECKING:
    from sjq.brokers.redis.embedded import Membership

MEMORY_POLL_S = 0.005


def open_server(config: Config, patience_s: float, answer_s: float) -> RedisBroker:
    """Return a broker on the server that the configuration names by URL or by arguments."""
    where = without_password(config.broker) if config.broker else _shown(config.redis or {})
    client = connect(config.broker, config.redis, answer_s)
    length = config.events_length
    return RedisBroker(Server(client, prefix=config.prefix, events_length=length, where=where, patience_s=patience_s))


def open_embedded(config: Config, patience_s: float, answer_s: float) -> RedisBroker:
    """Return a broker on the project's own server, started or joined; closing it leaves the server."""
    from sjq.brokers.redis.embedded import join  # noqa: PLC0415 - only projects without a server need it

    membership = join(config.state_folder / "redis")
    client = connect(f"unix://{membership.socket}", None, answer_s)

    def revive() -> None:
        membership.revive()
        client.connection_pool.connection_kwargs["path"] = str(membership.socket)

    where = f"the embedded server of {config.root}"
    server = Server(
        client,
        prefix=config.prefix,
        events_length=config.events_length,
        where=where,
        revive=revive,
        patience_s=patience_s,
    )
    return _EmbeddedBroker(server, membership)


def open_memory(config: Config) -> RedisBroker:
    """Return a broker in this process's memory; brokers of one process with the same URL share it."""
    try:
        import fakeredis  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "memory:// needs fakeredis, sjq's extra `memory`: install it, as in uv add 'fakeredis[lua]'"
        ) from None
    server = Server(
        _memory_client(config.broker or "memory://"),
        prefix=config.prefix,
        events_length=config.events_length,
        where="memory",
    )
    return _MemoryBroker(server)


@cache
def _memory_client(url: str) -> redis.Redis:
    import fakeredis  # noqa: PLC0415 - an extra

    del url  # the key under which the server is kept
    return fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7, 0)))


class _EmbeddedBroker(RedisBroker):
    def __init__(self, server: Server, membership: Membership) -> None:
        super().__init__(server)
        self._membership = membership

    def promise_disk(self) -> None:
        """Promise it: the disk is ours."""

    def await_disk(self) -> None:
        """Put the server's files on the disk ourselves: they are here, and the server leaves it to others."""
        self._membership.sync()

    def close(self) -> None:
        """Close the connections and leave the server, which stops when nobody else uses it."""
        super().close()
        self._membership.close()


class _MemoryBroker(RedisBroker):
    def promise_disk(self) -> None:
        """Refuse: there is no disk behind it."""
        raise ConfigError("memory:// keeps nothing on a disk: create without durable, or use a server")

    def await_disk(self) -> None:
        """Refuse likewise."""
        self.promise_disk()

    def wakeup(self, topics: Collection[str] | None, worker: str, on_order: Callable[[], None]) -> Wakeup:
        """Poll: fakeredis sends no notices, and looking costs next to nothing."""
        del topics, worker, on_order
        return PolledWakeup(MEMORY_POLL_S)


def _shown(options: Mapping[str, object]) -> str:
    if path := options.get("unix_socket_path"):
        return f"unix://{path}"
    scheme = "rediss" if options.get("ssl") else "redis"
    return f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
