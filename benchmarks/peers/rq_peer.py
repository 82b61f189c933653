# /// script
# requires-python = ">=3.11"
# dependencies = ["rq==3.0.0", "redis==8.1.0"]
# ///
"""RQ: a fork for each job. Safest: retries, and the shortest intervals at which it looks for abandoned jobs."""

from __future__ import annotations

from collections.abc import Iterable

from peer import PORT, SAFEST, Held, answer, handle, program
from redis import Redis
from rq import Queue, Retry

queue = Queue("jobs", connection=Redis(port=PORT))
LOOK_OFTEN = ("--maintenance-interval", "5", "--job-monitoring-interval", "1", "--worker-ttl", "20")


def enqueue(ids: Iterable[str]) -> None:
    for job_id in ids:
        queue.enqueue(handle, job_id, job_id=job_id, retry=Retry(max=3) if SAFEST else None)


def worker() -> list[str]:
    often = LOOK_OFTEN if SAFEST else ()
    return [program("rq"), "worker", "--quiet", "--url", f"redis://127.0.0.1:{PORT}/0", *often, "jobs"]


def held() -> Held:
    # To count or list a registry in the plain way would clean it up, which is the worker's business here.
    started = queue.started_job_registry.get_job_ids(cleanup=False)
    return {
        "waiting": queue.job_ids + queue.scheduled_job_registry.get_job_ids(cleanup=False),
        "in_flight": queue.intermediate_queue.get_job_ids() + [str(entry).partition(":")[0] for entry in started],
        "failed": queue.failed_job_registry.get_job_ids(cleanup=False),
    }


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
