"""What happens around a worker: other workers, new topics, a broker that goes away and comes back."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from servers import Server, until

from end_to_end.project import PLAIN, SJQ, Project

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


def test_a_worker_notices_within_a_lease_that_nobody_answers_and_goes_on(tmp_path: Path) -> None:
    """A half-open connection is not closed, and says nothing: only the wait for an answer tells."""
    with Server("valkey") as server:
        project = Project(tmp_path / "project", redis=server.url, worker={"lease": "6s"})
        project.topic("t", WAITS)
        job_id = project.create("t", 1)
        with project.worker():
            until((project.root / "running").exists, 30, "the handler runs")
            server.freeze()
            try:
                (project.root / "go").touch()
                until(lambda: "the broker is away" in project.log, 2 * 6, "the worker notices")
            finally:
                server.thaw()
            until(lambda: project.ends(job_id) == ["succeeded"], 30, "the job is settled")


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


def test_an_end_that_comes_after_the_job_was_taken_away_publishes_nothing(project: Project) -> None:
    """The lease is lost, and the attempt ends well before its worker hears of it."""
    project.configure(worker={"lease": "10m"})
    project.topic("t", WAITS)
    job_id = project.create("t", 1)
    with project.worker():
        until((project.root / "running").exists, 30, "the handler runs")
        server = redis.Redis.from_url(project.settings["redis"])
        server.hset(f"{project.settings['prefix']}job_state:{job_id}", "fence", "somebody-else.1")
        (project.root / "go").touch()
        until(lambda: "given to another worker" in project.log, 30, "the worker gives up")
    assert project.names() == {f"{job_id}-input.json"}


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


def test_an_end_that_the_broker_refuses_fails_its_job_and_no_other(project: Project) -> None:
    """Another program's key stands where the next job would wait."""
    redis.Redis.from_url(project.settings["redis"]).set(f"{project.settings['prefix']}incoming:nxt", "hello")
    project.topic("t", "import sjq\n@sjq.job\ndef f(data):\n    print('did it')\n    return data, 'nxt'\n")
    jobs = [project.create("t", number) for number in range(3)]
    project.burst("--topics", "t")
    for job_id in jobs:
        record = project.metadata(job_id)
        assert (record["state"], record["reason"]["code"], record["stdout"]) == ("failed", "output", "did it\n")
        assert "incoming:nxt" in record["reason"]["why"]
        assert record["next_job_ids"] == []


def test_limit_finds_the_one_job_whichever_slot_looks_first(project: Project) -> None:
    project.topic("empty", PLAIN)
    project.topic("full", PLAIN)
    for _ in range(5):
        job_id = project.create("full", 1)
        project.sjq("worker", "--topics", "empty", "full", "--concurrency", "3", "--limit", "1", seconds=20)
        assert project.ends(job_id) == ["succeeded"]


def test_a_stop_while_a_lock_is_waited_for_runs_nothing(project: Project) -> None:
    project.topic("t", PLAIN)
    job_id = project.create("t", 1)
    server = redis.Redis.from_url(project.settings["redis"])
    server.set(f"{project.settings['prefix']}lock:t", "elsewhere-boot-1-1-abcdef", px=60_000)
    log = (project.root / "worker.log").open("ab")
    with (
        log,
        subprocess.Popen([SJQ, "worker", "--topics", "t"], cwd=project.root, env=project.environ, stderr=log) as worker,
    ):
        until(lambda: "for what worker" in project.log, 30, "the worker waits")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    assert project.ends(job_id) == []
    assert project.show(job_id)["state"] == "incoming"


def test_a_keeper_that_died_between_two_jobs_costs_nothing(project: Project) -> None:
    project.topic("t", "import os\nprint(os.getppid())\n" + textwrap.dedent(PLAIN))
    with project.worker("--topics", "t"):
        first = project.create("t", 1)
        until((project.job_data / f"{first}-metadata.json").exists, 30, "the first job ends")
        os.kill(int(project.metadata(first)["stdout"]), signal.SIGKILL)
        second = project.create("t", 2)
        until((project.job_data / f"{second}-metadata.json").exists, 30, "the second job ends")
    assert project.metadata(second)["state"] == "succeeded"


def test_an_outage_longer_than_a_lease_gives_nobodys_topic_away(tmp_path: Path) -> None:
    with Server("valkey", "--appendonly", "yes", "--appendfsync", "always") as server:
        lease = {"lease": "1.5s"}
        project = Project(tmp_path / "project", redis=server.url, prefix=f"{secrets.token_hex(4)}:", worker=lease)
        project.topic("t", WAITS)
        job_id = project.create("t", 1)
        with project.worker() as first:
            until((project.root / "running").exists, 30, "the handler runs")
            with project.worker():
                until(lambda: "stands by for t" in project.log, 30, "the second stands by")
                server.end()
                gone = time.monotonic()
                until(lambda: time.monotonic() > gone + 2, 10, "more than a lease passes")
                server.start()
                until(lambda: project.log.count("answers again") == 2, 30, "both are connected again")
                (project.root / "go").touch()
                until((project.job_data / f"{job_id}-metadata.json").exists, 30, "the job ends")
                assert "was taken over" not in project.log
        assert project.metadata(job_id)["attempt"] == 1
        assert f"-{first.pid}-" in project.metadata(job_id)["worker"]


def test_a_job_that_is_leased_to_a_worker_which_never_heard_of_it_is_released(project: Project) -> None:
    """As a take leaves it that reached the server after its own repetition."""
    project.configure(worker={"lease": "1.5s"})
    project.topic("t", PLAIN)
    server, prefix = redis.Redis.from_url(project.settings["redis"]), project.settings["prefix"]
    with project.worker("--topics", "t"):
        worker = server.get(f"{prefix}lock:t")
        assert isinstance(worker, bytes)
        fields: dict[Any, Any] = {
            "state": "processing",
            "worker": worker,
            "fence": worker + b".999",
            "attempt": 1,
            "topic": "t",
        }
        with server.pipeline() as step:
            step.set(f"{prefix}job_data:stray", '{"data": 1}')
            step.hset(f"{prefix}job_state:stray", mapping=fields)
            step.rpush(f"{prefix}processing:t", "stray")
            step.execute()
        until(lambda: project.ends("stray") == ["succeeded"], 30, "the job runs")
    assert "runs nowhere" in project.log


SILENT = "elsewhere-boot-1-1-abcdef"
"""A worker on another host that has a job and does not renew."""


def leased_to_the_silent(project: Project) -> redis.Redis:
    """Return a client, having created a job on `t` and leased it as a worker that was cut off leaves it."""
    server, prefix = redis.Redis.from_url(project.settings["redis"]), project.settings["prefix"]
    project.topic("t", PLAIN)
    with server.pipeline() as step:
        step.set(f"{prefix}job_data:j", '{"data": 1}')
        step.hset(f"{prefix}job_state:j", mapping={"state": "processing", "topic": "t", "worker": SILENT, "attempt": 1})
        step.hset(f"{prefix}job_state:j", "fence", f"{SILENT}.1")
        step.rpush(f"{prefix}processing:t", "j")
        step.execute()
    return server


@pytest.mark.parametrize("arguments", [(), ("--topics", "t")])
def test_a_topic_of_a_silent_worker_is_taken_after_one_lease(project: Project, arguments: tuple[str, ...]) -> None:
    project.configure(worker={"lease": "1.5s"})
    leased_to_the_silent(project)
    second = project.create("t", 2)
    log = project.burst(*arguments)
    assert SILENT in log.split("started")[0]
    assert [project.ends("j"), project.ends(second)] == [["succeeded"], ["succeeded"]]
    assert project.metadata("j")["attempt"] == 2
    assert project.metadata("j")["end_time"] < project.metadata(second)["start_time"]


def test_a_silent_worker_that_comes_back_in_time_keeps_its_topic(project: Project) -> None:
    server, prefix = leased_to_the_silent(project), project.settings["prefix"]
    log = (project.root / "worker.log").open("ab")
    command = [SJQ, "worker", "--topics", "t"]
    with log, subprocess.Popen(command, cwd=project.root, env=project.environ, stderr=log) as worker:
        until(lambda: f"for what worker {SILENT} left" in project.log, 30, "the worker waits")
        server.hset(f"{prefix}worker:{SILENT}", "host", "elsewhere")
        server.set(f"{prefix}lock:t", SILENT, px=60_000)
        assert worker.wait(10) == 5
    assert project.show("j")["worker"] == SILENT


def test_a_topic_is_taken_as_soon_as_the_last_process_of_its_dead_worker_has_ended(project: Project) -> None:
    """A keeper outlives its worker for as long as the system lets it wait."""
    project.configure(worker={"lease": "60s"})
    project.topic("t", WAITS)
    job_id = project.create("t", 1)
    with project.worker() as first:
        until((project.root / "running").exists, 30, "the handler runs")
        keepers = [process.pid for process in psutil.Process(first.pid).children(recursive=True)]
        for pid in keepers:
            os.kill(pid, signal.SIGSTOP)
        first.kill()
        first.wait()
    with project.worker():
        until(lambda: "waits up to 60 s for worker" in project.log, 30, "the second worker waits")
        (project.root / "go").touch()
        for pid in keepers:
            os.kill(pid, signal.SIGCONT)
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "the job is back in work")
    assert project.metadata(job_id)["attempt"] == 2


def test_a_stop_ends_a_build_that_does_not_end(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f'[[tool.uv.index]]\n# url = "http://127.0.0.1:{silent.getsockname()[1]}/simple"\n# default = true\n'
        project.topic("t", f'# /// script\n# dependencies = ["six"]\n# {index}# ///\n' + PLAIN)
        project.create("t", 1)
        with project.worker() as worker:
            silent.settimeout(30)
            link, _ = silent.accept()
            with link:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(10) == 0


def test_a_broker_that_refuses_us_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """Somebody changes the password while a job runs, and gives the old one back: what the job did counts."""
    with Server("valkey") as server:
        project = Project(tmp_path / "project", redis=server.url)
        project.topic("t", WAITS)
        job_id = project.create("t", 1)
        with project.worker(), server.client() as admin:
            until((project.root / "running").exists, 30, "the handler runs")
            admin.config_set("requirepass", "new")
            admin.client_kill_filter(_type="normal", skipme=True)
            (project.root / "go").touch()
            until(lambda: "the broker is away" in project.log, 30, "the worker is refused")
            until(lambda: list(project.job_data.glob("*-metadata.json.*")), 30, "the job has ended")
            admin.config_set("requirepass", "")
            until(lambda: project.ends(job_id) == ["succeeded"], 40, "the job is settled")
            until((project.job_data / f"{job_id}-metadata.json").exists, 10, "its record is published")
        assert project.metadata(job_id)["attempt"] == 1
        assert "Traceback" not in project.log


def test_a_second_signal_ends_a_worker_whose_keeper_does_not_answer(project: Project) -> None:
    project.topic("t", "import os, pathlib, signal\nos.kill(os.getppid(), signal.SIGSTOP)\npathlib.Path('did').touch()")
    job_id = project.create("t", 1)
    with project.worker() as worker:
        until((project.root / "did").exists, 30, "the keeper is stopped")
        worker.send_signal(signal.SIGTERM)
        until(lambda: "stopping: waiting" in project.log, 10, "the worker waits for the job")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert project.show(job_id)["state"] == "incoming"


def test_a_worker_that_was_stopped_itself_judges_nobody_at_once(project: Project) -> None:
    """Both sleep for more than a lease, as virtual machines do, and the one that stands by wakes first."""
    project.configure(worker={"lease": "2s"})
    project.topic("t", WAITS)
    job_id = project.create("t", 1)
    with project.worker() as first:
        until((project.root / "running").exists, 30, "the handler runs")
        with project.worker() as second:
            until(lambda: "stands by for t" in project.log, 30, "the second stands by")
            for worker in (first, second):
                worker.send_signal(signal.SIGSTOP)
            asleep = time.monotonic()
            until(lambda: time.monotonic() > asleep + 3, 10, "more than a lease passes")
            second.send_signal(signal.SIGCONT)
            until(lambda: time.monotonic() > asleep + 4, 10, "the second is awake for a while")
            first.send_signal(signal.SIGCONT)
            (project.root / "go").touch()
            until((project.job_data / f"{job_id}-metadata.json").exists, 30, "the job ends")
    assert project.metadata(job_id)["attempt"] == 1
    assert f"-{first.pid}-" in project.metadata(job_id)["worker"]


def test_a_topic_that_is_unlocked_by_force_is_free_for_another(project: Project) -> None:
    project.configure(worker={"lease": "1.5s"})
    project.topic("t", PLAIN)
    with project.worker():
        project.sjq("unlock", "t", "--force")
        until(lambda: "t was unlocked" in project.log, 10, "its worker hears of it")
        job_id = project.create("t", 1)
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "the topic is served again")


def test_a_terminal_that_closes_is_a_stop_in_good_order(project: Project) -> None:
    project.topic("t", PLAIN)
    with project.worker() as worker:
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(10) == 0
    assert "SIGHUP: taking nothing more" in project.log


def test_a_topic_may_be_named_by_an_option_of_its_own(project: Project) -> None:
    jobs = []
    for topic in ("a", "b", "c"):
        project.topic(topic, PLAIN)
        jobs.append(project.create(topic, 1))
    project.burst("--topics", "a", "b", "--topics", "c")
    assert [project.ends(job_id) for job_id in jobs] == [["succeeded"]] * 3


def test_a_burst_says_what_it_leaves_to_others(project: Project) -> None:
    project.topic("t", WAITS)
    project.create("t", 1)
    with project.worker():
        until((project.root / "running").exists, 30, "the handler runs")
        project.create("t", 2)
        assert "t: left to the worker that holds it: 2" in project.burst()
        (project.root / "go").touch()


def test_a_topic_that_is_mapped_to_a_script_never_runs_another(project: Project) -> None:
    project.configure(topics={"t": {"script": "gone.py"}})
    project.topic("t", PLAIN)
    job_id = project.create("t", 1)
    log = project.burst()
    assert "topics/gone.py" in log
    assert "mapped to gone.py" in log
    assert project.show(job_id)["state"] == "incoming"
