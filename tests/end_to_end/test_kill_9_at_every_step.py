from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import until

from end_to_end import kill_at
from end_to_end.project import PLAIN, Project

HANDLER = """
    import json, os, pathlib, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    first = os.environ["SJQ_ATTEMPT"] == "1"
    pathlib.Path("running").touch()
    while first and pathlib.Path("wait").exists():
        time.sleep(0.01)
    with open(args["--output"], "w") as file:
        json.dump({"data": os.environ["SJQ_ATTEMPT"], "next_topic": "child"}, file)
"""
SETTLED = ("after settle", "before publish", "in publish", "after publish")
NOT_YET_TAKEN = ("before take",)


@pytest.mark.parametrize("step", kill_at.STEPS)
def test_nothing_is_lost_doubled_or_left_behind(project: Project, step: str) -> None:
    project.topic("parent", HANDLER)
    project.topic("child", PLAIN)
    if step == "in run":
        (project.root / "wait").touch()
    job_id = project.create("parent", {"n": 1})
    log = _killed_worker(project, step)
    pids = [int(pid) for pid in re.findall(r"-(\d+)-\d+-[a-z2-7]{6} serves", log)]
    assert len(pids) == 1

    project.burst("--topics", "parent", "child")

    assert project.ends(job_id) == ["succeeded"]
    attempt = 1 if step in (*SETTLED, *NOT_YET_TAKEN) else 2
    record = project.metadata(job_id)
    assert (record["attempt"], record["state"]) == (attempt, "succeeded")
    assert project.output(job_id)["data"] == str(attempt)
    assert [entry["end"] for entry in record["attempts"]] == ["lost"] * (attempt - 1)
    with project.client() as client:
        children = [e.job_id for e in client.events(limit=1000) if e.event == "created" and "parent" in e.details]
    assert record["next_job_ids"] == children
    assert len(children) == 1
    assert project.ends(children[0]) == ["succeeded"]
    assert sorted(project.names()) == sorted(
        f"{name}-{kind}.json" for name in (job_id, *children) for kind in ("input", "output", "metadata")
    )
    with project.client() as client:
        job = client.broker.get(job_id)
        assert job is not None
        assert job.fence
        left = client.broker.server.client.ttl(client.broker.keys.job_state(job_id))  # type: ignore[attr-defined]
        assert 0 < left <= 600, "the publish was confirmed"


def _killed_worker(project: Project, step: str) -> str:
    """Run a worker until it dies at the step; return what it said."""
    mark = project.root / "died"
    worker = subprocess.Popen(
        [sys.executable, kill_at.__file__, step, "1", str(mark), "worker", "--topics", "parent", "--burst"],
        cwd=project.root,
        env=project.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == -signal.SIGKILL, log
    assert mark.read_text() == step
    return log


def test_the_processes_of_a_killed_worker_die_with_it(project: Project) -> None:
    """Those that left the handler's session too; recovery waits until the last is gone."""
    project.topic(
        "family",
        """
        import os, subprocess, sys, time
        if os.environ["SJQ_ATTEMPT"] == "1":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            open("pids", "w").write(f"{os.getpid()} {child.pid}")
            os.rename("pids", "pids_done")
            time.sleep(600)
        open(sys.argv[4], "w").write('{"data": 1}')
        """,
    )
    job_id = project.create("family", 1)
    with project.worker("--topics", "family") as worker:
        until((project.root / "pids_done").exists, 30, "the handler runs")
        worker.kill()
        worker.wait()
    pids = (project.root / "pids_done").read_text().split()
    project.burst("--topics", "family")
    assert not [pid for pid in pids if _lives(pid)]
    assert project.ends(job_id) == ["succeeded"]
    assert project.metadata(job_id)["attempt"] == 2


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
