"""Handlers that use more memory than they may, on a worker that has other topics to serve."""

from __future__ import annotations

import re
from functools import partial

from chaos.field import SLOTS, Field
from chaos.rows.row import Row, Size
from sjq.jobs import new_message

MEMORY_MB = 100
WAYS = ("at once", "quickly", "slowly", "together", "together, quickly", "detached")
END = "failed (memory)"


def memory(field: Field) -> None:
    """Run one greedy job after the other, with the driver's jobs all around them, which must not notice."""
    topics = {topic: {"script": "work.py", "concurrency": slots} for topic, slots in SLOTS.items()}
    hungry = {"script": "hungry.py", "memory": f"{MEMORY_MB}MB"}
    field.project.configure(topics={**topics, "hungry": hungry})
    worker = field.worker()
    field.until(worker.serves, 60, "the start of the worker")
    ways = field.random("ways").sample(WAYS, len(WAYS))
    for number in field.faults():
        way = ways[number % len(ways)]
        job_id = field.put(new_message("hungry", way), END)
        field.until(partial(field.book.open.isdisjoint, [job_id]), 60, f"the end of a job that grows {way}")
        field.fault("memory")
        _check(field, job_id, way)
        field.until_back()
    field.drain()


def _check(field: Field, job_id: str, way: str) -> None:
    """Complain of a record that does not say how much memory it was."""
    found = field.until(partial(field.records.metadata, job_id), 30, "the record of a greedy job")
    used = re.match(r"its processes used ([0-9.]+) [MG]B of memory together", found["reason"]["why"])
    if not used or found["survivors"]:
        field.complain(f"{way}: {found['survivors']} survivors, and the reason of {job_id} is {found['reason']}")


MEMORY = Row(
    name="memory",
    run=memory,
    ci=Size(20, 600),
    release=Size(200, 6_000),
    bounds=lambda _: {"most": {"repeats": 0, "back_s": 2}},
)
