"""Runs jobs on this machine: a fresh process each, started and watched by a keeper."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from sjq import clock, keeper
from sjq.errors import EnvironmentFailed
from sjq.executors import launch
from sjq.executors.base import Executor, Exit, Runtime, Task, Usage
from sjq.executors.runtimes import Runtimes
from sjq.jobs import shown
from sjq.topics import Topic

_CLOSE_S = 5.0
_log = logging.getLogger("sjq.executor")


class LocalExecutor(Executor):
    """This machine."""

    def __init__(self, root: Path, *, lock: int, environ: Mapping[str, str] = os.environ) -> None:
        """Use `lock`, a descriptor, as what every keeper holds open as long as it lives."""
        self._root = root
        self._lock = lock
        launch.keep_handler_package(root)
        self._stopping = threading.Event()
        self._runtimes = Runtimes(root, launch.base_environ(root, environ), self._stopping)
        self._changing = threading.Lock()
        self._idle: list[_Keeper] = []
        self._running: dict[Path, _Keeper] = {}
        self._doomed: set[Path] = set()
        self._closed = False

    def prepare(self, topic: Topic) -> Runtime:
        """Build what the topic's script needs, unless it is there."""
        if not (self._root / launch.HANDLER_FOLDER / "sjq" / "__init__.py").exists():  # somebody tidied up
            launch.keep_handler_package(self._root)
        return self._runtimes.prepare(topic)

    def stop_preparing(self) -> None:
        """End every uv that runs for us."""
        self._stopping.set()

    def run(self, task: Task) -> Exit:
        """Have an idle keeper run the task, or a new one if none is idle."""
        start_time, started = clock.now(), clock.monotonic()
        slot = self._keeper_for(task)
        if slot is None:
            return Exit(
                exit_code=None,
                signal=None,
                start_time=start_time,
                end_time=start_time,
                elapsed_s=0.0,
                usage=None,
                killed=True,
                error="it was stopped before its process began",
            )
        try:
            report = slot.run(task, self._root, self._is_doomed)
        finally:
            killed = self._done(task, slot)
        return _exit(report, start_time, clock.monotonic() - started, killed=killed)

    def _keeper_for(self, task: Task) -> _Keeper | None:
        with self._changing:
            if self._closed or task.output in self._doomed:
                self._doomed.discard(task.output)
                return None
            slot = None
            while self._idle and slot is None:
                slot = self._idle.pop()
                if not slot.lives():
                    slot.close()
                    slot = None
            if slot is None:
                slot = _Keeper(self._root, self._lock)
            self._running[task.output] = slot
            return slot

    def _done(self, task: Task, slot: _Keeper) -> bool:
        """Free the keeper; tell whether the task was killed."""
        with self._changing:
            del self._running[task.output]
            usable = not slot.broken and not self._closed
            if usable:
                self._idle.append(slot)
            killed = task.output in self._doomed
            self._doomed.discard(task.output)
        if not usable:
            slot.close()
        return killed

    def _is_doomed(self, task: Task) -> bool:
        with self._changing:
            return task.output in self._doomed

    def kill(self, task: Task) -> None:
        """Tell the task's keeper; a task that has not begun never will."""
        with self._changing:
            if task.output not in self._doomed:
                self._doomed.add(task.output)
                if slot := self._running.get(task.output):
                    slot.kill(task.runtime.topic.policy.kill_after)

    def close(self) -> None:
        """Let the keepers see the end of their pipes, which makes them kill what runs, and wait for them."""
        with self._changing:
            self._closed = True
            slots = [*self._idle, *self._running.values()]
            self._idle.clear()
        for slot in slots:
            slot.close()


class _Keeper:
    """A keeper process, from the worker's side."""

    def __init__(self, root: Path, lock: int) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(its.fileno()), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=root,
                env={},
                pass_fds=(its.fileno(), lock),
                start_new_session=True,  # Ctrl-C is for the worker, which knows what to do about its jobs
            )
        self._socket = ours
        self._lines = ours.makefile("rb")
        self._sending = threading.Lock()
        self.broken = False

    def run(self, task: Task, root: Path, is_doomed: Callable[[Task], bool]) -> dict[str, object]:
        """Return the keeper's report of the task's end."""
        order = {
            "argv": launch.command_line(task, root),
            "env": launch.environment(task),
            "stdout": str(task.stdout),
            "stderr": str(task.stderr),
        }
        self._say({"run": order})
        if is_doomed(task):
            # Its kill may have gone out before the start, when the keeper had nothing to kill.
            self.kill(task.runtime.topic.policy.kill_after)
        report = self._hear()
        session = report.get("pid")
        if isinstance(session, int):
            report = self._hear()
            if "lost" in report:
                _kill_session(session)
        elif "lost" in report:
            return {"error": "its keeper was killed before it could begin"}
        if left := report.get("left"):
            self.broken = True  # they are nobody's from now on, and no later job's
            _log.warning("%s: %s processes of another user outlive it: we may not kill them", shown(task.job_id), left)
        return report

    def lives(self) -> bool:
        """Tell whether the keeper can run a job."""
        return self._process.poll() is None

    def kill(self, kill_after_s: float) -> None:
        """Have the job's processes stopped."""
        self._say({"kill": kill_after_s})

    def close(self) -> None:
        """End the keeper, and with it what it keeps."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.broken = True
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lines.close()
        self._socket.close()

    def _say(self, order: dict[str, object]) -> None:
        try:
            with self._sending:
                self._socket.sendall(json.dumps(order).encode() + b"\n")  # escapes what is no UTF-8
        except OSError:
            self.broken = True

    def _hear(self) -> dict[str, object]:
        try:
            line = self._lines.readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            self.broken = True
            return {"lost": "the keeper of its processes was killed"}
        report: dict[str, object] = msgspec.json.decode(line)
        return report


def _kill_session(session: int) -> None:
    """Kill what a keeper that was killed itself could no longer kill: the processes of the job's session."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rsplit(b")", 1)[1].split()
            if int(fields[3]) == session:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue


def _exit(report: dict[str, object], start_time: float, elapsed_s: float, *, killed: bool) -> Exit:
    code = number = usage = error = None
    if "error" in report:
        raise EnvironmentFailed(f"its process could not be started: {report['error']}")
    if "lost" in report:
        error = str(report["lost"])
    else:
        ended = os.waitstatus_to_exitcode(int(str(report["status"])))
        code, number = (ended, None) if ended >= 0 else (None, -ended)
        usage = msgspec.convert({name: report[name] for name in ("max_rss_bytes", "user_s", "system_s")}, type=Usage)
    return Exit(
        exit_code=code,
        signal=number,
        start_time=start_time,
        end_time=start_time + elapsed_s,
        elapsed_s=elapsed_s,
        usage=usage,
        killed=killed,
        error=error,
    )
