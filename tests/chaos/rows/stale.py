"""A worker is cut off, or stopped, for longer than its lease, and comes back with what it did meanwhile."""

from __future__ import annotations

import time
from random import Random

from chaos.field import LEASE_S, SLOTS, Field, Plan
from chaos.network import Network
from chaos.rows.row import Row, Size
from chaos.worker import Worker

AWAY_S = (1.6 * LEASE_S, 2.6 * LEASE_S)
BACK_S = LEASE_S + 5
CUT_OFF = ("cut", "no requests", "no answers")
"""Of these no worker's lease outlives `AWAY_S`; others cost it connections alone."""


def _at_work(field: Field, dice: Random) -> Worker:
    """Return the worker that has the topic of the driver's jobs, as soon as it runs some that take a while.

    They end while it is away, and its successor still runs them when it comes back.
    """
    field.until_back()
    jobs = field.create(SLOTS["split"], milliseconds=dice.randint(1500, 2300))
    field.until(lambda: all(field.book.jobs[job_id].starts for job_id in jobs), 60, "the start of longer jobs")
    field.rest(dice.uniform(0, 0.3))
    return field.until(field.holder, 30, "a worker's hold of the topic")


def stop(field: Field) -> None:
    """Stop the worker that is at work, past its lease; its handlers run on. Then let it settle what they did."""
    field.worker()
    field.worker()
    for number in field.faults():
        dice = field.random(number)
        worker = _at_work(field, dice)
        down = time.time()
        worker.stop()
        field.rest(dice.uniform(*AWAY_S))
        worker.go_on()
        field.fault("stop", down=down)
    field.drain()


def partition(field: Field) -> None:
    """Cut the worker that is at work off, in one way after the other, for longer than its lease."""
    networks = {}
    for _ in range(2):
        network = field.network()
        networks[field.worker(SJQ_BROKER=network.url)] = network
    for number in field.faults():
        dice = field.random(number)
        network = networks[_at_work(field, dice)]
        down = time.time()
        kind = _kind(field.plan, number)
        network.spoil(kind)
        field.rest(dice.uniform(*AWAY_S))
        network.mend()
        field.fault(kind, down=down)
    field.drain()


def _kind(plan: Plan, number: int) -> str:
    return Network.KINDS[(number + plan.seed) % len(Network.KINDS)]


def _takeovers(plan: Plan) -> int:
    """Return how many leases have to be lost at least: where none is, nobody comes back too late."""
    return sum(_kind(plan, number) in CUT_OFF for number in range(plan.faults))


STOP = Row(
    name="stop",
    run=stop,
    ci=Size(5, 300),
    release=Size(200, 6_000),
    bounds=lambda plan: {"most": {"back_s": BACK_S}, "least": {"recovered": plan.faults}},
)
PARTITION = Row(
    name="partition",
    run=partition,
    ci=Size(15, 600),
    release=Size(100, 6_000),
    bounds=lambda plan: {"most": {"back_s": BACK_S}, "least": {"recovered": _takeovers(plan)}},
)
