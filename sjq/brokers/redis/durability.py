"""Waits until what a server has accepted would survive a power cut: on its disk, or on a replica."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from sjq import clock
from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys
from sjq.errors import BrokerDown, ConfigError, Error

PATIENCE_S = 10.0
EVERY_SECOND_S = 1.1
"""With `appendfsync everysec` the next fsync begins within a second, and a tenth for the server's own clock."""

POLL_S = 0.01


def await_disk(server: Server) -> None:
    """Return when all that the server accepted before is on its disk, or on a replica where it writes to none.

    Raises ConfigError when the server's settings promise neither, and BrokerDown when it takes too long.
    """
    way_to_disk(server)()


def way_to_disk(server: Server) -> Callable[[], None]:
    """Return what waits for the disk on this server. Raises ConfigError when its settings promise nothing."""
    facts = server.ask("INFO", "everything")
    if facts.get("aof_enabled"):
        policy = _setting(server, "appendfsync")
        if policy == "always":
            return lambda: None  # it answers behind the fsync
        if policy == "no":
            raise ConfigError(f"{server.where} leaves the fsync to its system: set appendfsync to everysec or always")
        if _waits_for_its_fsync(facts):
            return partial(_wait, server, "WAITAOF", 1, 0)
        return partial(_sit_out, server)
    if facts.get("connected_slaves"):
        return partial(_wait, server, "WAIT", 1)
    raise ConfigError(
        f"{server.where} writes to no disk (appendonly is off) and has no replica: turn appendonly on, or create "
        "without durable"
    )


def _setting(server: Server, name: str) -> str:
    try:
        found = server.ask("CONFIG", "GET", name)
    except Error:  # managed servers do not tell; then it is the usual one
        return "everysec"
    pairs = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    value = pairs.get(name, pairs.get(name.encode(), "everysec"))
    return value.decode() if isinstance(value, bytes) else str(value)


def _waits_for_its_fsync(facts: dict[str, object]) -> bool:
    """Tell whether WAITAOF can be believed.

    Redis 7.4 and Valkey answer it before the fsync of `everysec` has begun (redis/redis pull request 13793, mended in
    Redis 8.0; seen in Valkey 9.1.2); Redis 7.0 does not know it.
    """
    major = str(facts.get("redis_version", "0")).partition(".")[0]
    return facts.get("server_name") != "valkey" and int(major) >= 8


def _sit_out(server: Server) -> None:
    """Wait until an fsync that began after now has ended."""
    time.sleep(EVERY_SECOND_S)
    _until(server, lambda: not server.ask("INFO", "persistence").get("aof_pending_bio_fsync"))
    status = server.ask("INFO", "persistence").get("aof_last_write_status")
    if status != "ok":
        raise BrokerDown(f"{server.where} cannot write to its disk (aof_last_write_status is {status})")


def _wait(server: Server, *command: str | int) -> None:
    """Have the server wait; the client's write in front makes it wait for all that came before."""
    mark = ("SET", Keys(server.prefix).durable(), "", "PX", 1)
    _, answer = server.ask_all([mark, (*command, round(PATIENCE_S * 1000))])
    if not (answer[0] if isinstance(answer, list) else answer):
        raise BrokerDown(
            f"{server.where} did not confirm within {PATIENCE_S:g} s that it is safe: it may be, or not yet"
        )


def _until(server: Server, done: Callable[[], bool]) -> None:
    deadline = clock.monotonic() + PATIENCE_S
    while not done():
        if clock.monotonic() > deadline:
            raise BrokerDown(f"{server.where} did not write to its disk within {PATIENCE_S:g} s")
        time.sleep(POLL_S)
