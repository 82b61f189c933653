"""What is special about this machine: keepers, the lock file, and the handler package."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import missing
from unit.waiting import until

import sjq
from sjq.errors import EnvironmentFailed
from sjq.executors import launch
from sjq.executors.base import Limits
from sjq.executors.keepers import _START, Keeper
from sjq.executors.local import LocalExecutor
from sjq.keepers.job import Job
from sjq.worker.lock_file import processes_gone

from .workshop import Workshop, alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sjq.executors.base import Exit, Task

PACKAGES = Path(sjq.__file__).parents[1]
STAYS = "note('here', [os.getpid(), os.getppid()]); wait_for('never')"


@pytest.fixture
def strange_process() -> Iterator[None]:
    """A process of somebody else, with a name that is no UTF-8."""
    code = r"import ctypes, sys; ctypes.CDLL(None).prctl(15, b'caf\xc3'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.kill()


# Keepers.


def _killed_keeper(workshop: Workshop) -> tuple[Task, Exit]:
    task = workshop.task("subprocess.Popen(['sleep', '40']); " + STAYS)
    running = workshop.start(task)
    _, its_keeper = until(lambda: workshop.noted("here"), "the job runs")
    os.kill(its_keeper, signal.SIGKILL)
    return task, running.wait(10)


def test_a_killed_keeper_is_told_and_its_job_is_dead(workshop: Workshop) -> None:
    task, end = _killed_keeper(workshop)
    assert (end.exit_code, end.signal, end.usage) == (None, None, None)
    assert end.error
    assert "keeper" in end.error
    until(lambda: not alive(task.job_id), "the job's session is dead")
    assert workshop.run("").exit_code == 0


@pytest.mark.usefixtures("strange_process")
def test_a_killed_keepers_job_is_dead_whatever_else_runs_here(workshop: Workshop) -> None:
    task, end = _killed_keeper(workshop)
    assert end.error
    until(lambda: not alive(task.job_id), "the job's session is dead")


def test_a_keeper_serves_one_job_after_the_other(workshop: Workshop) -> None:
    seen = set()
    for _ in range(3):
        workshop.run("note('keeper', os.getppid())")
        seen.add(workshop.noted("keeper"))
    assert len(seen) == 1


def test_a_keeper_lives_in_a_session_of_its_own(workshop: Workshop) -> None:
    workshop.run("note('keeper', [os.getppid(), os.getsid(os.getppid())])")
    pid, session = workshop.noted("keeper")
    assert pid == session


def test_a_keeper_that_could_not_start_one_process_starts_the_next(workshop: Workshop) -> None:
    workshop.run("note('keeper', os.getppid())")
    before = workshop.noted("keeper")
    with pytest.raises(EnvironmentFailed, match=r"No such file or directory: .*missing"):
        workshop.run("", interpreter=Path("/missing"))
    workshop.run("note('keeper', os.getppid())")
    assert workshop.noted("keeper") == before


def test_a_kill_that_overtakes_the_start_is_heard(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot has its keeper, but has not told it what to run; then the worker is stopped."""
    task = workshop.task("note('here'); wait_for('never', 2)")
    begin = Keeper.run

    def stopped_just_before(slot: Any, *arguments: Any) -> dict[str, Any]:
        workshop.executor.kill(task)
        return begin(slot, *arguments)

    monkeypatch.setattr(Keeper, "run", stopped_just_before)
    end = workshop.start(task).wait(10)
    assert end.killed
    assert end.exit_code is None, "it ran to its own end"


def test_nothing_stays_of_kills_that_come_after_the_end(workshop: Workshop) -> None:
    executor = workshop.executor
    assert isinstance(executor, LocalExecutor)
    for _ in range(3):
        task = workshop.task("")
        assert executor.run(task).exit_code == 0
        executor.kill(task)
    del task
    assert not executor._doomed


def test_a_kill_that_comes_too_late_harms_nobody(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job has ended, but its slot has not noticed when the kill goes out; the keeper has the next job then."""
    first = workshop.task("")
    begin = Keeper.run

    def stopped_just_after(slot: Any, *arguments: Any) -> dict[str, Any]:
        report = begin(slot, *arguments)
        workshop.executor.kill(first)
        return report

    monkeypatch.setattr(Keeper, "run", stopped_just_after)
    assert workshop.executor.run(first).killed
    monkeypatch.undo()
    end = workshop.run("wait_for('never', 0.3)")
    assert (end.exit_code, end.killed) == (0, False)


class Kept:
    """A keeper that a test talks to directly, and the root keeper above it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root, its_root = socket.socketpair()
        self.socket, its = socket.socketpair()
        for ours in (self.root, self.socket):
            ours.settimeout(20)
        with its_root, its, (folder / "lock").open("w") as lock:
            keep = (its_root.fileno(), lock.fileno())
            command = [sys.executable, "-I", "-S", "-c", _START, str(PACKAGES), *map(str, keep)]
            self.process = subprocess.Popen(command, pass_fds=keep, env={})
            socket.send_fds(self.root, [b'{"keep": true}'], [its.fileno()])
        self.pid: int = json.loads(self.root.recv(4096))["pid"]
        self.lines = self.socket.makefile("rb")

    def order(self, code: str, kill_after_s: float = 5, **limits: float) -> bytes:
        run = {
            "argv": [sys.executable, "-c", code],
            "env": {},
            "stdout": str(self.folder / "out"),
            "stderr": str(self.folder / "err"),
            "kill_after_s": kill_after_s,
            "limits": asdict(Limits()) | limits,
        }
        return json.dumps({"run": run}).encode() + b"\n"

    def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self.lines.readline())
        return heard

    def close(self) -> None:
        self.lines.close()
        self.socket.close()
        self.root.close()
        self.process.wait(20)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    opened = Kept(tmp_path)
    yield opened
    opened.close()
    assert opened.process.returncode == 0


def test_each_process_is_asked_to_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears SIGTERM twice may take the second for impatience, as the worker itself does."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("sjq.keepers.job.tree", lambda _, **__: [11, 12])
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    job = Job.__new__(Job)
    job.pid = 11
    job._ask_to_end(1.0)
    assert sorted(sent) == [(pid, number) for pid in (11, 12) for number in (signal.SIGTERM, signal.SIGCONT)]


@pytest.mark.parametrize("jump_s", [86400, -86400])
def test_a_jump_of_the_wall_clock_is_no_time_that_a_job_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    limits = asdict(Limits(timeout_s=60))
    files = {"stdout": str(tmp_path / "out"), "stderr": str(tmp_path / "err")}
    job = Job({"argv": ["/bin/sleep", "40"], "env": {}, **files, "kill_after_s": 5, "limits": limits})
    try:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + jump_s)
        assert not job.must_die()
        assert not job.stopping
        assert 50 < (job.quiet_s() or 0) <= 60
    finally:
        os.kill(job.pid, signal.SIGKILL)
        os.waitpid(job.pid, 0)


WAIT = "import time; time.sleep({})"


def test_a_keeper_hears_a_kill(kept: Kept) -> None:
    kept.socket.sendall(kept.order(WAIT.format(20)))
    assert kept.hear()["pid"]
    kept.socket.sendall(b'{"kill": true}\n')
    assert kept.hear()["status"] == signal.SIGTERM


def test_a_keeper_hears_a_kill_that_came_with_the_start(kept: Kept) -> None:
    kept.socket.sendall(kept.order(WAIT.format(1)) + b'{"kill": true}\n')
    assert kept.hear()["pid"]
    assert kept.hear()["status"] == signal.SIGTERM


def test_orders_may_come_in_pieces(kept: Kept) -> None:
    for byte in kept.order("raise SystemExit(3)"):
        kept.socket.sendall(bytes([byte]))
    assert kept.hear()["pid"]
    assert os.waitstatus_to_exitcode(kept.hear()["status"]) == 3


def test_a_keeper_ends_with_its_pipe(kept: Kept) -> None:
    kept.socket.sendall(kept.order(WAIT.format(20)))
    pid = kept.hear()["pid"]
    kept.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: not Path(f"/proc/{kept.pid}").exists(), "the keeper has ended")
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_keeper_ends_by_no_signal_that_is_meant_for_workers(kept: Kept, number: int) -> None:
    kept.socket.sendall(kept.order("raise SystemExit(3)"))
    kept.hear(), kept.hear()
    os.kill(kept.pid, number)
    kept.process.send_signal(number)
    kept.socket.sendall(kept.order("raise SystemExit(4)"))
    assert kept.hear()["pid"]
    assert os.waitstatus_to_exitcode(kept.hear()["status"]) == 4


# A worker that is killed.

WORKER = """
import os, pickle, sys
from pathlib import Path
from sjq.executors.local import LocalExecutor
from sjq.worker.lock_file import LockFile
import threading
task, others = pickle.loads(Path(sys.argv[1]).read_bytes())
root = Path(sys.argv[2])
lock = LockFile(root / ".sjq" / "workers", "killed")
executor = LocalExecutor(root, lock=lock.descriptor)
for other in others:
    threading.Thread(target=executor.run, args=(other,)).start()
executor.run(task)
"""


def test_a_worker_that_is_killed_takes_its_jobs_with_it_and_frees_its_lock(workshop: Workshop) -> None:
    task = workshop.task("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "40"])
        subprocess.Popen(["sleep", "40"], start_new_session=True)
        note("here"), wait_for("never")
    """)
    other = workshop.task("os.kill(os.getpid(), signal.SIGSTOP)")
    plan = workshop.root / "plan"
    plan.write_bytes(pickle.dumps((task, [other])))
    lock = workshop.root / ".sjq" / "workers" / "killed.lock"
    arguments = [sys.executable, "-c", WORKER, str(plan), str(workshop.root)]
    with subprocess.Popen(arguments) as worker:
        until((workshop.notes / "here").exists, "the job runs")
        until(lambda: len(alive(task.job_id)) == 3 and alive(other.job_id), "all of it runs")
        assert not processes_gone(lock)
        worker.kill()
    until(lambda: processes_gone(lock), "the lock is free")
    assert alive(task.job_id) == []
    assert alive(other.job_id) == []


def test_processes_that_the_keeper_may_not_kill_are_left_and_hold_up_nobody(workshop: Workshop) -> None:
    """As what a job starts by sudo, under a worker that is not root."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() or setpriv is None:
        missing("setpriv, and the right to use it")
    first = workshop.task("""
        if not (child := os.fork()):
            os.setsid()
            os.setuid(65534)
            os.execvp("sleep", ["sleep", "60"])
        note("child", child)
    """)
    second = workshop.task("note('second')")
    plan = workshop.root / "plan"
    plan.write_bytes(pickle.dumps((first, [])))
    program = WORKER + "executor.run(pickle.loads(Path(sys.argv[3]).read_bytes()))"
    (workshop.root / "next").write_bytes(pickle.dumps(second))
    without_right = [setpriv, "--inh-caps=-kill", "--bounding-set=-kill"]
    arguments = [sys.executable, "-c", program, str(plan), str(workshop.root), str(workshop.root / "next")]
    with subprocess.Popen([*without_right, *arguments], stderr=subprocess.PIPE, text=True) as worker:
        try:
            until((workshop.notes / "second").exists, "the next job runs")
            _, said = worker.communicate(timeout=30)
        finally:
            os.kill(json.loads((workshop.notes / "child").read_text()), signal.SIGKILL)
    assert (worker.returncode, "1 of its processes outlive it, which cannot be killed" in said) == (0, True)


# The handler package.


def test_the_handler_package_is_kept_alone(workshop: Workshop) -> None:
    folder = workshop.root / ".sjq" / "lib"
    assert [path.name for path in folder.iterdir()] == ["sjq"]
    source = {path.name: path.read_bytes() for path in files("sjq.handler").iterdir() if path.name.endswith(".py")}
    assert {path.name: path.read_bytes() for path in (folder / "sjq").glob("*.py")} == source


def test_the_handler_package_is_what_a_script_imports(workshop: Workshop) -> None:
    workshop.run("import sjq; note('file', sjq.__file__)")
    assert workshop.noted("file") == str(workshop.root.resolve() / ".sjq" / "lib" / "sjq" / "__init__.py")


def test_a_handler_package_that_differs_is_made_new(workshop: Workshop) -> None:
    package = workshop.root / ".sjq" / "lib" / "sjq"
    expected = {path.name: path.read_bytes() for path in package.glob("*.py")}
    one, *others = sorted(expected)
    (package / one).write_text("broken")
    (package / others[0]).unlink()
    (package / "stray.py").write_text("of an older version")
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "old.pyc").touch()
    launch.keep_handler_package(workshop.root)
    assert {path.name: path.read_bytes() for path in package.glob("*.py")} == expected
    assert not (package / "__pycache__").exists()
    assert not [path for path in package.iterdir() if path.suffix != ".py"]


def test_a_handler_package_that_is_right_is_left_alone(workshop: Workshop) -> None:
    package = workshop.root / ".sjq" / "lib" / "sjq"
    before = {path.name: path.stat().st_mtime_ns for path in package.glob("*.py")}
    (package / "__pycache__").mkdir(exist_ok=True)
    launch.keep_handler_package(workshop.root)
    assert {path.name: path.stat().st_mtime_ns for path in package.glob("*.py")} == before
    assert (package / "__pycache__").exists()


# The command line.


def test_a_command_is_recorded_as_a_person_types_it(workshop: Workshop, tmp_path: Path) -> None:
    runtime = workshop.task("").runtime
    assert launch.recorded_command(runtime, workshop.root) == "PYTHONPATH=.sjq/lib uv run topics/topic-1.py"
    assert launch.shown(tmp_path / "elsewhere", workshop.root) == str(tmp_path / "elsewhere")


def test_a_command_with_a_space_in_it_can_be_pasted(workshop: Workshop) -> None:
    runtime = workshop.runtime("", name="my script")
    assert shlex.split(launch.recorded_command(runtime, workshop.root))[-1] == "topics/my script.py"
