"""The worker's side of its keepers, which are processes of their own: see `sjq/keepers/`."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sjq.errors import EnvironmentFailed

PATIENCE_S = 5.0
"""How long a keeper may take to answer beyond what the job was given, before it counts as stopped."""

_ANSWER_S = 10.0
"""The same for the root keeper, which may be waiting for a machine that is short of everything."""

_START = "import sys; sys.path.append(sys.argv[1]); from sjq.keepers.root import main; main()"
_PACKAGES = Path(__file__).parents[2]
_log = logging.getLogger("sjq.executor")


class Keepers:
    """Has keepers made by a root keeper, and a new one made of that where the last was killed. Thread-safe."""

    def __init__(self, project: Path, lock: int) -> None:
        self._project, self._lock = project, lock
        self._changing = threading.Lock()
        self._root: _Root | None = None
        self._closed = False

    def new(self) -> Keeper:
        """Return a keeper that nobody has. Raises EnvironmentFailed when there can be none."""
        why: Exception | None = None
        for _ in range(2):  # a root keeper that lives may still be stopped, or be killed while it is asked
            try:
                return self._living_root().keeper()
            except OSError as error:
                why = error
        raise EnvironmentFailed(f"no keeper could be started for its process: {why}") from why

    def _living_root(self) -> _Root:
        with self._changing:
            if self._closed:
                raise EnvironmentFailed("no keeper could be started for its process: the worker ends")
            if self._root is not None and not self._root.lives():
                _log.warning("the root keeper was killed: another one is started", extra={"event": "root_keeper_lost"})
                self._root.close()
                self._root = None
            if self._root is None:
                self._root = _Root(self._project, self._lock)
            return self._root

    def close(self) -> None:
        """Let the root keeper end, which is when nothing is left below it."""
        with self._changing:
            self._closed = True
            if self._root is not None:
                self._root.close()
                self._root = None


class _Link:
    """A socket to a keeper."""

    def __init__(self) -> None:
        self._socket, self.its = socket.socketpair()

    def lives(self, seconds: float = 0.0) -> bool:
        """Tell whether the other side still has its end, after waiting up to `seconds` for the opposite."""
        hung_up = select.poll()
        try:
            hung_up.register(self._socket, 0)
        except ValueError:  # closed
            return False
        return not hung_up.poll(seconds * 1000)

    def hang_up(self) -> None:
        """Let the other side see an end of file, which is its order to end."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it has ended


class _Root(_Link):
    """The root keeper."""

    def __init__(self, project: Path, lock: int) -> None:
        super().__init__()
        with self.its:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(_PACKAGES), str(self.its.fileno()), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=project,
                env={},
                pass_fds=(self.its.fileno(), lock),
                start_new_session=True,  # Ctrl-C is for the worker, which knows what to do about its jobs
            )
        self._socket.settimeout(_ANSWER_S)
        self._asking = threading.Lock()

    def keeper(self) -> Keeper:
        """Return a new keeper. Raises OSError when there is none."""
        keeper = Keeper(self)
        try:
            with keeper.its:
                answer = self._ask({"keep": True}, keeper.its.fileno())
        except OSError:
            keeper.close()
            raise
        if "error" in answer:
            keeper.close()
            raise OSError(answer["error"])
        keeper.pid = answer["pid"]
        return keeper

    def end(self, pid: int) -> int | None:
        """Kill a keeper and all that it leaves; return how many are left that may not be killed.

        None when there is no root keeper to do it.
        """
        try:
            left: int = self._ask({"end": pid})["left"]
        except OSError:
            return None
        return left

    def _ask(self, order: dict[str, object], *descriptors: int) -> dict[str, Any]:
        """Return the answer to an order; a root keeper without one is killed, and another takes its place."""
        with self._asking:
            try:
                socket.send_fds(self._socket, [json.dumps(order).encode()], descriptors)
                if line := self._socket.recv(4096):
                    answer: dict[str, Any] = msgspec.json.decode(line)
                    return answer
            except TimeoutError:
                self._process.kill()
                self._process.wait()
                raise
            raise ConnectionResetError("the root keeper was killed")

    def close(self) -> None:
        """Let it end, and wait for that."""
        self.hang_up()
        try:
            self._process.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()


class Keeper(_Link):
    """The keeper of a slot: runs one job at a time."""

    def __init__(self, root: _Root) -> None:
        super().__init__()
        self._root = root
        self.pid = 0
        self._lines = self._socket.makefile("rb")
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._overdue: threading.Timer | None = None
        self.broken = False
        """It runs no other job: it was lost, or has processes below it that may not be killed."""

    def run(self, order: dict[str, Any], is_doomed: Callable[[], bool]) -> dict[str, Any]:
        """Return the report of the job's end; in it stands `lost` where the keeper did not live to make one.

        A kill may go out before the start, when the keeper has nothing to kill: then `is_doomed` has it repeated.
        """
        self._say({"run": order})
        if is_doomed():
            self.kill(order["kill_after_s"])
        session = None
        try:
            report = self._hear()
            if "pid" in report:
                session = report["pid"]
                report = self._hear()
        finally:
            self._be_in_time()
        if "lost" in report:
            report["left"] = self._clear_up(session)
        self.broken = self.broken or bool(report.get("left"))
        return report

    def kill(self, kill_after_s: float) -> None:
        """Have the job's processes stopped; a keeper that is stopped itself goes with them, a while later."""
        with self._ending:
            if self._overdue is None:
                self._overdue = threading.Timer(kill_after_s + PATIENCE_S, self._give_up)
                self._overdue.daemon = True
                self._overdue.start()
        self._say({"kill": True})

    def _give_up(self) -> None:
        with self._ending:
            if self._overdue is not None:
                self.broken = True
                self._kill()

    def _be_in_time(self) -> None:
        with self._ending:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

    def _clear_up(self, session: int | None) -> int:
        """Kill what a keeper that was killed left; return how many are left that may not be killed."""
        left = self._kill()
        if left is None and session is not None:
            _kill_session(session)
        return left or 0

    def _kill(self) -> int | None:
        left = self._root.end(self.pid)
        if left is None and self.lives():  # while it has its end of the socket, its pid is its own
            os.kill(self.pid, signal.SIGKILL)
        return left

    def fit(self) -> bool:
        """Tell whether it can run a job, and what is left should it be killed would still be killed."""
        return not self.broken and self.lives() and self._root.lives()

    def end(self) -> None:
        """End the keeper, and with it what it keeps, while another thread may wait for its report."""
        self.hang_up()
        if self.pid and self.lives(PATIENCE_S):
            self._kill()

    def close(self) -> None:
        """End the keeper for good."""
        self.end()
        self._lines.close()
        self._socket.close()

    def _say(self, order: dict[str, object]) -> None:
        try:
            with self._sending:
                self._socket.sendall(json.dumps(order).encode() + b"\n")  # escapes what is no UTF-8
        except OSError:
            self.broken = True

    def _hear(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            self.broken = True
            return {"lost": "the keeper of its processes was killed"}
        report: dict[str, Any] = msgspec.json.decode(line)
        return report


def _kill_session(session: int) -> None:
    """Kill what neither a keeper nor the root keeper is there to kill: the processes of the job's session."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rsplit(b")", 1)[1].split()
            if int(fields[3]) == session:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue
