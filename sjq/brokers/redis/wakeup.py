"""Tells a worker that topics may have work: the server's own notices of changed keys, or polling where it has none.

`CLIENT TRACKING ON BCAST PREFIX ...` (RESP3) makes the server send a notice for every write to a key with one of the
prefixes, by whatever client and whether the key existed or not, and needs no setting in the server.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import redis

from sjq.brokers.base import Wakeup
from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys
from sjq.errors import BrokerDown, ConfigError, Error

POLL_S = 0.1
PING_EVERY_S = 5.0
RECONNECT_S = 0.2

_log = logging.getLogger("sjq.broker")


def open_wakeup(
    server: Server, keys: Keys, topics: Collection[str] | None, worker: str, on_order: Callable[[], None]
) -> Wakeup:
    """Return the best wake-up that the server allows."""
    try:
        return _noticed(server, _prefixes(keys, topics, worker), on_order)
    except (BrokerDown, ConfigError):
        raise
    except Error as error:
        _log.warning("the server sends no notices of new work (%s): asking for it every %s s", error, POLL_S)
        return PolledWakeup()


def _noticed(server: Server, prefixes: list[str], on_order: Callable[[], None]) -> Wakeup:
    with server.errors():
        try:
            return NoticedWakeup(server, prefixes, on_order)
        except redis.exceptions.NoPermissionError as error:
            raise Error(str(error)) from error  # we may be let in and not be allowed this command


def _prefixes(keys: Keys, topics: Collection[str] | None, worker: str) -> list[str]:
    """Return prefixes that cover the topics and the worker, and do not overlap, which the server refuses."""
    names = (kind(topic) for kind in (keys.incoming, keys.scheduled, keys.pause) for topic in topics or ("",))
    chosen: list[str] = []
    for prefix in sorted((*names, keys.control(worker))):
        if not chosen or not prefix.startswith(chosen[-1]):
            chosen.append(prefix)
    return chosen


class _Bell:
    """Rings for one topic. Counts, so that a push between a take and the wait behind it is seen by the wait."""

    def __init__(self) -> None:
        self.rung = 0
        self.changed = threading.Condition()

    def ring(self) -> None:
        """Wake those who wait for this topic."""
        with self.changed:
            self.rung += 1
            self.changed.notify_all()


class _Bells(Wakeup):
    """A bell for each topic, so that a push wakes those whom it concerns and nobody else."""

    def __init__(self) -> None:
        self._bells: defaultdict[str, _Bell] = defaultdict(_Bell)
        self._hanging = threading.Lock()

    def bell(self, topic: str) -> _Bell:
        """Return the bell of a topic."""
        with self._hanging:
            return self._bells[topic]

    def ring(self, topic: str) -> None:
        """Ring the bell of a topic, if anybody ever asked for its mark: others may push to any number of names."""
        with self._hanging:
            bell = self._bells.get(topic)
        if bell:
            bell.ring()

    def mark(self, topic: str) -> int:
        """Return how often the topic's bell has rung."""
        return self.bell(topic).rung

    def wait(self, topic: str, mark: int, timeout_s: float) -> bool:
        """Wait for the topic's bell."""
        bell = self.bell(topic)
        with bell.changed:
            return bell.changed.wait_for(lambda: bell.rung != mark, timeout_s)

    def poke(self) -> None:
        """Ring every bell."""
        with self._hanging:
            bells = list(self._bells.values())
        for bell in bells:
            bell.ring()


class NoticedWakeup(_Bells):
    """Listens for the server's notices in a thread and on a connection of its own."""

    hears_orders = True

    def __init__(self, server: Server, prefixes: list[str], on_order: Callable[[], None]) -> None:
        super().__init__()
        self._server = server
        self._prefixes, self._on_order = prefixes, on_order
        self._key_prefix = server.prefix.encode()
        self._closing = threading.Event()
        self._armed = False
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
        pool, self._moves = self._server.client.connection_pool, self._server.moves
        self._connection: Any = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        self._connection.connect()
        self._connection._parser.set_invalidation_push_handler(lambda notice: notice)  # noqa: SLF001
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        self._connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
        self._connection.read_response()
        self._armed = True

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                if not self._armed:
                    self._connection.disconnect()
                    self._arm()
                    self.poke()  # what was pushed while nobody listened
                self._read()
                self._armed = self._moves == self._server.moves
            except Exception:  # noqa: BLE001 - a listener that ends would leave the slots to their longest nap
                # The heartbeat tells people; here only the connection has to come back.
                self._armed = False
                self._closing.wait(RECONNECT_S)

    def _read(self) -> None:
        """Wait for one notice; a silent server is asked whether it still lives, for a cut line is silent too."""
        try:
            notice = self._connection.read_response(push_request=True, timeout=PING_EVERY_S, disconnect_on_error=False)
        except redis.TimeoutError:
            self._connection.send_command("PING", check_health=False)
            notice = self._connection.read_response(push_request=True, timeout=PING_EVERY_S)
        if isinstance(notice, list):
            self._ring(notice[1])

    def _ring(self, keys: list[bytes] | None) -> None:
        """Ring for the topics of these keys; no keys means that the whole database was emptied."""
        if keys is None:
            self.poke()
        for key in keys or ():
            kind, _, name = key.removeprefix(self._key_prefix).partition(b":")
            if kind == b"control":
                self._on_order()
            else:
                self.ring(name.decode("utf-8", "replace"))


class PolledWakeup(_Bells):
    """Claims again and again that there may be work: for servers that cannot tell, and for the memory broker."""

    hears_orders = False

    def __init__(self, every_s: float = POLL_S) -> None:
        super().__init__()
        self._every_s = every_s

    def wait(self, topic: str, mark: int, timeout_s: float) -> bool:
        """Wait one beat, or until somebody pokes, and claim that there is work: a take is the cheapest way to look."""
        super().wait(topic, mark, min(timeout_s, self._every_s))
        return True

    def close(self) -> None:
        """Wake whoever waits, for the last time."""
        self.poke()
