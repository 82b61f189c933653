"""Jobs that end as a worker would end them, for tests of what a client sees and does."""

from __future__ import annotations

import json

from sjq.client import Client
from sjq.jobs import Lease, make_fence
from sjq.outcomes import failed, succeeded
from sjq.records import Records, file_name
from sjq.states import Reason

from .told import told

WORKER = "host-boot-1-1-aaaaaa"


class Fences:
    """Fences that were never there before."""

    count = 0

    @classmethod
    def next(cls) -> str:
        cls.count += 1
        return make_fence(WORKER, cls.count)


def take(client: Client, topic: str = "t") -> Lease:
    lease = client.broker.take(topic, WORKER, Fences.next())
    assert isinstance(lease, Lease)
    return lease


def fail(client: Client, topic: str = "t") -> str:
    lease = take(client, topic)
    client.broker.settle(lease, failed(Reason.EXIT, "it was too much"))
    return lease.job_id


def succeed(client: Client, topic: str = "t", *, recorded: bool = True) -> str:
    """End the next job well, with a record or without."""
    lease = take(client, topic)
    if recorded:
        record(client.records, lease.job_id, topic=topic)
    client.broker.settle(lease, succeeded())
    client.broker.confirm([lease.job_id])
    return lease.job_id


def record(records: Records, job_id: str, *, topic: str = "t", state: str = "succeeded", data: bytes = b"7") -> None:
    """Write what a worker would leave of a job."""
    records.folder.mkdir(exist_ok=True)
    reason = None if state == "succeeded" else {"code": "exit", "why": "it was too much"}
    metadata = told(job_id, topic=topic, state=state, worker=WORKER, reason=reason, next_job_ids=["x", "y"])
    (records.folder / f"{file_name(job_id)}-metadata.json").write_text(json.dumps(metadata))
    (records.folder / f"{file_name(job_id)}-input.json").write_bytes(data)
