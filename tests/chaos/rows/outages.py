"""The server goes away: it is killed or told to end and is started again, or does not answer for several leases."""

from __future__ import annotations

import signal
import time
from functools import partial

from chaos.field import Field
from chaos.rows.row import Row, Size

LEASE_S = 3.0
"""Twice that of other rows: workers look for a lost server every second, and all must be back within a lease."""
OUTAGE_S = 3 * LEASE_S
LEAD_S = 1.2
"""How much earlier than the others the bystander sees the server again: not so early that it may judge them."""


def restart(field: Field) -> None:
    """End the server in the middle of everything, one time with SIGKILL and the next in good order."""
    field.worker()
    field.worker()
    for number in field.faults():
        dice = field.random(number)
        field.until(lambda: all(worker.serves() for worker in field.workers), 30, "the start of the workers")
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
    topics = {topic: {"script": "work.py", "concurrency": 2} for topic in ("a", "b", "c")}
    field.project.configure(topics=topics, worker={"lease": LEASE_S})
    network = field.network()
    for topic in ("a", "b", "c"):
        field.worker("--topics", topic, SJQ_BROKER=network.url)
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
        network.spoil("cut")
        field.server.freeze() if frozen else field.server.end(signal.SIGTERM)
        time.sleep(OUTAGE_S)  # whoever asked the server now would wait too
        field.server.thaw() if frozen else field.server.start()
        field.rest(LEAD_S)
        network.mend()
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
    bounds=lambda _: {"most": {"repeats": 0, "back_s": 5}},
    fsync="always",
)
RESTART_EVERYSEC = Row(
    name="restart-everysec",
    run=restart,
    ci=Size(5, 300),
    release=Size(50, 3_000),
    bounds=lambda _: {"most": {"back_s": 5}, "forgiven_s": 1},
)
OUTAGE = Row(
    name="outage",
    run=outage,
    ci=Size(3, 0),
    release=Size(20, 0),
    bounds=lambda _: {"most": {"repeats": 0}},
)
