"""The disk of the records, or that of the append-only file, fills up while jobs run, and has room again."""

from __future__ import annotations

import json
import signal
import time
from functools import partial

import redis

from chaos.field import SLOTS, Field
from chaos.rows.row import Row, Size
from chaos.worker import Worker
from sjq.states import State

MB = 1 << 20
RECORDS_MB = 0.5
"""How much the records of one fault's jobs need, at most."""
AOF_MB = 2
LEFT = (0, 4096, 32_768)
"""How many bytes a fault leaves free. Above some, a failure that a full disk causes is the handler's own."""
LONG_MS = 700
BACK_S = 5
WHOLE = ("-input.json", "-output.json", "-metadata.json")
WATCHED_S = 1.0
"""How long it is looked whether anything is taken."""


def full_records(field: Field) -> None:
    """Fill the disk of the records while jobs run. What they could not write they do again when there is room."""
    disk = field.disk(field.project.job_data, int((16 + RECORDS_MB * field.plan.faults) * MB))
    disk.free()
    whole: set[str] = set()
    worker = field.worker()
    field.until(worker.serves, 60, "the start of the worker")
    for number in range(field.book.faults.total(), field.plan.faults):
        dice = field.random(number)
        jobs = field.create(2 * SLOTS["split"], milliseconds=dice.randint(100, LONG_MS))
        field.until(partial(_runs, field, jobs), 60, "the start of jobs")
        field.rest(dice.uniform(0, LONG_MS / 1000))
        down = time.time()
        disk.fill(dice.choice(LEFT))
        for topic in SLOTS:
            field.create(1, topic)
        field.until(partial(_is_held, worker), 60, "the hold of both topics")
        field.until(partial(_nothing_runs, field), 60, "the end of what ran")
        _check_nothing_is_taken(field)
        _check_records(field, whole)
        disk.free()
        field.fault("full", down=down)
        field.until_back()
        field.until(lambda: not field.book.open, 60, "the end of all")
    field.drain()
    _check_records(field, whole)


def full_aof(field: Field) -> None:
    """Fill the disk on which the server keeps what it was told: it refuses to be told more, until there is room."""
    field.server.end()
    disk = field.disk(field.server.folder, (32 + AOF_MB * field.plan.faults) * MB)
    disk.free()
    field.server.start()
    field.worker()
    field.worker()
    field.until(lambda: all(worker.serves() for worker in field.workers), 60, "the start of the workers")
    for number in field.faults():
        field.rest(field.random(number).uniform(0.3, 1.5))
        down = time.time()
        disk.fill()
        field.until(partial(_refuses, field), 60, "the refusal of the server")
        field.rest(field.random(-number).uniform(0.5, 4))
        if not _refuses(field):
            field.complain("the server takes what it cannot keep")
        disk.free()
        field.fault("full", down=down)
        field.until_back()
    field.drain()
    field.rest(1)  # of the last second nothing is promised
    field.server.end(signal.SIGKILL)  # what it kept must be whole
    field.server.start()


def _runs(field: Field, jobs: list[str]) -> bool:
    return any(field.book.jobs[job_id].starts for job_id in jobs)


def _is_held(worker: Worker) -> bool:
    """Tell whether the worker has said so of both topics since it last said the opposite."""
    log = worker.log
    return all(log.rfind(f"topic {topic} is held") > log.rfind(f"topic {topic} goes on") for topic in SLOTS)


def _nothing_runs(field: Field) -> bool:
    return not any(counts.states.get(State.PROCESSING) for counts in field.broker.counts(list(SLOTS)))


def _check_nothing_is_taken(field: Field) -> None:
    """Complain of what is taken while the disk is full."""
    field.collect()
    before = field.book.position
    field.rest(WATCHED_S)
    for event in field.broker.events(before, limit=1000):
        if event.event == "taken":
            field.complain(f"{event.job_id} was taken while the disk was full")


def _check_records(field: Field, whole: set[str]) -> None:
    """Complain of published files that are not whole, and remember those that are in `whole`."""
    for name in field.project.names() - whole:
        if name.endswith(WHOLE):
            text = (field.project.job_data / name).read_text()
            if _is_whole(text, name):
                whole.add(name)
            else:
                field.complain(f"{name} is not whole: {text[:200]}...")


def _is_whole(text: str, name: str) -> bool:
    """Tell whether a file is JSON, and a record's metadata has its last field."""
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return "sjq_version" in content if name.endswith("-metadata.json") else True


def _refuses(field: Field) -> bool:
    """Tell whether the server refuses to change anything, as it does when it could not keep it."""
    with field.server.client() as server:
        try:
            server.delete("nothing")
        except redis.ResponseError as error:
            return str(error).startswith("MISCONF")
    return False


FULL_RECORDS = Row(
    name="full-records",
    run=full_records,
    ci=Size(5, 100),
    release=Size(200, 4_000),
    bounds=lambda _: {"most": {"back_s": BACK_S}},
)
FULL_AOF = Row(
    name="full-aof",
    run=full_aof,
    ci=Size(5, 300),
    release=Size(200, 6_000),
    bounds=lambda _: {"most": {"repeats": 0, "back_s": BACK_S}},
)
