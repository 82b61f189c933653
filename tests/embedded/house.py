"""A folder of an embedded server, and the processes that live there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sjq.brokers.redis import embedded_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GONE_S = 2.0  # a second is promised; a busy machine gets two
PATIENCE_S = 20.0
ONCE = Retry(NoBackoff(), 0)

STAY = """
import sys
from pathlib import Path
from sjq.brokers.redis import embedded
with embedded.join(Path(sys.argv[1])) as here:
    print(here.socket, flush=True)
    for line in sys.stdin:
        if line == "revive\\n":
            here.revive()
        elif line == "spawn\\n":
            import subprocess
            child = subprocess.Popen(["sleep", "60"])
        print(here.socket, flush=True)
"""


def until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Poll instead of sleeping; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


class User:
    """A process that joined."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAY, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line.strip()
        raise AssertionError(self.process.communicate()[1])

    def tell(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()

    def leave(self) -> None:
        _, errors = self.process.communicate()
        assert (self.process.returncode, errors) == (0, "")

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, number)
        self.process.communicate()


class House:
    """A folder, and whoever lives there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users: list[User] = []

    def user(self, **environment: str) -> User:
        self.users.append(User(self.folder, **environment))
        return self.users[-1]

    def guest(self) -> User:
        user = self.user()
        user.read()
        until(lambda: self.claim().get("server"))  # written a moment after the server is up
        return user

    def servers(self) -> set[int]:
        return {process.pid for process in _alive() if _is_server(process, self.folder)}

    def keepers(self) -> set[int]:
        return {process.pid for process in _alive() if _is_keeper(process, self.folder)}

    def empty(self) -> bool:
        return not self.servers() and not self.keepers()

    def has_lost_its_keeper(self) -> bool:
        return not embedded_folder.held(self.folder / "keeper.lock")  # a process can look dead a moment before

    def claim(self) -> dict[str, Any]:
        claim: dict[str, Any] = json.loads((self.folder / "server.json").read_text())
        return claim

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        place = self.claim()["socket"]
        with redis.Redis(unix_socket_path=place, decode_responses=True, retry=ONCE) as client:
            yield client

    def answers(self) -> bool:
        with suppress(redis.ConnectionError, FileNotFoundError), self.client() as client:
            return bool(client.ping())
        return False

    def is_back(self, *, without: int) -> bool:
        return bool(self.servers() - {without}) and self.answers()

    def clear(self) -> None:
        for user in self.users:
            with suppress(ProcessLookupError):
                os.killpg(user.process.pid, signal.SIGKILL)
            user.process.communicate()
        until(self._cleared)

    def _cleared(self) -> bool:
        for pid in [*self.keepers(), *self.servers()]:  # a keeper that is killed second starts a server in between
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.empty()


def _alive() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if process.pid != os.getpid()]


def _is_server(process: psutil.Process, folder: Path) -> bool:
    try:
        return "-server" in process.name() and process.cwd() == str(folder)
    except psutil.Error:
        return False


def _is_keeper(process: psutil.Process, folder: Path) -> bool:
    try:
        command = process.cmdline()
        zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return not zombie and str(folder) in command and any(word.endswith("keeper.py") for word in command)
