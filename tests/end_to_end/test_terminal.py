"""What a job printed, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess

from end_to_end.project import SJQ, Project

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
