"""The contract of executors about limits, with real processes: time, memory, processor time, processes, open files."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
from unit.waiting import until

from sjq.executors.base import Limits, OpenFiles
from sjq.logs import was_refused_files
from sjq.states import Reason

from .workshop import Neighbour, Workshop, alive

if TYPE_CHECKING:
    from sjq.executors.base import Exit

MB = 1_000_000
LONG = "note('here'); wait_for('never')"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + LONG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a tree are watched on Linux")


def breach(end: Exit, reason: Reason) -> str:
    """Return the sentence of a breach; everything else of the end is as it must be."""
    assert end.breach
    assert end.breach.reason is reason
    assert (end.error, end.lost, end.killed, end.survivors) == (None, False, False, 0)
    return end.breach.why


def measured(why: str) -> float:
    """Return the number that was measured, which stands before that of the limit."""
    return float(re.findall(r"[0-9.]+", why)[0])


# Time.


def test_a_job_that_takes_too_long_is_asked_to_end(workshop: Workshop) -> None:
    end = workshop.run(LONG, limits=Limits(timeout_s=0.5))
    assert (end.exit_code, end.signal) == (None, signal.SIGTERM)
    why = breach(end, Reason.TIMEOUT)
    assert re.fullmatch(r"it still ran after [0-9.]+ s, and its time is limited to 0\.5 s", why)
    assert 0.5 <= measured(why) <= end.elapsed_s < 10


def test_one_that_ends_in_order_at_sigterm_was_too_slow_all_the_same(workshop: Workshop) -> None:
    end = workshop.run(
        f"signal.signal(signal.SIGTERM, lambda *_: (note('bye'), sys.exit(0))); {LONG}", limits=Limits(timeout_s=0.6)
    )
    assert end.exit_code == 0
    breach(end, Reason.TIMEOUT)
    assert (workshop.notes / "bye").exists()


def test_one_that_is_deaf_is_killed(workshop: Workshop) -> None:
    end = workshop.run(DEAF, limits=Limits(timeout_s=0.6), kill_after_s=0.3)
    assert end.signal == signal.SIGKILL
    breach(end, Reason.TIMEOUT)
    assert end.elapsed_s >= 0.9


def test_a_job_that_is_in_time_is_left_alone(workshop: Workshop) -> None:
    everything = Limits(timeout_s=60, memory_bytes=10**10, cpu_s=60, processes=50, open_files=200)
    end = workshop.run("subprocess.run(['true']); sys.exit(3)", limits=everything)
    assert (end.exit_code, end.breach) == (3, None)


def test_limits_beyond_all_measure_are_none(workshop: Workshop) -> None:
    everything = Limits(timeout_s=1e40, memory_bytes=10**40, cpu_s=1e40, processes=10**40, open_files=10**40)
    end = workshop.run("wait_for('never', 0.2)", limits=everything)
    assert (end.exit_code, end.breach) == (0, None)


def test_a_kill_that_came_first_is_no_breach(workshop: Workshop) -> None:
    task = workshop.task(DEAF, limits=Limits(timeout_s=1.2, memory_bytes=10**10), kill_after_s=2.0)
    running = workshop.start(task)
    until((workshop.notes / "here").exists, "the job runs")
    workshop.executor.kill(task)
    end = running.wait(20)
    assert (end.killed, end.signal, end.breach) == (True, signal.SIGKILL, None)


# Every kind of tree, against every way to end it.

TREES = {
    "grandchildren": "[subprocess.Popen([*stay, 'tree']) for _ in range(3)]",
    "sessions": "[subprocess.Popen([*stay, 'tree'], start_new_session=True) for _ in range(3)]",
    "a double fork": """
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            os.execv(stay[0], stay)
    """,
    "deaf ones": "[subprocess.Popen([*stay, 'deaf'], start_new_session=bool(n)) for n in range(2)]",
    "stopped ones": """
        for n in range(2):
            child = subprocess.Popen(stay, start_new_session=bool(n))
            wait_for('left')
            os.kill(child.pid, signal.SIGSTOP)
    """,
    "a stopped job": "threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGSTOP]).start(); note('left')",
    "one that forks and exits without end": """
        if not os.fork():
            until = time.monotonic() + 20
            while time.monotonic() < until:
                if os.fork():
                    os._exit(0)
                (here / 'left').touch()
    """,
    "the same in a new session each": """
        if not os.fork():
            until = time.monotonic() + 20
            while time.monotonic() < until:
                os.setsid()
                if os.fork():
                    os._exit(0)
                (here / 'left').touch()
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


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("way", ["timeout", "kill"])
def test_nothing_survives_and_the_neighbour_is_untouched(
    workshop: Workshop, neighbour: Neighbour, tree: str, way: str
) -> None:
    (workshop.root / "stay.py").write_text(STAY)
    body = "import threading\nstay = [sys.executable, 'stay.py']\n" + textwrap.dedent(TREES[tree])
    task = workshop.task(
        f"{body}\nwait_for('left')\nnote('here')\nwait_for('never')",
        limits=Limits(timeout_s=3.0 if way == "timeout" else None),
        kill_after_s=0.3,
    )
    running = workshop.start(task)
    until((workshop.notes / "left").exists, "the tree is there")
    if way == "kill":
        until(lambda: (workshop.notes / "here").exists() or tree == "a stopped job", "the job runs")
        workshop.executor.kill(task)
    end = running.wait(20)
    assert alive(task.job_id) == []
    assert end.survivors == 0
    assert (end.breach is not None, end.killed) == (way == "timeout", way == "kill")
    assert neighbour.is_untouched()
    assert neighbour.ends_well()


# Memory.

HOLD = "block = bytearray({size}); note('here'); wait_for('never')"


def test_one_process_above_its_memory_is_killed(workshop: Workshop) -> None:
    started = time.monotonic()
    end = workshop.run(HOLD.format(size="200_000_000"), limits=Limits(memory_bytes=100 * MB))
    assert end.signal == signal.SIGKILL
    why = breach(end, Reason.MEMORY)
    assert re.fullmatch(r"its processes used [0-9.]+ MB of memory together, and memory is limited to 100 MB", why)
    assert 100 <= measured(why) <= 300
    assert time.monotonic() - started < 20


def test_a_tree_above_its_memory_is_killed_though_no_process_of_it_is(workshop: Workshop) -> None:
    end = workshop.run(
        """
        for number in range(4):
            if not os.fork():
                os.setsid()
                block = bytearray(60_000_000)
                note(f"child{number}")
                wait_for("never")
        wait_for("never")
        """,
        limits=Limits(memory_bytes=150 * MB),
    )
    assert 150 <= measured(breach(end, Reason.MEMORY)) <= 330
    assert end.usage
    assert end.usage.max_rss_bytes < 120 * MB


def test_memory_that_children_share_counts_once(workshop: Workshop) -> None:
    end = workshop.run(
        """
        block = bytearray(100_000_000)
        children = []
        for number in range(6):
            if not (pid := os.fork()):
                note(f"child{number}")
                wait_for("go")
                os._exit(0)
            children.append(pid)
        for number in range(6):
            wait_for(f"child{number}")
        time.sleep(0.5)  # what must not happen needs some time not to happen in
        note("go")
        for pid in children:
            os.waitpid(pid, 0)
        """,
        limits=Limits(memory_bytes=250 * MB),
    )
    assert (end.exit_code, end.breach) == (0, None)


def test_what_children_no_longer_share_counts_for_each(workshop: Workshop) -> None:
    end = workshop.run(
        """
        block = bytearray(60_000_000)
        for number in range(4):
            if not os.fork():
                block[::4096] = b"x" * len(block[::4096])
                wait_for("never")
        wait_for("never")
        """,
        limits=Limits(memory_bytes=200 * MB),
    )
    assert measured(breach(end, Reason.MEMORY)) >= 200


def test_a_program_that_is_being_started_uses_no_memory(workshop: Workshop) -> None:
    """Until it has become another program, a child of vfork has the whole memory of its parent."""
    end = workshop.run(
        """
        os.mkfifo("notes/late")
        subprocess.Popen(["sh", "-c", "sleep 0.5; : > notes/late"])
        block = bytearray(100_000_000)
        stdin = (os.POSIX_SPAWN_OPEN, 0, "notes/late", os.O_RDONLY, 0)  # which waits until somebody writes
        pid = os.posix_spawn("/bin/true", ["true"], os.environ, file_actions=[stdin])
        os.waitpid(pid, 0)
        """,
        limits=Limits(memory_bytes=180 * MB),
    )
    assert (end.exit_code, end.breach) == (0, None)


def test_memory_that_grows_quickly_does_not_grow_far(workshop: Workshop) -> None:
    end = workshop.run(
        """
        blocks = []
        for _ in range(2000):
            blocks.append(bytearray(1_000_000))
        wait_for("never")
        """,
        limits=Limits(memory_bytes=200 * MB),
    )
    assert 200 <= measured(breach(end, Reason.MEMORY)) <= 1500
    assert end.usage
    assert end.usage.max_rss_bytes <= 1500 * MB


def test_a_limit_holds_while_a_job_is_given_time_to_end(workshop: Workshop) -> None:
    task = workshop.task(
        """
        def grow(*_):
            block = bytearray(200_000_000)
            wait_for("never")
        signal.signal(signal.SIGTERM, grow)
        note("here"), wait_for("never")
        """,
        limits=Limits(memory_bytes=100 * MB),
        kill_after_s=30,
    )
    running = workshop.start(task)
    until((workshop.notes / "here").exists, "the job runs")
    workshop.executor.kill(task)
    end = running.wait(20)
    assert (end.killed, end.signal, end.breach) == (True, signal.SIGKILL, None)


# Processor time.

SPIN = "while True: pass"


def test_one_process_above_its_processor_time_is_killed(workshop: Workshop) -> None:
    end = workshop.run(SPIN, limits=Limits(cpu_s=0.5))
    assert end.signal == signal.SIGKILL
    why = breach(end, Reason.LIMIT)
    assert re.fullmatch(r"its processes used [0-9.]+ s of CPU time together, and CPU time is limited to 0\.5 s", why)
    assert 0.5 <= measured(why) <= 1.5
    assert end.usage
    assert 0.5 <= end.usage.user_s + end.usage.system_s <= 1.5


def test_the_processor_time_of_a_tree_counts_together(workshop: Workshop) -> None:
    """Of those that live, of those whose end a parent has seen, and of orphans."""
    end = workshop.run(
        """
        def spin(seconds):
            while time.process_time() < seconds:
                pass
        if not os.fork():
            spin(0.3)
            os._exit(0)
        os.wait()
        if not os.fork():
            if not os.fork():
                os.setsid()
                spin(0.3)
            os._exit(0)
        os.wait()
        spin(30)
        """,
        limits=Limits(cpu_s=1.2),
    )
    assert 1.2 <= measured(breach(end, Reason.LIMIT)) <= 2.5
    assert end.usage
    assert end.usage.user_s + end.usage.system_s <= 3


def test_the_processor_time_of_orphans_counts_when_they_have_ended(workshop: Workshop) -> None:
    end = workshop.run(
        """
        for _ in range(20):
            if not os.fork():
                if not os.fork():
                    os.setsid()
                    while time.process_time() < 0.1:
                        pass
                    note("spun")
                os._exit(0)
            os.wait()
            wait_for("spun")
            (here / "spun").unlink()
        """,
        limits=Limits(cpu_s=0.8),
    )
    assert 0.8 <= measured(breach(end, Reason.LIMIT)) <= 1.5


# Processes.


def test_more_processes_than_a_job_may_have_are_killed(workshop: Workshop) -> None:
    end = workshop.run(
        """
        for number in range(8):
            if not os.fork():
                if number % 2:
                    os.setsid()
                wait_for("never")
        wait_for("never")
        """,
        limits=Limits(processes=6),
    )
    why = breach(end, Reason.LIMIT)
    assert re.fullmatch(r"it had [789] processes at once, and processes are limited to 6", why)


def test_as_many_processes_as_a_job_may_have_are_fine(workshop: Workshop) -> None:
    """Those that have ended do not count, whether anybody has taken notice or not."""
    end = workshop.run(
        """
        for _ in range(10):
            if not (child := os.fork()):
                os._exit(0)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        children = [subprocess.Popen(["sleep", "0.3"]) for _ in range(3)]
        for child in children:
            child.wait()
        """,
        limits=Limits(processes=4),
    )
    assert (end.exit_code, end.breach) == (0, None)


def test_the_living_are_counted_among_the_dead(workshop: Workshop) -> None:
    end = workshop.run(
        """
        for _ in range(10):
            if not (child := os.fork()):
                os._exit(0)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        if not os.fork():
            for _ in range(8):
                if not os.fork():
                    break
        wait_for("never")
        """,
        limits=Limits(processes=9),
    )
    assert measured(breach(end, Reason.LIMIT)) == 10


@pytest.mark.parametrize("detached", [False, True], ids=["in its session", "in a new session each"])
def test_a_fork_bomb_ends_at_its_limit(workshop: Workshop, neighbour: Neighbour, detached: bool) -> None:
    task = workshop.task(
        f"""
        # Bounded in any case, to 1000 processes and 20 s.
        until = time.monotonic() + 20
        forks = os.open("notes/forks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while time.monotonic() < until:
            if os.lseek(forks, 0, os.SEEK_END) >= 1000:
                time.sleep(0.05)
                continue
            os.write(forks, b".")
            if not os.fork() and {detached}:
                os.setsid()
        """,
        limits=Limits(processes=40),
    )
    end = workshop.start(task).wait(20)
    assert alive(task.job_id) == []
    assert measured(breach(end, Reason.LIMIT)) > 40
    assert neighbour.is_untouched()
    assert neighbour.ends_well()


def test_whoever_watches_it_comes_first_and_a_job_does_not(workshop: Workshop) -> None:
    note = "note('policy', [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)]); note('k', os.getppid())"
    for script in (note, f"{note}; subprocess.Popen(['sleep', '30'])", note):
        end = workshop.run(script, limits=Limits(processes=10))
        assert end.exit_code == 0
        assert workshop.noted("policy") == [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)]
        assert os.sched_getscheduler(workshop.noted("k")) == os.sched_getscheduler(0)


# Open files.


def test_more_files_than_a_process_may_have_open_are_refused_to_it(workshop: Workshop) -> None:
    task = workshop.task(
        """
        import resource
        note("limits", resource.getrlimit(resource.RLIMIT_NOFILE))
        files = [open("/dev/null") for _ in range(40)]
        """,
        limits=Limits(open_files=32),
    )
    end = workshop.executor.run(task)
    assert (end.exit_code, end.breach) == (1, None)
    assert end.open_files
    assert end.open_files.limit == 32
    assert workshop.noted("limits") == [32, 32]
    assert "Too many open files" in task.stderr.read_text()
    assert was_refused_files(task.stderr)


FULL = """
files = []
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    time.sleep(0.5)  # time to be seen
"""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("which", ["it", "a child"])
def test_the_most_files_that_a_process_has_open_are_told_and_end_nothing(
    workshop: Workshop, which: str, code: int
) -> None:
    wait = "if os.fork():\n    os.wait()\n    os._exit({code})\n" if which == "a child" else ""
    end = workshop.run(f"{wait.format(code=code)}{FULL}\nos._exit({code})", limits=Limits(open_files=40))
    assert (end.exit_code, end.breach, end.open_files) == (code, None, OpenFiles(most=40, limit=40))


def test_files_are_counted_for_each_process(workshop: Workshop) -> None:
    end = workshop.run(
        """
        if not (child := os.fork()):
            os.fork()
        files = [open("/dev/null") for _ in range(20)]
        time.sleep(0.3)  # time to be seen
        """,
        limits=Limits(open_files=40),
    )
    assert end.open_files
    assert 23 <= end.open_files.most <= 30


def test_nobody_counts_files_that_are_not_limited(workshop: Workshop) -> None:
    end = workshop.run("time.sleep(0.1)", limits=Limits(memory_bytes=10**10, processes=20))
    assert end.open_files is None


def test_a_limit_above_that_of_the_system_is_that_of_the_system(workshop: Workshop) -> None:
    import resource

    end = workshop.run("time.sleep(0.1)", limits=Limits(open_files=10**40))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert end.open_files
    assert end.open_files.limit == (sys.maxsize if most == resource.RLIM_INFINITY else most)
