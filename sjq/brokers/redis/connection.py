"""One server: how to reach it, how to call a transition there, and what its errors mean."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry

from sjq import __version__, clock
from sjq.brokers.redis.scripts import Argument, as_read, script
from sjq.config import without_password
from sjq.errors import BrokerDown, ConfigError, Error, KeyTaken
from sjq.jobs import shown

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5

_log = logging.getLogger("sjq.broker")
_NOT_NOW = ("LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "BUSY")


def connect(url: str | None, options: Mapping[str, object] | None, answer_s: float) -> redis.Redis:
    """Return a client for a URL or for keyword arguments. It connects at its first command."""
    kwargs: dict[str, Any] = {
        "protocol": 2,
        # A repeated command is a decision of the broker, which knows what may be repeated and how.
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": answer_s,
        "socket_keepalive": True,
        # Named here, for the server's list of clients, or it is looked up in the installed packages: 6 ms a start.
        # Not left out: without an answer to read first, a TLS 1.3 connection is taken for one that has data.
        "driver_info": DriverInfo(name="sjq", lib_version=__version__),
    }
    try:
        if url is not None:
            if url.startswith("unix:"):
                del kwargs["socket_keepalive"]
            client = redis.Redis.from_url(url, **kwargs)
        else:
            client = redis.Redis(**{**kwargs, **(options or {})})
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects nowhere, and is the first to look at some
    except (ValueError, TypeError, redis.RedisError) as error:
        shown = without_password(url) if url else "redis in config.json"
        raise ConfigError(f"{shown} cannot be used for a Redis client: {error}") from None
    return client


_KEY_TAKEN = re.compile(r"the key .* is a \w+ of somebody else, and no \w+")
"""What `must_be` in lib.lua says."""

# The client library has classes for some of them, and cuts the word from their texts.
_NOT_NOW_ERRORS = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)


class Server:
    """A Redis or Valkey server, and the transitions that run in it."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str,
        events_length: int | None,
        where: str,
        revive: Callable[[], None] = lambda: None,
        patience_s: float = 0.0,
    ) -> None:
        """Call `revive` after a broken connection; try calls that may be repeated for `patience_s` before they fail."""
        self._patience_s = patience_s
        self.client = client
        self.moves = 0
        """How often the server was found to be a replica: connections made before may lead to the wrong one."""
        self._revive = revive
        self._execute: Callable[..., Any] = client.execute_command
        self.prefix = prefix
        self.length = "" if events_length is None else str(events_length)
        self.where = where

    def run(self, name: str, rest: Iterable[Argument] = (), *, repeat: bool = True, **named: Argument) -> Any:  # noqa: ANN401 - what a script answers is its own
        """Run a transition; one whose answer was lost is repeated once, if that is safe (`repeat`)."""
        transition = script(name)
        named["prefix"] = self.prefix
        if "length" in transition.names:
            named["length"] = self.length
        arguments = list(rest)
        return self._answered(lambda: transition(self._execute, arguments, **named), repeat=repeat)

    def _answered(self, call: Callable[[], Any], *, repeat: bool) -> Any:  # noqa: ANN401 - what the call returns
        deadline = clock.monotonic() + self._patience_s
        pause_s, perhaps_done = FIRST_PAUSE_S, False
        while True:
            try:
                return self._called(call, repeat=repeat)
            except BrokerDown as error:
                perhaps_done = error.perhaps_done = perhaps_done or _may_have_arrived(error)
                if not repeat or clock.monotonic() + pause_s >= deadline:
                    raise
                if pause_s == FIRST_PAUSE_S:
                    _log.warning("%s; trying again for up to %g s", error, self._patience_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _called(self, call: Callable[[], Any], *, repeat: bool) -> Any:  # noqa: ANN401 - what the call returns
        with self.errors():
            try:
                return call()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self._revive()
                refused = isinstance(error, redis.AuthenticationError | redis.BusyLoadingError)
                late = self._patience_s > 0 and isinstance(error, redis.TimeoutError)
                if not repeat or refused or late:
                    raise
                return call()
            except (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError):
                # It has become a replica. Where another has taken its place, a new connection may lead there.
                self.moves += 1
                self.client.connection_pool.disconnect(inuse_connections=False)
                raise

    def ask(self, *command: Argument) -> Any:  # noqa: ANN401 - what a server answers depends on the command
        """Send one command that only looks."""
        name, *arguments = command
        return self._answered(lambda: self._execute(name, *map(as_read, arguments)), repeat=True)

    def ask_all(
        self, commands: Iterable[tuple[Argument, ...]], *, at_once: bool = False, spoilt: bool = False
    ) -> list[Any]:
        """Send commands that only look, in one round trip; `at_once`, so that no other client's fall between them.

        With `spoilt`, a key of a wrong type answers with its error in the list, and does not hide the others.
        """
        ordered = [(name, *map(as_read, arguments)) for name, *arguments in commands]

        def call() -> list[Any]:
            with self.client.pipeline(transaction=at_once) as pipe:
                add: Callable[..., Any] = pipe.execute_command
                for command in ordered:
                    add(*command)
                answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not (spoilt and str(answer).startswith("WRONGTYPE")):
                    raise answer
            return answers

        answers: list[Any] = self._answered(call, repeat=True)
        return answers

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate what the client library raises into sjq's errors."""
        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise ConfigError(f"{self.where} refuses us: {error}; check the user and password") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise BrokerDown(f"{self.where} cannot be reached: {self._why_unreachable(error)}") from error
        except redis.exceptions.MovedError as error:
            raise ConfigError(
                f"{self.where} is part of a cluster, and does not hold our keys ({error}): connect to the node that "
                'does, with a "prefix" that holds a hash tag, such as "{sjq}:"'
            ) from error
        except redis.ResponseError as error:
            if isinstance(error, redis.exceptions.ClusterCrossSlotError) or "non local key in a cluster" in str(error):
                raise ConfigError(
                    f"{self.where} is part of a cluster, where all our keys have to be together: set a "
                    '"prefix" that holds a hash tag, such as "{sjq}:"'
                ) from error
            if isinstance(error, _NOT_NOW_ERRORS) or str(error).startswith(_NOT_NOW):
                raise BrokerDown(f"{self.where} cannot serve now: {_first_line(error)}") from error
            if "unauthenticated" in str(error):  # so long a command, and no password before it
                raise ConfigError(f"{self.where} refuses us: it asks for a password") from error
            if "unknown command" in str(error).lower() and "evalsha" in str(error).lower():
                raise ConfigError(f"{self.where} has no Lua scripts: use Redis 7.0 or newer, or Valkey") from error
            if taken := _KEY_TAKEN.search(str(error)):
                raise KeyTaken(f"{self.where}: {shown(taken[0])}: remove it, or choose another prefix") from error
            raise Error(f"{self.where} refuses a command: {_first_line(error)}") from error

    def _why_unreachable(self, error: redis.RedisError) -> str:
        if isinstance(error, redis.TimeoutError) and "connecting to" not in str(error):
            waited_s = self.client.connection_pool.connection_kwargs.get("socket_timeout")
            return f"no answer for {waited_s:g} s: see whether it is frozen, or too busy"
        return _first_line(error)


def _may_have_arrived(error: BaseException | None) -> bool:
    """Tell whether a connection broke, or was silent, after it stood; of several tries any counts."""
    if error is None:
        return False
    broke = isinstance(error, redis.ConnectionError | redis.TimeoutError) and "connecting to" not in str(error)
    refused = isinstance(error, redis.AuthenticationError | redis.BusyLoadingError)
    return (broke and not refused) or _may_have_arrived(error.__context__)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
