"""Workers that start at once on what a crash left."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from conformance.jobs import Hand, create
from unit.told import told

from sjq.brokers.base import Broker
from sjq.executors.base import Executor
from sjq.outcomes import succeeded
from sjq.records import Records
from sjq.worker.in_flight import InFlight
from sjq.worker.recovery import Recovery

from .threads import at_once


def test_two_repairs_at_once_lose_no_record(broker: Broker, other_broker: Broker, tmp_path: Path) -> None:
    records = Records(tmp_path / "job_data")
    ids = [f"job-{number:03}" for number in range(200)]
    create(broker, *ids)
    dead = Hand(broker)
    for _ in ids:
        lease = dead.lease()
        record = records.of(lease)
        records.begin(record, lease)
        record.output.write_bytes(b"{}")
        record.seal(told(lease.job_id))
        broker.settle(lease, succeeded())
    assert len(list(records.unpublished())) == len(ids)
    repairs = [recovery(one, records, tmp_path).repair_records for one in (broker, other_broker)]
    assert at_once(*repairs) == [None, None]
    assert records.names() == ids
    assert [records.read(job_id, "output.json") for job_id in ids] == [b"{}"] * len(ids)
    assert list(records.unpublished()) == []


def recovery(broker: Broker, records: Records, folder: Path) -> Recovery:
    return Recovery(
        broker,
        records,
        worker=Hand(broker).id,
        lock_files=folder,
        lease_s=60,
        connected_for_s=lambda: 0.0,
        in_flight=InFlight(cast("Executor", None)),
    )
