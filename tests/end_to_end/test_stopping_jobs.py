"""Cancelling jobs, and pausing and halting topics, as people do it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

from servers import until

from end_to_end.project import PLAIN, SJQ, Project
from sjq.states import State

STUBBORN = """
    import os, pathlib, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path(f"pids-{os.environ['SJQ_JOB_ID']}.part").write_text(f"{os.getpid()} {child.pid}")
    os.rename(f"pids-{os.environ['SJQ_JOB_ID']}.part", f"pids-{os.environ['SJQ_JOB_ID']}")
    time.sleep(600)
"""
STOPS_WHEN_TOLD = STUBBORN.replace("signal.SIG_IGN", "lambda *_: os.kill(os.getppid(), signal.SIGSTOP)")
STOPS_ITS_KEEPER = STUBBORN.replace(
    "    time.sleep(600)\n", "    os.kill(os.getppid(), signal.SIGSTOP)\n    time.sleep(600)\n"
)
FAILS = "raise SystemExit('broken')"


def _pids(project: Project, job_id: str) -> list[str]:
    file = project.root / f"pids-{job_id}"
    until(file.exists, 20, "the handler runs")
    return file.read_text().split()


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_running_job_is_stopped_with_all_its_processes(project: Project) -> None:
    project.topic("stubborn", STUBBORN)
    job_id = project.create("stubborn", 1)
    with project.worker():
        pids = _pids(project, job_id)
        began = time.monotonic()
        assert project.sjq("cancel", job_id).stdout == f"{job_id} cancelled\n"
        assert time.monotonic() - began < 2 + 1 + 1, "an answer within 2 s, after kill_after, and a command's start"
        assert not [pid for pid in pids if _lives(pid)]
        until(lambda: "cancelled" in project.log, 5, "the worker says so")
        assert project.sjq("cancel", job_id).stdout == f"{job_id} cancelled\n"
    record = project.metadata(job_id)
    assert (record["state"], record["reason"]["code"]) == ("cancelled", "cancelled")
    assert record["reason"]["why"].startswith("cancelled by ")
    assert project.ends(job_id) == ["cancelled"]


def test_a_job_that_stops_its_keeper_is_stopped_all_the_same(project: Project) -> None:
    project.configure(topics={"stops": {"timeout": "1s", "losses": 1}})
    project.topic("stops", STOPS_ITS_KEEPER)
    project.topic("stops-when-told", STOPS_WHEN_TOLD)
    job_id = project.create("stops", 1)
    with project.worker():
        until(lambda: project.ends(job_id) == ["lost"], 20, "it escapes no timeout")
        other = project.create("stops-when-told", 1)
        _pids(project, other)
        assert project.sjq("cancel", other).stdout == f"{other} cancelled\n", "while the command waits"
    for pid in _pids(project, job_id) + _pids(project, other):
        assert not _lives(pid)
    reason = project.metadata(job_id)["reason"]
    assert reason["code"] == "lost"
    assert "the keeper of its processes was killed, or stopped" in reason["why"]


def test_what_waits_is_cancelled_at_once_and_goes_back_by_its_id_alone(project: Project) -> None:
    project.topic("plain", PLAIN)
    first, second = project.create("plain", 1), project.create("plain", 2)
    project.sjq("cancel", first)
    project.burst()
    assert project.show(first)["state"] == "cancelled"
    assert project.output(second) == {"data": 2}
    told = "0 sent back\n1 of plain were cancelled: sjq retry --job ID sends one back\n"
    assert project.sjq("retry", "plain").stderr == told
    assert project.sjq("retry", "--job", first).stdout == f"{first}\n"
    project.burst()
    assert project.output(first) == {"data": 1}
    assert project.ends(first) == ["cancelled", "succeeded"]


def test_what_has_ended_cannot_be_cancelled(project: Project) -> None:
    project.topic("plain", PLAIN)
    job_id = project.create("plain", 1)
    project.burst()
    refused = project.sjq("cancel", job_id, code=5)
    assert "is succeeded: only a job that has not ended can be cancelled" in refused.stderr
    project.sjq("cancel", "no-such-job", code=3)


def test_a_job_whose_worker_does_not_answer_is_cancelled_when_it_does(project: Project) -> None:
    project.configure(worker={"lease": "2s"})
    project.topic("stubborn", STUBBORN)
    job_id = project.create("stubborn", 1)
    with project.worker() as worker:
        _pids(project, job_id)
        worker.kill()
        worker.wait()
        said = project.sjq("cancel", job_id, code=5)
        assert re.search(r"will be cancelled; its worker \S+ is gone: the next worker of stubborn stops", said.stdout)
        assert "1 of 1 may still run" in said.stderr
    project.burst()
    assert project.show(job_id)["state"] == "cancelled"
    assert project.ends(job_id) == ["cancelled"]


def test_a_paused_topic_waits_and_says_so(project: Project) -> None:
    project.topic("plain", PLAIN)
    project.sjq("pause", "plain")
    job_id = project.create("plain", 1)
    said = project.burst()
    assert "plain is paused, left: 1; sjq resume plain" in said
    status = json.loads(project.sjq("status", "--json").stdout)["topics"]
    assert " paused it at " in status[0]["stopped"]
    assert "plain is stopped, its jobs wait: " in project.sjq("status").stdout
    assert "its topic is stopped" in project.sjq("show", job_id).stdout
    assert re.fullmatch(r"plain goes on, after \S+ paused it at \S+\n", project.sjq("resume", "plain").stdout)
    assert project.sjq("resume", "plain").stdout == "plain was not stopped\n"
    project.burst()
    assert project.output(job_id) == {"data": 1}


def test_a_worker_goes_on_as_soon_as_its_topic_is_resumed(project: Project) -> None:
    project.topic("plain", PLAIN)
    with project.worker():
        project.sjq("pause", "plain")
        job_id = project.create("plain", 1)
        assert project.show(job_id)["state"] == "incoming"
        project.sjq("resume", "plain")
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "it goes on")


def test_a_topic_halts_at_its_first_failed_job(project: Project) -> None:
    project.configure(topics={"fails": {"on_failure": "halt"}})
    project.topic("fails", FAILS)
    project.topic("plain", PLAIN)
    first, second, other = project.create("fails", 1), project.create("fails", 2), project.create("plain", 3)
    said = project.burst(code=1)
    assert "fails is halted, left: 1; sjq resume fails" in said
    assert (project.show(first)["state"], project.show(second)["state"]) == ("failed", "incoming")
    assert project.output(other) == {"data": 3}
    assert f"because {first} failed" in project.sjq("status").stdout
    project.topic("fails", PLAIN)
    told = (
        f"fails is stopped, its jobs wait: it halted at .* because {first} failed; sjq resume fails lets them be taken"
    )
    assert re.search(told, project.sjq("retry", "fails").stderr)
    assert f"because {first} failed" in project.sjq("resume", "fails").stdout
    project.burst()
    assert [project.output(job_id) for job_id in (first, second)] == [{"data": 1}, {"data": 2}]


def test_cancelling_many_says_what_became_of_each(project: Project) -> None:
    project.topic("plain", PLAIN)
    ids = [project.create("plain", number) for number in range(3)]
    project.sjq("cancel", ids[0])
    done = subprocess.run(
        [SJQ, "cancel", *ids], cwd=project.root, env=project.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{job_id} cancelled" for job_id in ids]


def test_a_cancel_is_heard_of_a_job_that_is_still_being_fetched(project: Project) -> None:
    """It is `processing` already, and its worker does not have it yet."""
    project.configure(worker={"lease": "60s"})
    project.topic("stubborn", STUBBORN)
    with project.worker(), project.client() as client:
        job_id = client.create("stubborn", attachment=bytes(200_000_000))
        until(lambda: (job := client.broker.get(job_id)) and job.state is State.PROCESSING, 20, "its worker takes it")
        client.broker.cancel(job_id, "so")
        until(lambda: project.ends(job_id) == ["cancelled"], 10, "its worker hears of it, long before the next beat")
