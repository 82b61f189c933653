# /// script
# requires-python = ">=3.11"
# dependencies = ["celery[redis]==5.7.0"]
# ///
"""Celery: a prefork pool of one process per core. Safest: late acknowledgement, no prefetching, early redelivery."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from celery import Celery
from peer import PORT, SAFEST, Held, answer, handle, program
from redis import Redis

app = Celery("jobs", broker=f"redis://127.0.0.1:{PORT}/0")
app.conf.update(broker_connection_retry_on_startup=True)
if SAFEST:
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # With the default throttle of 10 the timeout is looked at only every tenth interval.
        broker_transport_options={
            "visibility_timeout": 10,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
        },
    )
app.task(handle, name="handle", ignore_result=True)


def enqueue(ids: Iterable[str]) -> None:
    for job_id in ids:
        app.send_task("handle", args=(job_id,), task_id=job_id)


def worker() -> list[str]:
    return [program("celery"), "--app", "celery_peer", "worker", "--loglevel", "ERROR"]


def held() -> Held:
    server: Any = Redis(port=PORT)
    unacked = [json.loads(entry)[0] for entry in server.hvals("unacked")]
    waiting = [json.loads(entry) for entry in server.lrange("celery", 0, -1)]
    return {"waiting": [_id(message) for message in waiting], "in_flight": [_id(m) for m in unacked], "failed": []}


def _id(message: dict[str, dict[str, str]]) -> str:
    return message["headers"]["id"]


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
