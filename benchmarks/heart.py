"""What the commands, a spawned job and an idle worker cost: `uv run benchmarks/heart.py`.

Starts its own Redis-protocol server and worker in a temporary folder. Everything that is compared is measured in turn,
round by round, in one run; ratios and differences count, since the same machine is twice as fast an hour later.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from ground import PYTHON, project, push, server, until

from sjq.executors.launch import keep_handler_package

SJQ = str(Path(PYTHON).with_name("sjq"))
NEW_TOPICS = 15


def main() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    os.environ.clear()
    os.environ.update(environ)
    with tempfile.TemporaryDirectory(prefix="sjq-bench-") as folder, server(Path(folder)) as client:
        topics = ("plain", *(f"new{number}" for number in range(NEW_TOPICS)))
        root = project(Path(folder) / "project", client, topics)
        rows = [*commands(root), importing(root)]
        with worker(root) as process:
            rows += [*spawned(root, client), *waking(client), idle(process)]
    print(f"{'what':<58}{'figure':>10}  goal")
    for what, figure, goal in rows:
        print(f"{what:<58}{figure:>10}  {goal}")


@contextmanager
def worker(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = (root / "worker.log").open("wb")
    with log, subprocess.Popen([SJQ, "worker"], cwd=root, stderr=log) as process:
        until(lambda: b" serves " in (root / "worker.log").read_bytes(), 30)
        yield process
        process.terminate()


def commands(root: Path) -> list[tuple[str, str, str]]:
    """Whole processes, each beside its yardstick."""
    click, both = [PYTHON, "-c", "import click"], [PYTHON, "-c", "import redis, click"]
    took = interleaved(
        {
            "click": lambda: run(click, root),
            "help": lambda: run([SJQ, "--help"], root),
            "both": lambda: run(both, root),
            "create": lambda: run([SJQ, "create", "elsewhere", "{}"], root),
        },
        rounds=15,
    )
    return [
        ("sjq --help / python -c 'import click'", f"{took['help'] / took['click']:.2f} x", "<= 1.3 x"),
        ("sjq create t '{}' / python -c 'import redis, click'", f"{took['create'] / took['both']:.2f} x", "<= 1.3 x"),
    ]


def importing(root: Path) -> tuple[str, str, str]:
    """What `import sjq` adds to the start of a handler's interpreter."""
    environ = {**os.environ, "PYTHONPATH": str(root / ".sjq" / "lib")}
    keep_handler_package(root)
    took = interleaved(
        {
            "bare": lambda: run([PYTHON, "-c", "pass"], root, environ),
            "import": lambda: run([PYTHON, "-c", "import sjq"], root, environ),
        },
        rounds=60,
    )
    return ("import sjq in a handler, over a bare interpreter", f"{took['import'] / took['bare'] - 1:.1%}", "<= 15 %")


def spawned(root: Path, client: redis.Redis) -> list[tuple[str, str, str]]:
    """A job from its take to its end, against the same interpreter started by hand on the same script."""
    push(client, "plain", "warm")
    until(lambda: client.hget("job_state:warm", "state") == b"succeeded", 60)
    interpreter = interpreter_of(root)
    (root / "in.json").write_text('{"n": 1}')
    by_hand = [interpreter, "topics/plain.py", "--input", "in.json", "--output", "out.json"]
    numbers = iter(range(10_000))
    took = interleaved(
        {"by hand": lambda: run(by_hand, root), "job": lambda: one_job(client, f"job{next(numbers)}")}, rounds=40
    )
    over = (took["job"] - took["by hand"]) * 1000
    return [("a spawned job, over its interpreter started by hand", f"{over:.1f} ms", "<= 25 ms")]


def interpreter_of(root: Path) -> str:
    """The interpreter that the worker uses for a script without a block: what uv run uses there."""
    uv = shutil.which("uv") or str(Path(PYTHON).with_name("uv"))
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV")}
    environ["PATH"] = os.pathsep.join(p for p in environ["PATH"].split(os.pathsep) if p != str(Path(PYTHON).parent))
    command = [uv, "run", "python", "-c", "import sys; print(sys.executable)"]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def one_job(client: redis.Redis, job_id: str) -> None:
    """Push a job, and wait until the server has its end."""
    push(client, "plain", job_id)
    wait_for(client, b"succeeded", job_id)


def waking(client: redis.Redis) -> list[tuple[str, str, str]]:
    """From a foreign push to the take, by an idle worker."""
    known = [taken_after(client, "plain", f"wake{number}") for number in range(30)]
    fresh = [taken_after(client, f"new{number}", f"fresh{number}") for number in range(NEW_TOPICS)]
    return [
        (
            "push by a foreign producer until the take, idle worker",
            f"{statistics.median(known) * 1000:.1f} ms",
            "<= 10 ms",
        ),
        ("the same on a topic that had no key before", f"{statistics.median(fresh) * 1000:.1f} ms", "<= 10 ms"),
    ]


def taken_after(client: redis.Redis, topic: str, job_id: str) -> float:
    started = time.perf_counter()
    push(client, topic, job_id)
    wait_for(client, b"taken", job_id)
    took = time.perf_counter() - started
    wait_for(client, b"succeeded", job_id)
    return took


def wait_for(client: redis.Redis, event: bytes, job_id: str) -> None:
    """Return as soon as the stream has the event."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer: Any = client.xread({"events": position[0]}, block=1000)
        for entry, fields in answer[0][1] if answer else ():
            position[0] = entry
            if fields[b"event"] == event and fields[b"id"] == job_id.encode():
                return
    raise TimeoutError(f"no {event!r} of {job_id}")


position: list[Any] = ["0"]
"""How far the stream was read."""


def idle(process: subprocess.Popen[bytes], seconds: float = 20.0) -> tuple[str, str, str]:
    """Processor time of the worker and its keepers while nothing happens."""
    pids = [process.pid, *descendants(process.pid)]
    before, started = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(seconds)
    share = (sum(map(cpu_s, pids)) - before) / (time.monotonic() - started)
    return (f"idle worker, {NEW_TOPICS + 1} topics, of one core", f"{share * 100:.2f} %", "<= 0.5 %")


def descendants(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for path in found for child in path.read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(command: list[str], root: Path, environ: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, cwd=root, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def interleaved(what: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, measured in turn."""
    took: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, call in what.items():
            started = time.perf_counter()
            call()
            took[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in took.items()}


if __name__ == "__main__":
    main()
