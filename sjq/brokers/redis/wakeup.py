"""Tells a worker that topics may have work: the server's own notices of changed keys, or polling where it has none.

`CLIENT TRACKING ON BCAST PREFIX ...` (RESP3) makes the server send a notice for every write to a key with one of the
prefixes, by whatever client and whether the key existed or not, and needs no setting in the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Any

import redis

from sjq.brokers.base import Wakeup
from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys

POLL_S = 0.1
PING_EVERY_S = 5.0
RECONNECT_S = 0.2

_log = logging.getLogger("sjq.broker")


def open_wakeup(server: Server, keys: Keys, topics: Collection[str] | None) -> Wakeup:
    """Return the best wake-up that the server allows."""
    try:
        return NoticedWakeup(server, _prefixes(keys, topics))
    except redis.ResponseError as error:
        _log.warning("the server sends no notices of new work (%s): asking for it every %s s", error, POLL_S)
        return PolledWakeup()


def _prefixes(keys: Keys, topics: Collection[str] | None) -> list[str]:
    """Return prefixes that cover the topics and do not overlap, which the server refuses."""
    if topics is None:
        return [keys.incoming("")]
    chosen: list[str] = []
    for prefix in sorted(keys.incoming(topic) for topic in topics):
        if not chosen or not prefix.startswith(chosen[-1]):
            chosen.append(prefix)
    return chosen


class _Marked(Wakeup):
    """Counts what happened, so that a push between a take and the wait behind it is seen by the wait."""

    def __init__(self) -> None:
        self._happened = 0
        self._changed = threading.Condition()

    def mark(self) -> int:
        with self._changed:
            return self._happened

    def wait(self, mark: int, timeout_s: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._happened != mark, timeout_s)
            return self._happened

    def poke(self) -> None:
        with self._changed:
            self._happened += 1
            self._changed.notify_all()


class NoticedWakeup(_Marked):
    """Listens for the server's notices in a thread and on a connection of its own."""

    def __init__(self, server: Server, prefixes: list[str]) -> None:
        super().__init__()
        self._pool = server.client.connection_pool
        self._prefixes = prefixes
        self._closing = threading.Event()
        self._arm()
        self._thread = threading.Thread(target=self._listen, name="sjq-wakeup", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and drop the connection."""
        self._closing.set()
        self.poke()
        self._connection.disconnect()
        self._thread.join(timeout=1)

    def _arm(self) -> None:
        # Made anew each time: an embedded server may come back at another address.
        kwargs = {**self._pool.connection_kwargs, "protocol": 3}
        self._connection: Any = self._pool.connection_class(**kwargs)
        self._connection.connect()
        self._connection._parser.set_invalidation_push_handler(lambda notice: notice)  # noqa: SLF001
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        self._connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
        self._connection.read_response()

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                if not self._connection.is_connected:
                    self._arm()
                    self.poke()  # what was pushed while nobody listened
                self._read()
            except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, OSError, ValueError):
                # The heartbeat tells people; here only the connection has to come back.
                self._connection.disconnect()
                self._closing.wait(RECONNECT_S)

    def _read(self) -> None:
        """Wait for one notice; a silent server is asked whether it still lives, for a cut line is silent too."""
        try:
            self._connection.read_response(push_request=True, timeout=PING_EVERY_S, disconnect_on_error=False)
        except redis.TimeoutError:
            self._connection.send_command("PING", check_health=False)
            self._connection.read_response(push_request=True, timeout=PING_EVERY_S)
        self.poke()


class PolledWakeup(_Marked):
    """Claims again and again that there may be work: for servers that cannot tell, and for the memory broker."""

    def __init__(self, every_s: float = POLL_S) -> None:
        super().__init__()
        self._every_s = every_s

    def wait(self, mark: int, timeout_s: float) -> int:
        """Wait one beat, or until somebody pokes; a take is the cheapest way to look."""
        if super().wait(mark, min(timeout_s, self._every_s)) == mark:
            self.poke()
        return self.mark()

    def close(self) -> None:
        """Wake whoever waits, for the last time."""
        self.poke()
