"""The metadata of an attempt: its keys in the order of the design, and what they say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import sjq
from sjq import identity
from sjq.config import TopicPolicy
from sjq.executors.base import Exit, Runtime, Task, Usage
from sjq.jobs import Lease, Message, new_message
from sjq.outcomes import Outcome, failed, succeeded
from sjq.records import Record, Records, digest_of
from sjq.states import Reason
from sjq.topics import Topic
from sjq.worker.metadata import metadata

if TYPE_CHECKING:
    from pathlib import Path

ORDER = [
    "job_id",
    "parent_job_id",
    "topic",
    "state",
    "attempt",
    "start_time",
    "end_time",
    "elapsed_time",
    "queued_time",
    "exit_code",
    "signal",
    "reason",
    "stdout",
    "stderr",
    "command",
    "args",
    "start_method",
    "next_job_ids",
    "worker",
    "host",
    "python",
    "packages",
    "script_sha256",
    "git",
    "usage",
    "survivors",
    "attempts",
    "sjq_version",
]

GOOD = Exit(
    exit_code=0,
    signal=None,
    start_time=1795302901.123456,
    end_time=1795302903.0,
    elapsed_s=1.8765444444,
    usage=Usage(max_rss_bytes=1 << 20, user_s=0.5, system_s=0.25),
    survivors=3,
)
LOST = Exit(exit_code=None, signal=None, start_time=0, end_time=0, elapsed_s=0, usage=None, error="nobody knows")


def described(root: Path, end: Exit, outcome: Outcome, *, attachment: bytes | None = None) -> dict[str, Any]:
    """Return the metadata of an attempt, as it stands in the file."""
    message = Message(job_id="a b", topic="resize", data=b"1", parent_job_id="p", attachment=attachment)
    lease = Lease(message=message, fence="w.1", attempt=2, taken_at=0, queued_s=0.1234567, earlier=({"end": "failed"},))
    kept = Records(root / "job_data")
    record: Record = kept.of(lease)
    kept.begin(record, lease)
    record.stdout.write_text("printed\n")
    runtime = Runtime(
        topic=Topic(name="resize", script=root / "topics" / "resize.py", policy=TopicPolicy()),
        python="3.12.1",
        interpreter=root / "python",
        environ={"SECRET": "never shown"},
        packages={"six": "1.16.0"},
        script_sha256="ab" * 32,
        git={"commit": "c", "dirty": True},
        start_method="spawn",
    )
    task = Task(
        runtime=runtime,
        job_id=lease.job_id,
        parent_job_id="p",
        attempt=2,
        input=record.input,
        output=record.output,
        attachment=record.attachment,
        stdout=record.stdout,
        stderr=record.stderr,
    )
    record.seal(metadata(lease, record=record, task=task, end=end, outcome=outcome, worker="w", root=root))
    record.publish()
    text = kept.read("a b", "metadata.json")
    assert text
    assert b"never shown" not in text
    assert digest_of("w.1").encode() not in text
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    ("end", "outcome"), [(GOOD, succeeded()), (LOST, failed(Reason.LOST, "nobody knows"))], ids=["good", "lost"]
)
def test_the_keys_stand_in_the_order_of_the_design(tmp_path: Path, end: Exit, outcome: Outcome) -> None:
    found = described(tmp_path, end, outcome)
    assert list(found) == ORDER
    assert found["usage"] is None or list(found["usage"]) == ["max_rss_bytes", "user_s", "system_s"]


def test_what_a_success_says(tmp_path: Path) -> None:
    following = [new_message("upload", 1), new_message("upload", 2)]
    assert described(tmp_path, GOOD, succeeded(following)) == {
        "job_id": "a b",
        "parent_job_id": "p",
        "topic": "resize",
        "state": "succeeded",
        "attempt": 2,
        "start_time": "2026-11-21T23:15:01.123456Z",
        "end_time": "2026-11-21T23:15:03.000000Z",
        "elapsed_time": 1.876544,
        "queued_time": 0.123457,
        "exit_code": 0,
        "signal": None,
        "reason": None,
        "stdout": "printed\n",
        "stderr": "",
        "command": "PYTHONPATH=.sjq/lib uv run topics/resize.py",
        "args": ["--input", "job_data/a%20b-input.json", "--output", "job_data/a%20b-output.json"],
        "start_method": "spawn",
        "next_job_ids": [message.job_id for message in following],
        "worker": "w",
        "host": identity.host(),
        "python": "3.12.1",
        "packages": {"six": "1.16.0"},
        "script_sha256": "ab" * 32,
        "git": {"commit": "c", "dirty": True},
        "usage": {"max_rss_bytes": 1 << 20, "user_s": 0.5, "system_s": 0.25},
        "survivors": 3,
        "attempts": [{"end": "failed"}],
        "sjq_version": sjq.__version__,
    }


def test_what_a_failure_says(tmp_path: Path) -> None:
    found = described(tmp_path, LOST, failed(Reason.LOST, "nobody knows"))
    assert (found["state"], found["reason"]) == ("failed", {"code": "lost", "why": "nobody knows"})
    assert (found["exit_code"], found["signal"], found["usage"]) == (None, None, None)


def test_an_attachment_is_an_argument(tmp_path: Path) -> None:
    found = described(tmp_path, GOOD, succeeded(), attachment=b"x")
    assert found["args"][-2:] == ["--attachment", "job_data/a%20b-attachment.bin"]
