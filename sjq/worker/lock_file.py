"""The lock file of a worker: held as long as the worker or one of its keepers lives, however they end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockFile:
    """`.sjq/workers/<id>.lock`, open in the worker and in every keeper; the kernel frees it with the last of them."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{worker}.lock"
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the file: the worker and its keepers have ended."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def processes_gone(path: Path) -> bool:
    """Tell whether every process that held a dead worker's lock file has ended; then remove the file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
