from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

import pytest
from servers import until

from end_to_end.project import PLAIN, Project


def test_a_job_goes_from_create_to_its_metadata_without_any_server(serverless: Project) -> None:
    serverless.topic(
        "double", "import sjq\n@sjq.job\ndef double(data):\n    print('hi')\n    return data * 2, 'keep'\n"
    )
    serverless.topic("keep", PLAIN)
    job_id = serverless.create("double", 21)
    log = serverless.burst()

    assert re.search(rf"{job_id} succeeded after .* next: keep", log)
    record = serverless.metadata(job_id)
    assert (record["state"], record["exit_code"], record["stdout"]) == ("succeeded", 0, "hi\n")
    assert serverless.output(job_id) == {"data": 42, "next_topic": "keep"}
    [child] = record["next_job_ids"]
    assert serverless.metadata(child)["parent_job_id"] == job_id
    assert serverless.output(child) == {"data": 42}
    shown = serverless.show(job_id)
    assert (shown["state"], shown["children"]) == ("succeeded", [child])


def test_a_producer_and_a_handler_that_never_heard_of_sjq_complete_a_job(project: Project) -> None:
    project.topic("plain", PLAIN)
    prefix, url = project.settings["prefix"], project.settings["redis"]
    message = json.dumps({"job_id": "from-a-shell", "data": {"n": 1}, "colour": "blue"})
    for command in (
        ["SET", f"{prefix}job_data:from-a-shell", message, "NX"],
        ["RPUSH", f"{prefix}incoming:plain", "from-a-shell"],
    ):
        _redis_cli(url, *command)
    project.burst()
    assert project.output("from-a-shell") == {"data": {"n": 1}}
    assert project.metadata("from-a-shell")["state"] == "succeeded"


def _redis_cli(url: str, *command: str) -> None:
    subprocess.run(["redis-cli", "-u", url, *command], check=True, capture_output=True)


def test_scripts_of_earlier_versions_still_work(project: Project) -> None:
    project.topic(
        "old",
        """
        import sjq

        def old(data):
            return data + 1, "old_end"

        main = sjq.job(old)

        if __name__ == "__main__":
            main()
        """,
    )
    project.topic(
        "old_end", "import sjq\n@sjq.job\ndef f(data):\n    return data\nif __name__ == '__main__':\n    f()\n"
    )
    job_id = project.create("old", 1)
    project.burst()
    [child] = project.metadata(job_id)["next_job_ids"]
    assert project.output(child) == {"data": 2}


def test_a_lock_without_expiry_holds_its_topic_until_unlock(project: Project) -> None:
    project.topic("plain", PLAIN)
    project.create("plain", 1)
    _redis_cli(project.settings["redis"], "SET", f"{project.settings['prefix']}lock:plain", "4711")

    refused = project.sjq("worker", "--topics", "plain", "--burst", code=5)
    assert "'4711'" in refused.stderr
    assert "sjq unlock plain" in refused.stderr
    assert "plain was held by 4711" in project.sjq("unlock", "plain").stdout
    assert "succeeded" in project.burst("--topics", "plain")


def test_the_command_of_a_record_repeats_its_job_with_worker_and_broker_stopped(serverless: Project) -> None:
    """The script has dependencies of its own, and the shell it is pasted into is a person's."""
    serverless.topic(
        "encode",
        """
        # /// script
        # dependencies = ["idna"]
        # ///
        import idna
        import sjq

        @sjq.job
        def encode(data, job):
            return idna.encode(data).decode()
        """,
    )
    job_id = serverless.create("encode", "zoë.example")
    serverless.burst()
    record = serverless.metadata(job_id)
    assert record["packages"].keys() == {"idna"}
    output = serverless.job_data / f"{job_id}-output.json"
    first = output.read_bytes()
    output.unlink()
    until(lambda: not (serverless.root / ".sjq/redis/server.json").exists(), 10, "the embedded server is gone")

    pasted = f"{record['command']} {' '.join(map(shlex.quote, record['args']))}"
    subprocess.run(["bash", "-c", pasted], cwd=serverless.root, env=serverless.environ, check=True)
    assert output.read_bytes() == first


def test_handlers_share_modules_beside_them_and_dependencies_of_their_project(project: Project) -> None:
    (project.root / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["iniconfig"]\n'
    )
    project.topic("_shared", "def twice(value):\n    return value * 2\n")
    project.topic(
        "uses",
        """
        import iniconfig
        import sjq
        from _shared import twice

        @sjq.job
        def uses(data):
            return twice(data)
        """,
    )
    job_id = project.create("uses", "ab")
    project.burst(seconds=120)
    assert project.output(job_id) == {"data": "abab"}
    assert "iniconfig" in project.metadata(job_id)["packages"]
    assert "_shared" not in project.sjq("status").stdout


def test_an_attachment_reaches_the_handler_as_a_file_and_passes_on(project: Project) -> None:
    project.topic(
        "pack",
        """
        import sjq
        from pathlib import Path

        @sjq.job
        def pack(data, file):
            Path("packed").write_bytes(Path(file).read_bytes()[::-1])
            return [sjq.Next("unpack", {"n": 1}, attachment="packed")]
        """,
    )
    project.topic("unpack", "import sjq\n@sjq.job\ndef f(data, file):\n    return open(file, 'rb').read().hex()\n")
    (project.root / "some.bin").write_bytes(b"\0\1\2")
    job_id = project.sjq("create", "pack", "some.bin").stdout.strip()
    project.burst()
    assert json.loads((project.job_data / f"{job_id}-input.json").read_text()) == {}
    assert (project.job_data / f"{job_id}-attachment.bin").read_bytes() == b"\0\1\2"
    [child] = project.metadata(job_id)["next_job_ids"]
    assert project.output(child) == {"data": "020100"}


def test_data_reaches_the_handler_to_the_byte(project: Project) -> None:
    project.topic(
        "raw", "import sys\nprint(open(sys.argv[2]).read(), end='')\nopen(sys.argv[4], 'w').write('{\"data\": 1}')"
    )
    text = '{"big": 12345678901234567890123, "float": 1.10, "escape": "\\u00e9", "twice": 1, "twice": 2}'
    job_id = project.sjq("create", "raw", text).stdout.strip()
    project.burst()
    assert project.metadata(job_id)["stdout"] == text


def test_the_environment_of_a_handler(project: Project) -> None:
    project.topic(
        "environ",
        """
        import os, sjq

        @sjq.job
        def environ(data, job):
            return {**os.environ, "cwd": os.getcwd(), "job": [job.id, job.attempt, job.parent]}
        """,
    )
    job_id = project.sjq("create", "environ", "1", "--parent-job-id", "the-parent").stdout.strip()
    project.sjq("worker", "--burst", SJQ_BROKER=project.settings["redis"], PYTHONDONTWRITEBYTECODE="1", KEPT="yes")
    seen = project.output(job_id)["data"]
    assert (seen["SJQ_JOB_ID"], seen["SJQ_TOPIC"], seen["SJQ_ATTEMPT"]) == (job_id, "environ", "1")
    assert (seen["SJQ_PARENT_JOB_ID"], seen["KEPT"]) == ("the-parent", "yes")
    assert seen["job"] == [job_id, 1, "the-parent"]
    assert seen["cwd"] == str(project.root)
    assert not {"SJQ_BROKER", "PYTHONDONTWRITEBYTECODE"} & seen.keys()
    assert seen["PYTHONPATH"].split(os.pathsep)[0].endswith(".sjq/lib")


@pytest.mark.timeout(300)
def test_a_thousand_jobs_through_three_stages(project: Project) -> None:
    """The event stream is the witness: each job one end, the lineage right, and nothing left behind."""
    stage = """
        import json, os, sys
        args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        data = json.load(open(args["--input"]))
        following = [{{"topic": "{next}", "data": i}} for i in range({count})]
        json.dump({{"data": data, "next": following}}, open(args["--output"], "w"))
    """
    project.topic("first", stage.format(next="second", count=33))
    project.topic("second", stage.format(next="third", count=2))
    project.topic("third", PLAIN)
    lines = "\n".join("1" for _ in range(10))
    roots = project.sjq("create", "first", "--jsonl", "-", stdin=lines).stdout.split()
    project.burst("--concurrency", "2", seconds=280)

    with project.client() as client:
        events = client.events(limit=100_000)
        created = [event for event in events if event.event == "created"]
        ends = [event.job_id for event in events if event.event == "succeeded"]
        assert len(created) == len(ends) == len(set(ends)) == 10 + 330 + 660
        assert {event.event for event in events} == {"created", "taken", "succeeded"}
        parents = {event.job_id: event.details.get("parent") for event in created}
        for job_id, parent in parents.items():
            record = client.records.metadata(job_id)
            assert record is not None
            assert record["parent_job_id"] == parent
            assert all(parents[child] == job_id for child in record["next_job_ids"])
            assert record["state"] == "succeeded"
        assert {job_id for job_id, parent in parents.items() if parent is None} == set(roots)
        names = project.names()
        assert len(names) == 3 * 1000
        assert not [name for name in names if not name.endswith(".json")]
        left = client.broker.server.client.keys(f"{project.settings['prefix']}*")  # type: ignore[attr-defined]
        prefix = project.settings["prefix"].encode()
        kinds = {name.removeprefix(prefix).split(b":")[0] for name in left}
        assert kinds == {b"job_state", b"stats", b"events"}
        for name in left:
            if b"job_state:" in name:
                assert 0 < client.broker.server.client.ttl(name) <= 600  # type: ignore[attr-defined]
