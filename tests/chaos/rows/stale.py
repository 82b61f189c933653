"""A worker is cut off, or stopped, for longer than its lease, and comes back with what it did meanwhile."""

from __future__ import annotations

import time

from chaos.field import LEASE_S, Field
from chaos.rows.row import Row, Size
from chaos.worker import Worker


def _at_work(field: Field) -> Worker:
    """Return the worker that has the topic of the driver's jobs, as soon as it takes some after the last fault."""
    field.until_back()
    return field.until(field.holder, 30, "a worker's hold of the topic")


def stop(field: Field) -> None:
    """Stop the worker that is at work, past its lease; its handlers run on. Then let it settle what they did."""
    field.worker()
    field.worker()
    for number in field.faults():
        dice = field.random(number)
        worker = _at_work(field)
        field.rest(dice.uniform(0.2, 1.0))
        down = time.time()
        worker.stop()
        field.rest(LEASE_S * dice.uniform(1.2, 3.0))
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
        network = networks[_at_work(field)]
        field.rest(dice.uniform(0.2, 1.0))
        down = time.time()
        kind = network.KINDS[(number + field.plan.seed) % len(network.KINDS)]
        network.spoil(kind)
        field.rest(LEASE_S * dice.uniform(1.2, 2.5))
        network.mend()
        field.fault(kind, down=down)
    field.drain()


STOP = Row(name="stop", run=stop, ci=Size(5, 300), release=Size(200, 6_000))
PARTITION = Row(name="partition", run=partition, ci=Size(15, 600), release=Size(100, 6_000))
