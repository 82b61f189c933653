"""Runs jobs on this machine: a fresh process each, started and watched by a keeper."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from sjq import clock
from sjq.errors import EnvironmentFailed
from sjq.executors import launch
from sjq.executors.base import Executor, Exit, OpenFiles, Runtime, Task, Usage
from sjq.executors.breaches import breach_of
from sjq.executors.keepers import Keeper, Keepers
from sjq.executors.runtimes import Runtimes
from sjq.jobs import shown
from sjq.topics import Topic

_log = logging.getLogger("sjq.executor")


class LocalExecutor(Executor):
    """This machine."""

    def __init__(self, root: Path, *, lock: int, environ: Mapping[str, str] = os.environ) -> None:
        """Use `lock`, a descriptor, as what every keeper holds open as long as it lives."""
        self._root = root
        self._keepers = Keepers(root, lock)
        launch.keep_handler_package(root)
        self._stopping = threading.Event()
        self._runtimes = Runtimes(root, launch.base_environ(root, environ), self._stopping)
        self._changing = threading.Lock()
        self._idle: list[Keeper] = []
        self._running: dict[Path, Keeper] = {}
        self._doomed: weakref.WeakValueDictionary[Path, Task] = weakref.WeakValueDictionary()
        """What is to be killed. That of a kill which came too late to be heeded goes with its task."""
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
            report = slot.run(self._order(task), lambda: self._is_doomed(task))
        finally:
            killed = self._done(task, slot)
        if left := report.get("left"):
            _log.warning(
                "%s: %s of its processes outlive it, which cannot be killed (another user's, or waiting for a device)",
                shown(task.job_id),
                left,
            )
        return _exit(task, report, start_time, clock.monotonic() - started, killed=killed)

    def _order(self, task: Task) -> dict[str, Any]:
        return {
            "argv": launch.command_line(task, self._root),
            "env": launch.environment(task),
            "stdout": str(task.stdout),
            "stderr": str(task.stderr),
            "kill_after_s": task.runtime.topic.policy.kill_after,
            "limits": asdict(task.limits),
        }

    def _keeper_for(self, task: Task) -> Keeper | None:
        """Return a keeper that runs the task from now on; None when it was killed before."""
        slot, unfit = self._idle_one()
        for keeper in unfit:
            keeper.close()
        if slot is None and not self._closed:
            slot = self._keepers.new()
        with self._changing:
            if slot is not None and not self._closed and task.output not in self._doomed:
                self._running[task.output] = slot
                return slot
            self._doomed.pop(task.output, None)
            if slot is not None and not self._closed:
                self._idle.append(slot)
                return None
        if slot is not None:
            slot.close()
        return None

    def _idle_one(self) -> tuple[Keeper | None, list[Keeper]]:
        """Return an idle keeper, if there is one, and those that were looked at and are of no use any more."""
        unfit: list[Keeper] = []
        with self._changing:
            while self._idle:
                slot = self._idle.pop()
                if slot.fit():
                    return slot, unfit
                unfit.append(slot)
        return None, unfit

    def _done(self, task: Task, slot: Keeper) -> bool:
        """Free the keeper; tell whether the task was killed."""
        with self._changing:
            del self._running[task.output]
            usable = not slot.broken and not self._closed
            if usable:
                self._idle.append(slot)
            killed = self._doomed.pop(task.output, None) is not None
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
                self._doomed[task.output] = task
                if slot := self._running.get(task.output):
                    slot.kill(task.runtime.topic.policy.kill_after)

    def close(self) -> None:
        """Let the keepers see the end of their sockets, which makes them kill what runs, and wait for them."""
        with self._changing:
            self._closed = True
            idle, running = self._idle, list(self._running.values())
            self._idle = []
        for slot in (*idle, *running):
            slot.hang_up()
        self._keepers.close()
        for slot in running:
            slot.end()  # whoever waits for its report closes it
        for slot in idle:
            slot.close()


def _exit(task: Task, report: dict[str, Any], start_time: float, elapsed_s: float, *, killed: bool) -> Exit:
    if "error" in report:
        raise EnvironmentFailed(f"its process could not be started: {report['error']}")
    code = number = usage = breach = open_files = None
    if "lost" not in report:
        ended = os.waitstatus_to_exitcode(report["status"])
        code, number = (ended, None) if ended >= 0 else (None, -ended)
        usage = msgspec.convert({name: report[name] for name in ("max_rss_bytes", "user_s", "system_s")}, type=Usage)
        if report["open_files"]:
            most, limit = report["open_files"]
            open_files = OpenFiles(most=most, limit=limit)
        breach = breach_of(task.limits, report, ended, killed=killed)
    return Exit(
        exit_code=code,
        signal=number,
        start_time=start_time,
        end_time=start_time + elapsed_s,
        elapsed_s=elapsed_s,
        usage=usage,
        killed=killed,
        breach=breach,
        open_files=open_files,
        survivors=report["left"],
        error=report.get("lost"),
        lost="lost" in report,
    )
