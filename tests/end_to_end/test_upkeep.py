"""sjq fsck and sjq prune as a person calls them, beside workers at work, and killed on their way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from servers import until
from unit.told import told

from end_to_end.project import PLAIN, Project
from sjq.records import file_name
from sjq.states import State

KILLED = """
import os, signal, sys
from sjq.cli import main
from sjq.job_data import JobData
from sjq import job_data

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

left = int(sys.argv[1])
original = job_data.remove
def remove(path):
    global left
    if left == 0:
        die()
    left -= 1
    original(path)
job_data.remove = remove
sys.argv[1:] = sys.argv[2:]
main()
"""
"""`sjq` that is killed when it is about to remove its Nth file."""


def record(project: Project, job_id: str, age: timedelta, state: str = "succeeded", topic: str = "old") -> None:
    """Leave the record of a job that ended long ago."""
    project.job_data.mkdir(exist_ok=True)
    end = datetime.now(UTC) - age
    facts = told(job_id, topic=topic, state=state, end_time=end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    files = {
        "input.json": "1",
        "output.json": '{"data": 1}',
        "metadata.json": json.dumps(facts),
        "stdout.log": "x" * 1000,
    }
    for kind, text in files.items():
        path = project.job_data / f"{file_name(job_id)}-{kind}"
        path.write_text(text)
        os.utime(path, (end.timestamp(),) * 2)


def ids_here(project: Project) -> set[str]:
    with project.client() as client:
        return set(client.records.names())


# prune


def test_a_person_looks_first_and_prunes_then(project: Project) -> None:
    project.topic("t", PLAIN)
    project.topic("bad", "raise SystemExit(1)")
    young, failed = project.create("t", 1), project.create("bad", 1)
    project.burst()
    for number in range(3):
        record(project, f"old-{number}", timedelta(days=40))
    looked = project.sjq("prune", "--older-than", "30d")
    assert re.fullmatch(r"old +succeeded +3  4\.\d KB", looked.stdout.splitlines()[1])
    assert re.fullmatch(r"to be pruned: 3 jobs with 4\.\d KB; --yes does it\n", looked.stderr)
    assert len(ids_here(project)) == 5
    assert project.sjq("prune", "--older-than", "30d", "--yes").stderr.startswith("pruned: 3 jobs with 4.")
    assert ids_here(project) == {young, failed}
    assert "1 job with" in project.sjq("prune", "--older-than", "0s", "--state", "failed", "--yes").stderr
    assert project.names() == {f"{young}-{kind}.json" for kind in ("input", "output", "metadata")}
    project.sjq("prune", "--size", "0", "--yes")
    assert project.names() == set()
    assert project.sjq("show", young).stdout, "what is left of a success in the broker lasts for ten minutes"
    project.sjq("show", failed, code=3)


def test_what_was_sent_back_stays_and_runs(project: Project) -> None:
    project.topic(
        "t",
        """
        import os, sys
        if os.environ["SJQ_ATTEMPT"] == "1":
            sys.exit(1)
        open(sys.argv[4], "w").write('{"data": 1}')
        """,
    )
    job_id = project.create("t", 1)
    project.burst()
    project.sjq("retry", "t")
    assert "0 jobs" in project.sjq("prune", "--older-than", "0s", "--yes").stderr
    assert project.metadata(job_id)["state"] == "failed"
    project.burst()
    assert project.metadata(job_id)["state"] == "succeeded"


def test_without_options_the_rules_of_the_configuration_hold(project: Project) -> None:
    assert "nothing says what is old" in project.sjq("prune", code=2).stderr
    project.configure(defaults={"retention": {"succeeded": "30d"}}, topics={"kept": {"retention": {}}})
    record(project, "a", timedelta(days=40))
    record(project, "b", timedelta(days=40), topic="kept")
    record(project, "c", timedelta(days=20))
    record(project, "d", timedelta(days=40), state="failed")
    project.sjq("prune", "--yes")
    assert ids_here(project) == {"b", "c", "d"}
    project.configure(records={"size": "2kB"})
    project.sjq("prune", "--topic", "old", "--yes")
    assert ids_here(project) == {"b"}


def test_a_worker_prunes_by_the_rules_now_and_then(project: Project) -> None:
    project.configure(defaults={"retention": {"succeeded": "30d"}})
    project.topic("t", PLAIN)
    for number in range(50):
        record(project, f"old-{number}", timedelta(days=40))
    record(project, "young", timedelta(days=20))
    with project.worker():
        until(lambda: ids_here(project) == {"young"}, 20, "the pruning")
        until(lambda: "pruned 50 old jobs, as configured" in project.log, 5, "its line in the log")
    record(project, "old-again", timedelta(days=40))
    project.create("t", 1)
    project.burst()
    assert "old-again" in ids_here(project), "not at every start"


def test_a_worker_says_how_many_of_those_that_made_room_had_failed(project: Project) -> None:
    project.configure(records={"size": "1kB"})
    project.topic("t", PLAIN)
    for number in range(4):
        record(project, f"good-{number}", timedelta(days=1))
    record(project, "bad", timedelta(days=2), state="timedout")
    with project.worker():
        said = "pruned 5 old jobs, 1 of them failed or timedout, as configured"
        until(lambda: said in project.log, 20, "its line in the log")
    assert project.names() == set()


def test_without_rules_a_worker_removes_nothing(project: Project) -> None:
    project.topic("t", PLAIN)
    record(project, "old", timedelta(days=4000))
    project.create("t", 1)
    project.burst()
    assert "old" in ids_here(project)
    assert not (project.root / ".sjq" / "pruning").exists()


@pytest.mark.parametrize("removed", [0, 1, 3, 6, 7, 50])
def test_what_a_killed_prune_left_is_pruned_by_the_next(project: Project, removed: int) -> None:
    for number in range(30):
        record(project, f"old-{number:02}", timedelta(days=40))
    record(project, "young", timedelta(days=20))
    command = [sys.executable, "-c", KILLED, str(removed), "prune", "--older-than", "30d", "--yes"]
    killed = subprocess.run(command, cwd=project.root, env=project.environ, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(project.names()) > 8
    assert project.sjq("fsck").stderr == "nothing is wrong\n"
    project.sjq("prune", "--older-than", "30d", "--yes")
    assert {name.partition("-")[0] for name in project.names()} == {"young"}


def test_a_job_that_left_no_metadata_is_found_again_after_a_kill(project: Project) -> None:
    """The broker has forgotten it, and only its input is there."""
    with project.client() as client:
        job_id = client.create("t", 1)
        lease = client.broker.take("t", "w", "w.1")
        client.broker.recover("t", dead=["w"], expired=[], losses=1)
        assert lease
        assert client.get(job_id).state is State.FAILED
    project.job_data.mkdir()
    (project.job_data / f"{job_id}-input.json").write_text("1")
    os.utime(project.job_data / f"{job_id}-input.json", (1, 1))
    command = [sys.executable, "-c", KILLED, "0", "prune", "--older-than", "0s", "--yes"]
    killed = subprocess.run(command, cwd=project.root, env=project.environ, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with project.client() as client:
        assert client.broker.get(job_id) is None
    assert project.names() == {f"{job_id}-input.json"}
    project.sjq("prune", "--older-than", "0s", "--yes")
    assert project.names() == set()


def test_pruning_beside_a_worker_at_work_does_not_touch_what_it_does(project: Project) -> None:
    project.topic("t", PLAIN)
    for number in range(400):
        record(project, f"old-{number:03}", timedelta(days=40))
    with project.client() as client:
        ids = list(client.create_many("t", range(40)))
        with project.worker("--concurrency", "2"):
            rounds = 0
            while client.counts()["t"][State.SUCCEEDED] < len(ids):
                project.sjq("prune", "--older-than", "30d" if rounds % 2 else "1h", "--yes")
                rounds += 1
        assert ids_here(project) == set(ids)
        assert [project.ends(job_id) for job_id in ids] == [["succeeded"]] * len(ids)
    assert len(project.names()) == 3 * len(ids)


# fsck


def test_a_sound_project_has_nothing_wrong(serverless: Project) -> None:
    assert serverless.sjq("fsck").stderr == "nothing is wrong\n"
    serverless.topic("t", PLAIN)
    serverless.create("t", 1)
    serverless.burst()
    serverless.create("t", 2)
    assert serverless.sjq("fsck").stderr == "nothing is wrong\n"
    assert json.loads(serverless.sjq("fsck", "--repair", "--json").stdout) == {"findings": [], "left": 0}


def test_what_is_found_is_told_mended_and_gone(project: Project) -> None:
    project.topic("t", PLAIN)
    job_id = project.create("t", 1)
    with project.client() as client:
        client.broker.server.client.rpush(client.broker.keys.incoming("t"), job_id)  # type: ignore[attr-defined]
    looked = project.sjq("fsck", code=1)
    assert looked.stdout == f"found   {job_id} is in incoming:t 2 times -> once is left\n"
    assert looked.stderr == "1 found, 1 that --repair mends\n"
    (told,) = json.loads(project.sjq("fsck", "--json", code=1).stdout)["findings"]
    assert (told["code"], told["job_id"], told["mended"]) == ("twice", job_id, False)
    assert project.sjq("fsck", "--repair").stdout.startswith("mended  ")
    assert project.sjq("fsck").stdout == ""
    (project.job_data).mkdir(exist_ok=True)
    (project.job_data / "x-metadata.json").write_text("{")
    assert project.sjq("fsck", "--repair", code=1).stderr == "1 found, 1 for people to decide\n"


def test_the_jobs_of_a_killed_worker_are_taken_back(project: Project) -> None:
    project.topic("t", "import time, pathlib\npathlib.Path('running').touch()\ntime.sleep(600)")
    job_id = project.create("t", 1)
    with project.worker() as worker:
        until((project.root / "running").exists, 30, "the handler runs")
        assert project.sjq("fsck", "--repair").stderr == "nothing is wrong\n"
        worker.kill()
        worker.wait()
    looked = until(lambda: project.sjq("fsck", "--json", code=1), what="the worker is dead")
    assert {finding["code"] for finding in json.loads(looked.stdout)["findings"]} >= {"lost", "lock", "worker"}
    project.sjq("fsck", "--repair")
    assert project.sjq("fsck").stderr == "nothing is wrong\n"
    with project.client() as client:
        assert client.get(job_id).state is State.INCOMING


def test_fsck_beside_workers_at_work_finds_and_changes_nothing(project: Project) -> None:
    project.topic(
        "t",
        """
        import json, os, sys
        args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        data = json.load(open(args["--input"]))
        if data % 5 == 4 and os.environ["SJQ_ATTEMPT"] == "1":
            sys.exit(1)
        print("x" * 100_000)
        json.dump({"data": data, "next_topic": "u"}, open(args["--output"], "w"))
        """,
    )
    project.topic("u", PLAIN)
    found: list[str] = []
    ending = threading.Event()

    def check() -> None:
        while not ending.is_set():
            done = project.sjq("fsck", "--repair", "--json")
            found.extend(json.loads(done.stdout)["findings"])

    with project.client() as client:
        ids = list(client.create_many("t", range(60)))
        with project.worker("--concurrency", "2"):
            checking = threading.Thread(target=check)
            checking.start()
            try:
                deadline = time.monotonic() + 50
                while client.counts()["u"][State.SUCCEEDED] < len(ids):
                    client.retry(["t"])
                    assert time.monotonic() < deadline, client.counts()
                    time.sleep(0.2)
            finally:
                ending.set()
                checking.join()
        assert found == []
        assert [project.ends(job_id)[-1] for job_id in ids] == ["succeeded"] * len(ids)
        assert len(ids_here(project)) == 2 * len(ids)
        assert not [event for event in client.events(limit=100_000) if event.event in ("dropped", "recovered", "lost")]
