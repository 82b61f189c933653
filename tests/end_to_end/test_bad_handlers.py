"""Handlers that go wrong: the job is `failed` with a reason that says what to do, and the worker goes on."""

from __future__ import annotations

import json
from pathlib import Path

from servers import until

from end_to_end.project import PLAIN, Project

WRITES = "import sys\nopen(sys.argv[4], 'w').write({output!r})\n"

FAILING = {
    "exits": ("raise SystemExit(3)", "exit", "exit code 3"),
    "raises": ("raise ValueError('no')", "exit", "exit code 1"),
    "is killed": ("import os\nos.kill(os.getpid(), 9)", "signal", "SIGKILL (signal 9)"),
    "writes nothing": ("pass", "output", "@sjq.job"),
    "writes half": (WRITES.format(output='{"data": [1, 2'), "output", "ends too early"),
    "writes no object": (WRITES.format(output="[1]"), "output", "Expected `object`"),
    "writes a wrong key": (WRITES.format(output='{"data": 1, "nxt": "a"}'), "output", "`nxt`"),
    "writes no data": (WRITES.format(output='{"next_topic": "a"}'), "output", "`data`"),
    "writes two forms": (WRITES.format(output='{"data": 1, "next_topic": "a", "next": []}'), "output", "next_topic"),
    "names a bad topic": (WRITES.format(output='{"data": 1, "next_topics": ["a", "../b"]}'), "output", "'../b'"),
    "asks for priority": (
        WRITES.format(output='{"data": 1, "next": [{"topic": "a", "data": 1, "priority": 5}]}'),
        "output",
        "not supported yet",
    ),
    "names a lost file": (
        WRITES.format(output='{"data": 1, "next": [{"topic": "a", "data": 1, "attachment": "gone"}]}'),
        "output",
        "'gone'",
    ),
    "makes a pipe": ("import os, sys\nos.mkfifo(sys.argv[4])", "output", "a named pipe, and no plain file"),
    "makes a folder": ("import os, sys\nos.mkdir(sys.argv[4])", "output", "a folder, and no plain file"),
    "makes a link": ("import os, sys\nos.symlink('/dev/zero', sys.argv[4])", "output", "a symbolic link, and no plain"),
    "attaches what never ends": (
        WRITES.format(output='{"data": 1, "next": [{"topic": "a", "data": 1, "attachment": "/dev/zero"}]}'),
        "output",
        "a device, and no plain file",
    ),
    "asks for another try": ("raise SystemExit(75)", "exit", "asks for another try"),
    "does not load": ("def f(:\n    pass", "exit", "exit code 1"),
    "has two": ("import sjq\n@sjq.job\ndef one(data): pass\n@sjq.job\ndef two(data): pass", "exit", "exit code 1"),
    "raises several lines": ("raise ValueError('why\\nit is\\nso')", "exit", "exit code 1: ValueError: why"),
    "returns no JSON": ("import sjq\n@sjq.job\ndef f(data):\n    return {1, 2}", "exit", "exit code 1"),
}


def test_every_way_to_fail_has_its_reason_and_none_stops_the_worker(project: Project) -> None:
    topics = {f"t{number}": name for number, name in enumerate(FAILING)}
    jobs = {}
    for topic, name in topics.items():
        project.topic(topic, FAILING[name][0])
        jobs[topic] = project.create(topic, 1)
    project.topic("good", PLAIN)
    good = project.create("good", 1)
    project.burst(seconds=120)

    for topic, name in topics.items():
        _, code, words = FAILING[name]
        record = project.metadata(jobs[topic])
        assert (record["state"], record["reason"]["code"]) == ("failed", code), (name, record["reason"])
        assert words in record["reason"]["why"], (name, record["reason"])
        assert record["next_job_ids"] == [], name
        shown = project.show(jobs[topic])
        assert shown["reason"] == record["reason"], name
        if code == "exit" and "SystemExit" not in FAILING[name][0]:
            assert record["stderr"], name
    assert project.metadata(good)["state"] == "succeeded"
    listed = project.sjq("list", "--state", "failed").stdout
    assert all(job_id in listed for job_id in jobs.values())


OPENS = "files = [open('/dev/null') for _ in range(100)]"
HEAD = "import contextlib, sjq, sys\n@sjq.job\ndef f(data):\n    "
REFUSED_FILES = {
    "raises": f"{HEAD}{OPENS}",
    "closes what it had": f"{HEAD}with contextlib.ExitStack() as stack:\n"
    "        [stack.enter_context(open('/dev/null')) for _ in range(100)]",
    "raises something else": f"{HEAD}try:\n        {OPENS}\n    except OSError as error:\n"
    "        raise RuntimeError('no table') from error",
    "never heard of sjq": OPENS,
}


def test_a_limit_of_open_files_is_named_however_quickly_its_job_dies_of_it(project: Project) -> None:
    topics = {f"t{number}": script for number, script in enumerate(REFUSED_FILES.values())}
    copes = f"{HEAD}try:\n        {OPENS}\n    except OSError:\n        return 'well'"
    limits = {"open_files": 40}
    project.configure(topics={"copes": limits, **dict.fromkeys(topics, limits)})
    jobs = {}
    for topic, script in {"copes": copes, **topics}.items():
        project.topic(topic, script)
        jobs[topic] = project.create(topic, 1)
    project.burst()
    assert project.metadata(jobs.pop("copes"))["state"] == "succeeded"
    for topic, job_id in jobs.items():
        reason = project.metadata(job_id)["reason"]
        assert reason["code"] == "limit", (topics[topic], reason)
        sentence = (
            "one of its processes had 40 files open, and open files are limited to 40 for each (open_files); "
            "it ended by exit code 1: "
        )
        assert reason["why"].startswith(sentence), reason


def test_a_handler_that_removes_the_records_fails_and_is_recorded(project: Project) -> None:
    project.topic("t", "import shutil\nshutil.rmtree('job_data')")
    job_id = project.create("t", 1)
    project.burst()
    assert project.metadata(job_id)["reason"]["code"] == "output"
    assert project.names() == {f"{job_id}-metadata.json"}


def test_failed_jobs_go_back_in_their_old_order_and_keep_their_history(project: Project) -> None:
    project.topic("t", "raise SystemExit(1)")
    jobs = [project.create("t", number) for number in range(4)]
    project.burst()
    project.topic("t", PLAIN)
    sent = project.sjq("retry", "t").stdout.split()
    assert sent == jobs
    project.burst("--concurrency", "1")
    with project.client() as client:
        assert [event.job_id for event in client.events() if event.event == "succeeded"] == jobs
    record = project.metadata(jobs[0])
    assert (record["attempt"], record["state"]) == (2, "succeeded")
    assert [(entry["attempt"], entry["end"], entry["reason"]) for entry in record["attempts"]] == [
        (1, "failed", "exit")
    ]


def test_an_environment_that_cannot_be_built_holds_its_topic_and_no_other(project: Project) -> None:
    broken = '# /// script\n# dependencies = ["no-such-package-anywhere-at-all"]\n# ///\n'
    project.topic("broken", broken + PLAIN)
    project.topic("good", PLAIN)
    held, good = project.create("broken", 1), project.create("good", 1)
    with project.worker():
        until(lambda: project.ends(good) == ["succeeded"], 30, "the good topic goes on")
        until(lambda: "broken is held" in project.log, 30, "the broken topic is held")
        assert "no-such-package-anywhere-at-all" in project.log
        until(lambda: "broken (held)" in (s := project.sjq("status").stdout) or "is held" in s, 30, "status says so")
        status = project.sjq("status").stdout
        assert "no-such-package-anywhere-at-all" in status
        assert project.show(held)["state"] == "incoming"
        # The next deploy mends it, without a restart and without a person's retry.
        project.topic("broken", PLAIN)
        until(lambda: project.ends(held) == ["succeeded"], 60, "the mended topic goes on")


def test_burst_ends_with_1_for_a_topic_held_by_its_environment(project: Project) -> None:
    project.topic("broken", '# /// script\n# dependencies = ["no-such-package-anywhere-at-all"]\n# ///\n' + PLAIN)
    project.create("broken", 1)
    project.burst(code=1)


def test_much_output_a_closed_stdout_and_children_left_behind_do_no_harm(project: Project) -> None:
    project.topic(
        "loud",
        """
        import sys
        line = "x" * 999 + "\\n"
        for _ in range(200_000):
            sys.stdout.write(line)
        sys.stderr.write("the end")
        open(sys.argv[4], "w").write('{"data": 1}')
        """,
    )
    project.topic(
        "closed", "import os, sys\nos.close(1)\nsys.stdout = None\nopen(sys.argv[4], 'w').write('{\"data\": 1}')"
    )
    project.topic(
        "parent",
        """
        import subprocess, sys
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open(sys.argv[4], "w").write('{"data": %d}' % child.pid)
        """,
    )
    loud, closed, parent = project.create("loud", 1), project.create("closed", 1), project.create("parent", 1)
    project.burst(seconds=120)
    record = project.metadata(loud)
    assert (record["state"], record["stderr"]) == ("succeeded", "the end")
    assert (project.job_data / f"{loud}-stdout.log").stat().st_size == 200_000_000
    assert len(record["stdout"]) < 70_000
    assert "bytes left out here" in record["stdout"]
    assert project.metadata(closed)["state"] == "succeeded"
    assert project.metadata(parent)["state"] == "succeeded"
    assert not Path(f"/proc/{project.output(parent)['data']}").exists()


def test_a_handler_can_be_run_here_before_a_worker_does(project: Project) -> None:
    project.topic("t", "import sjq\n@sjq.job\ndef f(data):\n    print('saw', data)\n    return data, 'then'\n")
    project.create("t", "first")
    second = project.create("t", "second")
    done = project.sjq("dev", "t", "--index", "1")
    assert done.stdout.splitlines() == ["saw second", json.dumps({"data": "second", "next_topic": "then"})]
    assert "would create on then" in done.stderr
    assert project.show(second)["state"] == "incoming"
    assert project.names() == set()
    assert "no waiting job 7" in project.sjq("dev", "t", "--index", "7", code=3).stderr
    project.topic("t", "import sjq\n@sjq.job\ndef f(data):\n    breakpoint()\n    return data\n")
    assert "(Pdb)" in project.sjq("dev", "t", "--job", second, stdin="c\n").stdout
