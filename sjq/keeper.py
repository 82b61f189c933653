"""The keeper of one slot: starts a job's process, and lets nothing of the job outlive it. Standard library only.

It is the subreaper above all processes of its slot, so what a job leaves behind, however it was detached, becomes the
keeper's child and is killed before the slot's next job. End of file on the worker's pipe means that the worker is gone:
everything is killed and the keeper ends. It holds the worker's lock file open; recovery on this host waits until that
lock is free, which is when the last process of the dead worker is gone.

    python -I -S keeper.py <socket> <lock>        descriptors, inherited from the worker

Lines of JSON on the socket:

    -> {"run": {"argv": [...], "env": {...}, "stdout": path, "stderr": path}}
    -> {"kill": seconds from SIGTERM to SIGKILL}
    <- {"pid": n}                                  the job's process, which leads a session of its own
    <- {"status": n, "max_rss_bytes": n, "user_s": s, "system_s": s, "left": processes that we may not kill}
    <- {"error": text}                             it could not be started
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

PR_SET_CHILD_SUBREAPER = 36
_QUIET_S = 0.0005
_FOREIGN_S = 5.0  # how long processes are tried that we may not kill; they may end by themselves


def become_subreaper() -> None:
    """Adopt orphaned descendants; only Linux can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(parent: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        return _children_by_parent(parent)
    except OSError:
        return []
    return found


def _children_by_parent(parent: int) -> list[int]:
    """Return the same from every process's own word, where the kernel keeps no list of children."""
    found: list[int] = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rsplit(b")", 1)[1].split()[1]) == parent:
                    found.append(int(name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def tree(root: int) -> list[int]:
    """Return the pids of all descendants of a process."""
    found: list[int] = []
    todo = [root]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


class Job:
    """The one job that runs now."""

    def __init__(self, order: dict[str, object]) -> None:
        argv: list[str] = order["argv"]  # type: ignore[assignment]
        env: dict[str, str] = order["env"]  # type: ignore[assignment]
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        # What this process ignores, its children would ignore too: the job starts with every signal at its default.
        self.pid = os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, order["stdout"], write, 0o644),
                (os.POSIX_SPAWN_OPEN, 2, order["stderr"], write, 0o644),
            ],
            setsid=True,
            setsigdef=_DEFAULTED,
            setsigmask=[],
        )
        self.status: int | None = None
        self.max_rss_bytes = 0
        self.user_s = self.system_s = 0.0

    def reap(self) -> bool:
        """Collect children that have ended; tell whether none is left."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid:
                self.status = status
            self.max_rss_bytes = max(self.max_rss_bytes, used.ru_maxrss * (1024 if sys.platform == "linux" else 1))
            self.user_s += used.ru_utime
            self.system_s += used.ru_stime

    def ask_to_end(self) -> None:
        """Send SIGTERM to every process of the job; a stopped one is woken to receive it."""
        for pid in {self.pid, *tree(os.getpid())}:
            for number in (signal.SIGTERM, signal.SIGCONT):
                try:
                    os.kill(pid, number)
                except (ProcessLookupError, PermissionError):
                    break

    def sweep(self) -> int:
        """Kill until no child remains; return how many are left that another user started and we may not kill.

        Killing only the direct children and their groups is enough, since what they leave becomes a direct child; and
        it is faster than a process that forks and exits without end, which a walk of the tree never catches.
        """
        me, mine = os.getpid(), os.getpgid(0)
        rounds = 0
        give_up_at = time.monotonic() + _FOREIGN_S
        while not self.reap():
            foreign = 0
            for pid in children(me) or [self.pid]:
                foreign += not _kill(pid, mine)
            if foreign and time.monotonic() > give_up_at:
                return foreign
            rounds += 1
            if rounds > 20:
                time.sleep(min(_QUIET_S * rounds, 0.05))
        return 0


def _kill(pid: int, mine: int) -> bool:
    """Kill a process and its group, unless that is `mine`; False when we may not."""
    try:
        group = os.getpgid(pid)
        if group != mine:
            os.killpg(group, signal.SIGKILL)  # reaches those of the group whom we may kill
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_DEFAULTED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Keeper:
    """Runs jobs one after the other, as the worker says on the socket."""

    def __init__(self, worker: socket.socket) -> None:
        self.worker = worker
        self.buffer = b""
        self.job: Job | None = None
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        self.woken = woken
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def loop(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        while True:
            order = self.order()
            if "run" in order:
                self.run(order["run"])  # type: ignore[arg-type]

    def order(self) -> dict[str, object]:
        """Return the worker's next order; an end of the pipe is the last one."""
        while b"\n" not in self.buffer:
            try:
                part = self.worker.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                self.end()
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        order: dict[str, object] = json.loads(line)
        return order

    def end(self) -> NoReturn:
        """Leave nothing behind."""
        if self.job:
            self.job.sweep()
        os._exit(0)

    def run(self, order: dict[str, object]) -> None:
        """Run one job to its end, and kill what it leaves."""
        try:
            self.job = Job(order)
        except OSError as error:
            self.say({"error": f"{error.strerror}: {error.filename or order['argv'][0]}"})  # type: ignore[index]
            return
        self.say({"pid": self.job.pid})
        self.watch(self.job)
        left = self.job.sweep()
        job, self.job = self.job, None
        self.say(
            {
                "status": job.status,
                "max_rss_bytes": job.max_rss_bytes,
                "user_s": job.user_s,
                "system_s": job.system_s,
                "left": left,
            }
        )

    def watch(self, job: Job) -> None:
        """Return when the job's process has ended; after an order to kill, when all have, or their time is over."""
        kill_at: float | None = None
        while not job.reap() and (job.status is None or kill_at is not None):
            left = None if kill_at is None else kill_at - time.monotonic()
            if left is not None and left <= 0:
                return
            watched: list[socket.socket | int] = [self.worker, self.woken]
            # An order that came together with the start is in our buffer, where select does not see it.
            ready = [self.worker] if b"\n" in self.buffer else select.select(watched, [], [], left)[0]
            if self.woken in ready:
                self.drain()
            if self.worker in ready:
                order = self.order()
                if "kill" in order and kill_at is None:
                    job.ask_to_end()
                    kill_at = time.monotonic() + float(order["kill"])  # type: ignore[arg-type]

    def drain(self) -> None:
        """Empty the pipe that wakes us when a child ends."""
        try:
            while os.read(self.woken, 4096):
                pass
        except BlockingIOError:
            return

    def say(self, report: dict[str, object]) -> None:
        """Report to the worker; when it is gone, end."""
        try:
            self.worker.sendall(json.dumps(report).encode() + b"\n")
        except OSError:
            self.end()


def main() -> None:
    """Keep the slot of the worker whose descriptors are in `sys.argv`."""
    descriptors = [int(argument) for argument in sys.argv[1:3]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    become_subreaper()
    Keeper(socket.socket(fileno=descriptors[0])).loop()


if __name__ == "__main__":
    main()
