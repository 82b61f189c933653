"""The contract of executors, with real processes: whatever a job does, its end is known and nothing of it is left."""

from __future__ import annotations

import os
import resource
import signal
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit.waiting import until

from sjq.errors import EnvironmentFailed

from .workshop import Workshop, alive

if TYPE_CHECKING:
    from sjq.executors.base import Exit, Task

STAYS = "note('here', os.getpid()); wait_for('never')"
STAYS_ANYHOW = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS


def ended(end: Exit) -> tuple[int | None, int | None, bool, str | None]:
    return end.exit_code, end.signal, end.killed, end.error


# Ends.


@pytest.mark.parametrize("code", [0, 1, 75, 255])
def test_an_exit_code_is_told(workshop: Workshop, code: int) -> None:
    assert ended(workshop.run(f"sys.exit({code})")) == (code, None, False, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_a_signal_is_told(workshop: Workshop, number: int) -> None:
    assert ended(workshop.run(f"os.kill(os.getpid(), {int(number)})")) == (None, number, False, None)


def test_times_and_usage_are_plausible(workshop: Workshop) -> None:
    before = time.time()
    end = workshop.run("""
        block = bytearray(60 << 20)
        spent = time.process_time() + 0.1
        while time.process_time() < spent:
            pass
    """)
    assert before - 1 <= end.start_time <= end.end_time <= time.time() + 1
    assert end.end_time - end.start_time == pytest.approx(end.elapsed_s)
    assert end.elapsed_s >= 0.1
    assert end.usage
    assert 60 << 20 <= end.usage.max_rss_bytes < 500 << 20
    assert 0.1 <= end.usage.user_s + end.usage.system_s < 30


def test_the_usage_of_children_counts(workshop: Workshop) -> None:
    spend = "import time; bytearray(60 << 20)\nwhile time.process_time() < 0.2: pass"
    end = workshop.run(f"subprocess.run([sys.executable, '-c', {spend!r}])")
    assert end.usage
    assert end.usage.max_rss_bytes >= 60 << 20
    assert end.usage.user_s + end.usage.system_s >= 0.2


def test_a_process_that_cannot_be_started_is_the_environments_fault(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for interpreter in (tmp_path / "missing", tmp_path / "plain", tmp_path):
        with pytest.raises(EnvironmentFailed, match=r"its process could not be started: .*"):
            workshop.run("", interpreter=interpreter)
    assert ended(workshop.run("")) == (0, None, False, None)


# Killing.


def test_a_job_that_heeds_sigterm_ends_by_it(workshop: Workshop) -> None:
    task = workshop.task(STAYS)
    running = workshop.start(task)
    until(lambda: workshop.noted("here"), "the job runs")
    workshop.executor.kill(task)
    assert ended(running.wait(10)) == (None, signal.SIGTERM, True, None)


def test_a_job_may_end_in_order_at_sigterm(workshop: Workshop) -> None:
    task = workshop.task(f"signal.signal(signal.SIGTERM, lambda *_: (note('bye'), sys.exit(7))); {STAYS}")
    running = workshop.start(task)
    until(lambda: workshop.noted("here"), "the job runs")
    workshop.executor.kill(task)
    assert ended(running.wait(10)) == (7, None, True, None)
    assert (workshop.notes / "bye").exists()


def test_a_job_that_ignores_sigterm_is_killed_after_its_time(workshop: Workshop) -> None:
    task = workshop.task(STAYS_ANYHOW, kill_after_s=0.3)
    running = workshop.start(task)
    until(lambda: workshop.noted("here"), "the job runs")
    asked = time.monotonic()
    workshop.executor.kill(task)
    assert ended(running.wait(10)) == (None, signal.SIGKILL, True, None)
    assert time.monotonic() - asked >= 0.3


def test_all_processes_of_a_job_hear_sigterm(workshop: Workshop) -> None:
    task = workshop.task("""
        for name in ("child", "detached"):
            if not os.fork():
                if name == "detached":
                    os.setsid()
                signal.signal(signal.SIGTERM, lambda *_: (note(f"{name} heard"), os._exit(0)))
                note(name)
                wait_for("never")
        signal.signal(signal.SIGTERM, lambda *_: None)
        wait_for("child"), wait_for("detached")
        note("here")
        wait_for("child heard"), wait_for("detached heard")
    """)
    running = workshop.start(task)
    until((workshop.notes / "here").exists, "the job runs")
    workshop.executor.kill(task)
    assert ended(running.wait(20)) == (0, None, True, None)
    assert (workshop.notes / "child heard").exists()
    assert (workshop.notes / "detached heard").exists()


def test_a_stopped_job_wakes_to_hear_sigterm(workshop: Workshop) -> None:
    task = workshop.task(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {STAYS}")
    running = workshop.start(task)
    pid = until(lambda: workshop.noted("here"), "the job runs")
    os.kill(pid, signal.SIGSTOP)
    workshop.executor.kill(task)
    assert ended(running.wait(10)) == (7, None, True, None)


def test_a_job_that_is_killed_before_it_begins_never_does(workshop: Workshop) -> None:
    task = workshop.task("note('ran')")
    workshop.executor.kill(task)
    end = workshop.executor.run(task)
    assert (end.killed, end.exit_code, end.signal, end.usage) == (True, None, None, None)
    assert end.error
    assert not (workshop.notes / "ran").exists()


def test_twice_is_fine(workshop: Workshop) -> None:
    task = workshop.task(STAYS)
    running = workshop.start(task)
    until(lambda: workshop.noted("here"), "the job runs")
    for _ in range(3):
        workshop.executor.kill(task)
    assert ended(running.wait(10)) == (None, signal.SIGTERM, True, None)
    workshop.executor.kill(task)
    assert ended(workshop.run("")) == (0, None, False, None)


def test_a_kill_at_any_moment_is_heard(workshop: Workshop) -> None:
    """Some kills come before the process is there, some after it has ended; none is lost."""
    for delay in range(20):
        task = workshop.task("wait_for('never', 3)")
        running = workshop.start(task)
        time.sleep(delay * 0.002)
        workshop.executor.kill(task)
        end = running.wait(8)
        assert end.killed
        assert end.exit_code is None
        assert alive(task.job_id) == []


def test_a_killed_job_takes_no_other_with_it(workshop: Workshop) -> None:
    other = workshop.task("note('other', os.getpid()); wait_for('go'); note('done')")
    untouched = workshop.start(other)
    task = workshop.task(STAYS_ANYHOW, kill_after_s=0)
    running = workshop.start(task)
    until(lambda: workshop.noted("here") and workshop.noted("other"), "both run")
    workshop.executor.kill(task)
    assert running.wait(10).killed
    assert len(alive(other.job_id)) == 1
    workshop.tell("go")
    assert ended(untouched.wait(10)) == (0, None, False, None)
    assert (workshop.notes / "done").exists()


# What a job leaves behind.

LEAVINGS = {
    "a child": "subprocess.Popen(stay)",
    "a session": "subprocess.Popen(stay, start_new_session=True)",
    "a group": "subprocess.Popen(stay, process_group=0)",
    "a double fork": """
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            os.execv(stay[0], stay)
    """,
    "one that ignores SIGTERM": "subprocess.Popen([*stay, 'deaf'], start_new_session=True)",
    "one that is stopped": """
        child = subprocess.Popen(stay, start_new_session=True)
        wait_for('left')
        os.kill(child.pid, signal.SIGSTOP)
    """,
    "a tree": "[subprocess.Popen([*stay, 'tree'], start_new_session=bool(n % 2)) for n in range(4)]",
    "one that closed its descriptors": """
        if not os.fork():
            os.setsid()
            os.closerange(0, 1000)
            os.execv(stay[0], stay)
    """,
}
STAY = """
import os, pathlib, signal, subprocess, sys, time
if "deaf" in sys.argv:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
if "tree" in sys.argv:
    subprocess.Popen([sys.executable, __file__], start_new_session=True)
pathlib.Path("notes/left").touch()
end = time.monotonic() + 40
while time.monotonic() < end:
    time.sleep(0.1)
"""


WAITED = "\nwait_for('left')\nnote('here')\n"
WAYS = {
    "ended": WAITED,
    "crashed": f"{WAITED}os.kill(os.getpid(), 9)",
    "killed": f"{WAITED}wait_for('never')",
}


@pytest.mark.parametrize("leaving", LEAVINGS)
@pytest.mark.parametrize("way", WAYS)
def test_what_a_job_leaves_is_gone_when_run_returns(workshop: Workshop, leaving: str, way: str) -> None:
    (workshop.root / "stay.py").write_text(STAY)
    body = (
        "stay = [sys.executable, 'stay.py']\n"
        + textwrap.dedent(LEAVINGS[leaving])
        + "\nwait_for('left')\nnote('here')\n"
    )
    task = workshop.task(
        body + {"ended": "", "crashed": "os.kill(os.getpid(), 9)", "killed": "wait_for('never')"}[way], kill_after_s=0.2
    )
    running = workshop.start(task)
    if way == "killed":
        until((workshop.notes / "here").exists, "the job runs")
        assert len(alive(task.job_id)) >= 2
        workshop.executor.kill(task)
    running.wait(15)
    assert (workshop.notes / "left").exists()
    assert alive(task.job_id) == []


@pytest.mark.parametrize("detached", [False, True], ids=["in its session", "in a new session each"])
def test_one_that_forks_and_exits_without_end_is_caught(workshop: Workshop, detached: bool) -> None:
    started = time.monotonic()
    end = workshop.run(f"""
        if not os.fork():
            until = time.monotonic() + 20
            while time.monotonic() < until:
                if {detached}:
                    os.setsid()
                if os.fork():
                    os._exit(0)
    """)
    assert ended(end) == (0, None, False, None)
    assert time.monotonic() - started < 15


def test_slots_leave_each_others_orphans_alone(workshop: Workshop) -> None:
    first = workshop.task("""
        if not os.fork():
            os.setsid()
            if not os.fork():
                note("orphan", os.getpid())
                wait_for("never")
            os._exit(0)
        os.wait()
        wait_for("go")
    """)
    running = workshop.start(first)
    orphan = until(lambda: workshop.noted("orphan"), "the orphan is there")
    for _ in range(3):
        workshop.run("subprocess.Popen(['sleep', '30'], start_new_session=True)")
    assert orphan in alive(first.job_id)
    workshop.tell("go")
    assert ended(running.wait(10)) == (0, None, False, None)
    assert alive(first.job_id) == []


def test_one_after_the_other_and_many_at_once(workshop: Workshop) -> None:
    for code in range(3):
        assert workshop.run(f"sys.exit({code})").exit_code == code
    codes = range(10, 18)
    running = [workshop.start(workshop.task(f"sys.exit({code})")) for code in codes]
    assert [one.wait().exit_code for one in running] == list(codes)


# Output.


def test_much_output_neither_blocks_nor_passes_through_the_worker(workshop: Workshop) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    task = workshop.task("""
        block = b"x" * (1 << 20)
        for _ in range(50):
            sys.stdout.buffer.write(block)
            sys.stderr.buffer.write(block[:1 << 16])
    """)
    assert ended(workshop.executor.run(task)) == (0, None, False, None)
    assert task.stdout.stat().st_size == 50 << 20
    assert task.stderr.stat().st_size == 50 << 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    task.stdout.unlink()


def test_output_can_be_followed_while_the_job_runs(workshop: Workshop) -> None:
    task = workshop.task("print('first', flush=True); note('here'); wait_for('go'); print('last')")
    running = workshop.start(task)
    until((workshop.notes / "here").exists, "the job runs")
    assert task.stdout.read_text() == "first\n"
    workshop.tell("go")
    running.wait()
    assert task.stdout.read_text() == "first\nlast\n"


def test_a_job_may_close_its_output(workshop: Workshop) -> None:
    assert ended(workshop.run("os.close(0), os.close(1), os.close(2); os._exit(5)")) == (5, None, False, None)


def test_two_processes_of_a_job_may_write_at_once(workshop: Workshop) -> None:
    task = workshop.task("""
        for name in "ab":
            if not os.fork():
                for _ in range(2000):
                    os.write(1, name.encode() * 9 + b"\\n")
                os._exit(0)
        os.wait(), os.wait()
    """)
    workshop.executor.run(task)
    lines = task.stdout.read_text().splitlines()
    assert sorted(set(lines)) == ["a" * 9, "b" * 9]
    assert len(lines) == 4000


def test_output_of_an_earlier_try_does_not_stay(workshop: Workshop) -> None:
    task = workshop.task("print('new')")
    task.stdout.write_text("old and longer\n")
    workshop.executor.run(task)
    assert task.stdout.read_text() == "new\n"


# The surroundings of a job.


def environ_of(workshop: Workshop, *, parent: str | None = None, **options: Any) -> tuple[Task, dict[str, str]]:
    task = workshop.task("note('environ', dict(os.environ))", parent=parent, **options)
    assert ended(workshop.executor.run(task)) == (0, None, False, None)
    found: dict[str, str] = workshop.noted("environ")
    return task, found


def test_a_job_knows_who_it_is(workshop: Workshop) -> None:
    task, found = environ_of(workshop, parent="p")
    assert {name: found[name] for name in found if name.startswith("SJQ_")} == {
        "SJQ_JOB_ID": task.job_id,
        "SJQ_TOPIC": task.runtime.topic.name,
        "SJQ_ATTEMPT": "3",
        "SJQ_PARENT_JOB_ID": "p",
    }
    assert "SJQ_PARENT_JOB_ID" not in environ_of(workshop)[1]


def test_a_job_has_the_workers_environment_less_what_is_not_for_it(workshop: Workshop) -> None:
    given = {
        "PATH": os.environ["PATH"],
        "MINE": "a=b\nc ü",
        "EMPTY": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SJQ_BROKER": "redis://:secret@h",
    }
    task, found = environ_of(workshop, environ=given)
    ours = {"SJQ_JOB_ID": task.job_id, "SJQ_TOPIC": task.runtime.topic.name, "SJQ_ATTEMPT": "3"}
    path = str(workshop.root / ".sjq" / "lib")
    # What the interpreter itself sets when it has no locale is not ours.
    found.pop("LC_CTYPE", None)
    assert found == {"PATH": os.environ["PATH"], "MINE": "a=b\nc ü", "EMPTY": "", "PYTHONPATH": path, **ours}


def test_the_handler_package_is_first_on_the_path(workshop: Workshop) -> None:
    ours = str(workshop.root / ".sjq" / "lib")
    assert environ_of(workshop, environ={"PYTHONPATH": "/a:/b"})[1]["PYTHONPATH"] == f"{ours}:/a:/b"
    assert environ_of(workshop, environ={"PYTHONPATH": ""})[1]["PYTHONPATH"] == ours


def test_a_job_without_a_parent_has_none_whoever_started_the_worker(workshop: Workshop) -> None:
    assert "SJQ_PARENT_JOB_ID" not in environ_of(workshop, environ={"SJQ_PARENT_JOB_ID": "of another"})[1]


def test_an_environment_need_not_be_utf_8(workshop: Workshop) -> None:
    assert environ_of(workshop, environ={"ODD": "caf\udce9"})[1]["ODD"] == "caf\udce9"


def test_a_job_has_its_place(workshop: Workshop) -> None:
    task = workshop.task("""
        def target(number):
            try:
                return os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                return None  # the descriptor with which we look
        print("something")
        open_ones = {number: target(number) for number in os.listdir("/proc/self/fd")}
        note("place", {
            "cwd": os.getcwd(),
            "open": {number: path for number, path in open_ones.items() if path},
            "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgid(0),
            "stdin": sys.stdin.read(),
            "argv": sys.argv,
            "umask": os.umask(0),
        })
    """)
    workshop.executor.run(task)
    place = workshop.noted("place")
    assert place["cwd"] == str(workshop.root.resolve())
    assert place["open"] == {"0": os.devnull, "1": str(task.stdout.resolve()), "2": str(task.stderr.resolve())}
    assert place["pid"] == place["session"] == place["group"]
    assert place["stdin"] == ""
    script = f"topics/{task.runtime.topic.name}.py"
    assert place["argv"] == [
        script,
        "--input",
        f"job_data/{task.input.name}",
        "--output",
        f"job_data/{task.output.name}",
    ]
    mine = os.umask(0)
    os.umask(mine)
    assert place["umask"] == mine


def signals_of(workshop: Workshop) -> dict[str, int]:
    """Return the signals that a process without Python's own habits finds ignored, caught and blocked."""
    task = workshop.task("exec cat /proc/self/status > notes/status", interpreter=Path("/bin/sh"), prelude="")
    assert ended(workshop.executor.run(task)) == (0, None, False, None)
    c_library = 3 << 31  # signals 32 and 33, which glibc keeps for itself and ignores in what it spawns
    pairs = (line.split(":\t") for line in (workshop.notes / "status").read_text().splitlines())
    return {pair[0]: int(pair[1], 16) & ~c_library for pair in pairs if pair[0] in ("SigIgn", "SigCgt", "SigBlk")}


def test_a_jobs_signals_are_at_their_defaults(workshop: Workshop) -> None:
    assert signals_of(workshop) == {"SigIgn": 0, "SigCgt": 0, "SigBlk": 0}


def test_a_job_does_not_inherit_what_the_worker_ignores(workshop: Workshop) -> None:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert signals_of(workshop)["SigIgn"] == 0
    finally:
        signal.signal(signal.SIGUSR1, old)


# Closing.


def test_closing_kills_what_runs(workshop: Workshop) -> None:
    task = workshop.task(STAYS_ANYHOW)
    running = workshop.start(task)
    until(lambda: workshop.noted("here"), "the job runs")
    workshop.executor.close()
    assert alive(task.job_id) == []
    end = running.wait(10)
    assert end.exit_code is None
    assert end.error or end.signal


def test_a_closed_executor_runs_nothing(workshop: Workshop) -> None:
    workshop.executor.close()
    workshop.executor.close()
    end = workshop.executor.run(workshop.task("note('ran')"))
    assert end.error
    assert not (workshop.notes / "ran").exists()
