"""`kill -9` of workers, at random moments and at every named step of an attempt."""

from __future__ import annotations

from functools import partial

from end_to_end.kill_at import STEPS

from chaos.field import LEASE_S, SLOTS, Field
from chaos.rows.row import Row, Size
from chaos.worker import Worker

LATEST_TIME = 6
"""A step is reached for the first time in an idle worker, and for the sixth in a busy one."""


def kill(field: Field) -> None:
    """Kill one worker after the other. Its successor is started before, and stands by, or only after."""
    worker: Worker | None = None
    for number in field.faults():
        dice = field.random(number)
        worker = worker or _victim(field, number)
        if worker.step or dice.random() < 0.8:
            field.until(partial(_its_turn, field, worker), 30, f"the turn of {worker}")
        successor = _victim(field, number + 1) if dice.random() < 0.5 else None
        if worker.step:
            field.until(worker.died_there, 30, f"the end of {worker}")
        else:
            field.rest(dice.uniform(0, 1.5))
            worker.kill()
        field.fault("kill", step=worker.step)
        worker = successor
    if worker is None:
        field.worker()
    field.drain()


def _its_turn(field: Field, worker: Worker) -> bool:
    """Tell whether a worker has the topics, which it takes only once its predecessor is dead, or has had them."""
    return field.holder() is worker or not worker.lives()


def _victim(field: Field, number: int) -> Worker:
    """Start a worker that dies at a step, if the number is odd; the one behind the last fault dies at none."""
    if number % 2 == 0 or number >= field.plan.faults:
        return field.worker()
    step = list(STEPS)[number // 2 % len(STEPS)]
    return field.worker(step=step, time=1 + number // 2 // len(STEPS) % LATEST_TIME)


KILL = Row(
    name="kill",
    run=kill,
    ci=Size(100, 3_000),
    release=Size(1_000, 10_000),
    bounds=lambda plan: {"most": {"repeats": plan.faults * sum(SLOTS.values()), "back_s": LEASE_S + 5}},
)
