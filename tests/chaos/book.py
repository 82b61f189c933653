"""The book: what a ledger comes to, job by job, and the verdict over it. It knows nothing but the ledger's lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from chaos.ledger import Note

ENDS = ("succeeded", "failed", "lost", "timedout", "cancelled", "rejected")
"""The events that end a job; `lost` is the end of one that was lost with its workers too often."""
LOST = "lost (lost)"
SHOWN = 5


@dataclass(slots=True)
class Job:
    """What the ledger has of one job."""

    acknowledged: float | None = None
    children: int = 0
    meant: str = "succeeded"
    starts: tuple[int, ...] = ()
    finishes: tuple[int, ...] = ()
    born: tuple[str, ...] = ()
    """The jobs that name it as their parent."""
    ends: tuple[tuple[str, int], ...] = ()
    """What it ended as, and with which attempt."""
    known: bool = False
    """Whether the event stream tells of it."""
    fence: str | None = None
    """That of its last lease, while it has one."""
    late: int = 0
    """Ends under a fence that was no longer its own."""
    record: Note | None = None
    left: str | None = None

    def forget_events(self) -> None:
        self.born, self.ends, self.known, self.fence, self.late = (), (), False, None, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run comes to. Each list holds a line for each finding."""

    jobs: int
    faults: int
    repeats: int
    """Attempts that handlers began, beyond the first of each job."""
    back_s: float
    """The longest time from a fault to the next take."""
    recovered: int
    forgiven: int
    """Jobs of the last second before a server died that may lose it."""
    measures: Mapping[str, float]
    findings: Mapping[str, list[str]]

    @property
    def clean(self) -> bool:
        return not any(self.findings.values())

    def described(self) -> str:
        """One line of figures, and for each kind of finding the first few."""
        counts = ", ".join(f"{len(found)} {name}" for name, found in self.findings.items() if name != "complaints")
        text = f"{self.jobs} jobs, {self.faults} faults: {counts}, {self.repeats} repeats, {self.recovered} recovered"
        text += f", back in work after {self.back_s:.1f} s" if self.back_s else ""
        text += f", {self.forgiven} forgiven" if self.forgiven else ""
        text += "".join(f", {name} {value:g}" for name, value in self.measures.items())
        lines = [f"{'clean' if self.clean else 'NOT CLEAN'}: {text}"]
        for name, found in self.findings.items():
            lines += [f"    {name}: {ascii(one)[1:-1]}" for one in found[:SHOWN]]
            lines += [f"    {name}: ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return "\n".join(lines)


class Book:
    """Reads notes one after the other, and answers at any time."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self.jobs: dict[str, Job] = {}
        self.open: set[str] = set()
        """Jobs that exist for certain, and have no end."""
        self.faults: Counter[str] = Counter()
        self.began = math.inf
        """When the run was begun, in seconds since the epoch."""
        self.position = "0"
        """Up to where the event stream was read."""
        self.since_fault: float | None = None
        """When the last fault ended, as long as nothing was taken since."""
        self._most: dict[str, float] = {}
        self._least: dict[str, float] = {}
        self._forgiven_s = 0.0
        self._back_s = 0.0
        self._recovered = 0
        self._downs: list[tuple[float, float]] = []
        self._measures: dict[str, float] = {}
        self._complaints: list[str] = []
        self.add(notes)

    def add(self, notes: Iterable[Note]) -> None:
        for note in notes:
            getattr(self, f"_{note['note']}")(note)

    def job(self, job_id: str) -> Job:
        return self.jobs.setdefault(job_id, Job())

    def _run(self, note: Note) -> None:
        plan, bounds = note["plan"], note["bounds"]
        self.began = note["at"]
        self._most = bounds.get("most", {})
        self._least = {"faults": plan["faults"], "jobs": plan["jobs"], **bounds.get("least", {})}
        self._forgiven_s = bounds.get("forgiven_s", 0.0)

    def _resumed(self, _: Note) -> None:
        """Allow that what ran when the run was broken off runs once more; nobody was there to go back to work."""
        self.since_fault = None
        if "repeats" in self._most:
            ran = sum(bool(job.starts) and not job.ends for job in self.jobs.values())
            self._most = {**self._most, "repeats": self._most["repeats"] + ran}

    def _create(self, note: Note) -> None:
        for job_id in note["ids"]:
            job = self.job(job_id)
            job.children, job.meant = note["children"], note["end"]

    def _created(self, note: Note) -> None:
        for job_id in note["ids"]:
            job = self.job(job_id)
            job.acknowledged = note["at"]
            if not job.ends:
                self.open.add(job_id)

    def _start(self, note: Note) -> None:
        self.job(note["id"]).starts += (note["attempt"],)

    def _finish(self, note: Note) -> None:
        self.job(note["id"]).finishes += (note["attempt"],)

    def _fault(self, note: Note) -> None:
        self.faults[note["kind"]] += note.get("times", 1)
        at: float = note["at"]
        down: float = note.get("down", at)
        self._note_back(down)
        self.since_fault = at
        self._downs.append((down, at))

    def _note_back(self, at: float) -> None:
        """Note how long nothing was taken, at the next take, or at the next fault before one."""
        if self.since_fault is not None and at > self.since_fault:
            self._back_s = max(self._back_s, at - self.since_fault)
            self.since_fault = None

    def _event(self, note: Note) -> None:
        event, job_id = note["event"], note["id"]
        self.position = note["position"]
        job = self.job(job_id)
        job.known = True
        if event == "created":
            if "parent" in note:
                self.job(note["parent"]).born += (job_id,)
            if not job.ends:
                self.open.add(job_id)
        elif event == "taken":
            job.fence = note["fence"]
            self._note_back(note["at"])
        elif event in ("recovered", "lost"):
            job.fence = None
            self._recovered += 1
        elif "fence" in note:
            job.late += note["fence"] != job.fence
            job.fence = None
        if event in ENDS:
            end = f"{event} ({note['reason']})" if "reason" in note else str(event)
            job.ends += ((end, int(note.get("attempt", 0))),)
            self.open.discard(job_id)

    def _reread(self, _: Note) -> None:
        self.position, self._recovered = "0", 0
        for job_id, job in self.jobs.items():
            job.forget_events()
            if job.acknowledged is not None:
                self.open.add(job_id)

    def _record(self, note: Note) -> None:
        self.job(note["id"]).record = note

    def _left(self, note: Note) -> None:
        self.job(note["id"]).left = note["state"]

    def _measure(self, note: Note) -> None:
        self._measures[note["what"]] = note["value"]

    def _complaint(self, note: Note) -> None:
        self._complaints.append(note["what"])

    def verdict(self) -> Verdict:
        """Judge what the ledger has until now."""
        forgiven = {job_id for job_id in self.open if self._may_be_gone(self.jobs[job_id])}
        repeats = sum(max(0, len(job.starts) - 1) for job in self.jobs.values())
        unended = {job_id: self.jobs[job_id] for job_id in sorted(self.open - forgiven)}
        by_id = sorted(self.jobs.items())
        findings = {
            "lost": [job_id for job_id, job in unended.items() if job.left is None],
            "stuck": [f"{job_id} is {job.left}" for job_id, job in unended.items() if job.left is not None],
            "ended twice": [f"{job_id} ended {job.ends}" for job_id, job in by_id if len(job.ends) > 1],
            "late settles": [f"{job_id}: {job.late}" for job_id, job in by_id if job.late],
            "children twice": [f"{job_id} has {job.born}" for job_id, job in by_id if len(job.born) > _due(job)],
            "children lost": [f"{job_id} has {job.born}" for job_id, job in by_id if len(job.born) < _due(job)],
            "wrong ends": [f"{job_id} {why}" for job_id, job in by_id for why in _wrong(job)],
            "complaints": [*self._complaints, *self._broken_bounds(repeats)],
        }
        return Verdict(
            jobs=len(self.jobs),
            faults=self.faults.total(),
            repeats=repeats,
            back_s=self._back_s,
            recovered=self._recovered,
            forgiven=len(forgiven),
            measures=self._measures,
            findings=findings,
        )

    def _may_be_gone(self, job: Job) -> bool:
        """Tell whether a job may be lost, since its server may lose what it was told just before it died."""
        at, seconds = job.acknowledged, self._forgiven_s
        return (
            at is not None
            and not job.known
            and job.left is None
            and any(down - seconds <= at <= back for down, back in self._downs if seconds)
        )

    def _broken_bounds(self, repeats: int) -> Iterator[str]:
        figures = {
            "repeats": repeats,
            "recovered": self._recovered,
            "back_s": self._back_s,
            "jobs": len(self.jobs),
            "faults": self.faults.total(),
            **self._measures,
        }
        for name, most in self._most.items():
            if figures.get(name, math.inf) > most:
                yield f"{name}: {figures.get(name, 'nothing')}; {most:g} is the most"
        for name, least in self._least.items():
            if figures.get(name, -math.inf) < least:
                yield f"{name}: {figures.get(name, 'nothing')}; {least:g} is the least"


def _due(job: Job) -> int:
    """Return how many children a job should have by now."""
    return job.children if any(end == "succeeded" for end, _ in job.ends) else 0


def _wrong(job: Job) -> Iterator[str]:
    """Yield what does not agree between a job's end, its handler's own notes, and its record."""
    if doubled := [attempt for attempt, times in Counter(job.starts).items() if times > 1]:
        yield f"ran attempt {doubled[0]} more than once"
    if not job.ends:
        return
    end, attempt = job.ends[-1]
    if end not in (job.meant, LOST):
        yield f"{end}; it was meant to be {job.meant}"
    if end != "succeeded":
        return
    if attempt not in job.finishes:
        yield f"succeeded with attempt {attempt}, of which no handler knows"
    if job.record is None:
        yield "has no record"
    elif (job.record["state"], job.record["attempt"]) != (end, attempt):
        yield f"{end} with attempt {attempt}; its record says {job.record['state']}, {job.record['attempt']}"
    elif job.record["output"] != attempt:
        yield f"succeeded with attempt {attempt}; its output is of attempt {job.record['output']}"
