"""The root keeper of a worker: forks a keeper for each slot, and kills what a keeper leaves that was killed itself.

A keeper that is stopped holds no job to its limits: it is killed.

    main() in a process of its own, with two descriptors inherited from the worker: <socket> <lock>

Lines of JSON on the socket; the worker waits for the answer to each before it sends the next:

    -> {"keep": true}, with one end of a socket pair     a keeper for a slot; the worker talks to it by the other end
    <- {"pid": n}, or {"error": text}
    -> {"end": pid}                                      kill that keeper, if it lives, and all that it leaves
    <- {"left": processes that we may not kill}

It goes on without the worker until nothing is left below it. Should it be killed itself, the keepers go on without it.
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

from .keeper import Keeper
from .processes import Bell, become_subreaper, children, sweep

_PATIENCE_S = 3.0  # how long keepers may take to end without their worker
_STOPPED_S = (
    1.0  # for how long a keeper may be stopped: who stops a whole worker for a while wakes its processes in turn
)
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Root:
    """Forks keepers, and is the subreaper above them."""

    def __init__(self, worker: socket.socket) -> None:
        self.worker = worker
        self.bell = Bell()
        self.keepers: set[int] = set()
        self.stopped: dict[int, float] = {}
        """Keepers that are stopped, and since when, by the monotonic clock."""
        self.foreign: set[int] = set()
        """Children that another user started, and we may not kill."""
        self.left = 0
        """How many processes were found of which that is so, since the worker was told."""

    def loop(self) -> NoReturn:
        """Do as the worker says until it is gone."""
        watched: list[socket.socket | Bell] = [self.worker, self.bell]
        signal.signal(signal.SIGCONT, self.wake)
        while True:
            ready = select.select(watched, [], [], self.quiet_s())[0]
            if self.bell in ready:
                self.bell.quiet()
                self.sweep()
            self.kill_stopped()
            if self.worker in ready:
                self.obey()

    def obey(self) -> None:
        """Follow one order; an end of the socket is the last one."""
        try:
            line, descriptors, _, _ = socket.recv_fds(self.worker, 4096, 1)
        except OSError:
            line = b""
        if not line:
            self.end()
        order = json.loads(line)
        if "keep" in order:
            self.keep(descriptors[0])
        else:
            self.end_keeper(order["end"])

    def keep(self, descriptor: int) -> None:
        """Fork a keeper, which hears the worker by this descriptor."""
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            self.say({"error": error.strerror})
            return
        if pid == 0:
            self.become_keeper(descriptor)
        os.close(descriptor)  # a keeper that is forked later must not hold it, or nobody would see its end
        self.keepers.add(pid)
        self.say({"pid": pid})

    def become_keeper(self, descriptor: int) -> NoReturn:
        """Be a keeper from now on."""
        try:
            self.worker.close()
            self.bell.close()
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            os.set_inheritable(descriptor, False)
            os.setsid()
            become_subreaper()
            Keeper(socket.socket(fileno=descriptor)).loop()
        except BaseException:  # noqa: BLE001 - nothing may lead from here into the loop of the root keeper
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    def end_keeper(self, pid: int) -> None:
        """Kill a keeper, unless it has ended, and what it leaves."""
        if pid in self.keepers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.forget(pid)
        self.sweep()
        left, self.left = self.left, 0
        self.say({"left": left})

    def sweep(self) -> None:
        """Kill every child that is no keeper."""
        if left := sweep(self.strays, patience_s=0):
            self.left += len(left)
            self.foreign.update(set(left) & set(children(os.getpid())))

    def strays(self) -> list[int]:
        """Collect children that have ended; return those that are neither keepers nor out of our reach."""
        self.reap()
        return [pid for pid in children(os.getpid()) if pid not in self.keepers | self.foreign]

    def reap(self) -> None:
        """Collect children that have ended, and note which keepers are stopped, or go on."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFCONTINUED(status):
                self.stopped.pop(pid, None)
            elif not os.WIFSTOPPED(status):
                self.forget(pid)
            elif pid in self.keepers:
                self.stopped[pid] = time.monotonic()

    def forget(self, pid: int) -> None:
        """Forget a child that was collected: its pid may become another's."""
        self.keepers.discard(pid)
        self.foreign.discard(pid)
        self.stopped.pop(pid, None)

    def wake(self, *_: object) -> None:
        """Give keepers their time anew: we were stopped ourselves, as they were, and may be the first to go on."""
        self.stopped = dict.fromkeys(self.stopped, time.monotonic())

    def quiet_s(self) -> float | None:
        """How long `kill_stopped` has nothing to do; None is until it is told of another keeper."""
        if not self.stopped:
            return None
        return max(0.0, min(self.stopped.values()) + _STOPPED_S - time.monotonic())

    def kill_stopped(self) -> None:
        """Kill the keepers that are stopped for too long; a job must not escape its limits by stopping its keeper."""
        if self.quiet_s() == 0:
            self.reap()  # one may go on by now
            now = time.monotonic()
            for pid in [pid for pid, since in self.stopped.items() if now >= since + _STOPPED_S]:
                os.kill(pid, signal.SIGKILL)
                del self.stopped[pid]

    def say(self, answer: dict[str, object]) -> None:
        """Answer the worker; when it is gone, end."""
        try:
            self.worker.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self.end()

    def end(self) -> NoReturn:
        """Wait for the keepers, which see the end of the worker too, and leave nothing behind."""
        deadline = time.monotonic() + _PATIENCE_S
        self.sweep()
        while self.keepers and (left_s := deadline - time.monotonic()) > 0:
            select.select([self.bell], [], [], left_s)
            self.bell.quiet()
            self.sweep()
        for pid in self.keepers:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self.keepers):
            os.waitpid(pid, 0)
            self.forget(pid)
        self.sweep()
        os._exit(0)


def main() -> NoReturn:
    """Be the root keeper of the worker whose descriptors end `sys.argv`."""
    descriptors = [int(argument) for argument in sys.argv[-2:]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    become_subreaper()
    Root(socket.socket(fileno=descriptors[0])).loop()
