"""What a job costs in Redis commands and system calls: `uv run benchmarks/per_job.py [--against REVISION]`.

Counts, not times. A worker with one slot runs jobs that do nothing; what a job costs is the difference between many and
few of them, which leaves out what a worker's start and end cost. With --against, the same is done in a checkout of
another revision. System calls need strace.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from ground import PYTHON, project, push, server

FEW, MANY = 50, 250
TOPIC = "plain"
READS = "reads"
REPOSITORY = Path(__file__).parents[1]
_FORKS = ("clone", "clone3", "fork", "vfork")
_ENTRY = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*= (\d+)$")
_RETURNED = re.compile(r"= (\d+)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--against", metavar="REVISION", help="measure that revision of this repository too")
    against = parser.parse_args().against
    counts = {"here": per_job(Path(PYTHON).with_name("sjq"))}
    if against:
        with checkout(against) as folder:
            counts[against] = per_job(folder / ".venv" / "bin" / "sjq")
    show(counts)


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Yield a checkout of a revision with its environment."""
    with tempfile.TemporaryDirectory(prefix="sjq-bench-") as folder:
        root = Path(folder) / "sjq"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, root], check=True)
        subprocess.run(["git", "checkout", "--quiet", revision], cwd=root, check=True)
        uv = shutil.which("uv") or str(Path(PYTHON).with_name("uv"))
        subprocess.run([uv, "sync", "--quiet", "--locked"], cwd=root, check=True)
        yield root


def per_job(sjq: Path) -> Counter[str]:
    """Return what one job costs: for each thing that is counted, a thousand jobs' worth."""
    few, many = counted(sjq, FEW), counted(sjq, MANY)
    return Counter({what: round(1000 * (many[what] - few[what]) / (MANY - FEW)) for what in many | few})


def counted(sjq: Path, jobs: int) -> Counter[str]:
    """Run so many jobs twice, and return what the server counted the first time, and strace the second time."""
    with tempfile.TemporaryDirectory(prefix="sjq-bench-") as folder, server(Path(folder)) as client:
        root = project(Path(folder) / "project", client, [TOPIC])
        worker = [str(sjq), "worker", "--burst", "--topics", TOPIC, "--concurrency", "1"]
        work_off(client, root, worker, ["warm"])
        client.config_resetstat()
        work_off(client, root, worker, [f"job{number}" for number in range(jobs)])
        counts = commands(client)
        trace = root / "trace"
        traced = ["strace", "-f", "-qq", "-s", "64", "-o", str(trace), *worker]
        work_off(client, root, traced, [f"traced{number}" for number in range(jobs)])
        return counts + system_calls(trace)


def work_off(client: redis.Redis, root: Path, worker: list[str], job_ids: list[str]) -> None:
    for job_id in job_ids:
        push(client, TOPIC, job_id)
    subprocess.run(worker, cwd=root, check=True, capture_output=True)
    records = list((root / "job_data").glob("*-metadata.json"))
    ended = {json.loads(record.read_bytes())["job_id"] for record in records}
    assert ended.issuperset(job_ids), "every job has its record"


def commands(client: redis.Redis) -> Counter[str]:
    """Return how often the server did each command, by itself or in a script, and how often it read from clients."""
    reads: dict[str, int] = client.info("stats")
    counts = Counter({READS: reads["total_reads_processed"]})
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    for name, figures in stats.items():
        counts[f"command {name.removeprefix('cmdstat_')}"] = figures["calls"]
    return counts


def system_calls(trace: Path) -> Counter[str]:
    """Return how many calls the worker and its keepers made, by their names; those of jobs themselves are left out."""
    counts: Counter[tuple[str, str]] = Counter()
    parents: dict[str, str] = {}
    """Threads and processes, by what forked them: as what, if that has a program of its own by then."""
    programs: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if resumed := _RESUMED.match(line):
            parent, call, child = resumed.groups()
            if call in _FORKS:
                parents[child] = programs.get(parent, parent)
        elif entry := _ENTRY.match(line):
            tid, call, rest = entry.groups()
            if call == "execve" and counts:
                programs[tid] = "keeper" if '"-I", "-S"' in rest else "job"
            if call in _FORKS and (returned := _RETURNED.search(rest)):
                parents[returned[1]] = programs.get(tid, tid)
            counts[programs.get(tid, tid), call] += 1
    by_role: Counter[str] = Counter()
    for (who, call), count in counts.items():
        while who in parents:
            who = parents[who]  # noqa: PLW2901
        role = who if who in programs.values() else "worker"
        if role != "job":
            by_role[f"{role}: {call}"] += count
    return by_role


def show(counts: dict[str, Counter[str]]) -> None:
    print(f"{'a job costs':<40}" + "".join(f"{name:>10}" for name in counts))
    whole = {
        "reads of the server from clients": READS,
        "scripts, each a round trip": "command evalsha",
        "Redis commands, in scripts or not": "command ",
        "system calls of the worker": "worker: ",
        "system calls of its keepers": "keeper: ",
    }
    for name, beginning in whole.items():
        row(name, [sum(n for what, n in each.items() if what.startswith(beginning)) for each in counts.values()])
    print()
    for what in sorted(set[str]().union(*counts.values()) - {READS}):
        figures = [each[what] for each in counts.values()]
        if max(figures) >= 50:
            row(what, figures)


def row(name: str, thousandths: list[int]) -> None:
    print(f"{name:<40}" + "".join(f"{figure / 1000:>10.2f}" for figure in thousandths))


if __name__ == "__main__":
    main()
