"""The metadata of an attempt: what its record says, in the order in which it says it."""

from __future__ import annotations

from pathlib import Path

import sjq
from sjq import clock, identity
from sjq.executors import launch
from sjq.executors.base import Exit, Task
from sjq.jobs import Lease
from sjq.outcomes import Outcome
from sjq.records import Record


def metadata(
    lease: Lease, *, record: Record, task: Task, end: Exit, outcome: Outcome, worker: str, root: Path
) -> dict[str, object]:
    """Return the content of `<id>-metadata.json`."""
    runtime, usage = task.runtime, end.usage
    stdout, stderr = record.printed()
    return {
        "job_id": lease.job_id,
        "parent_job_id": lease.message.parent_job_id,
        "topic": lease.topic,
        "state": outcome.state,
        "attempt": lease.attempt,
        "start_time": clock.rfc3339(end.start_time),
        "end_time": clock.rfc3339(end.end_time),
        "elapsed_time": round(end.elapsed_s, 6),
        "queued_time": None if lease.queued_s is None else round(lease.queued_s, 6),
        "exit_code": end.exit_code,
        "signal": end.signal,
        "reason": None if outcome.reason is None else {"code": outcome.reason, "why": outcome.why},
        "stdout": stdout,
        "stderr": stderr,
        "command": launch.recorded_command(runtime, root),
        "args": launch.script_arguments(task, record.published("output.json"), root),
        "start_method": runtime.start_method,
        "next_job_ids": [message.job_id for message in outcome.next_jobs],
        "worker": worker,
        "host": identity.host(),
        "python": runtime.python,
        "packages": runtime.packages,
        "script_sha256": runtime.script_sha256,
        "git": runtime.git,
        "usage": None
        if usage is None
        else {"max_rss_bytes": usage.max_rss_bytes, "user_s": usage.user_s, "system_s": usage.system_s},
        "survivors": end.survivors,
        "attempts": list(lease.earlier),
        "sjq_version": sjq.__version__,
    }
