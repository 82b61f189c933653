"""What every queue here runs, and how its file answers the driver. Standard library only: every environment loads it.

A file of a queue is a script with an environment of its own. It hands three things to `answer`, which makes three
commands of them; the driver knows nothing else of a queue.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

PORT = int(os.environ["PEER_PORT"])
"""Where the round's own server listens."""
SAFEST = os.environ["PEER_SETTINGS"] == "safest"
"""Whether the queue is to be set up as carefully as its documentation knows how."""
JOB_S = 0.005


class Held(TypedDict):
    """The ids that the queue's own books still hold."""

    waiting: list[str]
    in_flight: list[str]
    failed: list[str]


def handle(job_id: str) -> None:
    """Be the job: a note at its start, some milliseconds, a note at its finish."""
    note("start", job_id)
    time.sleep(JOB_S)
    note("finish", job_id)


async def handle_async(job_id: str) -> None:
    """Be the job of a queue that runs coroutines."""
    import asyncio

    note("start", job_id)
    await asyncio.sleep(JOB_S)
    note("finish", job_id)


def note(what: str, job_id: str) -> None:
    """Append a line with one call, so that no other process's line falls into it."""
    line = json.dumps({"note": what, "id": job_id, "pid": os.getpid(), "at": time.time()})
    file = os.open(os.environ["PEER_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"\n{line}\n".encode())  # one that was killed in the middle of its line spoils no other
    os.close(file)


def program(name: str) -> str:
    """Return a command of the environment that this script runs in."""
    return str(Path(sys.executable).with_name(name))


def answer(
    *,
    enqueue: Callable[[Iterable[str]], None],
    worker: Callable[[], list[str]],
    held: Callable[[], Held],
) -> None:
    """Do what the command line says: `enqueue COUNT`, `work` (become the worker) or `held`."""
    match sys.argv[1:]:
        case ["enqueue", count]:
            enqueue(str(number) for number in range(int(count)))
        case ["work"]:
            command = worker()
            os.execv(command[0], command)
        case ["held"]:
            print(json.dumps(held()))
        case other:
            sys.exit(f"error: {other} is none of enqueue COUNT, work, held")
