"""The field: a project, a server and workers, all of them real processes, and the ledger of what happens to them."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from disks import SmallDisk
from end_to_end.project import Project
from servers import Server, Wire

from chaos.book import Book
from chaos.ledger import Ledger
from chaos.network import Network
from chaos.worker import Worker, processes_in
from sjq.brokers import open_broker
from sjq.config import load
from sjq.errors import Error
from sjq.jobs import Message, new_message
from sjq.records import KINDS, Records

T = TypeVar("T")

LEASE_S = 1.5
QUIET_S = 30.0
"""How long nothing may end before what is open counts as stuck."""
BATCH = 20
CHILDREN = 2
SLOTS = {"split": 2, "piece": 3}
_OF_AN_ATTEMPT = re.compile(rf".*-({'|'.join(map(re.escape, KINDS))})\.[a-z2-7]{{16}}(\.part)?")


class Missed(Exception):
    """Something that had to happen did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of a row is done. A run that is resumed has the same."""

    row: str
    seed: int
    faults: int
    jobs: int
    fsync: str = "everysec"


class Field:
    """Where a row is run. What it does in a loop, it calls `tend` in, so that work waits and the ledger is kept."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.book = Book()
        for pid in processes_in(folder):  # of a run that was broken off
            os.kill(pid, signal.SIGKILL)
        (folder / "server").mkdir(parents=True, exist_ok=True)
        durable = ("--appendonly", "yes", "--appendfsync", plan.fsync, "--aof-use-rdb-preamble", "no")
        self.server = Server("valkey", *durable, folder=folder / "server")
        self.workers: list[Worker] = []
        self._networks: list[Network] = []
        self._disks: list[SmallDisk] = []
        self.level = 0
        """How many jobs of the driver's are to wait at any time."""
        self._unsure: list[Message] = []
        self._tended = 0.0

    def __enter__(self) -> Self:
        self.server.start()
        topics = {topic: {"script": "work.py", "concurrency": slots} for topic, slots in SLOTS.items()}
        self.project = Project(
            self.folder / "project",
            redis=self.server.url,
            events={"length": None},
            defaults={"losses": 1000},
            worker={"lease": LEASE_S},
            topics=topics,
        )
        shutil.copytree(Path(__file__).with_name("topics"), self.project.root / "topics", dirs_exist_ok=True)
        if not (self.project.root / ".venv").exists():  # a bare one starts in a fifth of the time of many others
            venv.create(self.project.root / ".venv", symlinks=True)
        config = load(self.project.root, {})
        self.broker, self.records = open_broker(config), Records(config.job_data)
        self.read()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        for network in self._networks:
            network.close()
        self.broker.close()
        self.server.end(signal.SIGKILL)
        for disk in self._disks:
            disk.unmount()

    # What a row is made of.

    def random(self, number: object) -> random.Random:
        """Return the dice of one fault: the same at each run with the same seed."""
        return random.Random(f"{self.plan.seed} {self.plan.row} {number}")

    def faults(self, seconds: float = 0.0) -> Iterator[int]:
        """Yield the numbers of the faults that are still to happen, with work waiting all the while.

        Those of the plan, and more of them until the run has lasted so many `seconds`.
        """
        self.level = 2 * BATCH
        while (number := self.book.faults.total()) < self.plan.faults or time.time() < self.book.began + seconds:
            yield number
        self.level = 0

    def fault(self, kind: str, **fields: object) -> None:
        """Note that a fault is over; what comes of it is measured from now on."""
        self.ledger.note("fault", kind=kind, **fields)
        self.read()

    def worker(self, *arguments: str, step: str | None = None, time: int = 1, **environ: str) -> Worker:
        """Start a worker; it is not waited for. `step` and `time` have it die, `environ` is the worker's."""
        environ = {**self.project.environ, "CHAOS_LEDGER": str(self.ledger.path), **environ}
        worker = Worker(self.project, arguments, environ, step=step, time=time)
        self.workers.append(worker)
        return worker

    def network(self) -> Network:
        """Return a network of its own between a worker and the server."""
        network = Network(self.server.port)
        self._networks.append(network)
        return network

    def disk(self, folder: Path, size: int) -> SmallDisk:
        """Put a disk of its own under a folder, until the end of the run."""
        disk = SmallDisk(folder, size)
        self._disks.append(disk)
        return disk

    def until(self, condition: Callable[[], T | None], seconds: float, what: str) -> T:
        """Tend until the condition holds, and return what it returns; raise Missed when it never does."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise Missed(f"{what} did not happen within {seconds:g} s")
            self.tend()
        return result

    def rest(self, seconds: float) -> None:
        """Tend for a while: when a fault happens is a matter of chance."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tend()

    def until_back(self, seconds: float = 30.0) -> None:
        """Tend until something was taken after the last fault."""
        self.until(lambda: self.book.since_fault is None, seconds, "a take after the fault")

    def holder(self) -> Worker | None:
        """Return the worker that has the topic of the driver's jobs."""
        for holder in self.broker.holders(["split"]):
            for worker in reversed(self.workers):  # among hundreds, two may have had the same process id
                if f"-{worker.pid}-" in holder.worker:
                    return worker
        return None

    # Keeping it.

    def tend(self) -> None:
        """Keep work waiting, and the ledger up to date; takes a little time."""
        time.sleep(0.01)
        if time.monotonic() < self._tended + 0.1:
            return
        with suppress(Error):  # a server that is down is among the faults
            self.collect()
            self.read()
            while len(self.book.open) < self.level:
                self.create(BATCH)
        self.read()
        self._tended = time.monotonic()
        for worker in self.workers:
            if worker.ended_by_itself():
                raise Missed(f"{worker} went on; it ended with {worker.code}:\n{worker.log[-2000:]}")

    def read(self) -> None:
        """Enter into the book what is new in the ledger."""
        self.book.add(self.ledger.news())

    def create(self, count: int, topic: str = "split", milliseconds: int | None = None) -> list[str]:
        """Create jobs, and return their ids; raise Error when it is not known whether they were created."""
        self._create_again()
        children = CHILDREN if topic == "split" else 0
        dice = self.random(f"jobs {len(self.book.jobs)}")
        lengths = [dice.randint(0, 60) if milliseconds is None else milliseconds for _ in range(count)]
        self._unsure = [new_message(topic, [length, children]) for length in lengths]
        self.ledger.note("create", ids=_ids(self._unsure), children=children, end="succeeded")
        return self._create_again()

    def put(self, message: Message, end: str) -> str:
        """Create one job of a row's own, and return its id; `end` is what it should come to."""
        self.ledger.note("create", ids=[message.job_id], children=0, end=end)
        self.broker.create([message])
        self.ledger.note("created", ids=[message.job_id])
        self.read()
        return message.job_id

    def _create_again(self) -> list[str]:
        """Create those of which that is not known, if there are any: this may be repeated without harm."""
        if self._unsure:
            self.broker.create(self._unsure)
            self.ledger.note("created", ids=_ids(self._unsure))
            self.read()
        created, self._unsure = _ids(self._unsure), []
        return created

    def collect(self) -> None:
        """Note the events that are new."""
        while events := self.broker.events(self.book.position, limit=1000):
            for event in events:
                at = int(event.id.partition("-")[0]) / 1000
                told = {**event.details, "event": event.event, "id": event.job_id, "topic": event.topic}
                self.ledger.note("event", position=event.id, at=at, **told)
            self.read()

    # Ending.

    def drain(self) -> None:
        """Create what is left of the plan, and wait until every job has ended, as long as any do."""
        self.level = 0
        while (missing := self.plan.jobs - len(self.book.jobs)) > 0:
            self.create(min(500, 1 + missing // (1 + CHILDREN)))
        quiet_since, left = time.monotonic(), len(self.book.open)
        while self.book.open and time.monotonic() < quiet_since + QUIET_S:
            self.tend()
            if len(self.book.open) != left:
                quiet_since, left = time.monotonic(), len(self.book.open)

    def close(self) -> None:
        """End the workers, and note what is left of everything."""
        if not self.server.runs:  # a run that ended early may have had it down
            self.server.start()
        running = [worker for worker in self.workers if worker.lives()]
        for worker in running:
            if not worker.end():
                self.complain(f"{worker} did not end well: {worker.code}")
        for worker in self.workers:
            if "Traceback" in worker.log:
                self.complain(f"{worker} logged a traceback: {worker.log.partition('Traceback')[2][-1000:]}")
        if self.plan.fsync == "everysec":
            # What a server forgot when it died is not in its stream any more.
            self.ledger.note("reread")
            self.read()
        self.collect()
        self._note_records()
        for job_id in sorted(self.book.open):
            job = self.broker.get(job_id)
            self.ledger.note("left", id=job_id, state=job and str(job.state))
        for leak in self._leaks():
            self.complain(leak)
        self.read()

    def complain(self, what: str) -> None:
        self.ledger.note("complaint", what=what)

    def _note_records(self) -> None:
        for job_id, job in self.book.jobs.items():
            if job.ends and (found := self.records.metadata(job_id)):
                output = re.search(rb'"attempt": (\d+)', self.records.read(job_id, "output.json") or b"")
                self.ledger.note(
                    "record",
                    id=job_id,
                    state=found["state"],
                    attempt=found["attempt"],
                    output=int(output[1]) if output else None,
                )

    def _leaks(self) -> Iterator[str]:
        """Yield what a run leaves behind that sjq would not."""
        wire = Wire(self.server.client(), "")
        yield from wire.leaks()
        for name in wire.client.scan_iter("job_state:*", count=5000):
            if wire.client.ttl(name) == -1 and wire.client.hget(name, "state") == b"succeeded":
                yield f"{name!r} was published, and does not expire"
        for name in sorted(self.project.names()):
            if _OF_AN_ATTEMPT.fullmatch(name):
                yield f"job_data/{name} is left of an attempt"
        yield from (f"{path.name} is left of a worker" for path in self.project.root.glob(".sjq/workers/*.lock"))
        long_s = 60 + len(self.book.jobs) / 1000  # it looks at every job
        if (done := self.project.run("fsck", seconds=long_s)).returncode:
            yield f"fsck finds: {(done.stdout + done.stderr)[:1000]}"
        yield from (f"process {pid} is left: {name}" for pid, name in processes_in(self.project.root).items())


def _ids(messages: list[Message]) -> list[str]:
    return [message.job_id for message in messages]
