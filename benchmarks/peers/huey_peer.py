# /// script
# requires-python = ">=3.11"
# dependencies = ["huey==3.5.4", "redis==8.1.0"]
# ///
"""Huey: one thread. No setting of it brings back a job that was taken: it leaves the queue when it is taken."""

from __future__ import annotations

from collections.abc import Iterable

from huey import RedisHuey
from peer import PORT, Held, answer, handle, program

huey = RedisHuey("jobs", host="127.0.0.1", port=PORT)
task = huey.task()(handle)


def enqueue(ids: Iterable[str]) -> None:
    for job_id in ids:
        task(job_id)


def worker() -> list[str]:
    return [program("huey_consumer"), "huey_peer.huey", "--quiet"]


def held() -> Held:
    waiting = [str(entry.args[0]) for entry in [*huey.pending(), *huey.scheduled()]]
    return {"waiting": waiting, "in_flight": [], "failed": []}


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
