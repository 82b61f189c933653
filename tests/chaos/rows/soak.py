"""Full load with faults of all kinds, and one worker that lives through them all, whose needs may not grow."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.field import LEASE_S, SLOTS, Field, Plan
from chaos.network import Network
from chaos.rows.row import Row, Size
from chaos.worker import Worker

FAULT_S = 6
"""A soak lasts so long for each fault of its plan, and has more of them where they take less."""
WARM_UP = 1 / 3
"""So much of the time is over when needs are looked at first: a heap takes long to reach its level."""
GROWTH_MB, GROWTH_MB_AN_HOUR = 5, 1
"""How much more memory a worker may need at the end, in a short run and in a long one."""
WINDOW = 1 / 4
"""A heap breathes by some MB: what is needed is the least of the first, and of the last, of the looks at it."""
SLACK = {"descriptors": sum(SLOTS.values()), "threads": 0, "keys": 0}
"""A pool has as many connections as were ever in use at once, which need not have happened in the first rounds."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker and a broker need while no job waits or runs."""

    descriptors: int
    threads: int
    keys: int

    @classmethod
    def of(cls, field: Field, worker: Worker) -> Needs:
        """Wait until all that waits and runs has ended, and look."""
        level = field.level
        field.drain()
        field.level = level
        descriptors = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        return cls(descriptors, _status(worker, "Threads"), len(_lasting_keys(field)))


def soak(field: Field) -> None:
    """Let rounds of work and faults go over a worker, and compare its needs with those after its warm-up."""
    network = field.network()
    worker = field.worker(SJQ_BROKER=network.url)
    field.until(worker.serves, 60, "the start of the worker")
    warm: Needs | None = None
    memory_kb: list[int] = []
    seconds = field.plan.faults * FAULT_S
    warm_at = time.monotonic() + seconds * WARM_UP
    for number in field.faults(seconds):
        if warm is None and time.monotonic() >= warm_at:
            warm = Needs.of(field, worker)
        _round(field, number, worker, network)
        if warm:
            memory_kb.append(_status(worker, "VmRSS"))
    end = Needs.of(field, worker)
    warm = warm or end
    for what, slack in SLACK.items():
        before, now = getattr(warm, what), getattr(end, what)
        if now > before + slack:
            field.complain(f"{what} grew from {before} to {now}")
    field.ledger.note("measure", what="growth_mb", value=_growth_mb(memory_kb))
    field.until(field.worker().serves, 60, "the start of a worker that tidies up after the last that was killed")
    field.drain()


def _round(field: Field, number: int, worker: Worker, network: Network) -> None:
    """Have a second worker stand by, do something to one of both, to their server or to the network, and undo it."""
    dice = field.random(number)
    second = field.worker()
    field.until(second.serves, 60, "the start of the second worker")
    field.rest(dice.uniform(0, 1))
    down = time.time()
    kind = dice.choice(("kill", "stop", "restart", *network.KINDS))
    if kind == "stop":
        worker.stop()
        field.rest(dice.uniform(0, 2 * LEASE_S))
        worker.go_on()
    elif kind == "restart":
        field.server.end(dice.choice((signal.SIGKILL, signal.SIGTERM)))
        field.rest(dice.uniform(0, LEASE_S))
        field.server.start()
    elif kind != "kill":
        network.spoil(kind)
        field.rest(dice.uniform(0, 2 * LEASE_S))
        network.mend()
    second.kill()
    field.fault(kind, down=down)
    field.until_back(60)


def _status(worker: Worker, name: str) -> int:
    """Return one of the figures that the system keeps of a process: memory in kB."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{worker.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def _lasting_keys(field: Field) -> list[bytes]:
    """Return the keys that do not expire, other than those of jobs, which the field looks through at its end."""
    with field.server.client() as server:
        names = [name for name in server.scan_iter(count=5000) if not name.startswith(b"job_")]
        return [name for name in names if server.ttl(name) == -1]


def _growth_mb(looks_kb: list[int]) -> float:
    """Compare the first and the last window of looks; there are none where nothing was left of a resumed plan."""
    if not looks_kb:
        return 0.0
    window = max(1, int(len(looks_kb) * WINDOW))
    return round((min(looks_kb[-window:]) - min(looks_kb[:window])) / 1000, 2)


def _most_growth_mb(plan: Plan) -> float:
    """Return what memory may grow by between the first and the last window of looks."""
    hours = plan.faults * FAULT_S / 3600
    return GROWTH_MB if hours < 1 else GROWTH_MB_AN_HOUR * hours * (1 - WARM_UP) * (1 - WINDOW)


SOAK = Row(
    name="soak",
    run=soak,
    ci=Size(10, 600),
    release=Size(600, 20_000),
    bounds=lambda plan: {"most": {"growth_mb": _most_growth_mb(plan)}},
    fsync="always",
)
