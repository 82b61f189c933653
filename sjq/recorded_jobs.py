"""Jobs as the records of this host tell of them: those that the broker has forgotten, and those that succeeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec.structs import replace

from sjq.clock import from_rfc3339
from sjq.jobs import Job
from sjq.records import KEPT_OF_LONG_NAME, Records, file_name
from sjq.states import Reason, State


class RecordedJobs:
    """Reads published metadata."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def get(self, job_id: str) -> Job | None:
        """Return a job with its data, or None when this host has no record of it."""
        metadata = self._records.metadata(job_id)
        if metadata is None:
            return None
        return replace(_job_of(metadata), data=self._records.read(job_id, "input.json"))

    def list(self, topic: str | None, limit: int) -> Sequence[Job]:
        """Return jobs that succeeded, new first, at most `limit` of each topic, without their data."""
        jobs: list[Job] = []
        found: Counter[str] = Counter()
        for name in reversed(self._records.names()):
            if topic is not None and found[topic] >= limit:
                break
            metadata = self._records.by_name(name)
            if metadata and metadata["state"] == State.SUCCEEDED and topic in (None, metadata["topic"]):
                found[metadata["topic"]] += 1
                if found[metadata["topic"]] <= limit:
                    jobs.append(_job_of(metadata))
        return jobs

    def find(self, prefix: str, limit: int) -> Sequence[str]:
        """Return up to `limit` ids that start with `prefix`."""
        # A long name ends with a digest, so that its beginning alone can be compared.
        beginning = file_name(prefix)[:KEPT_OF_LONG_NAME]
        matching = (name for name in self._records.names() if name.startswith(beginning))
        found = (self._records.by_name(name) for name in matching)
        ids = (str(metadata["job_id"]) for metadata in found if metadata)
        return list(islice((job_id for job_id in ids if job_id.startswith(prefix)), limit))


def _job_of(metadata: Mapping[str, Any]) -> Job:
    reason = metadata.get("reason") or {}
    return Job(
        job_id=metadata["job_id"],
        topic=metadata["topic"],
        state=State(metadata["state"]),
        parent_job_id=metadata["parent_job_id"],
        attempt=metadata["attempt"],
        since=from_rfc3339(metadata["end_time"]),
        worker=metadata["worker"],
        reason=Reason(reason["code"]) if reason else None,
        why=reason.get("why"),
    )
