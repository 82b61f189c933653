"""The keeper of one slot: starts a job's process, holds it to its limits, and lets nothing of it outlive it.

Lines of JSON on the worker's socket:

    -> {"run": {"argv": [...], "env": {...}, "stdout": path, "stderr": path, "kill_after_s": s, "limits": {...}}}
    -> {"kill": true}                              SIGTERM, and SIGKILL after `kill_after_s`
    <- {"pid": n}                                  the job's process, which leads a session of its own
    <- {"status": n, "max_rss_bytes": n, "user_s": s, "system_s": s,
        "left": processes that we may not kill, "excess": null or [limit, measured],
        "open_files": null or [the most that one process was seen to have, how many each may],
        "oom_kills": how many processes the kernel killed meanwhile for want of memory}
    <- {"error": text}                             it could not be started

`limits` has `timeout_s`, `memory_bytes`, `cpu_s`, `processes` and `open_files`, each a number or null. All times are
this process's own: a worker that is stopped keeps no job alive beyond them.
"""

from __future__ import annotations

import json
import os
import select
import socket
from typing import Any, NoReturn

from .job import Job
from .kernel import OomKills
from .processes import Bell


class Keeper:
    """Runs jobs one after the other, as the worker says on the socket."""

    def __init__(self, worker: socket.socket) -> None:
        self.worker = worker
        self.buffer = b""
        self.job: Job | None = None
        self.bell = Bell()
        self.oom_kills = OomKills()

    def loop(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        while True:
            order = self.order()
            if "run" in order:
                self.run(order["run"])

    def order(self) -> dict[str, Any]:
        """Return the worker's next order; an end of the socket is the last one."""
        while b"\n" not in self.buffer:
            try:
                part = self.worker.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                self.end()
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        order: dict[str, Any] = json.loads(line)
        return order

    def end(self) -> NoReturn:
        """Leave nothing behind."""
        if self.job:
            self.job.sweep()
        os._exit(0)

    def run(self, order: dict[str, Any]) -> None:
        """Run one job to its end, and kill what it leaves."""
        before = self.oom_kills.count()
        try:
            self.job = Job(order)
        except OSError as error:
            self.say({"error": f"{error.strerror}: {error.filename or order['argv'][0]}"})
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
                "excess": job.excess,
                "open_files": job.open_files,
                "oom_kills": self.oom_kills.count() - before,
            }
        )

    def watch(self, job: Job) -> None:
        """Return when the job's process has ended; of one that is told to, when all have, or their time is over."""
        while not job.reap() and (job.status is None or job.stopping) and not job.must_die():
            # An order that came together with the start is in our buffer, where select does not see it.
            waits = b"\n" in self.buffer
            watched: list[socket.socket | Bell] = [self.worker, self.bell]
            ready = watched[:1] if waits else select.select(watched, [], [], job.quiet_s())[0]
            if self.bell in ready:
                self.bell.quiet()
            if self.worker in ready and "kill" in self.order():
                job.stop()

    def say(self, report: dict[str, object]) -> None:
        """Report to the worker; when it is gone, end."""
        try:
            self.worker.sendall(json.dumps(report).encode() + b"\n")
        except OSError:
            self.end()
