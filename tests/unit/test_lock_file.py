"""A worker's lock file is held as long as any of its processes lives, and not a moment longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from sjq import identity
from sjq.worker.lock_file import LOCK_FILE, Abandoned, LockFile, abandoned, is_gone, processes_gone

from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER = """
import os, subprocess, sys
from pathlib import Path
from sjq.worker.lock_file import LockFile
lock = LockFile(Path(sys.argv[1]), "w")
child = 0
if sys.argv[2] == "fork":
    child = os.fork()
    if not child:
        os.close(0)
        os.read(os.open(sys.argv[3], os.O_RDONLY), 1)
        os._exit(0)
elif sys.argv[2] == "exec":
    code = "import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY), 1)"
    keep = (lock.descriptor,) if sys.argv[4] == "inherits" else ()
    child = subprocess.Popen([sys.executable, "-c", code, sys.argv[3]], stdin=subprocess.DEVNULL, pass_fds=keep).pid
print(child, flush=True)
sys.stdin.read()
if sys.argv[2] == "close":
    lock.close()
"""


@contextmanager
def worker(folder: Path, *how: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that holds a lock file, and its child that inherits it or not."""
    arguments = [sys.executable, "-c", WORKER, str(folder), *how]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            if child:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def test_a_lock_is_held_until_its_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "workers" / "w.lock"
    with worker(path.parent, "alone") as (process, _):
        assert not processes_gone(path)
        assert path.exists()
        process.kill()
        process.wait()
        assert processes_gone(path)
        assert processes_gone(path)


def test_a_worker_that_ends_in_order_removes_its_file(tmp_path: Path) -> None:
    with worker(tmp_path, "close") as (process, _):
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def _held_by_the_child(folder: Path, *how: str) -> None:
    path = folder / "w.lock"
    wait = folder / "wait"
    os.mkfifo(wait)
    with worker(folder, how[0], str(wait), *how[1:]) as (process, child):
        process.kill()
        process.wait()
        assert not processes_gone(path)
        os.kill(child, signal.SIGKILL)
        until(lambda: processes_gone(path), "the lock is free")


def test_a_forked_child_holds_on(tmp_path: Path) -> None:
    _held_by_the_child(tmp_path, "fork")


def test_a_program_that_inherits_the_descriptor_holds_on(tmp_path: Path) -> None:
    _held_by_the_child(tmp_path, "exec", "inherits")


def test_a_worker_is_not_gone_before_the_last_of_its_processes(tmp_path: Path) -> None:
    pipe, path = tmp_path / "pipe", tmp_path / "w.lock"
    os.mkfifo(pipe)
    with worker(tmp_path, "exec", str(pipe), "inherits") as (process, child):
        facts = {
            "boot": identity.boot_id(),
            "pid_namespace": identity.pid_namespace(),
            "pid": str(process.pid),
            "start": identity.start_ticks(process.pid) or "",
            LOCK_FILE: str(path),
        }
        assert not is_gone(facts)
        process.kill()
        process.wait()
        assert not is_gone(facts), "what it started still runs"
        os.kill(child, signal.SIGKILL)
        until(lambda: is_gone(facts), "it is gone with its last process")


def test_a_program_that_does_not_inherit_it_holds_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wait")
    with worker(tmp_path, "exec", str(tmp_path / "wait"), "does not") as (process, _):
        process.kill()
        process.wait()
        assert processes_gone(tmp_path / "w.lock")


def test_a_lock_of_this_process(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "a" / "b", "host-1")
    assert lock.path == tmp_path / "a" / "b" / "host-1.lock"
    assert not os.get_inheritable(lock.descriptor)
    assert not processes_gone(lock.path)
    lock.close()
    assert processes_gone(lock.path)


def test_a_file_that_was_never_there_holds_nobody(tmp_path: Path) -> None:
    assert processes_gone(tmp_path / "nowhere" / "w.lock")


# What a lock file tells of a worker that did not end in good order.


def test_what_each_slot_settled_last_is_found(tmp_path: Path) -> None:
    lock = LockFile(tmp_path, "w.1")
    longest = "é" * 256
    for slot, job_id in ((0, "first"), (3, longest), (0, "second"), (1, "a b")):
        lock.settling(slot, job_id)
    assert list(abandoned(tmp_path)) == [], "it is held"
    os.close(lock.descriptor)
    assert list(abandoned(tmp_path)) == [Abandoned(lock.path, ("second", "a b", longest))]
    assert next(abandoned(tmp_path)).worker == "w.1"


def test_a_shorter_id_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    lock = LockFile(tmp_path, "w")
    lock.settling(0, "a" * 512)
    lock.settling(0, "b")
    os.close(lock.descriptor)
    assert next(abandoned(tmp_path)).job_ids == ("b",)


def test_a_worker_that_settled_nothing_is_found_too(tmp_path: Path) -> None:
    for worker in ("b", "a"):
        os.close(LockFile(tmp_path, worker).descriptor)
    assert list(abandoned(tmp_path)) == [Abandoned(tmp_path / f"{worker}.lock", ()) for worker in "ab"]


def test_where_no_worker_was_none_is_abandoned(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert list(abandoned(tmp_path)) == []
    assert list(abandoned(tmp_path / "nowhere")) == []


def test_a_file_that_is_taken_away_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cleaner sees a file that nobody holds yet, and removes it."""
    path = tmp_path / "w.lock"
    true = os.open
    calls: list[object] = []

    def open_and_lose(*arguments: Any) -> int:
        descriptor: int = true(*arguments)
        if arguments[0] == path and not calls:
            path.unlink()
        calls.append(arguments)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    lock = LockFile(tmp_path, "w")
    monkeypatch.undo()
    assert len(calls) == 2
    assert os.path.samestat(path.stat(), os.fstat(lock.descriptor))
    assert not processes_gone(path)
    lock.close()


def test_a_note_for_which_there_is_no_room_stops_nobody(tmp_path: Path) -> None:
    lock_file = LockFile(tmp_path, "w")
    kept, lock_file.descriptor = lock_file.descriptor, os.open("/dev/full", os.O_WRONLY)
    lock_file.settling(0, "a")
    os.close(kept)
    lock_file.close()
