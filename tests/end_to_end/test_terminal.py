"""What a job printed, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import subprocess

from end_to_end.project import SJQ, Project
from sjq.brokers.redis.broker import RedisBroker

NASTY = b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[1A tab\t bell\x07 \xff end\n"


def test_a_log_cannot_command_the_terminal_but_may_have_colours(project: Project) -> None:
    project.topic("t", f"import sys\nsys.stdout.buffer.write({NASTY!r})\nsys.exit(1)")
    job_id = project.create("t", 1)
    project.burst()
    ours, its = pty.openpty()
    with subprocess.Popen([SJQ, "logs", job_id], cwd=project.root, env=project.environ, stdout=its) as command:
        os.close(its)
        assert command.wait(30) == 0
    seen = os.read(ours, 10_000)
    os.close(ours)
    assert seen.startswith(b"\x1b[31mred\x1b[0m ")
    assert b"\\x1b]0;title\\x07" in seen
    assert b"\\x1b[2J\\x1b[1A tab\t" in seen
    assert "\ufffd end".encode() in seen, "the record holds text"


def test_in_a_pipe_a_log_is_what_was_printed(project: Project) -> None:
    text = NASTY * 2000
    project.topic("t", f"import sys\nsys.stdout.buffer.write({NASTY!r} * 2000)\nsys.exit(1)")
    job_id = project.create("t", 1)
    project.burst()
    done = subprocess.run([SJQ, "logs", job_id], cwd=project.root, env=project.environ, capture_output=True, check=True)
    assert done.stdout == text


def test_no_error_can_command_the_terminal(project: Project) -> None:
    """The name of a key is another program's, the name of a file is whoever's wrote the command."""
    evil = "evil\x1b[2J\x9b2J\x7f"
    with project.client() as client:
        assert isinstance(client.broker, RedisBroker)
        there, keys = client.broker.server.client, client.broker.keys
        there.rpush(keys.failed(evil), "j1")
        there.hset(keys.job_state("j1"), mapping={"state": "failed", "topic": evil, "end": 1, "attempt": 1})
        there.set(keys.job_data("j1"), '{"job_id": "j1", "data": 1}')
        there.rpush(keys.incoming(evil), "j2")
        there.set(keys.stats(evil), "of another program")
        for command in (
            ["retry"],
            ["retry", "--job", "j1"],
            ["delete", "j1"],
            ["prune", "--older-than", "1", "--yes"],
            ["fsck"],
            ["fsck", "--repair"],
            ["create", "t", f"/{evil}.json"],
            ["create", "t", "{}", f"/{evil}"],
            ["create", "t", "--jsonl", f"/{evil}"],
            ["create", evil, "{}"],
        ):
            done = project.run(*command)
            seen = done.stdout + done.stderr
            assert "evil" in seen, command
            assert "Traceback" not in seen, command
            assert not [char for char in seen if not (char.isprintable() or char == "\n")], command
        there.delete(*there.scan_iter(f"{client.broker.server.prefix}*"))


def test_json_cannot_command_the_terminal_either(project: Project) -> None:
    project.topic("t", "raise SystemExit('why \\u009b2J \\x7f')")
    job_id = project.create("t", {"x": "\x9b2J \x7f"})
    project.burst()
    for command in (["show", job_id, "--json"], ["list", "--json"]):
        seen = project.sjq(*command).stdout
        assert "\\u009b2J \\u007f" in seen
        assert not [char for char in seen if not (char.isprintable() or char == "\n")]
    assert json.loads(project.sjq("show", job_id, "--json").stdout)["data"] == {"x": "\x9b2J \x7f"}
