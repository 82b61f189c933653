"""The server goes away: it is killed or told to end and is started again, or does not answer for several leases."""

from __future__ import annotations

import signal
import time
from functools import partial

from chaos.field import LEASE_S, Field
from chaos.rows.row import Row, Size

OUTAGE_S = 3 * LEASE_S


def restart(field: Field) -> None:
    """End the server in the middle of everything, one time with SIGKILL and the next in good order."""
    field.worker()
    field.worker()
    for number in field.faults():
        dice = field.random(number)
        field.until(lambda: any(worker.serves() for worker in field.workers), 30, "the start of a worker")
        field.rest(dice.uniform(0.3, 1.5))
        down = time.time()
        field.server.end(signal.SIGTERM if number % 2 else signal.SIGKILL)
        field.rest(dice.uniform(0, 1))
        field.server.start()
        field.fault("restart", down=down)
        field.until_back()
    field.drain()


def outage(field: Field) -> None:
    """Have jobs run on several workers, some of which end while the server is away; a bystander waits for topics."""
    field.project.configure(topics={topic: {"script": "work.py", "concurrency": 2} for topic in ("a", "b", "c")})
    for topic in ("a", "b", "c"):
        field.worker("--topics", topic)
        field.until(field.workers[-1].serves, 30, "the start of a worker")
    field.worker()
    field.until(field.workers[-1].serves, 30, "the start of the bystander")
    for number in field.faults():
        field.level = 0
        jobs = [
            job_id
            for topic in ("a", "b", "c")
            for milliseconds in (OUTAGE_S * 500, OUTAGE_S * 1000 + 1500)
            for job_id in field.create(1, topic, round(milliseconds))
        ]
        field.until(partial(_all_started, field, jobs), 30, "the start of all")
        down = time.time()
        frozen = number % 2
        field.server.freeze() if frozen else field.server.end(signal.SIGTERM)
        field.rest_blind(OUTAGE_S)
        field.server.thaw() if frozen else field.server.start()
        field.fault("outage", down=down)
        field.until(partial(field.book.open.isdisjoint, jobs), 60, "the end of what ran")
    field.drain()


def _all_started(field: Field, jobs: list[str]) -> bool:
    return all(field.book.jobs[job_id].starts for job_id in jobs)


RESTART_ALWAYS = Row(
    name="restart-always",
    run=restart,
    ci=Size(5, 300),
    release=Size(50, 3_000),
    bounds=lambda _: {"repeats": 0, "back_s": 5},
    fsync="always",
)
RESTART_EVERYSEC = Row(
    name="restart-everysec",
    run=restart,
    ci=Size(5, 300),
    release=Size(50, 3_000),
    bounds=lambda _: {"back_s": 5, "forgiven_s": 1},
)
OUTAGE = Row(
    name="outage",
    run=outage,
    ci=Size(3, 0),
    release=Size(20, 0),
    bounds=lambda _: {"repeats": 0},
)
