"""A project whose jobs were run by a worker of this test's choice, as far as broker and records can tell."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.jobs import TOPIC, Hand, job
from msgspec.structs import replace as changed
from servers import Wire
from unit.told import told

from sjq import identity
from sjq.brokers.base import Broker
from sjq.clock import rfc3339
from sjq.config import Config
from sjq.job_data import JobData
from sjq.jobs import Lease, id_to_bytes
from sjq.outcomes import failed, succeeded
from sjq.records import Record, Records
from sjq.states import Reason, State

DAY_S = 86400.0
GONE = f"{identity.host()}-boot-1-1-gonexx"
"""A worker of this host that nobody knows any more."""


@dataclass
class House:
    config: Config
    broker: Broker
    wire: Wire
    worker: Hand = field(init=False)

    def __post_init__(self) -> None:
        self.worker = Hand(self.broker, GONE)
        self.records, self.job_data = Records(self.config.job_data), JobData(self.config.job_data)

    def lease(self, job_id: str, topic: str = TOPIC, attachment: bytes | None = None) -> Lease:
        """Have a job leased whose attempt has begun."""
        self.broker.create([changed(job(job_id, topic), attachment=attachment)])
        lease = self.worker.lease(topic)
        assert lease.job_id == job_id
        self.records.begin(self.records.of(lease), lease)
        return lease

    def seal(self, lease: Lease, state: State = State.SUCCEEDED, age_s: float = 0.0) -> Record:
        """Seal the record of an attempt that ended some time ago."""
        record = self.records.of(lease)
        record.output.write_bytes(b'{"data": 1}')
        record.stdout.write_bytes(b"x" * 100_000)
        end = rfc3339(time.time() - age_s)
        facts: dict[str, Any] = {"topic": lease.topic, "state": state, "end_time": end, "worker": self.worker.id}
        record.seal(told(lease.job_id, **facts))
        return record

    def settle(self, lease: Lease, state: State = State.SUCCEEDED, age_s: float = 0.0) -> None:
        """Settle an attempt, some time ago."""
        outcome = succeeded() if state is State.SUCCEEDED else failed(Reason.EXIT, "so")
        assert self.broker.settle(lease, outcome)
        name = b"job_state:" + id_to_bytes(lease.job_id)
        self.wire("HSET", name, "state", state, "end", int((time.time() - age_s) * 1000))

    def ended(self, job_id: str, state: State = State.SUCCEEDED, age_s: float = 0.0, topic: str = TOPIC) -> str:
        """Have a job run and end some time ago; a succeeded one is forgotten by now."""
        lease = self.lease(job_id, topic)
        record = self.seal(lease, state, age_s)
        self.settle(lease, state, age_s)
        record.publish()
        if state is State.SUCCEEDED:
            self.wire("DEL", b"job_state:" + id_to_bytes(job_id))
        self.grow_old(record, age_s)
        return job_id

    def grow_old(self, record: Record, age_s: float) -> None:
        """Let the files of a record be as old as its end."""
        for path in self.config.job_data.glob(f"{record.name}-*"):
            os.utime(path, (time.time() - age_s,) * 2)

    def files(self) -> set[str]:
        """The names of all files in `job_data/`."""
        return {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()

    def recorded(self) -> set[str]:
        """The ids of jobs that have published records."""
        return set(self.records.names())

    @property
    def folder(self) -> Path:
        return self.config.job_data

    def everything(self) -> tuple[set[str], dict[bytes, Any]]:
        """All files and all keys, to be compared with what there is later."""
        return self.files(), {name: self._content(name) for name in self.wire.names()}

    def _content(self, name: bytes) -> Any:
        kind = self.wire("TYPE", name).decode()
        if kind in ("list", "zset"):
            return self.wire("LRANGE" if kind == "list" else "ZRANGE", name, 0, -1)
        return self.wire({"hash": "HGETALL", "stream": "XLEN"}.get(kind, "GET"), name)
