"""The embedded broker's server: `join` it, and it runs; the first user starts it, its keeper ends it.

A real server on a Unix socket, in one folder of one machine, for the processes of one account. The folder has:

    users.lock    shared by every user for as long as it lives; a server nobody uses is stopped
    start.lock    held for the moment in which a keeper is started
    keeper.lock   held by the keeper (`sjq/server_keeper.py`, which says how it works and why)
    server.lock   held by the server
    server.json   which machine the server runs on and where its socket is; absent when none runs
    server.conf   what the server is started with
    server.log    what the server and its keeper say
    server.sock   the socket, unless the folder's path is too long for one

Only locks are believed, never pids: the kernel drops them however their holder ended. A user whose connection
broke calls `Membership.revive`, so that even after a kill of keeper and server the users help themselves.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sjq import clock
from sjq.brokers.redis.embedded_folder import (
    POLL_S,
    check_host,
    fsync,
    held,
    is_at,
    locked,
    prepare,
    read_claim,
    server_program,
    socket_path,
    this_machine,
    write_claim,
)
from sjq.errors import BrokerDown, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEEPER = Path(__file__).parents[2] / "server_keeper.py"
KEEPER_NOT_NEEDED = 75
ANSWER_S = 1.0
LEAVE_S = 30.0
START_S = 20.0
LOAD_S = 600.0  # a large append-only file may take minutes, and says so all the while
ATTEMPTS = 3
CHATTER = (" * ", "# WARNING", "bye bye")
CONFIGURABLE = {errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EPERM, errno.EROFS}


class Membership:
    """One user's right to a running server: it runs until the last member closed or died.

    A forked child shares its parent's right until it ends or executes another program.
    """

    def __init__(self, folder: Path, users: int) -> None:
        self._folder = folder
        self._users: int | None = users
        self.socket = folder / "server.sock"

    def revive(self) -> None:
        """See to it that server and keeper run, for callers whose connection broke.

        Takes a fraction of a millisecond when they do. Raises BrokerDown when the server does not come up, and
        ConfigError when it runs on another host or cannot run here.
        """
        with _explained(self._folder):
            self._renew()
            for _ in range(ATTEMPTS):  # a keeper that gave up looks like one that was killed
                _see_to_keeper(self._folder)
                if self._wait_until_up():
                    return
        raise BrokerDown(f"the embedded server of {self._folder} does not start: {_last_words(self._folder)}")

    def sync(self) -> None:
        """Return when all that the server has answered is on the disk: it writes to its files before it answers."""
        room = self._folder / "appendonlydir"
        with _explained(self._folder):
            for path in room.iterdir():
                with suppress(FileNotFoundError):  # replaced by a rewrite, which has synced its own
                    fsync(path)

    def close(self) -> None:
        """Give up the right; a second call does nothing."""
        if self._users is None:
            return
        users, self._users = self._users, None
        try:
            # Without a keeper nobody would end the server after us.
            if held(self._folder / "server.lock") and not held(self._folder / "keeper.lock"):
                _see_to_keeper(self._folder)
        except (OSError, BrokerDown, ConfigError):
            pass  # the next user will try again
        finally:
            os.close(users)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _renew(self) -> None:
        """Hold the lock that newcomers see, also when the folder was deleted under us."""
        if self._users is None:
            raise BrokerDown(f"the embedded server of {self._folder} was left: join it again")
        if is_at(self._users, self._folder / "users.lock"):
            return
        fresh = _enter(self._folder)
        os.dup2(fresh, self._users, inheritable=False)
        os.close(fresh)

    def _wait_until_up(self) -> bool:
        """Whether the server answers, in the end; False when its keeper left before that."""
        begun = clock.monotonic()
        while True:
            claim = read_claim(self._folder)
            address = str(claim.get("socket") or socket_path(self._folder))
            answer = _ping(address)
            waited_s = clock.monotonic() - begun
            if answer and not answer.startswith(b"-LOADING"):
                self.socket = Path(address)
                return True
            if not held(self._folder / "keeper.lock"):
                return False
            if claim.get("failing"):
                text = f"the embedded server of {self._folder} died and does not come back"
                raise BrokerDown(f"{text}: {_last_words(self._folder)}")
            if waited_s > (LOAD_S if answer else START_S):
                doing = "still loads its data" if answer else f"does not answer on {address}"
                raise BrokerDown(f"the embedded server of {self._folder} {doing} after {waited_s:.0f} s")
            time.sleep(POLL_S)


def join(folder: Path) -> Membership:
    """Become a user of the server of `folder`, which is made and started where it is missing.

    Raises ConfigError when the folder or the server program cannot be used, or another host has the folder, and
    BrokerDown when the server does not come up.
    """
    folder = folder.resolve()
    with _explained(folder):
        users = _enter(folder)
    membership = Membership(folder, users)
    try:
        membership.revive()
    except BaseException:
        os.close(users)
        raise
    return membership


def _enter(folder: Path) -> int:
    """Take a share of `users.lock`; waits while a keeper stops the server."""
    deadline = clock.monotonic() + LEAVE_S
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        path = folder / "users.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if is_at(fd, path):
                os.utime(fd)  # the keeper learns of a visit that was over before it looked
                return fd
        except BlockingIOError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if clock.monotonic() > deadline:
            keeper = read_claim(folder).get("keeper")
            raise BrokerDown(
                f"the embedded server of {folder} has been shutting down for {LEAVE_S:.0f} s;"
                f" its keeper is process {keeper}, and {folder / 'server.log'} may say why"
            )
        time.sleep(POLL_S)


def _see_to_keeper(folder: Path) -> None:
    """Start a keeper if there is none."""
    with locked(folder / "start.lock"):
        kept = held(folder / "keeper.lock")
        claim = read_claim(folder)
        check_host(folder, claim, kept=kept)
        if kept:
            return
        binary = server_program()
        if claim.get("socket") and held(folder / "server.lock"):  # its keeper was killed
            address = str(claim.get("socket"))
        else:
            address = str(socket_path(folder))
            write_claim(folder, {**this_machine(), "socket": address})
        prepare(folder, address)
        _start_keeper(folder, binary, address=address)


def _start_keeper(folder: Path, binary: str, *, address: str) -> None:
    """Start a keeper and wait until it holds its lock, or until another does."""
    log = str(folder / "server.log")
    command = [sys.executable, "-I", "-S", str(KEEPER), str(folder), binary, address]
    # It outlives the job or worker that happens to start it, and must not look like a part of that.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SJQ_")}
    pid = os.posix_spawn(
        sys.executable,
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setpgroup=0,  # Ctrl-C goes to the shell's foreground group, and this is none of it
    )
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # the program ignores SIGCHLD, or collects children itself
        return
    if code > 0 and code != KEEPER_NOT_NEEDED:
        raise BrokerDown(f"the keeper of {folder} ended with code {code}: {_last_words(folder)}")


def _ping(address: str) -> bytes:
    """Return the server's answer, or nothing when there is none."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_S)
        try:
            link.connect(address)
            link.sendall(b"PING\r\n")
            return link.recv(256)
        except OSError:
            return b""


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system says into an error of ours."""
    try:
        yield
    except OSError as error:
        text = f"the embedded broker cannot use {error.filename or folder}: {error.strerror}"
        if error.errno in CONFIGURABLE:
            advice = 'make the folder yours and writable, or set "redis" in config.json'
            raise ConfigError(f"{text}; {advice}") from error
        raise BrokerDown(text) from error


def _last_words(folder: Path) -> str:
    """Return the end of the server's log, where the reason stands."""
    path = folder / "server.log"
    try:
        lines = path.read_text("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    telling = [line.strip() for line in lines if line.strip() and not any(note in line for note in CHATTER)]
    words = " / ".join(telling[-3:])
    return f"{words} (from {path})" if words else f"{path} does not say why; is the disk full?"
