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
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from sjq import clock
from sjq.errors import EnvironmentFailed
from sjq.executors import launch
from sjq.executors.orphans import kill_orphans

PATIENCE_S = 8.0
"""How long a keeper may take to answer beyond what the job was given, before it counts as stopped.

It is a net below the root keeper, which kills a keeper that is stopped for a second. It is more than the time for which
a keeper tries processes that it may not kill.
"""

_LONGEST_POLL_S = 86_400.0  # more milliseconds than an int holds are none that `poll` takes

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
        self.pid = self._process.pid
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
        self._heard = b""
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._current: dict[str, Any] | None = None
        """The order of the job that runs now, until its report was heard."""
        self._overdue: threading.Timer | None = None
        self.broken = False
        """It runs no other job: it was lost, or has processes below it that may not be killed."""

    def run(self, order: dict[str, Any], is_doomed: Callable[[], bool]) -> dict[str, Any]:
        """Return the report of the job's end; in it stands `lost` where the keeper did not live to make one.

        A keeper that says nothing when the job's time has been over for long is killed: it holds nothing to its limits.
        A kill may come before the start, when the keeper has nothing to kill: then `is_doomed` has it repeated.
        """
        session = None
        timeout_s, kill_after_s = order["limits"]["timeout_s"], order["kill_after_s"]
        with self._ending:
            self._current = order
        try:
            self._say({"run": order})
            if is_doomed():
                self.kill(kill_after_s)
            report = self._hear(timeout_s, kill_after_s)
            if "pid" in report:
                session = report["pid"]
                report = self._hear(timeout_s, kill_after_s)
        finally:
            self._be_in_time()
        if "lost" in report:
            report["left"] = self._clear_up(launch.marks(order["env"]), session)
        self.broken = self.broken or bool(report.get("left"))
        return report

    def kill(self, kill_after_s: float) -> None:
        """Have the job's processes stopped; a keeper that is stopped itself goes with them, a while later.

        When the job has ended, this does nothing. Who calls it sees to it that no other begins before it returns.
        """
        with self._ending:
            if self._current is None:
                return
            if self._overdue is None:
                self._overdue = threading.Timer(kill_after_s + PATIENCE_S, self._give_up, [self._current])
                self._overdue.daemon = True
                self._overdue.start()
        # Not under the lock: a keeper that is stopped may read nothing, and whoever gives it up needs the lock.
        self._say({"kill": True})

    def _give_up(self, order: dict[str, Any]) -> None:
        with self._ending:
            if self._current is order:  # a timer that has begun to ring is not to be cancelled any more
                self._kill()

    def _be_in_time(self) -> None:
        with self._ending:
            self._current = None
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

    def _clear_up(self, marks: Collection[bytes], session: int | None) -> int:
        """Kill what a keeper that was killed left; return how many are left that cannot be killed."""
        left = self._kill()
        if left is None:
            left = kill_orphans(marks, session=session, keepers=(self.pid, self._root.pid))
        return left

    def _kill(self) -> int | None:
        self.broken = True
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
        self._socket.close()

    def _say(self, order: dict[str, object]) -> None:
        try:
            with self._sending:
                self._socket.sendall(json.dumps(order).encode() + b"\n")  # escapes what is no UTF-8
        except OSError:
            self.broken = True

    def _hear(self, timeout_s: float | None, kill_after_s: float) -> dict[str, Any]:
        """Return what the keeper says next, waiting no longer than it may take with a job of such a timeout."""
        while b"\n" not in self._heard:
            try:
                # The keeper's time begins when the job's is over: both of us may have been stopped until then.
                if timeout_s is not None and self._is_silent(timeout_s) and self._is_silent(kill_after_s + PATIENCE_S):
                    self._kill()
                part = self._socket.recv(4096)
            except (OSError, ValueError):
                part = b""
            if not part:
                self.broken = True
                return {"lost": "the keeper of its processes was killed, or stopped"}
            self._heard += part
        line, self._heard = self._heard.split(b"\n", 1)
        report: dict[str, Any] = msgspec.json.decode(line)
        return report

    def _is_silent(self, seconds: float) -> bool:
        """Wait up to `seconds` for the keeper to say something, or to end; tell whether it did neither."""
        heard = select.poll()
        heard.register(self._socket, select.POLLIN)
        until = clock.monotonic() + seconds
        while (left_s := until - clock.monotonic()) > 0:
            if heard.poll(min(left_s, _LONGEST_POLL_S) * 1000):
                return False
        return True
