"""Large outputs and attachments, and many: whatever happens to their files, the worker lives, and stays small."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from servers import Server, until
from unit.told import told

from end_to_end.project import PLAIN, SJQ, Project

GROWTH_MB = 50
LARGE_BYTES = 3_000_000
SENDS = """
    import json, pathlib, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    pathlib.Path("running").touch()
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    pathlib.Path("attached").write_bytes(b"a" * 3_000_000)
    following = {"topic": "next", "data": "d" * 3_000_000, "attachment": "attached"}
    json.dump({"data": 1, "next": [following]}, open(args["--output"], "w"))
"""
FANS_OUT = """
    import json, sys
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    size = json.load(open(args["--input"]))
    open("attached", "w").write("a" * size)
    output = {
        "topics": {"data": "d" * size, "next_topics": [f"t{number}" for number in range(250)]},
        "attachments": {
            "data": 1, "next": [{"topic": "t", "data": 1, "attachment": "attached"} for _ in range(250)],
        },
    }
    json.dump(output["KIND"], open(args["--output"], "w"))
"""


@pytest.mark.parametrize("victim", ["attached", "job_data/*-output.json.*"], ids=["attachment", "output"])
def test_a_file_that_is_cut_off_while_it_is_sent_ends_no_worker(
    project: Project, valkey_server: Server, victim: str
) -> None:
    project.topic("sends", SENDS)
    (project.root / "wait").touch()
    with project.worker() as worker, closing(valkey_server.client()) as server:
        job_id = project.create("sends", 0)
        until((project.root / "running").exists, 30, "the handler runs")
        server.client_pause(60_000, all=False)
        (project.root / "wait").unlink()
        until(lambda: list(project.job_data.glob("*-metadata.json.*")), 30, "it is judged, and the first portion sent")
        (path,) = project.root.glob(victim)
        path.open("wb").close()  # as any process of another job may
        server.client_unpause()
        until(lambda: worker.poll() is not None or project.ends(job_id) == ["succeeded"], 30, "it is settled")
        assert worker.poll() is None, f"the worker ended with {worker.returncode}"
        (child,) = project.metadata(job_id)["next_job_ids"]
        with project.client() as client:
            assert client.broker.attachment(child) == b"a" * LARGE_BYTES
            assert client.get(child).data == b'"' + b"d" * LARGE_BYTES + b'"'


@pytest.mark.parametrize("kind", ["topics", "attachments"])
def test_a_worker_does_not_grow_with_what_it_sends(project: Project, kind: str) -> None:
    project.topic("fans-out", FANS_OUT.replace("KIND", kind))
    project.topic("plain", PLAIN)
    with project.worker() as worker:
        small = project.create("fans-out", 1)
        until(lambda: project.ends(small) == ["succeeded"], 30, "the first is done")
        before_mb = _most_mb(worker)
        large = project.create("fans-out", 900_000)
        until(lambda: project.ends(large) == ["succeeded"], 60, "the large one is done")
        assert len(project.metadata(large)["next_job_ids"]) == 250
        assert _most_mb(worker) - before_mb <= GROWTH_MB


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.parametrize("command", ["logs", "show"])
def test_a_command_does_not_grow_with_what_it_shows(project: Project, command: str) -> None:
    project.job_data.mkdir()
    for job_id, lines in (("small", 1), ("large", 1_000_000)):
        (project.job_data / f"{job_id}-metadata.json").write_text(json.dumps(told(job_id)))
        (project.job_data / f"{job_id}-input.json").write_text("1")
        for kind in ("stdout.log", "stderr.log", "output.json"):
            (project.job_data / f"{job_id}-{kind}").write_text(f"{'x' * 59}\n" * lines)
    grew = _needs_mb(project, command, "large") - _needs_mb(project, command, "small")
    assert grew <= 60 / 4
    if command == "show":
        assert "[... 59998000 more bytes]" in project.sjq("show", "large").stdout
    else:
        done = project.sjq("logs", "large")
        assert done.stdout == done.stderr == f"{'x' * 59}\n" * 1_000_000


def _needs_mb(project: Project, *command: str) -> float:
    """Return the most memory that a command needs. The kernel counts in what forked it: so a small process does."""
    measure = [sys.executable, "-c", MEASURE, SJQ, *command]
    return int(subprocess.check_output(measure, cwd=project.root, env=project.environ)) / 1000


def _most_mb(worker: subprocess.Popen[bytes]) -> float:
    """Return the most memory that a worker had until now."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    assert found
    return int(found[1]) / 1000
