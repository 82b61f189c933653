"""The root keeper of a worker: forks a keeper for each slot, and kills what a keeper leaves that was killed itself.

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

_PATIENCE_S = 3.0  # how long keepers may take to end without their worker; one that is stopped never would
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Root:
    """Forks keepers, and is the subreaper above them."""

    def __init__(self, worker: socket.socket) -> None:
        self.worker = worker
        self.bell = Bell()
        self.keepers: set[int] = set()
        self.foreign: set[int] = set()
        """Children that another user started, and we may not kill."""
        self.left = 0
        """How many processes were found of which that is so, since the worker was told."""

    def loop(self) -> NoReturn:
        """Do as the worker says until it is gone."""
        watched: list[socket.socket | Bell] = [self.worker, self.bell]
        while True:
            ready = select.select(watched, [], [])[0]
            if self.bell in ready:
                self.bell.quiet()
                self.sweep()
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
            self.keepers.discard(pid)
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
        """Collect children that have ended."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.keepers.discard(pid)
            self.foreign.discard(pid)

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
            self.keepers.discard(pid)
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
