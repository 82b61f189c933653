"""Trees of processes that do not want to end, of every kind, against timeout and cancel; beside them a quiet job."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from chaos.field import Field
from chaos.rows.row import Row, Size
from chaos.worker import processes_of
from sjq.client import Client
from sjq.config import load
from sjq.jobs import new_message

TIMEOUT_S = 1.5
KILL_AFTER_S = 0.4
LONG_S = 86_400.0
PROCESSES = 40
LATE_S = 2
"""How long after `kill_after` the last process must be gone."""
KINDS = (
    "grandchildren",
    "sessions",
    "double forks",
    "deaf",
    "stopped",
    "stopped with all",
    "other programs",
    "restless",
    "restless sessions",
    "crowd",
)
BOMBS = ("bomb", "bomb of sessions")
"""These run into the limit of processes, before anything else ends them."""
ENDS = {"timeout": "timedout (timeout)", "cancel": "cancelled (cancelled)", "limit": "failed (limit)"}
_DEALS = [*((kind, way) for kind in KINDS for way in ("timeout", "cancel")), *((kind, "limit") for kind in BOMBS)]


def trees(field: Field) -> None:
    """End one tree after the other, and look at the neighbour each time: no process of its own may be missing."""
    policy = {"concurrency": 2, "timeout": TIMEOUT_S, "kill_after": KILL_AFTER_S, "processes": PROCESSES}
    field.project.configure(topics={"tree": {"script": "tree.py", **policy}})
    go = field.project.root / "go"
    with Client(config=load(field.project.root, {})) as client:
        field.until(field.worker().serves, 60, "the start of the worker")
        _end_what_is_left(field, client, go)
        neighbour = _grow(field, "quiet", "succeeded", LONG_S)
        quiet = processes_of(neighbour)
        latest_s = 0.0
        deals = field.random("deals").sample(_DEALS, len(_DEALS))
        for number in range(field.book.faults.total(), field.plan.faults):
            kind, way = deals[number % len(deals)]
            job_id = _grow(field, kind, ENDS[way], LONG_S if way == "cancel" else None)
            latest_s = max(latest_s, _end(field, client, job_id, way))
            _check(field, job_id, kind, way)
            if processes_of(neighbour) != quiet or len(quiet) != 2:
                field.complain(f"{way} of {kind}: the neighbour has {processes_of(neighbour)}, and had {quiet}")
            field.fault(way)
    field.ledger.note("measure", what="late_s", value=round(latest_s, 2))
    go.touch()
    field.drain()


def _end_what_is_left(field: Field, client: Client, go: Path) -> None:
    """End the jobs of a run that was broken off."""
    go.touch()
    for job_id in field.book.open:
        if field.book.jobs[job_id].meant == ENDS["cancel"]:
            client.cancel(job_id)
    field.until(lambda: not field.book.open, 60, "the end of what was left")
    go.unlink()


def _grow(field: Field, kind: str, end: str, timeout_s: float | None) -> str:
    """Create the job of a tree, and wait until that stands."""
    job_id = field.put(new_message("tree", kind, timeout=timeout_s), end)
    field.until(partial(Path.exists, field.project.root / f"tree-{job_id}"), 30, f"the tree of {kind}")
    return job_id


def _end(field: Field, client: Client, job_id: str, way: str) -> float:
    """Have the tree ended, wait until none of it is left, and return how long after `kill_after` that was, in s."""
    if way == "cancel":
        began = time.time() - TIMEOUT_S
        client.cancel(job_id)
    else:
        began = (field.project.root / f"tree-{job_id}").stat().st_mtime
    field.until(lambda: not processes_of(job_id), 30, f"the end of the tree of {job_id}")
    return time.time() - began - TIMEOUT_S - KILL_AFTER_S


def _check(field: Field, job_id: str, kind: str, way: str) -> None:
    """Complain of a record that does not tell what happened, and of processes that came after all."""
    found = field.until(partial(field.records.metadata, job_id), 30, "the record of a tree")
    if (told := f"{found['state']} ({found['reason']['code']})") != ENDS[way]:
        field.complain(f"{way} of {kind}: the record of {job_id} says {told}")
    if found["survivors"] or processes_of(job_id):
        field.complain(f"{way} of {kind}: {found['survivors']} survivors counted, {processes_of(job_id)} seen")


TREES = Row(
    name="trees",
    run=trees,
    ci=Size(50, 0),
    release=Size(500, 0),
    bounds=lambda _: {"most": {"late_s": LATE_S, "repeats": 0}},
)
