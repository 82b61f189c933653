"""Who a worker is, and whether the process behind a worker's id still lives."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sjq.jobs import random_part


def host() -> str:
    """This machine's name, in characters that are safe in ids and file names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "host"


def person() -> str:
    """Return who runs this process, and where: `<user>@<host>`."""
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name}@{host()}"
    except KeyError:  # a container may run us as somebody whom its system does not know
        return f"{os.getuid()}@{host()}"


def boot_id() -> str:
    """What tells this boot of this machine from any other; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """What tells in which namespace our pids mean something; empty where the system does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_ticks(pid: int) -> str | None:
    """When process `pid` started, in clock ticks since boot; None when it is gone or a zombie.

    A pid alone can be reused, and signal 0 still reaches a zombie: only the state and the start time tell.
    """
    try:
        # A process's name, which stands in brackets, may be any bytes.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].decode("ascii").split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """A worker: the machine, boot and process that it is, and a random part."""

    host: str
    boot: str
    pid: int
    start: str
    pid_namespace: str
    random: str

    @classmethod
    def of_this_process(cls) -> WorkerIdentity:
        """Return a new identity for a worker in this process."""
        pid = os.getpid()
        return cls(
            host=host(),
            boot=boot_id(),
            pid=pid,
            start=start_ticks(pid) or "0",
            pid_namespace=pid_namespace(),
            random=random_part(),
        )

    @property
    def id(self) -> str:
        """The worker's id: `<host>-<boot>-<pid>-<start>-<random>`."""
        return f"{self.host}-{self.boot[:8] or 'boot'}-{self.pid}-{self.start}-{self.random}"

    def fields(self) -> dict[str, str]:
        """What a broker keeps about the worker, for `is_dead`."""
        return {
            "host": self.host,
            "boot": self.boot,
            "pid": str(self.pid),
            "start": self.start,
            "pid_namespace": self.pid_namespace,
        }


def host_of(worker_id: str) -> str:
    """Return the host that a worker's id names."""
    return worker_id.rsplit("-", 4)[0]


def is_dead(fields: Mapping[str, str]) -> bool:
    """Tell whether the worker of these fields is dead beyond doubt.

    Beyond doubt means: same boot, same pid namespace, and no such process. Whoever lives elsewhere may live.
    """
    if not fields.get("boot") or fields.get("boot") != boot_id():
        return False
    if not fields.get("pid_namespace") or fields.get("pid_namespace") != pid_namespace():
        return False
    pid = fields.get("pid", "")
    return pid.isdigit() and start_ticks(int(pid)) != fields.get("start")
