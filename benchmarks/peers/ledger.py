"""What the handlers noted about themselves, and the verdict on it. No queue is believed about what it did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the ledger: a handler started a job, or finished it."""

    note: str
    id: str
    pid: int
    at: float
    """Seconds since the epoch."""


class Ledger:
    """The file, read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self.notes: list[Note] = []
        self.finished: set[str] = set()
        self._path, self._read = path, 0
        path.touch()

    def news(self) -> list[Note]:
        """Return the notes that came since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        new = [Note(**json.loads(line)) for line in text.splitlines()]
        self.notes += new
        self.finished |= {note.id for note in new if note.note == "finish"}
        return new


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
    starts = [note.id for note in notes if note.note == "start"]
    ends = [note for note in notes if note.note == "finish"]
    first_ends: dict[str, float] = {}
    for end in ends:
        first_ends.setdefault(end.id, end.at)
    missing = set(created) - first_ends.keys()
    failed = missing & set(held["failed"])
    stuck = missing & {*held["waiting"], *held["in_flight"]} - failed
    running = running_at(killed_at, notes)
    cut_off = running | _resumed(killed_at, notes)
    return Verdict(
        running=len(running),
        lost=len(missing - failed - stuck),
        stuck=len(stuck),
        failed=len(failed),
        repeats=len(starts) - len(set(starts)),
        finished_twice=sum(count > 1 for count in Counter(end.id for end in ends).values()),
        back_s=max((_back_after(killed_at, job_id, notes) for job_id in cut_off), default=0.0),
        last_end_s=max(0.0, *(at - killed_at for at in first_ends.values())),
    )


def running_at(moment: float, notes: Iterable[Note]) -> set[str]:
    """Return the jobs that a process had started, and not finished, at the moment."""
    runs: set[tuple[str, int]] = set()
    for note in notes:
        if note.at <= moment:
            run = {(note.id, note.pid)}
            runs = runs | run if note.note == "start" else runs - run
    return {job_id for job_id, _ in runs}


def _resumed(moment: float, notes: Sequence[Note]) -> set[str]:
    """Return the jobs that had started by the moment and went on after it; some were finished, and nobody knew."""
    return {note.id for note in notes if note.at <= moment} & {note.id for note in notes if note.at > moment}


def _back_after(moment: float, job_id: str, notes: Iterable[Note]) -> float:
    """Return the seconds until a job was started again, or else finished."""
    later = [note for note in notes if note.id == job_id and note.at > moment]
    starts = [note for note in later if note.note == "start"]
    return min((note.at - moment for note in starts or later), default=inf)
