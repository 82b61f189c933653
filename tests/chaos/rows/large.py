"""Inputs and outputs of 10 MB, and a log line of 100 MB, beside which a worker's memory does not grow."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from chaos.field import Field
from chaos.rows.row import Row, Size
from chaos.worker import Worker
from sjq.jobs import new_message

MB = 1_000_000
DATA = 10 * MB
LINE = 100 * MB
GROWTH_MB = 50


def large(field: Field) -> None:
    """Run large jobs one by one, and look at the most memory that the worker ever had."""
    field.project.configure(topics={"large": {"script": "large.py"}, "piece": {"script": "work.py"}})
    worker = field.worker("--topics", "large", "piece")
    field.until(worker.serves, 60, "the start of the worker")
    field.create(20, "piece")
    field.until(lambda: not field.book.open, 60, "the end of small jobs")
    before_mb = _most_mb(worker)
    for number in range(field.book.faults["large"], field.plan.faults):
        line = number == field.plan.faults // 2
        job_id = _create(field, "line" if line else "output", LINE if line else DATA)
        field.until(lambda: not field.book.open, 120, "the end of a large job")
        field.until(partial(field.records.metadata, job_id), 60, "the record of a large job")
        _check(field, job_id, line=line)
        field.fault("large")
    field.ledger.note("measure", what="growth_mb", value=round(_most_mb(worker) - before_mb, 1))
    field.drain()


def _create(field: Field, kind: str, size: int) -> str:
    message = new_message("large", [kind, size, "x" * (DATA if kind == "output" else 0)])
    field.ledger.note("create", ids=[message.job_id], children=0, end="succeeded")
    field.broker.create([message])
    field.ledger.note("created", ids=[message.job_id])
    field.read()
    return message.job_id


def _check(field: Field, job_id: str, *, line: bool) -> None:
    """Complain of files that are not as large as they were written."""
    records = field.records
    output = records.read(job_id, "output.json") or b""
    log = records.logs(job_id).get("stdout")
    sizes = len(json.loads(output)["data"]["padding"]), log.stat().st_size if log else 0
    if sizes != ((0, LINE) if line else (DATA, 0)):
        field.complain(f"{job_id} has an output and a log of {sizes} bytes")


def _most_mb(worker: Worker) -> float:
    """Return the most memory that a worker had until now."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


LARGE = Row(
    name="large",
    run=large,
    ci=Size(20, 0),
    release=Size(1_000, 0),
    bounds=lambda _: {"most": {"growth_mb": GROWTH_MB}},
)
