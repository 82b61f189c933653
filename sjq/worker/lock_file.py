"""The lock file of a worker: held as long as the worker or one of its keepers lives, however they end.

In it stands, for each slot, the id of the job that the slot settled last: should the worker die between publishing a
record and telling the broker so, its successor on this host finds here whose stubs are still to be confirmed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sjq import identity
from sjq.jobs import LONGEST_ID_BYTES
from sjq.plain_file import read_plain

LOCK_FILE = "lock_file"
"""The fact under which a worker tells where its lock file is."""

_ENTRY = LONGEST_ID_BYTES + 1
_MOST_BYTES = 64 << 20


class LockFile:
    """`.sjq/workers/<id>.lock`, open in the worker and in every keeper; the kernel frees it with the last of them."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{worker}.lock"
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            if _is(self.path, self.descriptor):
                return
            os.close(self.descriptor)  # somebody took it for abandoned before it was locked

    def settling(self, slot: int, job_id: str) -> None:
        """Note the job that a slot is about to settle.

        Where there is no room for that, its success is only confirmed later: by `sjq fsck --repair`.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, job_id.encode().ljust(_ENTRY, b"\0"), slot * _ENTRY)

    def close(self) -> None:
        """Remove the file: the worker and its keepers have ended."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The lock file of a worker that did not end in good order."""

    path: Path
    job_ids: tuple[str, ...]

    @property
    def worker(self) -> str:
        """The id of the worker that it was."""
        return self.path.stem


def abandoned(folder: Path) -> Iterator[Abandoned]:
    """Yield the lock files that nobody holds any more."""
    for path in sorted(folder.glob("*.lock")):
        if processes_gone(path):
            try:
                content = read_plain(path, most=_MOST_BYTES)
            except FileNotFoundError:
                continue
            except OSError:
                content = b""  # a handler's: a pipe would never end
            entries = (content[start : start + _ENTRY].rstrip(b"\0") for start in range(0, len(content), _ENTRY))
            yield Abandoned(path, tuple(entry.decode("utf-8", "replace") for entry in entries if entry))


def processes_gone(path: Path) -> bool:
    """Tell whether every process that held a worker's lock file has ended."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # another user's: then expiry decides
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def is_gone(facts: Mapping[str, str]) -> bool:
    """Tell whether a worker and everything that it ran are gone beyond doubt."""
    lock_file = facts.get(LOCK_FILE, "")
    return identity.is_dead(facts) and (not lock_file or processes_gone(Path(lock_file)))


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
