# /// script
# requires-python = ">=3.11"
# dependencies = ["arq==0.28.0"]
# ///
"""arq: one process, ten coroutines. Safest: a short job timeout, since a job in progress is left alone for so long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from peer import PORT, SAFEST, Held, answer, handle_async, program
from redis import Redis

PLACE = RedisSettings(host="127.0.0.1", port=PORT)


async def handle(_: dict[str, Any], job_id: str) -> None:
    await handle_async(job_id)


class Settings:
    functions = (func(handle, name="handle"),)
    redis_settings = PLACE
    job_timeout = 5 if SAFEST else 300


def enqueue(ids: Iterable[str]) -> None:
    asyncio.run(_enqueue(ids))


async def _enqueue(ids: Iterable[str]) -> None:
    pool = await create_pool(PLACE)
    for job_id in ids:
        await pool.enqueue_job("handle", job_id, _job_id=job_id)
    await pool.aclose()


def worker() -> list[str]:
    return [program("arq"), "arq_peer.Settings"]


def held() -> Held:
    server: Any = Redis(port=PORT, decode_responses=True)
    known = set(server.zrange("arq:queue", 0, -1))
    in_flight = {name.removeprefix("arq:in-progress:") for name in server.scan_iter("arq:in-progress:*")}
    return {"waiting": sorted(known - in_flight), "in_flight": sorted(known & in_flight), "failed": []}


if __name__ == "__main__":
    answer(enqueue=enqueue, worker=worker, held=held)
