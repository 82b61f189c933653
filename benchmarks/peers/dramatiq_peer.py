# /// script
# requires-python = ">=3.11"
# dependencies = ["dramatiq[redis]==2.2.1", "redis==8.1.0"]
# ///
"""Dramatiq: two processes of eight threads. Safest: early heartbeat timeout, and often a look for dead workers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from peer import PORT, SAFEST, Held, answer, handle, program
from redis import Redis

safest = {"heartbeat_timeout": 5_000, "maintenance_chance": 200_000}
broker = RedisBroker(url=f"redis://127.0.0.1:{PORT}/0", **(safest if SAFEST else {}))
dramatiq.set_broker(broker)
actor = dramatiq.actor(handle, actor_name="handle")


def enqueue(ids: Iterable[str]) -> None:
    for job_id in ids:
        actor.send(job_id)


def worker() -> list[str]:
    # By default it takes a process per core; said here so that the row means the same everywhere.
    return [program("dramatiq"), "dramatiq_peer", "--processes", "2", "--threads", "8", "--skip-logging"]


def held() -> Held:
    server: Any = Redis(port=PORT)
    taken = {member for key in server.scan_iter("dramatiq:__acks__.*") for member in server.smembers(key)}
    messages = {name: _id(text) for name, text in server.hgetall("dramatiq:default.msgs").items()}
    waiting = set(server.lrange("dramatiq:default", 0, -1))
    delayed = [_id(text) for text in server.hvals("dramatiq:default.DQ.msgs")]
    return {
        "waiting": delayed + [job_id for name, job_id in messages.items() if name in waiting],
        "in_flight": [job_id for name, job_id in messages.items() if name in taken],
        "failed": [_id(text) for text in server.hvals("dramatiq:default.XQ.msgs")],
    }


def _id(text: bytes) -> str:
    return str(json.loads(text)["args"][0])


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
