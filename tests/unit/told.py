"""Metadata as a worker writes it."""

from __future__ import annotations

from typing import Any


def told(job_id: str = "job", **more: Any) -> dict[str, Any]:
    """Return whole metadata of a job that succeeded, but for what `more` says."""
    return {
        "job_id": job_id,
        "parent_job_id": None,
        "topic": "t",
        "state": "succeeded",
        "attempt": 1,
        "start_time": "2026-11-21T23:15:01.000000Z",
        "end_time": "2026-11-21T23:15:03.000000Z",
        "elapsed_time": 2.0,
        "queued_time": None,
        "exit_code": 0,
        "signal": None,
        "reason": None,
        "stdout": "",
        "stderr": "",
        "command": "PYTHONPATH=.sjq/lib uv run topics/t.py",
        "args": [],
        "next_job_ids": [],
        "worker": "w",
        "usage": None,
        "attempts": [],
    } | more
