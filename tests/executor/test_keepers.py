"""Keepers that are killed, stopped and lost: nothing of a job outlives them, and no neighbour notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.waiting import until

from sjq.executors import keepers, launch, orphans
from sjq.executors.base import Limits
from sjq.executors.local import LocalExecutor
from sjq.states import Reason

from .other_worker import worker
from .workshop import Neighbour, Workshop, alive

if TYPE_CHECKING:
    from sjq.executors.base import Task

TREE = """
subprocess.Popen(["sleep", "40"])
subprocess.Popen(["sleep", "40"], start_new_session=True)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execvp("sleep", ["sleep", "40"])
os.wait()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("here", [os.getpid(), os.getppid()])
wait_for("never")
"""
"""A job with a child, one in another session, and an orphan: four processes."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no subreapers")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "PATIENCE_S", 0.5)
    monkeypatch.setattr(keepers, "_ANSWER_S", 2.0)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])


def state(pid: int) -> str:
    """Return the letter of a process's state, or an empty text when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


def is_stopped(pid: int) -> bool:
    """Tell whether every thread of a process is stopped; each hears of it by itself."""
    stats = [path.read_bytes() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rsplit(b")", 1)[1].split()[0] == b"T" for stat in stats)


def below(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def root_of(workshop: Workshop) -> int:
    """Return the root keeper; with a job, so that there is one."""
    workshop.run("note('keeper', os.getppid())")
    return parent(workshop.noted("keeper"))


# A keeper that is killed.


def test_all_that_a_killed_keeper_leaves_is_dead_when_run_returns(workshop: Workshop, neighbour: Neighbour) -> None:
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    until(lambda: len(alive(task.job_id)) == 4, "all of it has its environment, which an exec takes away for a moment")
    os.kill(its_keeper, signal.SIGKILL)
    end = running.wait(10)
    assert alive(task.job_id) == []
    assert (end.exit_code, end.signal, end.usage, end.breach) == (None, None, None, None)
    assert (end.error, end.lost, end.survivors) == ("the keeper of its processes was killed, or stopped", True, 0)
    assert neighbour.is_untouched()
    assert workshop.run("sys.exit(3)").exit_code == 3
    assert neighbour.ends_well()


def test_run_returns_only_when_what_a_killed_keeper_left_is_dead(workshop: Workshop) -> None:
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    root = parent(its_keeper)
    os.kill(root, signal.SIGSTOP)
    os.kill(its_keeper, signal.SIGKILL)
    time.sleep(0.3)  # what must not happen needs some time not to happen in
    assert not running.ended
    assert alive(task.job_id)
    os.kill(root, signal.SIGCONT)
    assert running.wait(10).lost
    assert alive(task.job_id) == []


def test_a_keeper_that_is_killed_while_idle_is_replaced(workshop: Workshop) -> None:
    root = root_of(workshop)
    os.kill(first := workshop.noted("keeper"), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first}").exists(), "it is dead, and no zombie")
    assert root_of(workshop) == root
    assert workshop.noted("keeper") != first


def test_what_a_killed_keeper_leaves_does_not_wait_for_the_worker(workshop: Workshop) -> None:
    """As when the worker is stopped: whoever asks for it or not, it is gone."""
    task = workshop.task(TREE)
    with worker(workshop, task) as process:
        _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(process.pid), "no thread of the worker can ask for anything")
        os.kill(its_keeper, signal.SIGKILL)
        until(lambda: not alive(task.job_id), "it is dead", seconds=10)
        process.kill()


# A root keeper that is killed, or stopped.


def test_keepers_go_on_without_their_root_and_the_next_job_has_one_again(
    workshop: Workshop, neighbour: Neighbour
) -> None:
    root = root_of(workshop)
    os.kill(root, signal.SIGKILL)
    assert neighbour.is_untouched()
    assert root_of(workshop) != root
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    os.kill(its_keeper, signal.SIGKILL)
    assert running.wait(10).lost
    assert alive(task.job_id) == []
    assert neighbour.ends_well()


def test_all_that_a_keeper_leaves_that_is_killed_after_its_root_is_dead_when_run_returns(
    workshop: Workshop, neighbour: Neighbour
) -> None:
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    until(lambda: len(alive(task.job_id)) == 4, "all of it has its environment, which an exec takes away for a moment")
    os.kill(parent(its_keeper), signal.SIGKILL)
    os.kill(its_keeper, signal.SIGKILL)
    end = running.wait(10)
    assert alive(task.job_id) == []
    assert (end.lost, end.survivors) == (True, 0)
    assert neighbour.is_untouched()
    assert workshop.run("sys.exit(3)").exit_code == 3
    assert neighbour.ends_well()


DETACHED = """
subprocess.Popen(["sleep", "40"], start_new_session=True)
bare = subprocess.Popen(["sleep", "40"], start_new_session=True, env={})
note("bare", bare.pid)
"""
KILLS_ITS_KEEPERS = """
its_keeper = os.getppid()
root = int(pathlib.Path(f"/proc/{its_keeper}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])
os.kill(root, signal.SIGKILL)
os.kill(its_keeper, signal.SIGKILL)
wait_for("never")
"""


def test_a_job_that_kills_both_of_its_keepers_does_not_escape(workshop: Workshop) -> None:
    """Nor does what is below it and does not show that it is of the job."""
    end = workshop.run(f"{DETACHED}\n{KILLS_ITS_KEEPERS}")
    assert (end.lost, end.survivors) == (True, 0)
    assert state(workshop.noted("bare")) in ("", "Z")


def test_what_is_left_of_a_job_and_cannot_be_killed_is_counted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(orphans, "_kill", lambda _: None)
    task = workshop.task(f"{DETACHED}\n{KILLS_ITS_KEEPERS}")
    end = workshop.executor.run(task)
    assert (end.lost, end.survivors) == (True, 3)
    for pid in (*alive(task.job_id), workshop.noted("bare")):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(task.job_id), "they are dead")


def test_a_job_of_the_same_name_elsewhere_is_not_taken_for_what_is_left(workshop: Workshop) -> None:
    """Jobs of other projects on this host may have the same ids; it is below somebody who is not of the job."""
    task = workshop.task("wait_for('go');" + KILLS_ITS_KEEPERS)
    running = workshop.start(task)
    until(lambda: len(alive(task.job_id)) == 1, "the job runs")
    marks = [f"{name}={value}" for name, value in launch.environment(task).items() if name.startswith("SJQ_")]
    with subprocess.Popen(["sh", "-c", 'env "$@" sleep 40; true', "sh", *marks], start_new_session=True) as other:
        until(lambda: len(alive(task.job_id)) == 2, "the other runs")
        workshop.tell("go")
        assert running.wait(10).survivors == 0
        assert [parent(pid) for pid in alive(task.job_id)] == [other.pid]
        os.killpg(other.pid, signal.SIGKILL)


def test_closing_ends_what_keepers_without_a_root_keep(workshop: Workshop) -> None:
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    os.kill(parent(its_keeper), signal.SIGKILL)
    workshop.executor.close()
    assert running.wait(10).error
    assert alive(task.job_id) == []
    until(lambda: state(its_keeper) in ("", "Z"), "it has ended")


@pytest.mark.usefixtures("impatient")
def test_a_root_keeper_that_is_stopped_holds_up_nobody(workshop: Workshop, neighbour: Neighbour) -> None:
    root = parent(parent(alive(neighbour.task.job_id)[0]))
    os.kill(root, signal.SIGSTOP)
    assert workshop.run("sys.exit(3)").exit_code == 3
    assert state(root) == ""
    assert neighbour.ends_well()


# A keeper that is stopped.

STOPS = "note('here', os.getppid()); os.kill(os.getppid(), signal.SIGSTOP); wait_for('never')"
"""A job that stops who would stop it."""


def test_a_job_that_stops_its_keeper_does_not_escape_its_limits(workshop: Workshop, neighbour: Neighbour) -> None:
    task = workshop.task(STOPS, limits=Limits(timeout_s=0.5), kill_after_s=0.2)
    end = workshop.start(task).wait(6)
    assert (end.lost, end.killed, end.error) == (True, False, "the keeper of its processes was killed, or stopped")
    assert alive(task.job_id) == []
    assert neighbour.is_untouched()
    assert workshop.run("sys.exit(3)").exit_code == 3
    assert neighbour.ends_well()


def test_a_job_that_stops_its_keeper_is_stopped_under_a_worker_that_is_stopped(workshop: Workshop) -> None:
    task = workshop.task("wait_for('go');" + STOPS)
    running = worker(workshop, task)
    with running as process:
        until(lambda: alive(task.job_id), "it runs")
        process.send_signal(signal.SIGSTOP)
        workshop.tell("go")
        until((workshop.notes / "here").exists, "it stops its keeper")
        until(lambda: not alive(task.job_id), "it is dead")
        process.send_signal(signal.SIGCONT)
    assert running.ends()[task.job_id].lost


@pytest.mark.usefixtures("impatient")
def test_a_stopped_keeper_without_a_root_is_killed_when_the_jobs_time_is_over(workshop: Workshop) -> None:
    task = workshop.task(f"wait_for('go'); {STOPS}", limits=Limits(timeout_s=0.5), kill_after_s=0.2)
    running = workshop.start(task)
    started = until(lambda: alive(task.job_id), "it runs")
    os.kill(parent(parent(started[0])), signal.SIGKILL)
    workshop.tell("go")
    assert running.wait(10).lost
    assert alive(task.job_id) == []
    assert workshop.run("sys.exit(3)").exit_code == 3


def test_who_stops_all_keepers_for_a_while_loses_no_job(workshop: Workshop) -> None:
    """Also when the root keeper goes on before those that it would kill."""
    tasks = [workshop.task(f"note('{n}', os.getppid()); wait_for('go'); sys.exit(4)") for n in range(2)]
    running = [workshop.start(task) for task in tasks]
    theirs = [until(partial(workshop.noted, f"{n}"), "the job runs") for n in range(2)]
    root = parent(theirs[0])
    for pid in theirs:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)  # the root keeper hears of it
    os.kill(root, signal.SIGSTOP)
    time.sleep(1.5)  # longer than it would wait
    for pid in (root, *theirs):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    time.sleep(1)  # what must not happen needs some time not to happen in
    workshop.tell("go")
    assert [one.wait(10).exit_code for one in running] == [4, 4]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("with_root", [True, False], ids=["", "without a root"])
def test_a_stopped_keeper_does_not_hold_up_a_kill(workshop: Workshop, neighbour: Neighbour, with_root: bool) -> None:
    task = workshop.task("note('here', os.getppid()); wait_for('never')", kill_after_s=0.2)
    running = workshop.start(task)
    its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    if not with_root:
        os.kill(parent(its_keeper), signal.SIGKILL)
    os.kill(its_keeper, signal.SIGSTOP)
    workshop.executor.kill(task)
    end = running.wait(10)
    assert (end.killed, end.lost) == (True, True)
    until(lambda: not alive(task.job_id), "it is dead")
    assert neighbour.is_untouched()
    assert workshop.run("sys.exit(3)").exit_code == 3
    assert neighbour.ends_well()


@pytest.mark.usefixtures("impatient")
def test_a_kill_that_is_answered_kills_no_keeper_later(workshop: Workshop) -> None:
    before = threading.active_count()
    task = workshop.task("note('here', os.getppid()); wait_for('never')", kill_after_s=0)
    running = workshop.start(task)
    its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    workshop.executor.kill(task)
    running.wait(10)
    until(lambda: threading.active_count() == before, "nothing waits any more", seconds=0.4)
    assert workshop.run("note('next', os.getppid()); wait_for('never', 1)").exit_code == 0
    assert workshop.noted("next") == its_keeper


@pytest.mark.usefixtures("impatient")
def test_a_kill_that_comes_after_a_jobs_end_does_nothing_to_the_next_one(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, say = LocalExecutor._done, keepers.Keeper._say
    said: list[dict[str, object]] = []

    def late(executor: LocalExecutor, task: Task, slot: keepers.Keeper) -> bool:
        """Kill between the keeper's report and the moment when the executor hears of it."""
        if task is first:
            executor.kill(task)
        return done(executor, task, slot)

    def noted(keeper: keepers.Keeper, order: dict[str, object]) -> None:
        said.append(order)
        say(keeper, order)

    monkeypatch.setattr(LocalExecutor, "_done", late)
    monkeypatch.setattr(keepers.Keeper, "_say", noted)
    first = workshop.task("note('first', os.getppid()); sys.exit(3)", kill_after_s=0)
    end = workshop.executor.run(first)
    assert (end.exit_code, end.killed, end.lost) == (3, True, False)
    end = workshop.run("note('next', os.getppid()); wait_for('never', 1); sys.exit(4)")
    assert (end.exit_code, end.killed, end.lost) == (4, False, False)
    assert workshop.noted("next") == workshop.noted("first")
    assert [list(order) for order in said] == [["run"], ["run"]]


def test_closing_ends_a_keeper_that_is_stopped(workshop: Workshop) -> None:
    task = workshop.task(TREE)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    os.kill(its_keeper, signal.SIGSTOP)
    workshop.executor.close()
    assert alive(task.job_id) == []
    assert running.wait(10).error


# A worker that is killed, or stopped.


def test_a_worker_and_a_keeper_that_are_killed_at_once_leave_nothing(workshop: Workshop) -> None:
    task, other = workshop.task(TREE), workshop.task(TREE.replace('"here"', '"other"'))
    with worker(workshop, task, other) as process:
        _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
        until(lambda: workshop.noted("other"), "the other runs")
        for number in (signal.SIGSTOP, signal.SIGKILL):  # neither may notice what happens to the other
            for pid in (process.pid, its_keeper):
                os.kill(pid, number)
    assert alive(task.job_id) == []
    assert alive(other.job_id) == []


def test_keepers_without_a_root_end_what_they_keep_with_their_worker(workshop: Workshop) -> None:
    """Nobody else is there to do it."""
    task = workshop.task(TREE)
    with worker(workshop, task) as process:
        _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
        root = parent(its_keeper)
        os.kill(root, signal.SIGKILL)
        until(lambda: parent(its_keeper) != root, "its root keeper is gone")
        process.kill()
    assert alive(task.job_id) == []


def test_a_keeper_that_is_stopped_ends_with_its_worker(workshop: Workshop) -> None:
    task = workshop.task(TREE)
    with worker(workshop, task) as process:
        _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
        os.kill(its_keeper, signal.SIGSTOP)
        process.kill()
    assert alive(task.job_id) == []


def test_a_worker_that_is_stopped_keeps_no_job_beyond_its_limits(workshop: Workshop) -> None:
    slow = workshop.task(TREE, limits=Limits(timeout_s=1.5), kill_after_s=0.2)
    large = workshop.task(
        "note('large'); wait_for('go'); block = bytearray(200_000_000); wait_for('never')",
        limits=Limits(memory_bytes=100_000_000),
    )
    running = worker(workshop, slow, large)
    with running as process:
        until((workshop.notes / "here").exists, "the slow one runs")
        until((workshop.notes / "large").exists, "the large one runs")
        process.send_signal(signal.SIGSTOP)
        workshop.tell("go")
        until(lambda: not alive(slow.job_id) and not alive(large.job_id), "both are dead")
        process.send_signal(signal.SIGCONT)
    ends = running.ends()
    assert ends[slow.job_id].breach.reason is Reason.TIMEOUT
    assert ends[large.job_id].breach.reason is Reason.MEMORY


# What keepers cost.


def switches(pid: int) -> int:
    """Return how often a process has gone to sleep."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_keepers_do_nothing_while_nothing_happens(workshop: Workshop) -> None:
    root = root_of(workshop)
    task = workshop.task("note('here', os.getppid()); wait_for('go')", limits=Limits(timeout_s=60))
    running = workshop.start(task)
    its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    time.sleep(0.1)  # to fall asleep
    before = [switches(pid) for pid in (root, its_keeper)]
    time.sleep(1)
    assert [switches(pid) for pid in (root, its_keeper)] == before
    workshop.tell("go")
    assert running.wait(10).exit_code == 0


def sockets(pid: int | str) -> int:
    """Return how many sockets and pipes a process holds."""
    kinds = [path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return sum(kind.startswith(("socket:", "pipe:")) for kind in kinds)


def test_keepers_neither_hold_each_others_descriptors_nor_collect_zombies(workshop: Workshop) -> None:
    root = root_of(workshop)
    at_first = sockets("self")
    for turn in range(4):
        tasks = [workshop.task(f"note('{turn}.{n}', os.getppid()); wait_for('never')") for n in range(3)]
        running = [workshop.start(task) for task in tasks]
        pids = [until(partial(workshop.noted, f"{turn}.{n}"), "it runs") for n in range(3)]
        assert [sockets(pid) for pid in (root, *pids)] == [3] * 4  # one to the worker, two that wake it
        assert sorted(below(root)) == sorted(pids)
        os.kill(pids[0], signal.SIGKILL)
        for task in tasks[1:]:
            workshop.executor.kill(task)
        assert sum(one.wait(30).lost for one in running) == 1
    assert sockets("self") == at_first + 1  # two keepers, after one
