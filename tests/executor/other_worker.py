"""An executor in a process of its own, as another worker has it, which a test may stop and kill."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from unit.waiting import until

from sjq.worker.lock_file import processes_gone

if TYPE_CHECKING:
    from pathlib import Path

    from sjq.executors.base import Task

    from .workshop import Workshop

WORKER = """
import pickle, sys, threading
from pathlib import Path
from sjq.executors.local import LocalExecutor
from sjq.worker.lock_file import LockFile
root, group = Path(sys.argv[1]), sys.argv[2]
if group:
    Path(group, "cgroup.procs").write_text("0")
lock = LockFile(root / ".sjq" / "workers", "other")
executor = LocalExecutor(root, lock=lock.descriptor)
ends = {}
def run(task):
    ends[task.job_id] = executor.run(task)
tasks = pickle.loads((root / "tasks").read_bytes())
threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
executor.close()
(root / "ends").write_bytes(pickle.dumps(ends))
"""


class worker:  # noqa: N801 - reads as what it is
    """The process, and what became of its tasks."""

    def __init__(self, workshop: Workshop, *tasks: Task, group: Path | None = None) -> None:
        self.root = workshop.root
        self.lock = self.root / ".sjq" / "workers" / "other.lock"
        (self.root / "tasks").write_bytes(pickle.dumps(tasks))
        self.process = subprocess.Popen([sys.executable, "-c", WORKER, str(self.root), str(group or "")])

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, wrong: type[BaseException] | None, *_: object) -> None:
        if wrong:
            self.process.kill()
        self.process.wait(30)
        until(lambda: processes_gone(self.lock), "its keepers are gone")

    def ends(self) -> dict[str, Any]:
        ends: dict[str, Any] = pickle.loads((self.root / "ends").read_bytes())
        return ends
