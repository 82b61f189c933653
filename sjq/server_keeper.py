"""The keeper of an embedded server: starts it, restarts it, ends it after its last user.

Runs by its path as `python -I -S server_keeper.py FOLDER BINARY SOCKET`, so it may import nothing but the
standard library, and little of that before the server is started: whoever starts it waits for it. The other
side is `sjq/brokers/redis/embedded.py`, which also says what each file of the folder is for.

Three locks carry everything, since the kernel drops a lock however its holder ended:

- `keeper.lock` is this process's for life, so there is one keeper.
- `server.lock` is inherited by the server and closed here, so it is held exactly as long as the server, or a
  child that rewrites its file, lives. No pid is compared, a zombie holds nothing, and a server whose keeper
  died between starting it and writing that down is found all the same. Two servers on one append-only file
  would ruin it.
- `users.lock` is shared by the users; to hold it exclusively is to know that there are none.

A keeper that is killed leaves its server running, and the next keeper takes it over: the users notice
nothing. To have the server die with its keeper (PR_SET_PDEATHSIG) would turn a lost watchman into an outage of
everybody who was served well. The price: when the keeper *and* all users are killed, the server waits, idle,
for the next command.

The keeper, not the server, sees to it that writes reach the disk every second (`appendfsync no`). Told to do
that itself, a server holds back what it should append while the disk is busy, and answers all the same: killed
in that moment it loses what it had acknowledged. This way a kill loses nothing, a power cut the last second.

An idle keeper wakes five times in two seconds. Waiting in a blocking flock would be free, but NFS clients retry
such a lock only every few seconds, and the two looks in a row are also what keeps a server through a shell loop
of short commands.
"""
# What is imported late is loaded while the server starts; pathlib would be half of all:
# ruff: noqa: PLC0415

from __future__ import annotations

import fcntl
import os
import sys
import time

TYPE_CHECKING = False  # as type checkers know it, without the import of typing
if TYPE_CHECKING:
    import socket

LOOK_S = 0.4  # both looks and the server's shutdown stay below a second
SECOND_LOOK_S = 0.3
POLL_S = 0.003
EAGER_S = 0.5  # how long a server that starts or ends is worth polling often
ANSWER_S = 1.0
LOCK_S = 1.0
SHUTDOWN_S = 10.0
SYNC_S = 0.7  # at every second look, so within a second
STEADY_S = 10.0  # a server that lived this long did not die of its start
BACKOFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # by the number of starts in a row; the last goes on
SIGKILL = 9  # spelled out, as `import signal` costs a millisecond or two
EXIT_NOT_NEEDED = 75
LOCAL_PEERPID = 2  # macOS: <sys/un.h>


class Keeper:
    """Keeps the one server of a folder."""

    def __init__(self, folder: str, *, binary: str, address: str, lock: int) -> None:
        self.folder = folder
        self.binary = binary
        self.address = address
        self.lock = lock
        self.users = open_lock(folder, "users.lock")
        self.server = open_lock(folder, "server.lock")
        self.last_join: int | None = None
        self.next_look = 0.0
        self.next_sync = 0.0
        self.synced: dict[str, int] = {}
        self.link: socket.socket | None = None
        self.pid = 0
        self.ever_up = False
        self.up = False
        self.starts = 0
        self.started = time.monotonic()
        self.eager_until = self.started + EAGER_S

    def run(self) -> int:
        """Keep the server until nobody uses it; 1 if it never came up."""
        while True:
            if not self.owns_folder():
                self.kill()
                return 0
            if self.deserted():
                self.stop()
                return 0
            if self.link is None and self.alive():
                self.reach()
            elif self.link is None:
                reap()
                if self.starts and not self.ever_up:
                    self.leave()
                    return 1
                self.start()
            self.pause()
            self.sync()

    def owns_folder(self) -> bool:
        """Whether the folder is still the one this keeper was started for, not deleted nor made anew."""
        try:
            return os.path.samestat(os.stat(os.path.join(self.folder, "keeper.lock")), os.fstat(self.lock))
        except FileNotFoundError:
            return False
        except OSError:  # a network folder that stutters is no reason to kill anything
            return True

    def deserted(self) -> bool:
        """Whether nobody has used the server since the look before; then nobody can come until we end."""
        now = time.monotonic()
        if now < self.next_look:
            return False
        if self.link and now > self.started + STEADY_S:
            self.starts = 0
        if not try_lock(self.users):
            self.last_join = None
            self.next_look = now + LOOK_S
            return False
        # Whoever joins touches the file, so one who came and went between two looks is seen too.
        before, self.last_join = self.last_join, os.fstat(self.users).st_mtime_ns
        if self.last_join == before:
            return True
        self.next_look = now + SECOND_LOOK_S
        fcntl.flock(self.users, fcntl.LOCK_UN)
        return False

    def alive(self) -> bool:
        """Whether a server lives, whoever started it."""
        if not try_lock(self.server):
            return True
        fcntl.flock(self.server, fcntl.LOCK_UN)
        return False

    def start(self) -> None:
        """Start the server unless it is too early to try again."""
        now = time.monotonic()
        if now < self.started + BACKOFF_S[min(self.starts, len(BACKOFF_S) - 1)]:
            return
        if self.starts and not self.up:
            self.note(failing=True)
        self.started = now
        self.eager_until = now + EAGER_S
        self.starts += 1
        self.up = False
        fd = open_lock(self.folder, "server.lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(fd, True)
            command = [self.binary, os.path.join(self.folder, "server.conf")]
            # The server refuses to start where LANG names a locale that is not installed.
            self.pid = os.posix_spawn(self.binary, command, {**os.environ, "LC_ALL": "C"})
        except OSError as error:
            say(f"cannot start {self.binary}: {error.strerror}")
        finally:
            os.close(fd)

    def reach(self) -> bool:
        """Connect to the server; the connection's end will tell of the server's."""
        import socket

        link = socket.socket(socket.AF_UNIX)
        link.settimeout(ANSWER_S)
        try:
            link.connect(self.address)
            link.sendall(b"PING\r\n")
            answer = link.recv(256)
            pid = peer(link)
        except OSError:
            answer = b""
        # A full disk makes PING an error as well, and that server is up.
        if not answer or answer.startswith(b"-LOADING"):
            link.close()
            return False
        self.link = link
        self.pid = pid
        self.up = self.ever_up = True
        self.note(failing=False, pid=pid)
        reap()  # its predecessor dropped the lock a moment before it could be collected
        return True

    def pause(self) -> None:
        """Wait for the server's end, or for the next thing to do."""
        if self.link:
            self.link.settimeout(max(self.next_look - time.monotonic(), POLL_S))
            try:
                if self.link.recv(256):
                    return
            except TimeoutError:
                return
            except OSError:
                pass
            self.link.close()
            self.link = None
            self.eager_until = time.monotonic() + EAGER_S
            return
        time.sleep(POLL_S if time.monotonic() < self.eager_until else LOOK_S)

    def sync(self) -> None:
        """Put what the server appended since the last time on the disk, about once a second."""
        if time.monotonic() < self.next_sync:
            return
        self.next_sync = time.monotonic() + SYNC_S
        room = os.path.join(self.folder, "appendonlydir")
        try:
            paths = [os.path.join(room, name) for name in os.listdir(room)]
        except FileNotFoundError:
            paths = [os.path.join(self.folder, "appendonly.aof")]  # servers older than 7
        sizes = {}
        for path in paths:
            try:
                sizes[path] = os.stat(path).st_size
                if sizes[path] != self.synced.get(path):
                    fsync(path)
            except FileNotFoundError:  # just replaced by a rewrite, which has synced its own
                continue
            except OSError as error:
                say(f"cannot sync {path}: {error.strerror}")
        self.synced = sizes

    def stop(self) -> None:
        """End the server while `users.lock` keeps newcomers waiting, then let them in."""
        if self.link or self.reach():
            self.shut_down()
        if self.alive():
            say("killing the server, which does not end otherwise")
            self.kill()
            self.await_end(SHUTDOWN_S)
        self.leave()

    def shut_down(self) -> None:
        """Ask the server to end; it writes out what it holds first."""
        if not self.link:
            return
        try:
            self.link.settimeout(SHUTDOWN_S)
            self.link.sendall(b"SHUTDOWN\r\n")
            while answer := self.link.recv(256):
                if answer.startswith(b"-"):  # a full disk: waiting would change nothing
                    say(answer.decode("utf-8", "replace").strip())
                    return
        except OSError:
            pass
        self.await_end(SHUTDOWN_S)

    def await_end(self, seconds: float) -> None:
        """Return when no server lives, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        reap()

    def kill(self) -> None:
        """Kill the server; that its lock is held proves that the pid still means it."""
        if self.pid and self.alive():
            try:
                os.kill(self.pid, SIGKILL)
            except ProcessLookupError:  # a moment ago
                return

    def leave(self) -> None:
        """Give up the folder; the order of the last two steps is that in which newcomers look."""
        if self.owns_folder() and not self.alive():
            for path in (self.address, os.path.join(self.folder, "server.json")):
                try:
                    os.unlink(path)
                except OSError:
                    continue
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        os.close(self.users)

    def note(self, *, failing: bool, pid: int | None = None) -> None:
        """Tell in `server.json` how the server does; a full disk must not end the keeper."""
        import json

        path = os.path.join(self.folder, "server.json")
        try:
            with open(path, encoding="utf-8") as file:
                claim = json.load(file)
            claim.update(failing=failing, keeper=os.getpid(), server=pid)
            with open(path + ".keeper", "w", encoding="utf-8") as file:
                json.dump(claim, file)
            os.replace(path + ".keeper", path)
        except (OSError, ValueError) as error:
            say(f"cannot write {path}: {error}")


def open_lock(folder: str, name: str) -> int:
    """Open a lock file; `os.open` keeps it from children."""
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(fd: int) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fsync(path: str) -> None:
    """Return when the file is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def peer(link: socket.socket) -> int:
    """Return the pid behind a connection, as this process would address it; 0 if it cannot."""
    import socket

    if hasattr(socket, "SO_PEERCRED"):
        credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)
    return link.getsockopt(0, LOCAL_PEERPID)


def reap() -> None:
    """Collect a server that ended, so that no zombie is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def say(text: str) -> None:
    """Add a line to `server.log`, beside what the server says."""
    try:
        os.write(2, f"{os.getpid()}:keeper {time.strftime('%d %b %Y %H:%M:%S')} # {text}\n".encode())
    except OSError:  # a full disk
        return


def main(folder: str, binary: str, address: str) -> int:
    """Become the keeper of `folder`; the caller's wait ends when that is certain."""
    os.closerange(3, 65536)  # a pipe inherited from the caller would never see its end
    os.umask(0o077)
    lock = open_lock(folder, "keeper.lock")
    deadline = time.monotonic() + LOCK_S  # those who only look hold it for microseconds
    while not try_lock(lock):
        if time.monotonic() > deadline:
            return EXIT_NOT_NEEDED
        time.sleep(POLL_S)
    # The caller may live for weeks and wait for no child: its child ends now, and init has the keeper.
    if os.fork():
        return 0
    os.setsid()
    os.chdir("/")
    return Keeper(folder, binary=binary, address=address, lock=lock).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
