"""What a test leaves behind: processes, threads, descriptors and temporary files. Each fails the test that left it."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import Server

from sjq.keepers.processes import tree

_PATIENCE_S = 10.0
"""How long something may take to end after its test, on a machine that is busy."""

_OF_UV = re.compile(r"uv-.*\.lock")
"""What uv locks a project or a script by, and leaves for whoever is next."""


@dataclass(frozen=True)
class _Things:
    """What this process has; of processes, all that there are."""

    pids: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> _Things:
        return cls(
            frozenset(int(name) for name in os.listdir("/proc") if name.isdecimal()),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
        )

    def __sub__(self, other: _Things) -> _Things:
        return _Things(self.pids - other.pids, self.threads - other.threads, self.descriptors - other.descriptors)


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue


class Leaks:
    """Looks at what is new after each test, in this process of pytest.

    What fixtures of a wider scope make is not a test's own, whichever test is the first to ask for them.
    """

    def __init__(self, files: Path) -> None:
        self._files = files
        """Where all projects of our tests are."""
        self._usual = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="sjq-tests-")
        os.chmod(self._folder, 0o1777)  # as the usual one; some tests are another user for a while
        self._shared_pids: set[int] = set()
        self._shared_threads: set[threading.Thread] = set()
        self._shared_descriptors: set[tuple[int, str]] = set()
        self._servers: list[Server] = []
        """Servers for many tests, which may start them again."""

    def close(self) -> None:
        """Remove the folder for temporary files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def shared(self) -> Iterator[list[object]]:
        """Let what is made meanwhile stay. A server that is put into the list may be started again, too."""
        before, folder = _Things.now(), tempfile.gettempdir()
        made: list[object] = []
        _use(self._usual)
        try:
            yield made
        finally:
            _use(folder)
            new = _Things.now() - before
            self._shared_pids |= new.pids
            self._shared_threads |= new.threads
            self._shared_descriptors |= new.descriptors
            self._servers += [value for value in made if isinstance(value, Server)]

    @contextmanager
    def looked_for(self) -> Iterator[list[str]]:
        """Yield a list which says, when this is left, what is new and still there after some patience."""
        before, found = _Things.now(), list[str]()
        _use(self._folder)
        try:
            yield found
        finally:
            _use(self._usual)
            deadline = time.monotonic() + _PATIENCE_S
            left = self._left(before)
            if left:
                gc.collect()  # takes longer than all else here
            while (left := left and self._left(before)) and time.monotonic() < deadline:
                time.sleep(0.01)
            found += left + self._files_left()

    def _left(self, before: _Things) -> list[str]:
        new = _Things.now() - before
        pids = self._ours(new.pids) - self._shared_pids - {server.pid for server in self._servers if server.runs}
        return [
            *(f"process {pid}: {_shown(pid)}" for pid in sorted(pids)),
            *(f"thread {thread.name}" for thread in new.threads - self._shared_threads),
            *(f"descriptor {number}: {what}" for number, what in sorted(new.descriptors - self._shared_descriptors)),
        ]

    def _ours(self, pids: frozenset[int]) -> set[int]:
        """Return those processes that descend from us, or run in a test's folder, or with its environment."""
        below = set(tree(os.getpid())) & pids
        return below | {pid for pid in pids - below if self._is_of_a_test(pid)}

    def _is_of_a_test(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            return (
                Path(f"/proc/{pid}/cwd").readlink().is_relative_to(self._files)
                or os.fsencode(self._files) in environ
                or os.fsencode(self._folder) in environ
            )
        except OSError:  # it has ended, and its parent, who is none of us, has to collect it
            return False

    def _files_left(self) -> list[str]:
        left = sorted(Path(self._folder).iterdir())
        for path in left:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return [f"temporary file {path.name}" for path in left if not _OF_UV.fullmatch(path.name)]


def _use(folder: str) -> None:
    """Have temporary files made in this folder, by us and by those who inherit our environment."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def _shown(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rsplit(")", 1)[1].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "it has just ended"
    return f"in state {state}: {command[:200]}"


def can_be_found() -> bool:
    """Tell whether there is anything that could be looked at; only Linux has it."""
    return sys.platform == "linux"
