"""A rehearsal: run a handler for one job in this terminal, and change nothing."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sjq import clock
from sjq.config import Config
from sjq.executors import launch
from sjq.executors.base import Exit, Runtime, Task
from sjq.executors.runtimes import Runtimes
from sjq.jobs import Message
from sjq.outcomes import Outcome
from sjq.plain_file import copy_plain
from sjq.topics import Topic
from sjq.worker.judgement import judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """How a rehearsal went."""

    outcome: Outcome
    output: bytes | None
    """What the handler wrote; None when it wrote nothing."""
    elapsed_s: float


def rehearse(
    config: Config, topic: Topic, message: Message, *, attempt: int, environ: Mapping[str, str] = os.environ
) -> Rehearsal:
    """Run the topic's handler on a message, with this terminal as its stdin, stdout and stderr.

    Raises EnvironmentFailed when its environment cannot be built.
    """
    launch.keep_handler_package(config.root)
    runtime = Runtimes(config.root, launch.base_environ(config.root, environ), threading.Event()).prepare(topic)
    with TemporaryDirectory(prefix="sjq-dev-") as folder:
        task = _task(Path(folder), runtime, message, attempt)
        end = _run(task, config.root)
        outcome = judge(
            message,
            end,
            lambda most: copy_plain(task.output, Path(folder), most=most),
            config.root,
            copies_in=Path(folder),
            max_output=topic.policy.max_output,
        )
        output = task.output.read_bytes() if task.output.is_file() else None
    return Rehearsal(outcome=outcome, output=output, elapsed_s=end.elapsed_s)


def _task(folder: Path, runtime: Runtime, message: Message, attempt: int) -> Task:
    (folder / "input.json").write_bytes(message.data)
    attachment = None
    if message.attachment is not None:
        attachment = folder / "attachment.bin"
        attachment.write_bytes(message.attachment)
    return Task(
        runtime=runtime,
        job_id=message.job_id,
        parent_job_id=message.parent_job_id,
        attempt=attempt,
        input=folder / "input.json",
        output=folder / "output.json",
        attachment=attachment,
        stdout=folder / "unused",
        stderr=folder / "unused",
    )


def _run(task: Task, root: Path) -> Exit:
    start_time, started = clock.now(), clock.monotonic()
    with subprocess.Popen(launch.command_line(task, root), env=launch.environment(task), cwd=root) as process:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue  # Ctrl-C went to the handler too, and it is the handler's to end by it
    elapsed_s = clock.monotonic() - started
    return Exit(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        start_time=start_time,
        end_time=start_time + elapsed_s,
        elapsed_s=elapsed_s,
        usage=None,
    )
