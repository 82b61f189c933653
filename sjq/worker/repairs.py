"""Repairs: what dead workers left on this host's disk is put right by workers that start, and by `sjq fsck`."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sjq.brokers.base import Broker
from sjq.errors import BrokerDown, Error, WrongState
from sjq.jobs import shown, worker_of
from sjq.records import Records, Unpublished, digest_of
from sjq.states import State
from sjq.worker.lock_file import Abandoned, abandoned, is_gone

_log = logging.getLogger("sjq.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as sjq leaves it."""

    code: str
    """What is wrong, in one word."""
    where: str
    """The id, key or file, as a terminal may show it."""
    what: str
    """What is wrong, in words that go on from `where`."""
    repair: str | None
    """What mends it; None where that is for people to decide."""
    job_id: str | None = None
    mended: bool = False


class Repairs:
    """Puts right the files of attempts, and the lock files of workers that are no more."""

    def __init__(self, broker: Broker, records: Records, lock_files: Path) -> None:
        self._broker, self._records, self._lock_files = broker, records, lock_files

    def repair(self) -> bool:
        """Repair everything, and report what is kept; False when another process is at it."""
        with self._turn(fcntl.LOCK_EX | fcntl.LOCK_NB) as ours:
            findings = list(self._findings(repair=True)) if ours else []
        for finding in findings:
            if not finding.mended:
                _log.warning("kept: %s %s", finding.where, finding.what, extra={"event": f"{finding.code}_record"})
        return ours

    def findings(self, *, repair: bool) -> Iterator[Finding]:
        """Yield what is wrong, and `repair` it where the broker leaves no doubt."""
        if repair:
            with self._turn(fcntl.LOCK_EX):
                found = list(self._findings(repair=True))
            yield from found  # whoever asked may take his time
        else:
            yield from self._findings(repair=False)

    @contextmanager
    def _turn(self, how: int) -> Iterator[bool]:
        """Repair alone on this host: what another just published would pass for the record of an earlier attempt."""
        self._lock_files.mkdir(parents=True, exist_ok=True)
        with (self._lock_files / "repairing").open("ab") as turn:
            try:
                fcntl.flock(turn, how)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _findings(self, *, repair: bool) -> Iterator[Finding]:
        attempts = list(self._records.unpublished())
        files = list(abandoned(self._lock_files))
        if not attempts and not files:
            return
        alive = {worker for worker, facts in self._broker.workers().items() if not is_gone(facts)}
        published: set[str] = set()
        for attempt in attempts:
            if finding := self._attempt(attempt, alive, repair=repair):
                if finding.code == "unpublished" and finding.mended and attempt.job_id:
                    published.add(attempt.job_id)
                yield finding
        for file in files:
            published |= {job_id for job_id in file.job_ids if self._was_published(job_id, file.worker)}
        if published and repair:
            self._broker.confirm(published)
        for file in files:
            if file.worker not in alive:
                yield _lock_file(file, repair=repair)

    def _attempt(self, attempt: Unpublished, alive: Collection[str], *, repair: bool) -> Finding | None:
        """Look at one attempt; one that cannot be repaired keeps nothing else from being repaired."""
        try:
            finding = self._judged(attempt, alive)
            if finding and finding.repair and repair:
                if finding.code == "unpublished":
                    self._records.publish(attempt)
                else:
                    self._records.discard(attempt)
                return replace(finding, mended=True)
        except BrokerDown:
            raise
        except (Error, OSError) as error:
            return _files(attempt, "stuck", f"has files of an attempt that cannot be put right: {error}", None)
        return finding

    def _judged(self, attempt: Unpublished, alive: Collection[str]) -> Finding | None:
        """Return what is wrong with an attempt's files; None while they may be somebody's work."""
        job = None if attempt.job_id is None else self._broker.get(attempt.job_id, data=False)
        if job is None:
            if attempt.job_id is None and self._runs(attempt, alive):
                return None
            what = "has files of an attempt, but the broker does not know the job: look at them, then remove them"
            return _files(attempt, "unknown", what, None)
        if not job.fence or digest_of(job.fence) != attempt.digest:
            # A worker that lives publishes it, though the next try has begun, or is about to learn that it lost it.
            outrun = _files(attempt, "outrun", "has files of an attempt that lost its lease", "they go")
            return None if attempt.worker in alive else outrun
        if job.state is State.PROCESSING or worker_of(job.fence) in alive:
            return None  # recovery comes first, or its worker is about to do this itself
        if attempt.sealed or self._records.is_sealed(attempt):
            return _files(attempt, "unpublished", "was settled, but not published", "its record is published")
        return _files(attempt, "unfinished", "has files of an attempt that came to nothing", "they go")

    def _runs(self, attempt: Unpublished, alive: Collection[str]) -> bool:
        """Tell whether an attempt whose long id cannot be told from its files is leased to a worker that lives."""
        topics = self._broker.topics()
        leases = (lease for worker in alive for lease in self._broker.leased(topics, worker))
        return any(digest_of(lease.fence) == attempt.digest for lease in leases)

    def _was_published(self, job_id: str, worker: str) -> bool:
        """Tell whether a dead worker's attempt succeeded, so that its stub waits for nothing but a confirmation."""
        try:
            job = self._broker.get(job_id, data=False)
        except WrongState:
            return False
        return job is not None and job.state is State.SUCCEEDED and worker_of(job.fence or "") == worker


def _files(attempt: Unpublished, code: str, what: str, repair: str | None) -> Finding:
    return Finding(code=code, where=shown(attempt.name), what=what, repair=repair, job_id=attempt.job_id)


def _lock_file(file: Abandoned, *, repair: bool) -> Finding:
    if repair:
        file.path.unlink(missing_ok=True)
    return Finding(
        code="abandoned",
        where=shown(file.path.name),
        what="is the lock file of a worker that is no more",
        repair="it goes",
        mended=repair,
    )
