"""The ledger of `tests/chaos/`, kept by the handlers of any queue, and the verdict of its book on one kill.

No queue is believed about what it did; it is asked only about jobs of which the handlers' notes have no end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import chaos.ledger
from chaos.book import Book
from chaos.ledger import Note


class Ledger(chaos.ledger.Ledger):
    """The file, and all that was read of it: notes of a `start` or a `finish`, each with `id`, `pid` and `at`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.notes: list[Note] = []
        self.finished: set[str] = set()

    def read(self) -> bool:
        """Read on to the end; tell whether there was anything new."""
        new = list(self.news())
        self.notes += new
        self.finished |= {note["id"] for note in new if note["note"] == "finish"}
        return bool(new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one kill did. Counts of jobs; seconds since the kill, infinite for what did not happen."""

    running: int
    """Started and not finished when the worker was killed."""
    lost: int
    """Never finished, and the queue has nothing of them that could ever run again."""
    stuck: int
    """Never finished; the queue still holds them, and nobody works on them."""
    failed: int
    """Never finished, and the queue says so: a person can find them and send them back."""
    repeats: int
    """Runs beyond the first of a job, those that make good for a killed one included."""
    finished_twice: int
    back_s: float
    """Until the last job that was cut off was started again; or finished, where its process outlived the kill."""
    last_end_s: float
    """Until the last job was finished that had not been before."""


def judge(
    notes: Sequence[Note], *, created: Iterable[str], held: Mapping[str, Iterable[str]], killed_at: float
) -> Verdict:
    """Return the verdict; `held` is what the queue's own books hold: `waiting`, `in_flight` and `failed` ids."""
    book = Book(_as_of_sjq(notes, created))
    failed = book.open & set(held["failed"])
    kept = book.open & {*held["waiting"], *held["in_flight"]} - failed
    book.add({"note": "event", "event": "failed", "id": job_id, "position": "", "at": inf} for job_id in failed)
    book.add({"note": "left", "id": job_id, "state": "held", "at": inf} for job_id in kept)
    verdict = book.verdict()
    running = running_at(killed_at, notes)
    cut_off = running | _resumed(killed_at, notes)
    first_ends: dict[str, float] = {}
    for note in notes:
        if note["note"] == "finish":
            first_ends.setdefault(note["id"], note["at"])
    return Verdict(
        running=len(running),
        lost=len(verdict.findings["lost"]),
        stuck=len(verdict.findings["stuck"]),
        failed=len(failed),
        repeats=verdict.repeats,
        finished_twice=len(verdict.findings["ended twice"]),
        back_s=max((_back_after(killed_at, job_id, notes) for job_id in cut_off), default=0.0),
        last_end_s=max(0.0, *(at - killed_at for at in first_ends.values())),
    )


def _as_of_sjq(notes: Iterable[Note], created: Iterable[str]) -> Iterator[Note]:
    """Yield what the driver would note of these runs: each is an attempt, and the end of one is that of its job."""
    ids = list(created)
    yield {"note": "create", "ids": ids, "children": 0, "end": "succeeded", "at": 0.0}
    yield {"note": "created", "ids": ids, "at": 0.0}
    begun = Counter[str]()
    attempts: dict[tuple[str, int], int] = {}
    for note in notes:
        run = (note["id"], note["pid"])
        if note["note"] == "start":
            begun[note["id"]] += 1
            attempts[run] = begun[note["id"]]
        yield {**note, "attempt": attempts[run]}
        if note["note"] == "finish":
            yield {**note, "note": "event", "event": "succeeded", "attempt": attempts[run], "position": ""}


def running_at(moment: float, notes: Iterable[Note]) -> set[str]:
    """Return the jobs that a process had started, and not finished, at the moment."""
    runs: set[tuple[str, int]] = set()
    for note in notes:
        if note["at"] <= moment:
            run = {(note["id"], note["pid"])}
            runs = runs | run if note["note"] == "start" else runs - run
    return {job_id for job_id, _ in runs}


def _resumed(moment: float, notes: Sequence[Note]) -> set[str]:
    """Return the jobs that had started by the moment and went on after it; some were finished, and nobody knew."""
    return {note["id"] for note in notes if note["at"] <= moment} & {
        note["id"] for note in notes if note["at"] > moment
    }


def _back_after(moment: float, job_id: str, notes: Iterable[Note]) -> float:
    """Return the seconds until a job was started again, or else finished."""
    later = [note for note in notes if note["id"] == job_id and note["at"] > moment]
    starts = [note for note in later if note["note"] == "start"]
    return min((note["at"] - moment for note in starts or later), default=inf)
