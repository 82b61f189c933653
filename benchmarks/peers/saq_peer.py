# /// script
# requires-python = ">=3.11"
# dependencies = ["saq[redis]==0.26.4", "typing-extensions==4.15.0"]
# ///
"""SAQ: one process, ten coroutines. Safest: retries, a short timeout, and often a look for jobs that passed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from peer import PORT, SAFEST, Held, answer, handle_async, program
from redis import Redis
from saq import Queue

queue = Queue.from_url(f"redis://127.0.0.1:{PORT}/0")


async def handle(_: dict[str, Any], *, job_id: str) -> None:
    await handle_async(job_id)


settings = {"queue": queue, "functions": [("handle", handle)], **({"timers": {"sweep": 5}} if SAFEST else {})}


def enqueue(ids: Iterable[str]) -> None:
    asyncio.run(_enqueue(ids))


async def _enqueue(ids: Iterable[str]) -> None:
    await queue.connect()
    for job_id in ids:
        await queue.enqueue("handle", key=job_id, job_id=job_id, **({"retries": 3, "timeout": 5} if SAFEST else {}))
    await queue.disconnect()


def worker() -> list[str]:
    return [program("saq"), "saq_peer.settings", "--quiet"]


def held() -> Held:
    server: Any = Redis(port=PORT)
    jobs = [queue.deserialize(server.get(name)) for name in server.scan_iter("saq:job:default:*")]
    states = {job.key: job.status.value for job in jobs if job is not None}
    return {
        "waiting": [key for key, state in states.items() if state in ("new", "queued", "deferred")],
        "in_flight": [key for key, state in states.items() if state in ("active", "aborting")],
        "failed": [key for key, state in states.items() if state in ("aborted", "failed")],
    }


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
