"""What happens around a worker: other workers, new topics, a broker that goes away and comes back."""

from __future__ import annotations

import os
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis
from servers import Server, until

from end_to_end.project import PLAIN, Project

WAITS = """
    import os, pathlib, sys, time
    pathlib.Path("running").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    open(sys.argv[4], "w").write('{"data": %s}' % os.environ["SJQ_ATTEMPT"])
"""


def test_a_second_worker_stands_by_and_takes_over_when_the_first_is_killed(project: Project) -> None:
    project.topic("t", PLAIN)
    with project.worker() as first:
        until(lambda: "serves t" in project.log, 30, "the first worker has the topic")
        with project.worker() as second:
            until(lambda: "serves no topic yet" in project.log, 30, "the second stands by")
            first.kill()
            first.wait()
            job_id = project.create("t", 1)
            until(lambda: project.ends(job_id) == ["succeeded"], 30, "the second takes over")
            assert f"-{second.pid}-" in project.metadata(job_id)["worker"]


def test_topics_that_appear_while_a_worker_runs_are_served(project: Project) -> None:
    project.topic("early", PLAIN)
    with project.worker():
        project.topic("late", PLAIN)
        job_id = project.create("late", 1)
        until(lambda: project.ends(job_id) == ["succeeded"], 30, "the new topic is served")


def test_a_changed_script_is_what_the_next_job_runs(project: Project) -> None:
    project.topic("t", PLAIN)
    with project.worker():
        first = project.create("t", 1)
        until(lambda: project.ends(first) == ["succeeded"], 30, "the first job ends")
        project.topic("t", "import sjq\n@sjq.job\ndef f(data):\n    return 'changed'\n")
        second = project.create("t", 2)
        until(lambda: project.ends(second) == ["succeeded"], 30, "the second job ends")
        until((project.job_data / f"{second}-metadata.json").exists, 10, "its record is published")
    assert project.output(second) == {"data": "changed"}
    assert project.metadata(first)["script_sha256"] != project.metadata(second)["script_sha256"]


def test_a_worker_rides_out_a_restart_of_the_broker_and_settles_what_ran_meanwhile(tmp_path: Path) -> None:
    with Server("valkey", "--appendonly", "yes", "--appendfsync", "always") as server:
        project = Project(tmp_path / "project", redis=server.url, prefix=f"{secrets.token_hex(4)}:")
        project.topic("t", WAITS)
        job_id = project.create("t", 1)
        with project.worker() as worker:
            until((project.root / "running").exists, 30, "the handler runs")
            server.end(signal.SIGKILL)
            until(lambda: "the broker is away" in project.log, 30, "the worker notices")
            (project.root / "go").touch()
            assert "cannot be reached" in project.sjq("status", code=6).stderr
            server.start()
            until(lambda: "the broker answers again" in project.log, 30, "the worker is connected again")
            until(lambda: project.ends(job_id) == ["succeeded"], 30, "the job is settled")
            second = project.create("t", 2)
            until(lambda: project.ends(second) == ["succeeded"], 30, "new jobs are taken")
            assert worker.poll() is None
        assert project.metadata(job_id)["attempt"] == 1


def test_a_record_of_a_job_that_was_taken_away_is_never_published(project: Project) -> None:
    """The lease is lost while the handler runs: its tree is killed, and its files are deleted."""
    project.configure(worker={"lease": "1.5s"})
    project.topic("t", WAITS)
    job_id = project.create("t", 1)
    with project.worker():
        until((project.root / "running").exists, 30, "the handler runs")
        server = redis.Redis.from_url(project.settings["redis"])
        server.hset(f"{project.settings['prefix']}job_state:{job_id}", "fence", "somebody-else.1")
        until(lambda: "given to another worker" in project.log, 30, "the worker gives up")
        until(lambda: project.names() == {f"{job_id}-input.json"}, 10, "its files are deleted")


def test_ten_commands_at_once_start_one_embedded_server(serverless: Project) -> None:
    serverless.topic("t", PLAIN)
    with ThreadPoolExecutor(10) as threads:
        jobs = list(threads.map(lambda number: serverless.create("t", number), range(10)))
    log = serverless.burst()
    assert log.count("succeeded") == 10
    assert {serverless.output(job_id)["data"] for job_id in jobs} == set(range(10))


def test_a_client_works_in_a_forked_child_and_from_many_threads(project: Project) -> None:
    with project.client() as client:
        client.create("t", "parent")
        child = os.fork()
        if child == 0:
            client.create("t", "child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: client.create("t", number), range(100)))
        assert client.counts()["t"]["incoming"] == 102  # type: ignore[index]
