"""What people and foreign producers get wrong: a clear error, and nothing is lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import redis
from servers import until

from end_to_end.project import PLAIN, Project


@pytest.mark.parametrize("topic", ["../x", "a/b", "", "x" * 300, "-leading", "a b", "ä"])
def test_a_topic_outside_the_rule_is_refused(project: Project, topic: str) -> None:
    done = project.sjq("create", "--", topic, "1", code=2)
    assert "cannot be the name of a topic" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{"a": ', "ends too early"),
        ("{'a': 1}", "not JSON"),
        ("gone.json", "No such file"),
        ("neither", "neither JSON nor a file"),
        ("[NaN]", "not JSON"),
        ("1 2", "neither JSON nor a file"),
    ],
)
def test_input_that_is_no_job_is_refused(project: Project, given: str, words: str) -> None:
    done = project.sjq("create", "t", given, code=2)
    assert words in done.stderr
    assert done.stdout == ""
    with project.client() as client:
        assert client.counts() == {}


def test_a_wrong_line_of_many_is_named_and_nothing_of_its_thousand_is_created(project: Project) -> None:
    done = project.sjq("create", "t", "--jsonl", "-", stdin='{"a": 1}\n{"a": \n', code=2)
    assert "line 2" in done.stderr
    with project.client() as client:
        assert client.counts() == {}


def test_a_topic_without_a_handler_may_live_elsewhere(project: Project) -> None:
    done = project.sjq("create", "elsewhere", "1")
    assert "warning: topic 'elsewhere' has no handler" in done.stderr
    assert done.stdout.strip().count("\n") == 0
    assert "has no handler" in project.sjq("worker", "--topics", "elsewhere", code=2).stderr


def test_a_script_that_would_shadow_a_module_is_no_topic(project: Project) -> None:
    project.topic("queue", PLAIN)
    project.topic("good", PLAIN)
    job_id = project.create("good", 1)
    assert "would shadow the module 'queue'" in project.sjq("worker", "--topics", "queue", code=2).stderr
    assert "would shadow the module 'queue'" in project.burst()
    assert project.ends(job_id) == ["succeeded"]
    (project.root / "topics/queue.py").rename(project.root / "topics/waiting_room.py")
    project.configure(topics={"queue": {"script": "waiting_room.py"}})
    mapped = project.create("queue", 1)
    project.burst()
    assert project.ends(mapped) == ["succeeded"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"topics": {"t": {"concurency": 2}}}, 'unknown key "topics.t.concurency"; did you mean "concurrency"?'),
        ({"worker": {"lease": "soon"}}, 'worker.lease is "soon"; expected seconds'),
        ({"defaults": {"executor": "slurm"}}, 'unknown key "defaults.executor"'),
        ({"redis": {"prot": 1}}, 'did you mean "port"?'),
    ],
)
def test_a_wrong_configuration_is_named_with_its_place(project: Project, settings: dict[str, Any], words: str) -> None:
    project.settings.clear()
    project.configure(**settings)
    done = project.sjq("status", code=2)
    assert words in done.stderr
    assert "config.json" in done.stderr


def test_a_broker_that_cannot_be_reached_is_exit_6(project: Project) -> None:
    project.settings.clear()
    project.configure(redis={"port": 1})
    project.topic("t", PLAIN)
    for command in (["create", "t", "1"], ["status"], ["worker", "--topics", "t"]):
        assert "cannot be reached" in project.sjq(*command, code=6).stderr


def test_a_second_worker_on_a_locked_topic_is_exit_5(project: Project) -> None:
    project.topic("t", PLAIN)
    with project.worker("--topics", "t") as first:
        refused = project.sjq("worker", "--topics", "t", code=5)
        assert f"-{first.pid}-" in refused.stderr
        assert f"-{first.pid}-" in project.sjq("unlock", "t", code=5).stderr
        assert f"-{first.pid}-" in project.sjq("unlock", "t", "--force").stdout


def test_foreign_messages_that_cannot_be_jobs_are_failed_and_the_others_run(project: Project) -> None:
    project.topic("t", PLAIN)
    prefix = project.settings["prefix"]
    server = redis.Redis.from_url(project.settings["redis"])

    def push(job_id: bytes, message: bytes | None) -> None:
        if message is not None:
            server.set(prefix.encode() + b"job_data:" + job_id, message, nx=True)
        server.rpush(f"{prefix}incoming:t", job_id)

    bad = {
        b"no-message": None,
        b"no-json": b"{nope",
        b"no-object": b"[1]",
        b"no-data": b'{"job_id": "x"}',
        b"priority": b'{"job_id": "x", "data": 1, "priority": 7}',
        b"run-at": b'{"job_id": "x", "data": 1, "run_at": 1}',
        b"nul\0nul": b'{"data": 1}',
        b"\xff\xfe": b'{"data": 1}',
        b"": b'{"data": 1}',
        b"x" * 513: b'{"data": 1}',
    }
    odd = [
        b"../../etc/passwd",
        b"a/b",
        b"..",
        b".hidden",
        b"two\nlines",
        b"with spaces ' and \" quotes",
        "größe-☃".encode(),
        b"y" * 512,
        b"z-input.json",
        b"z-metadata.json.abcdefghijklmnop",
        b"-x",
        b"~",
        b"%2F",
    ]
    for job_id, message in bad.items():
        push(job_id, message)
    for job_id in odd:
        push(job_id, json.dumps({"job_id": "ignored", "data": job_id.decode()}).encode())
    push(b"twice", b'{"data": 2}')
    push(b"twice", b'{"data": 3}')
    push(b"large", b'{"data": "%b"}' % (b"l" * 50_000_000))
    project.burst(seconds=120)

    listed = json.loads(project.sjq("list", "--state", "failed", "--json").stdout)
    assert len(listed) == len(bad)
    assert {job["reason"]["code"] for job in listed} == {"message"}
    assert all(job["reason"]["why"] for job in listed)
    for job_id in odd:
        assert project.output(job_id.decode()) == {"data": job_id.decode()}, job_id
        assert project.metadata(job_id.decode())["state"] == "succeeded"
    assert project.output("twice") == {"data": 2}
    assert project.ends("twice").count("succeeded") == 1
    assert len(project.output("large")["data"]) == 50_000_000
    assert {path.parent for path in project.job_data.rglob("*")} == {project.job_data}
    # A terminal shows ids without being commanded by them.
    assert "two\\nlines" in project.sjq("list", "--state", "succeeded").stdout


def test_a_stop_waits_for_the_job_and_a_second_one_releases_it_unharmed(project: Project) -> None:
    project.topic(
        "slow",
        """
        import os, pathlib, sys, time
        pathlib.Path("running").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        open(sys.argv[4], "w").write('{"data": %s}' % os.environ["SJQ_ATTEMPT"])
        """,
    )
    running: Path = project.root / "running"
    job_id = project.create("slow", 1)
    with project.worker() as worker:
        until(running.exists, 30, "the handler runs")
        worker.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in project.log, 10, "the worker waits")
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    assert project.show(job_id)["state"] == "incoming"
    assert project.names() == {f"{job_id}-input.json"}
    (project.root / "go").touch()
    project.burst()
    record = project.metadata(job_id)
    assert (record["attempt"], record["state"]) == (2, "succeeded")
    assert [entry["end"] for entry in record["attempts"]] == ["released"]


def test_limit_ends_the_worker_after_so_many_attempts_however_they_ended(project: Project) -> None:
    project.topic("t", "raise SystemExit(1)")
    project.sjq("create", "t", "--jsonl", "-", stdin="1\n2\n3\n4\n5\n")
    project.sjq("worker", "--limit", "3", "--concurrency", "2")
    with project.client() as client:
        [status] = client.status()
    assert (status.failed, status.incoming) == (3, 2)


def test_purge_counts_first_and_keeps_the_records(project: Project) -> None:
    project.topic("t", "raise SystemExit(1)")
    jobs = [project.create("t", 1) for _ in range(3)]
    project.burst()
    assert project.sjq("purge", "t").stdout.startswith("3 jobs of t would be forgotten")
    assert project.sjq("delete", jobs[0]).stdout.strip() == f"{jobs[0]} forgotten; its record stays"
    assert project.sjq("purge", "t", "--yes").stdout.startswith("2 jobs of t forgotten")
    with project.client() as client:
        assert client.counts()["t"]["failed"] == 0  # type: ignore[index]
    assert project.show(jobs[1])["state"] == "failed"
    assert "no job" in project.sjq("delete", "nothing-like-it", code=3).stderr
    waiting = project.create("t", 1)
    assert "is incoming" in project.sjq("delete", waiting, code=5).stderr
