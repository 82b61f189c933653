"""Inputs and outputs of 10 MB, an output of 1 GB, a log line of 100 MB: a worker's memory does not grow by them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chaos.field import Field
from chaos.rows.row import Row, Size
from chaos.worker import Worker
from sjq.jobs import new_message

MB = 1_000_000
GROWTH_MB = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """What a handler makes of `given` bytes."""

    given: int = 0
    output: int = 0
    line: int = 0
    end: str = "succeeded"


USUAL = Kind(given=10 * MB, output=10 * MB)
LINE = Kind(line=100 * MB)
HUGE = Kind(output=1000 * MB, end="failed (output)")


def large(field: Field) -> None:
    """Run large jobs one by one, and look at the most memory that the worker ever had."""
    field.project.configure(topics={"large": {"script": "large.py"}, "piece": {"script": "work.py"}})
    worker = field.worker("--topics", "large", "piece")
    field.until(worker.serves, 60, "the start of the worker")
    field.create(20, "piece")
    field.until(lambda: not field.book.open, 60, "the end of small jobs")
    before_mb = _most_mb(worker)
    for number in range(field.book.faults["large"], field.plan.faults):
        kind = {0: HUGE, 1: LINE}.get(number, USUAL)
        job_id = field.put(new_message("large", [kind.output, kind.line, "x" * kind.given]), kind.end)
        field.until(lambda: not field.book.open, 120, "the end of a large job")
        field.until(partial(field.records.metadata, job_id), 60, "the record of a large job")
        _check(field, job_id, kind)
        field.fault("large")
    field.ledger.note("measure", what="growth_mb", value=round(_most_mb(worker) - before_mb, 1))
    field.drain()


def _check(field: Field, job_id: str, kind: Kind) -> None:
    """Complain of files that are not as large as they were written."""
    names = {"input.json": kind.given, "output.json": kind.output, "stdout.log": kind.line}
    for name, least in names.items():
        path = field.project.job_data / f"{job_id}-{name}"
        size = path.stat().st_size if path.exists() else 0
        if not least <= size <= least + 200:
            field.complain(f"{path.name} has {size} bytes; they were to be {least} or a few more")


def _most_mb(worker: Worker) -> float:
    """Return the most memory that a worker had until now."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


LARGE = Row(
    name="large",
    run=large,
    ci=Size(22, 0),
    release=Size(1_000, 0),
    bounds=lambda _: {"most": {"growth_mb": GROWTH_MB}},
)
