"""sjq, as it comes; it knows no safer setting. It runs in the environment of its own clone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peer import PORT, Held, answer, program
from redis import Redis

PROJECT = Path(os.environ["PEER_FOLDER"]) / "project"
SLOTS = int(os.environ["PEER_SETTINGS"].split()[0])
HANDLER = """
import sjq
from peer import handle

@sjq.job
def work(data):
    handle(data)
"""


def enqueue(ids: Iterable[str]) -> None:
    (PROJECT / "topics").mkdir(parents=True)
    (PROJECT / "topics" / "work.py").write_text(HANDLER)
    config = {"redis": {"host": "127.0.0.1", "port": PORT}, "defaults": {"concurrency": SLOTS}}
    (PROJECT / "config.json").write_text(json.dumps(config))
    server: Any = Redis(port=PORT)
    for job_id in ids:
        server.set(f"job_data:{job_id}", json.dumps({"job_id": job_id, "data": job_id}), nx=True)
        server.rpush("incoming:work", job_id)


def worker() -> list[str]:
    os.chdir(PROJECT)
    return [program("sjq"), "worker"]


def held() -> Held:
    server: Any = Redis(port=PORT, decode_responses=True)
    waiting, in_flight, failed = (
        server.lrange(f"{state}:work", 0, -1) for state in ("incoming", "processing", "failed")
    )
    return {"waiting": waiting, "in_flight": in_flight, "failed": failed}


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
