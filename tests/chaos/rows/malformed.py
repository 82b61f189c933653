"""Messages and outputs of other people's programs that can be no jobs, and what they cost those that can."""

from __future__ import annotations

import time
from random import Random
from statistics import median

from chaos.field import Field
from chaos.rows.row import Row, Size

PER_OUTPUT = 100
"""Of so many that are malformed, one is an output, which takes a process to write."""
ENOUGH = 20_000
"""With fewer, the rate is a figure and no bound: a few parts tell more of what else the machine does than of sjq."""
PARTS = 200
PER_PART = 500
"""The least in a part: so many that they last while the good jobs run."""
GOOD = 30
GOOD_MS = 50
DEEP = 50_000


def malformed(field: Field) -> None:
    """Push what is malformed in parts, and see how fast good jobs of another topic go meanwhile, and without it.

    Without it, well-formed jobs take the place of those whose outputs are malformed: all of them take processes.
    """
    topics = {"bad": "work.py", "junk": "junk.py", "beside": "work.py", "piece": "work.py"}
    field.project.configure(topics={name: {"script": script} for name, script in topics.items()})
    worker = field.worker("--topics", *topics, "--concurrency", "2")
    field.until(worker.serves, 60, "the start of the worker")
    kept = []
    _work_off(field)
    per_part = max(PER_PART, field.plan.faults // PARTS)
    for number in range(field.book.faults["malformed"], field.plan.faults, per_part):
        count = min(per_part, field.plan.faults - number)
        field.create(count // PER_OUTPUT, "beside", 0)
        without_s = _work_off(field)
        field.until(lambda: not field.book.open, 300, "the end of all that is well-formed")
        _push(field, number, count)
        kept.append(without_s / _work_off(field))
        field.ledger.note("measure", what="rate kept", value=round(median(kept), 2))
        field.until(lambda: not field.book.open, 300, "the end of all that is malformed")
    _take_back(field)
    field.drain()


def _work_off(field: Field) -> float:
    """Create good jobs, and return how many seconds they take."""
    jobs, began = field.create(GOOD, "piece", GOOD_MS), time.monotonic()
    while not all(field.book.jobs[job_id].finishes for job_id in jobs):  # without tending, which takes its time too
        time.sleep(0.02)
        field.read()
    took_s = time.monotonic() - began
    field.until(lambda: field.book.open.isdisjoint(jobs), 120, "the end of good jobs")
    return took_s


def _push(field: Field, first: int, count: int) -> None:
    """Push malformed messages, and messages for a handler whose output is malformed."""
    dice = field.random(first)
    outputs = [f"junk-{number}" for number in range(first, first + count) if number % PER_OUTPUT == 0]
    messages = [f"bad-{number}" for number in range(first, first + count) if number % PER_OUTPUT]
    for ids, reason in ((outputs, "output"), (messages, "message")):
        field.ledger.note("create", ids=ids, children=0, end=f"failed ({reason})")
    with field.server.client() as server:
        pipe = server.pipeline(transaction=False)
        for number, job_id in enumerate(outputs, first // PER_OUTPUT):
            pipe.set(f"job_data:{job_id}", f'{{"job_id": "{job_id}", "data": {number}}}')
            pipe.rpush("incoming:junk", job_id)
        for number, job_id in enumerate(messages):
            if number % 100 == 0:
                pipe.hset(f"job_data:{job_id}", "not", "a message")
            elif number % 100 > 1:
                pipe.set(f"job_data:{job_id}", _malformed(dice, job_id))
            pipe.rpush("incoming:bad", job_id)
        pipe.execute()
    for ids in (outputs, messages):
        field.ledger.note("created", ids=ids)
    field.fault("malformed", times=count)


def _take_back(field: Field) -> None:
    """Remove the keys that are no messages at all: they are another program's, which sjq leaves alone."""
    with field.server.client() as server:
        for name in server.scan_iter("job_data:*", count=5000, _type="hash"):
            server.delete(name)


def _malformed(dice: Random, job_id: str) -> bytes:
    """Return a message that can be no job."""
    whole = f'{{"job_id": "{job_id}", "data": {{"a": [1, "b", null]}}}}'.encode()
    ways = (
        b"",
        whole[: dice.randrange(len(whole))],
        dice.randbytes(dice.randint(1, 200)),
        b"null",
        b"[" + whole + b"]",
        b'{"job_id": "x"}',
        b'{"job_id": "x", "data": NaN}',
        b'{"job_id": "x", "data": "\\ud800"}',
        b'{"job_id": "x", "data": "\xff"}',
        b'{"job_id": "x", "data": 1, "priority": "high"}',
        b'{"job_id": "x", "data": 1, "run_at": 1}',
        b'{"job_id": "x", "data": 1, "parent_job_id": 5}',
        b'{"job_id": "x", "data": 1, "parent_job_id": ""}',
        b'{"job_id": "x", "data": 1, "attachment": true}',
        b'{"job_id": "x", "data": 1, "attachment": "yes"}',
        b'{"job_id": "x", "data": ' + DEEP * b"[" + DEEP * b"]" + b"}",
        whole + whole,
    )
    return dice.choice(ways)


MALFORMED = Row(
    name="malformed",
    run=malformed,
    ci=Size(20_000, 0),
    release=Size(1_000_000, 0),
    bounds=lambda plan: {"least": {"rate kept": 0.9}} if plan.faults >= ENOUGH else {},
)
