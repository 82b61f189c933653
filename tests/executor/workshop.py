"""A project, an executor and tasks with scripts that are written where they are needed."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unit.waiting import until

from sjq.config import TopicPolicy
from sjq.executors import launch
from sjq.executors.base import Executor, Exit, Limits, Runtime, Task
from sjq.topics import Topic

if TYPE_CHECKING:
    from collections.abc import Mapping

PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, time
here = pathlib.Path("notes")

def note(name, value=None):
    beside = here / f".{name}.{os.getpid()}"
    beside.write_text(json.dumps(value))
    beside.rename(here / name)

def wait_for(name, seconds=30.0):
    # A job never outlives its test by much, whatever the executor makes of it.
    deadline = time.monotonic() + seconds
    while not (here / name).exists() and time.monotonic() < deadline:
        time.sleep(0.005)

"""
"""What the scripts begin with: they tell and hear by files in `notes/`."""


class Workshop:
    """What a test of an executor works with."""

    def __init__(self, root: Path, executor: Executor) -> None:
        self.root, self.executor = root, executor
        self.notes = root / "notes"
        for folder in ("notes", "topics", "job_data"):
            (root / folder).mkdir(exist_ok=True)
        self.made = 0

    def runtime(
        self,
        script: str,
        *,
        name: str,
        kill_after_s: float = 20.0,
        interpreter: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Runtime:
        path = self.root / "topics" / f"{name}.py"
        path.write_text(script)
        return Runtime(
            topic=Topic(name=name, script=path, policy=TopicPolicy(kill_after=kill_after_s)),
            python="3",
            interpreter=interpreter or Path(sys.executable),
            environ=launch.base_environ(self.root, dict(os.environ) if environ is None else environ),
            packages={},
            script_sha256="",
            git=None,
            start_method="spawn",
        )

    def task(
        self,
        script: str,
        *,
        parent: str | None = None,
        prelude: str = PRELUDE,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        **options: Any,
    ) -> Task:
        """Return a task that runs a script of its own."""
        self.made += 1
        job_id = f"{self.root.parent.name}-{self.made}-{os.getpid()}-{os.urandom(6).hex()}"
        files = self.root / "job_data"
        (files / f"{job_id}-input.json").write_text("{}")
        runtime = self.runtime(prelude + textwrap.dedent(script), name=f"topic-{self.made}", **options)
        return Task(
            runtime=runtime,
            job_id=job_id,
            parent_job_id=parent,
            attempt=3,
            input=files / f"{job_id}-input.json",
            output=files / f"{job_id}-output.json.x",
            attachment=None,
            stdout=files / f"{job_id}-stdout.log.x",
            stderr=files / f"{job_id}-stderr.log.x",
            limits=limits,
        )

    def run(self, script: str, **options: Any) -> Exit:
        """Run a script to its end; nothing of it may live then."""
        task = self.task(script, **options)
        end = self.executor.run(task)
        assert alive(task.job_id) == []
        return end

    def start(self, task: Task) -> Running:
        return Running(self.executor, task)

    def noted(self, name: str) -> Any:
        """Return what a script noted under a name, or None."""
        try:
            return json.loads((self.notes / name).read_text())
        except FileNotFoundError:
            return None

    def tell(self, name: str) -> None:
        (self.notes / name).touch()


class Running:
    """A task that runs in a thread, as it does in a slot."""

    def __init__(self, executor: Executor, task: Task) -> None:
        self.executor, self.task = executor, task
        self._end: Exit | BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._end = self.executor.run(self.task)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._end = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, seconds: float = 30.0) -> Exit:
        self._thread.join(seconds)
        assert self.ended, f"it still runs after {seconds} s"
        if isinstance(self._end, BaseException):
            raise self._end
        assert self._end
        return self._end


def alive(job_id: str) -> list[int]:
    """Return the processes that run with a job's id in their environment, zombies not counted."""
    mark = b"SJQ_JOB_ID=" + os.fsencode(job_id)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


class Neighbour:
    """A job in another slot, with an orphan of its own, that must not notice anything."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.task = workshop.task("""
            if not os.fork():
                os.setsid()
                if os.fork():
                    os._exit(0)
                note("neighbour", os.getpid())
                wait_for("never")
            os.wait()
            wait_for("go")
            sys.exit(5)
        """)
        self.running = workshop.start(self.task)
        self.orphan = until(lambda: workshop.noted("neighbour"), "the neighbour runs")

    def is_untouched(self) -> bool:
        return self.orphan in alive(self.task.job_id) and len(alive(self.task.job_id)) == 2

    def ends_well(self) -> bool:
        self.workshop.tell("go")
        end = self.running.wait(10)
        return (end.exit_code, end.killed, end.breach, alive(self.task.job_id)) == (5, False, None, [])
